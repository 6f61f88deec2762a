//! What the operating system says about the process.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tikv_jemalloc_ctl::{Access as _, AsName as _};

use super::names;

/// Raises the limit of open files to what the system allows, and returns it.
///
/// A default of 1,024 would end the gateway's growth at 500 sessions, and nothing in this process
/// uses `select`, which is what that default protects.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let wanted = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        // Refused in some sandboxes; then the limit is what it was.
        let _ = setrlimit(Resource::Nofile, wanted);
    }
    descriptor_limit()
}

/// Files and sockets that the process may have open; a very large number when unlimited.
pub fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED)
}

/// Files and sockets open now; `None` where the system does not say.
pub fn open_descriptors() -> Option<usize> {
    // Since Linux 6.2 it is the size of the folder (`Documentation/filesystems/proc.rst`). Before,
    // they have to be counted one by one, which takes longer the more there are, and a descriptor.
    let size = fs::metadata(DESCRIPTORS).ok()?.len();
    match usize::try_from(size) {
        Ok(0) | Err(_) => counted_descriptors(),
        known => known.ok(),
    }
}

fn counted_descriptors() -> Option<usize> {
    // One entry is the listing itself.
    let entries = fs::read_dir(DESCRIPTORS).ok()?.count();
    Some(entries.saturating_sub(1))
}

/// Has the allocator give memory that is free back to the system within a second or two.
///
/// Of up to 4 MiB, its background threads think only once in the time that free memory may be kept.
/// That is ten seconds as the allocator comes, so half a minute after a mass disconnect some of it
/// was still there. To give back earlier costs what it was kept for, a page fault when it is needed
/// again: nothing beside the system calls of a connection.
pub fn give_memory_back_soon() {
    // Arenas that are made later, and the one that there is before a second thread. An allocator
    // that does not know these names keeps its own ideas.
    for name in [
        "arenas.dirty_decay_ms\0",
        "arena.0.dirty_decay_ms\0",
        "arenas.muzzy_decay_ms\0",
        "arena.0.muzzy_decay_ms\0",
    ] {
        let millis: isize = if name.contains("dirty") { 1000 } else { 0 };
        let _ = name.name().write(millis);
    }
}

/// Bytes of heap in use, those of libraries in C included; `None` when the allocator does not count.
/// Zero when the program was built with another allocator than ours.
pub fn heap_in_use() -> Option<usize> {
    // The statistics are those of the last time somebody asked for them to be brought up to date.
    tikv_jemalloc_ctl::epoch::advance().ok()?;
    tikv_jemalloc_ctl::stats::allocated::read().ok()
}

/// Bytes of memory in use, those that the allocator keeps for later included; `None` where the
/// system does not say.
pub fn resident_memory() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: usize = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Publishes what does not change.
pub fn record_build() {
    names::BUILD_INFO.gauge(&[VERSION, REVISION]).set(1.0);
    #[expect(clippy::cast_precision_loss, reason = "a limit fits into 52 bits")]
    names::MAX_DESCRIPTORS
        .gauge(&[])
        .set(descriptor_limit() as f64);
}

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Commit that the binary was built from, when the build says so by `DDP_GATEWAY_REVISION`.
pub const REVISION: &str = match option_env!("DDP_GATEWAY_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

const UNLIMITED: u64 = 1 << 20;
const DESCRIPTORS: &str = "/proc/self/fd";

#[cfg(test)]
mod tests {
    use super::{
        counted_descriptors, descriptor_limit, open_descriptors, raise_descriptor_limit,
        resident_memory,
    };

    #[test]
    fn the_limit_is_known_and_kept() {
        let raised = raise_descriptor_limit();
        assert!(raised >= 64);
        assert_eq!(descriptor_limit(), raised);
    }

    #[test]
    fn open_files_are_counted_either_way() {
        for count in [open_descriptors, counted_descriptors] {
            let before = count().unwrap();
            let files: Vec<_> = (0..100)
                .map(|_| std::fs::File::open("/proc/self/status").unwrap())
                .collect();
            // Other tests of this process may open and close a few meanwhile.
            assert!(count().unwrap() > before + 80);
            drop(files);
        }
    }

    #[test]
    fn memory_that_is_written_to_is_resident() {
        let before = resident_memory().unwrap();
        let more = std::hint::black_box(vec![1_u8; 64 << 20]);
        let now = resident_memory().unwrap();
        assert!(now > before + (32 << 20), "{before} {now}");
        drop(more);
    }
}
