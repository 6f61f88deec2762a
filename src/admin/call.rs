//! One request to a gateway's admin listener, for commands of the same binary.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error(
        "no gateway answers at the admin address {admin}; --admin or --config names another one"
    )]
    Unreachable {
        admin: SocketAddr,
        source: io::Error,
    },
    #[error("what answers at {0} is not the gateway's admin listener")]
    NotGateway(SocketAddr),
    /// The gateway's own words.
    #[error("the gateway at {admin} refuses: {reason}")]
    Refused { admin: SocketAddr, reason: String },
}

impl CallError {
    /// It was busy, not gone: the end of its listener shows as a refused connection.
    pub(super) fn is_timeout(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { source, .. }
                if matches!(source.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
        )
    }
}

/// What a page says instead of an answer.
#[derive(Debug, Deserialize)]
struct Fault {
    error: String,
}

/// Asks `admin` and reads its answer.
pub(super) fn call<T: DeserializeOwned>(
    admin: SocketAddr,
    method: &str,
    path: &str,
) -> Result<T, CallError> {
    let admin = reachable(admin);
    let reply =
        exchange(admin, method, path).map_err(|source| CallError::Unreachable { admin, source })?;
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let body = match response.parse(&reply) {
        Ok(httparse::Status::Complete(head)) => &reply[head..],
        _ => return Err(CallError::NotGateway(admin)),
    };
    if response.code.is_some_and(|code| code >= 400) {
        return Err(match serde_json::from_slice::<Fault>(body) {
            Ok(Fault { error: reason }) => CallError::Refused { admin, reason },
            Err(_) => CallError::NotGateway(admin),
        });
    }
    serde_json::from_slice(body).map_err(|_| CallError::NotGateway(admin))
}

/// A value as it stands in a query.
pub(super) fn quoted(value: &str) -> String {
    let mut quoted = String::new();
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b':' => {
                quoted.push(char::from(byte));
            }
            _ => {
                quoted.push('%');
                for half in [byte >> 4, byte & 15] {
                    let digit = char::from_digit(u32::from(half), 16);
                    quoted.push(digit.expect("four bits are a hexadecimal digit"));
                }
            }
        }
    }
    quoted
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

const TIMEOUT: Duration = Duration::from_secs(5);

/// A row of a streamer takes half a KiB, and there are rarely more than a hundred.
const LARGEST_REPLY: u64 = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::{quoted, reachable};

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
    fn quotes_what_would_end_a_value() {
        assert_eq!(quoted("10.0.0.1:3000"), "10.0.0.1:3000");
        assert_eq!(quoted("[::1]:3000"), "%5b::1%5d:3000");
        assert_eq!(quoted("a&b=c d\u{e4}"), "a%26b%3dc%20d%c3%a4");
    }
}
