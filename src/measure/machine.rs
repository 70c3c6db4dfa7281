//! The machine that this process runs on: the memory that is left, the kind of CPU.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::plan::Memory;

/// Bytes taken as free where the system does not say.
const UNKNOWN_FREE_BYTES: u64 = 4 << 30;

/// What this process may still take, from `/proc/meminfo` and the control groups' files.
///
/// `claimed_bytes` is what it will take for other things first.
pub(crate) fn memory(claimed_bytes: u64) -> Memory {
    Memory {
        free_bytes: available().unwrap_or(UNKNOWN_FREE_BYTES),
        cgroup_bytes: control_group_left(),
        claimed_bytes,
    }
}

fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// The files of one version of control groups.
struct ControlGroups {
    root: &'static str,
    limit: &'static str,
    used: &'static str,
    /// The line of `memory.stat` with file pages that are given back before anything is killed.
    reclaimable: &'static str,
}

const VERSION_1: ControlGroups = ControlGroups {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file ",
};

const VERSION_2: ControlGroups = ControlGroups {
    root: "/sys/fs/cgroup",
    limit: "memory.max",
    used: "memory.current",
    reclaimable: "inactive_file ",
};

/// What the tightest limit of this process's groups leaves; `None` where nothing limits it.
fn control_group_left() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = |controller: &str| {
        let of_line = |line: &str| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let is_it = controllers.split(',').any(|name| name == controller);
            is_it.then(|| path.to_owned())
        };
        text.lines().find_map(of_line).unwrap_or_default()
    };
    let first = VERSION_1.left(Path::new(VERSION_1.root), &own("memory"));
    let second = VERSION_2.left(Path::new(VERSION_2.root), &own(""));
    first.into_iter().chain(second).min()
}

impl ControlGroups {
    /// What is left in the group of a path or in one above it, whichever is tighter.
    fn left(&self, root: &Path, own: &str) -> Option<u64> {
        let own = Path::new(own.trim_start_matches('/'));
        let groups = own.ancestors().map(|group| root.join(group));
        groups.filter_map(|group| self.left_in(&group)).min()
    }

    fn left_in(&self, group: &Path) -> Option<u64> {
        let number = |name: &str| -> Option<u64> {
            let text = fs::read_to_string(group.join(name)).ok()?;
            text.trim().parse().ok()
        };
        let (limit, used) = (number(self.limit)?, number(self.used)?);
        let statistics = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let reclaimable = statistics
            .lines()
            .find_map(|line| line.strip_prefix(self.reclaimable)?.trim().parse().ok());
        let used = used.saturating_sub(reclaimable.unwrap_or(0));
        Some(limit.saturating_sub(used))
    }
}

/// The kind of CPU: what decides the last bits of a sum, the instruction sets and the cache sizes.
pub(crate) fn cpu_kind() -> String {
    let mut kind = std::env::consts::ARCH.to_owned();
    for feature in instruction_sets() {
        kind.push(' ');
        kind.push_str(feature);
    }
    for index in 0..4 {
        let cache = format!("/sys/devices/system/cpu/cpu0/cache/index{index}");
        let read = |name: &str| fs::read_to_string(format!("{cache}/{name}")).ok();
        if let (Some(level), Some(size)) = (read("level"), read("size")) {
            let _ = write!(kind, " L{}:{}", level.trim(), size.trim());
        }
    }
    kind
}

#[cfg(target_arch = "x86_64")]
fn instruction_sets() -> Vec<&'static str> {
    let sets = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        (
            "avx512bf16",
            std::arch::is_x86_feature_detected!("avx512bf16"),
        ),
        (
            "avx512vnni",
            std::arch::is_x86_feature_detected!("avx512vnni"),
        ),
    ];
    sets.into_iter()
        .filter_map(|(name, present)| present.then_some(name))
        .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn instruction_sets() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_memory_is_free() {
        assert!(memory(0).free_bytes > 1 << 20);
    }

    #[test]
    fn the_tightest_group_decides_and_file_pages_are_not_lost() {
        let root = tempfile::tempdir().unwrap();
        let write = |group: &str, limit: &str, used: &str, statistics: &str| {
            let group = root.path().join(group);
            fs::create_dir_all(&group).unwrap();
            fs::write(group.join("memory.max"), limit).unwrap();
            fs::write(group.join("memory.current"), used).unwrap();
            fs::write(group.join("memory.stat"), statistics).unwrap();
        };
        let left = |own: &str| VERSION_2.left(root.path(), own);
        assert_eq!(left("/job/step/task"), None);
        write("job/step/task", "max\n", "10\n", "");
        assert_eq!(left("/job/step/task"), None);
        write("job", "1000\n", "900\n", "anon 500\ninactive_file 300\n");
        assert_eq!(left("/job/step/task"), Some(400));
        write("job/step", "500\n", "450\n", "anon 1\n");
        assert_eq!(left("/job/step/task"), Some(50));
        assert_eq!(left("/elsewhere"), None);
        assert_eq!(left("/"), None);
    }
}
