//! What a process and all that it started cost, as the system counts it.

use std::{collections::BTreeMap, fs, time::Duration};

/// A process and its descendants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree(pub(super) u32);

/// Time of processors up to a moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    /// By process and thread, in nanoseconds as the scheduler counts them.
    threads: BTreeMap<(u32, u32), u64>,
    /// By process, in hundredths of a second; threads that have ended are in it.
    ticks: BTreeMap<u32, u64>,
}

impl Tree {
    /// Those that live now, itself first.
    pub(super) fn processes(self) -> Vec<u32> {
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for process in numbers("/proc") {
            // The fourth field (`man 5 proc_pid_stat`); a name may have anything in it.
            let parent = stat(process).and_then(|fields| fields.get(1).copied());
            if let Some(parent) = parent.and_then(|parent| u32::try_from(parent).ok()) {
                children.entry(parent).or_default().push(process);
            }
        }
        let mut found = vec![self.0];
        let mut at = 0;
        while let Some(process) = found.get(at) {
            let own = children.remove(process).unwrap_or_default();
            found.extend(own);
            at += 1;
        }
        found
    }

    pub(super) fn usage(self) -> Usage {
        let mut usage = Usage::default();
        for process in self.processes() {
            let folder = format!("/proc/{process}/task");
            for thread in numbers(&folder) {
                let text = fs::read_to_string(format!("{folder}/{thread}/schedstat"));
                let first = text.ok().and_then(|text| {
                    let first = text.split_whitespace().next();
                    first.and_then(|nanos| nanos.parse().ok())
                });
                if let Some(nanos) = first {
                    usage.threads.insert((process, thread), nanos);
                }
            }
            if let Some(&[user, system]) = stat(process).as_ref().and_then(|all| all.get(11..13)) {
                usage.ticks.insert(process, user + system);
            }
        }
        usage
    }

    /// Memory in bytes, shared pages by their share; `None` where the system does not say.
    pub(super) fn memory(self) -> Option<u64> {
        let mut sum = 0;
        for process in self.processes() {
            let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup"));
            // One that ends just now has no memory any more.
            let Ok(text) = text else { continue };
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
            sum += kib * 1024;
        }
        (sum > 0).then_some(sum)
    }
}

impl Usage {
    /// What was used between the two. The scheduler's count is exact, but a thread that has ended
    /// takes its own with it; the other one has all threads, cut to whole hundredths.
    pub(super) fn until(&self, later: &Self) -> Duration {
        let nanos = later.threads.iter().map(|(thread, nanos)| {
            let before = self.threads.get(thread).copied().unwrap_or(0);
            nanos.saturating_sub(before)
        });
        let exact = Duration::from_nanos(nanos.sum());
        let ticks = later.ticks.iter().map(|(process, ticks)| {
            let before = self.ticks.get(process).copied().unwrap_or(0);
            ticks.saturating_sub(before)
        });
        // Two of them for each process are what cutting may have made of nothing.
        let cut = 2 * later.ticks.len() as u64;
        let whole = Duration::from_millis(10 * ticks.sum::<u64>().saturating_sub(cut));
        exact.max(whole)
    }
}

/// The fields of a process behind its name: state (as 0), parent, and so on.
fn stat(process: u32) -> Option<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let fields = rest.split(' ').map(|field| field.parse().unwrap_or(0));
    Some(fields.collect())
}

fn numbers(folder: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::{process, time::Instant};

    use super::*;

    #[test]
    fn a_busy_process_is_seen() {
        let tree = Tree(process::id());
        assert_eq!(tree.processes()[0], process::id());
        assert!(tree.memory().unwrap() > 100_000);
        let before = tree.usage();
        let start = Instant::now();
        let mut n = 0_u64;
        while before.until(&tree.usage()) < Duration::from_millis(20) {
            n = std::hint::black_box(n + 1);
            assert!(start.elapsed() < Duration::from_secs(20));
        }
    }

    #[test]
    fn threads_that_end_are_not_forgotten() {
        let before = Usage::default();
        let mut later = Usage::default();
        later.threads.insert((1, 1), 5_000_000);
        later.ticks.insert(1, 1);
        assert_eq!(before.until(&later), Duration::from_millis(5));
        later.ticks.insert(1, 100);
        assert_eq!(before.until(&later), Duration::from_millis(980));
    }
}
