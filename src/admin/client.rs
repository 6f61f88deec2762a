//! `ddp-gateway drain`: asks a running gateway to end, through its admin listener.
//!
//! Made for a preStop hook in an image without a shell: the binary is its own client.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use serde::Deserialize;

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

#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    #[error(
        "no gateway answers at the admin address {admin}; --admin or --config names another one"
    )]
    Unreachable {
        admin: SocketAddr,
        source: io::Error,
    },
    #[error("what answers at {0} is not the gateway's admin listener")]
    NotGateway(SocketAddr),
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
pub fn drain(target: DrainTarget, out: &mut impl Write) -> Result<(), DrainError> {
    let admin = reachable(target.admin);
    let path = match target.deadline {
        Some(deadline) => format!("/drain?deadline={}", deadline.as_secs()),
        None => "/drain".to_owned(),
    };
    let mut progress = ask(admin, "POST", &path)?;
    let mut unheard = 0;
    loop {
        // A pipe that nobody reads is no reason to leave the gateway alone.
        let _ = writeln!(out, "{}", describe(&progress));
        if !target.wait || progress.stage == "stopped" {
            return Ok(());
        }
        std::thread::sleep(PERIOD);
        progress = match ask(admin, "GET", "/drain") {
            Ok(progress) => {
                unheard = 0;
                progress
            }
            // Busy, not gone: the end of its listener shows as a refused connection.
            Err(DrainError::Unreachable { source, .. })
                if is_timeout(&source) && unheard < PATIENCE =>
            {
                unheard += 1;
                continue;
            }
            Err(DrainError::Unreachable { .. }) => {
                let _ = writeln!(out, "the gateway has ended");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
    )
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

fn ask(admin: SocketAddr, method: &str, path: &str) -> Result<Progress, DrainError> {
    let reply = exchange(admin, method, path)
        .map_err(|source| DrainError::Unreachable { admin, source })?;
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let body = match response.parse(&reply) {
        Ok(httparse::Status::Complete(head)) => &reply[head..],
        _ => return Err(DrainError::NotGateway(admin)),
    };
    serde_json::from_slice(body).map_err(|_| DrainError::NotGateway(admin))
}

fn exchange(admin: SocketAddr, method: &str, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&admin, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )?;
    let mut reply = Vec::new();
    stream.take(LARGEST_REPLY).read_to_end(&mut reply)?;
    if reply.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(reply)
}

/// A listener on all addresses is reached through this machine's own.
fn reachable(admin: SocketAddr) -> SocketAddr {
    let ip = match admin.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, admin.port())
}

/// Timeouts in a row that are taken for a busy machine.
const PATIENCE: u32 = 10;

const PERIOD: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(5);
const LARGEST_REPLY: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::{Progress, describe, reachable};

    #[test]
    fn reaches_a_listener_on_all_addresses() {
        for (configured, reached) in [
            ("0.0.0.0:9901", "127.0.0.1:9901"),
            ("[::]:9901", "[::1]:9901"),
            ("10.1.2.3:9901", "10.1.2.3:9901"),
        ] {
            let reached: std::net::SocketAddr = reached.parse().unwrap();
            assert_eq!(reachable(configured.parse().unwrap()), reached);
        }
    }

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
