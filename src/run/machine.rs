//! The machine that this process runs on: the memory that is left, the kind of CPU.

use std::fmt::Write as _;
use std::fs;

use candle_core::Device;

use crate::model;
use crate::plan::Memory;

/// Bytes taken as free where the system does not say.
const UNKNOWN_FREE_BYTES: u64 = 4 << 30;

/// What this process may still take, from `/proc/meminfo` and the control groups' files.
///
/// `claimed_bytes` is what it will take for other things first.
pub(super) fn memory(claimed_bytes: u64) -> Memory {
    Memory {
        free_bytes: available().unwrap_or(UNKNOWN_FREE_BYTES),
        cgroup_bytes: control_group_left(),
        claimed_bytes,
    }
}

/// What this process may still take on a GPU; `None` where it does not tell.
pub(super) fn device_memory(device: &Device, claimed_bytes: u64) -> Option<Memory> {
    Some(Memory {
        free_bytes: model::free_bytes(device)?,
        cgroup_bytes: None,
        claimed_bytes,
    })
}

fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn control_group_left() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("/");
    let v2 = [format!("/sys/fs/cgroup{path}"), "/sys/fs/cgroup".to_owned()];
    let v2 = v2
        .iter()
        .map(|at| (format!("{at}/memory.max"), format!("{at}/memory.current")));
    let v1 = "/sys/fs/cgroup/memory/memory";
    let v1 = (
        format!("{v1}.limit_in_bytes"),
        format!("{v1}.usage_in_bytes"),
    );
    v2.chain([v1])
        .filter_map(|(limit, used)| Some(number(&limit)?.saturating_sub(number(&used)?)))
        .min()
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The kind of CPU: what decides the last bits of a sum, the instruction sets and the cache sizes.
pub(super) fn cpu_kind() -> String {
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
    #[test]
    fn some_memory_is_free() {
        assert!(super::memory(0).free_bytes > 1 << 20);
    }
}
