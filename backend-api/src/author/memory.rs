//! The machine's memory, as much of it as this process may use.

use std::path::Path;

/// Total and free bytes of the machine, or of the tightest control group around this process where that is less.
///
/// Files that the kernel keeps in memory and can drop at once count as free: weights that were read from disk would
/// otherwise look like memory that is gone. Zeros where nothing is known; where a limit is known the second number is
/// at least 1, so that "nothing is left" is never read as "unknown".
#[must_use]
pub fn system_memory() -> (u64, u64) {
    memory_below(Path::new("/"))
}

/// The same for a system whose `/proc` and `/sys` lie below `root`.
#[must_use]
pub fn memory_below(root: &Path) -> (u64, u64) {
    let file = |name: &str| std::fs::read_to_string(root.join(name)).unwrap_or_default();
    let meminfo = file("proc/meminfo");
    let of_machine = |name: &str| field(&meminfo, name).map_or(0, |kib| kib.saturating_mul(1024));
    let machine = (of_machine("MemTotal:"), of_machine("MemAvailable:"));
    let mine = file("proc/self/cgroup");
    [&UNIFIED, &SEPARATE].into_iter().flat_map(|version| version.groups(root, &mine)).fold(
        machine,
        |(total, free), group| {
            let left = group.limit.saturating_sub(group.used).max(1);
            match total {
                0 => (group.limit, left),
                // A group may be allowed more than there is.
                _ if group.limit < total => (group.limit, free.min(left)),
                _ => (total, free.min(left)),
            }
        },
    )
}

/// The number after a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// Names of one version of control groups.
struct Version {
    /// What its line of `/proc/self/cgroup` lists between the colons.
    controller: &'static str,
    folder: &'static str,
    limit: &'static str,
    used: &'static str,
    /// The line of `memory.stat` with what can be dropped.
    droppable: &'static str,
}

const UNIFIED: Version = Version {
    controller: "",
    folder: "sys/fs/cgroup",
    limit: "memory.max",
    used: "memory.current",
    droppable: "inactive_file ",
};

const SEPARATE: Version = Version {
    controller: "memory",
    folder: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    droppable: "total_inactive_file ",
};

/// A group with a limit. `used` is without what can be dropped.
struct Group {
    limit: u64,
    used: u64,
}

impl Version {
    /// The groups around this process that have a limit: its own and all above.
    fn groups(&self, root: &Path, mine: &str) -> Vec<Group> {
        let path = mine
            .lines()
            .filter_map(|line| line.split_once(':')?.1.split_once(':'))
            .find(|(controllers, _)| controllers.split(',').any(|c| c == self.controller))
            .map_or("", |(_, path)| path.trim_matches('/'));
        // A process outside of its own name space is told a way upwards; the mounted folder is what it may see.
        let path = if path.split('/').any(|part| part == "..") { "" } else { path };
        let folder = root.join(self.folder);
        let folders = Path::new(path).ancestors().map(|ancestor| folder.join(ancestor));
        folders.filter_map(|folder| self.group(&folder)).collect()
    }

    fn group(&self, folder: &Path) -> Option<Group> {
        let file = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        let number = |name: &str| file(name)?.trim().parse::<u64>().ok();
        let droppable = file("memory.stat").and_then(|text| field(&text, self.droppable)).unwrap_or(0);
        let used = number(self.used).unwrap_or(0).saturating_sub(droppable);
        Some(Group { limit: number(self.limit)?, used })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_group_counts_and_droppable_pages_are_free() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let put = |name: &str, text: &str| {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(memory_below(root), (0, 0));
        put("proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB\nMemAvailable:   8192 kB\n");
        assert_eq!(memory_below(root), (16 << 20, 8 << 20));
        put("sys/fs/cgroup/memory.max", "max\n");
        put("sys/fs/cgroup/memory.current", "9\n");
        assert_eq!(memory_below(root), (16 << 20, 8 << 20));
        // A service with a limit above the one that it runs in.
        put("proc/self/cgroup", "1:name=systemd:/x\n0::/system.slice/sd-worker.service\n");
        put("sys/fs/cgroup/system.slice/memory.max", "8388608\n");
        put("sys/fs/cgroup/system.slice/memory.current", "8388608\n");
        put("sys/fs/cgroup/system.slice/memory.stat", "anon 1\ninactive_file 3145728\nactive_file 7\n");
        assert_eq!(memory_below(root), (8 << 20, 3 << 20));
        put("sys/fs/cgroup/system.slice/sd-worker.service/memory.max", "4194304\n");
        put("sys/fs/cgroup/system.slice/sd-worker.service/memory.current", "4194304\n");
        assert_eq!(memory_below(root), (4 << 20, 1), "full is not unknown");
        put("proc/self/cgroup", "0::/../../elsewhere\n");
        assert_eq!(memory_below(root), (16 << 20, 8 << 20));
        // The older version says a huge number where there is no limit.
        put("proc/self/cgroup", "3:cpu,cpuacct:/a\n5:memory:/docker/b\n");
        put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        put("sys/fs/cgroup/memory/memory.usage_in_bytes", "5\n");
        assert_eq!(memory_below(root), (16 << 20, 8 << 20));
        put("sys/fs/cgroup/memory/docker/b/memory.limit_in_bytes", "2097152\n");
        put("sys/fs/cgroup/memory/docker/b/memory.usage_in_bytes", "2097000\n");
        put("sys/fs/cgroup/memory/docker/b/memory.stat", "inactive_file 1\ntotal_inactive_file 1048424\n");
        assert_eq!(memory_below(root), (2 << 20, 1 << 20));
    }
}
