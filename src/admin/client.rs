//! `ddp-gateway drain`: asks a running gateway to end, through its admin listener.
//!
//! Made for a preStop hook in an image without a shell: the binary is its own client.

use std::{io::Write, net::SocketAddr, time::Duration};

use serde::Deserialize;

use super::call::{CallError, call};

/// Whom to drain, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainTarget {
    /// The admin listener, as configured.
    pub admin: SocketAddr,
    /// Instead of the configured deadline.
    pub deadline: Option<Duration>,
    /// Return only when the gateway has ended.
    pub wait: bool,
}

/// What `GET /drain` tells; see [`crate::control::drain::Progress`].
#[derive(Clone, Debug, Deserialize)]
struct Progress {
    stage: String,
    sessions: usize,
    connections: usize,
    elapsed_seconds: f64,
    deadline_in_seconds: Option<f64>,
}

/// Starts the drain and, if asked to, reports on `out` until the gateway has ended.
pub fn drain(target: DrainTarget, out: &mut impl Write) -> Result<(), CallError> {
    let admin = target.admin;
    let path = match target.deadline {
        Some(deadline) => format!("/drain?deadline={}", deadline.as_secs()),
        None => "/drain".to_owned(),
    };
    let mut progress: Progress = call(admin, "POST", &path)?;
    let mut unheard = 0;
    loop {
        // A pipe that nobody reads is no reason to leave the gateway alone.
        let _ = writeln!(out, "{}", describe(&progress));
        if !target.wait {
            return Ok(());
        }
        // Its last moment: usually its listener is closed before it can say so.
        if progress.stage == "stopped" {
            let _ = writeln!(out, "the gateway has ended");
            return Ok(());
        }
        std::thread::sleep(PERIOD);
        progress = match call(admin, "GET", "/drain") {
            Ok(progress) => {
                unheard = 0;
                progress
            }
            Err(error) if error.is_timeout() && unheard < PATIENCE => {
                unheard += 1;
                continue;
            }
            Err(CallError::Unreachable { .. }) => {
                let _ = writeln!(out, "the gateway has ended");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
    }
}

fn describe(progress: &Progress) -> String {
    let left = progress
        .deadline_in_seconds
        .map_or_else(String::new, |left| {
            format!(", at most {:.0} s left", left.max(0.0))
        });
    format!(
        "{:>5.1} s  {}: {} sockets, {} connections open{left}",
        progress.elapsed_seconds, progress.stage, progress.sessions, progress.connections
    )
}

/// Timeouts in a row that are taken for a busy machine.
const PATIENCE: u32 = 10;

const PERIOD: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::{Progress, describe};

    #[test]
    fn tells_how_far_it_is() {
        let progress: Progress = serde_json::from_str(
            r#"{"stage":"closing","sessions":12,"connections":3,"elapsed_seconds":4.25,
                "deadline_in_seconds":20.6}"#,
        )
        .unwrap();
        assert_eq!(
            describe(&progress),
            "  4.2 s  closing: 12 sockets, 3 connections open, at most 21 s left"
        );
    }
}
