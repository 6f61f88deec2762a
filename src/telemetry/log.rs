//! The log: one line per event on standard output, JSON or text, written by a thread of its own.
//!
//! A reader of the log that stalls must not stall the gateway, so lines wait in a bounded queue and
//! are dropped, and counted, when it is full.

use std::{
    io::{self, IsTerminal, Write},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use metrics::Counter;
use tracing_subscriber::{
    EnvFilter, Registry,
    fmt::{MakeWriter, layer},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use super::names;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Text,
}

/// Changes what is logged, and brings the last lines out at the end.
#[derive(Clone, Debug)]
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    lines: SyncSender<Line>,
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("`{filter}` is no log filter: {reason}")]
    Filter { filter: String, reason: String },
    #[error("a log has been set up already")]
    Taken,
    #[error("the thread that writes the log cannot be started: {0}")]
    Thread(#[from] io::Error),
}

impl Log {
    /// Sets the log of the process up. `filter` as in `info,ddp_gateway::pool=debug`; `access`
    /// says whether requests and sockets get their lines.
    pub fn install(format: Format, filter: &str, access: bool) -> Result<Self, LogError> {
        let (filter, handle) = reload::Layer::new(parse(filter, access)?);
        let (lines, waiting) = sync_channel(QUEUE);
        let dropped = names::LOG_LINES_DROPPED.counter(&[]);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_lines(&waiting))?;
        let queue = Queue {
            lines: lines.clone(),
            dropped,
        };
        let registry = tracing_subscriber::registry().with(filter);
        let installed = match format {
            Format::Json => registry
                .with(
                    layer()
                        .json()
                        .flatten_event(true)
                        .with_current_span(false)
                        .with_span_list(false)
                        .with_writer(queue),
                )
                .try_init(),
            Format::Text => registry
                .with(
                    layer()
                        .with_ansi(io::stdout().is_terminal())
                        .with_writer(queue),
                )
                .try_init(),
        };
        installed.map_err(|_| LogError::Taken)?;
        Ok(Self {
            filter: handle,
            lines,
        })
    }

    /// Logs by another filter from now on. A filter that cannot be read changes nothing.
    pub fn set(&self, filter: &str, access: bool) -> Result<(), LogError> {
        let next = parse(filter, access)?;
        // Fails only when the subscriber is gone, and then nothing is logged any more anyway.
        let _ = self.filter.reload(next);
        Ok(())
    }

    /// Waits, for at most a second, until what was logged so far has been written.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.lines.try_send(Line::Flush(done)).is_ok() {
            let _ = written.recv_timeout(Duration::from_secs(1));
        }
    }
}

/// Checks a filter without using it.
pub fn check(filter: &str) -> Result<(), LogError> {
    parse(filter, true).map(drop)
}

fn parse(filter: &str, access: bool) -> Result<EnvFilter, LogError> {
    let fault = |reason: String| LogError::Filter {
        filter: filter.to_owned(),
        reason,
    };
    let parsed = EnvFilter::try_new(filter).map_err(|error| fault(error.to_string()))?;
    let access = match access {
        true => "access=info",
        false => "access=off",
    };
    let access = access.parse().map_err(|_| fault("access".to_owned()))?;
    let mut parsed = parsed.add_directive(access);
    // The client of NATS has a line for each message that it drops; what an operator needs of it is
    // logged by whoever listens.
    if !filter.contains(QUIET) {
        let quiet = format!("{QUIET}=off").parse();
        parsed = parsed.add_directive(quiet.map_err(|_| fault(QUIET.to_owned()))?);
    }
    Ok(parsed)
}

const QUIET: &str = "async_nats";

enum Line {
    Text(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Where events are formatted to.
struct Queue {
    lines: SyncSender<Line>,
    dropped: Counter,
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Pending<'a>;

    fn make_writer(&'a self) -> Pending<'a> {
        Pending {
            queue: self,
            line: Vec::with_capacity(256),
        }
    }
}

/// One event being formatted; goes off when dropped.
struct Pending<'a> {
    queue: &'a Queue,
    line: Vec<u8>,
}

impl Write for Pending<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = LONGEST_LINE.saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return;
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        if self.queue.lines.try_send(Line::Text(line)).is_err() {
            self.queue.dropped.increment(1);
        }
    }
}

fn write_lines(waiting: &Receiver<Line>) {
    let mut out = io::BufWriter::with_capacity(64 * 1024, io::stdout());
    let mut unwritten = false;
    loop {
        // Lines that come together leave together.
        let next = match unwritten {
            true => waiting.recv_timeout(Duration::ZERO),
            false => waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match next {
            Ok(Line::Text(line)) => {
                // A closed standard output is nobody's reason to end.
                let _ = out.write_all(&line);
                unwritten = true;
            }
            Ok(Line::Flush(done)) => {
                let _ = out.flush();
                unwritten = false;
                let _ = done.try_send(());
            }
            Err(RecvTimeoutError::Timeout) => {
                let _ = out.flush();
                unwritten = false;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Lines that may wait for a slow reader of the log.
const QUEUE: usize = 8192;

/// In bytes; the rest of a longer line is cut off.
const LONGEST_LINE: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use metrics::Counter;
    use tracing_subscriber::{fmt::layer, layer::SubscriberExt};

    use super::{Line, Queue, check, parse};

    fn logged(filter: &str, access: bool, capacity: usize, log: impl FnOnce()) -> Vec<String> {
        let (lines, waiting) = sync_channel(capacity);
        let queue = Queue {
            lines,
            dropped: Counter::noop(),
        };
        let subscriber = tracing_subscriber::registry()
            .with(parse(filter, access).unwrap())
            .with(layer().json().flatten_event(true).with_writer(queue));
        tracing::subscriber::with_default(subscriber, log);
        waiting
            .try_iter()
            .filter_map(|line| match line {
                Line::Text(line) => Some(String::from_utf8(line).unwrap()),
                Line::Flush(_) => None,
            })
            .collect()
    }

    #[test]
    fn access_lines_have_a_switch_of_their_own() {
        let both = || {
            tracing::info!(target: "access", event = "request", status = 200);
            tracing::warn!("something");
        };
        let lines = logged("warn", true, 10, both);
        assert_eq!(lines.len(), 2);
        let request: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(request["event"], "request");
        assert_eq!(request["status"], 200);
        assert_eq!(logged("info", false, 10, both).len(), 1);
    }

    #[test]
    fn a_full_queue_drops_and_a_long_line_is_cut() {
        let lines = logged("info", true, 3, || {
            for _ in 0..50 {
                tracing::info!("{}", "x".repeat(100_000));
            }
        });
        assert_eq!(lines.len(), 3);
        assert!(lines[0].len() < 20_000 && lines[0].ends_with('\n'));
    }

    #[test]
    fn filters_are_checked() {
        assert!(check("info,ddp_gateway::pool=debug").is_ok());
        let error = check("ddp_gateway=loud").unwrap_err().to_string();
        assert!(
            error.contains("loud") || error.contains("no log filter"),
            "{error}"
        );
    }
}
