//! How much memory networks need.

use crate::config::{UnetConfig, VaeConfig};

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
