//! How much memory the machine has, and what networks need.

use crate::config::{UnetConfig, VaeConfig};

/// Total and free bytes of the machine, or of this process's group where that is less; zeros where unknown.
pub fn system() -> (u64, u64) {
    let (total, free) = machine();
    match group() {
        Some((limit, used)) if total == 0 || limit < total => (limit, free.min(limit.saturating_sub(used))),
        _ => (total, free),
    }
}

#[cfg(target_os = "linux")]
fn machine() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    (field("MemTotal:").unwrap_or(0), field("MemAvailable:").unwrap_or(0))
}

#[cfg(not(target_os = "linux"))]
fn machine() -> (u64, u64) {
    (0, 0)
}

/// Limit and use of the control group (version 2), where there is a limit.
fn group() -> Option<(u64, u64)> {
    let number = |name| std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse::<u64>().ok();
    Some((number("memory.max")?, number("memory.current")?))
}

/// Bytes of buffers while one picture of `height × width` pixels is decoded or encoded whole: at full size the widest
/// moment is the residual block that comes from the second level, with its input, normed input, shortcut and result.
pub(crate) fn autoencoder_scratch(config: &VaeConfig, height: usize, width: usize) -> u64 {
    let outer = config.block_out_channels[0];
    let second = config.block_out_channels.get(1).copied().unwrap_or(outer);
    (height * width * 4 * (2 * second + 3 * outer)) as u64
}

/// Bytes of buffers of one prediction: the skips of all levels and some of the outermost level's activations.
pub(crate) fn unet_scratch(config: &UnetConfig, batch: usize, height: usize, width: usize) -> u64 {
    let layers = match &config.layers_per_block {
        crate::config::PerLevel::One(n) => *n,
        crate::config::PerLevel::Each(list) => list.iter().copied().max().unwrap_or(2),
    };
    let level =
        |(i, channels): (usize, &usize)| (((height * width) >> (2 * i)).max(1) * channels * (layers + 1)) as u64;
    let skips: u64 = config.block_out_channels.iter().enumerate().map(level).sum();
    let live = (height * width * config.block_out_channels[0] * 12) as u64;
    (skips + live) * 4 * batch as u64
}
