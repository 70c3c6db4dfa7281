//! How much memory this process may still take.

use std::fs;

use crate::plan::Memory;

/// Bytes taken as free where the system does not say.
const UNKNOWN_FREE_BYTES: u64 = 4 << 30;

/// What this process may still take, from `/proc/meminfo` and the control groups' files.
///
/// `claimed_bytes` is what it will take for other things first.
pub(super) fn measure(claimed_bytes: u64) -> Memory {
    Memory {
        free_bytes: available().unwrap_or(UNKNOWN_FREE_BYTES),
        cgroup_bytes: control_group_left(),
        claimed_bytes,
    }
}

fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn control_group_left() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let v2 = [format!("/sys/fs/cgroup{path}"), "/sys/fs/cgroup".to_owned()];
    let v2 = v2.iter().map(|at| (format!("{at}/memory.max"), format!("{at}/memory.current")));
    let v1 = "/sys/fs/cgroup/memory/memory";
    let v1 = (format!("{v1}.limit_in_bytes"), format!("{v1}.usage_in_bytes"));
    v2.chain([v1])
        .filter_map(|(limit, used)| Some(number(&limit)?.saturating_sub(number(&used)?)))
        .min()
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn some_memory_is_free() {
        assert!(super::measure(0).free_bytes > 1 << 20);
    }
}
