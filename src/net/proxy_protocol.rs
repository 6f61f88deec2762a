//! The PROXY protocol header that a balancer puts in front of a connection.
//!
//! Versions 1 and 2 of <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. Exactly the
//! header is taken off the socket: what follows belongs to TLS or HTTP.

use std::{io, net::SocketAddr, time::Duration};

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

/// Where a connection that came through a balancer really came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The balancer speaks for a client.
    Proxied { source: SocketAddr },
    /// The balancer speaks for itself (a health check) or does not know.
    Local,
}

#[derive(Debug, thiserror::Error)]
pub enum ProxyHeaderError {
    #[error("the connection did not begin with a PROXY header")]
    Missing,
    #[error("the PROXY header is broken or longer than {MAX_V2} bytes")]
    Broken,
    #[error("the PROXY header did not arrive in time")]
    Timeout,
    #[error("the connection ended within the PROXY header")]
    Io(#[from] io::Error),
}

/// Reads the header that every connection of such a listener must begin with.
pub async fn read_header(
    stream: &mut TcpStream,
    deadline: Duration,
) -> Result<Origin, ProxyHeaderError> {
    timeout(deadline, read(stream))
        .await
        .unwrap_or(Err(ProxyHeaderError::Timeout))
}

async fn read(stream: &mut TcpStream) -> Result<Origin, ProxyHeaderError> {
    // Twelve bytes are in every header, and tell the versions apart.
    let mut header = vec![0; V2_SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header == V2_SIGNATURE {
        let mut fixed = [0; 4];
        stream.read_exact(&mut fixed).await?;
        header.extend_from_slice(&fixed);
        let rest = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        let start = header.len();
        if start + rest > MAX_V2 {
            return Err(ProxyHeaderError::Broken);
        }
        header.resize(start + rest, 0);
        stream.read_exact(&mut header[start..]).await?;
    } else if header.starts_with(b"PROXY ") {
        read_line(stream, &mut header).await?;
    } else {
        return Err(ProxyHeaderError::Missing);
    }
    parse(&header)
}

/// Adds the rest of a v1 line, up to and with its LF.
async fn read_line(stream: &mut TcpStream, header: &mut Vec<u8>) -> Result<(), ProxyHeaderError> {
    while header.len() < MAX_V1 {
        let mut seen = [0; MAX_V1];
        let wanted = MAX_V1 - header.len();
        let there = stream.peek(&mut seen[..wanted]).await?;
        if there == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let end = memchr::memchr(b'\n', &seen[..there]);
        let take = end.map_or(there, |at| at + 1);
        let start = header.len();
        header.resize(start + take, 0);
        stream.read_exact(&mut header[start..]).await?;
        if end.is_some() {
            return Ok(());
        }
    }
    Err(ProxyHeaderError::Broken)
}

fn parse(header: &[u8]) -> Result<Origin, ProxyHeaderError> {
    let config = ParseConfig {
        include_tlvs: false,
        ..ParseConfig::default()
    };
    match ProxyHeader::parse(header, config) {
        Ok((parsed, used)) if used == header.len() => {
            Ok(parsed
                .proxied_address()
                .map_or(Origin::Local, |addresses| Origin::Proxied {
                    source: addresses.source,
                }))
        }
        _ => Err(ProxyHeaderError::Broken),
    }
}

const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Longest line of version 1, with CR LF.
const MAX_V1: usize = 107;

/// Version 2 allows 64 KiB of extensions; balancers send a few hundred bytes.
const MAX_V2: usize = 4096;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::{any, proptest};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::{Origin, ProxyHeaderError, parse, read_header};

    async fn read_from(pieces: &[&[u8]]) -> (Result<Origin, ProxyHeaderError>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        client.set_nodelay(true).unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        let writer = tokio::spawn(async move {
            for piece in pieces {
                client.write_all(&piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let origin = read_header(&mut server, Duration::from_secs(5)).await;
        writer.await.unwrap();
        let mut rest = Vec::new();
        if origin.is_ok() {
            server.read_to_end(&mut rest).await.unwrap();
        }
        (origin, rest)
    }

    fn proxied(text: &str) -> Origin {
        Origin::Proxied {
            source: text.parse().unwrap(),
        }
    }

    #[tokio::test]
    async fn takes_exactly_the_header() {
        let v1 = b"PROXY TCP4 203.0.113.9 10.0.0.1 51234 443\r\n";
        for split in 1..v1.len() {
            let (origin, rest) =
                read_from(&[&v1[..split], &v1[split..], b"GET / HTTP/1.1\r\n"]).await;
            assert_eq!(origin.unwrap(), proxied("203.0.113.9:51234"));
            assert_eq!(rest, b"GET / HTTP/1.1\r\n");
        }
        let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x28".to_vec();
        v2.extend_from_slice(
            &"2001:db8::7"
                .parse::<std::net::Ipv6Addr>()
                .unwrap()
                .octets(),
        );
        v2.extend_from_slice(&[0; 16]);
        v2.extend_from_slice(&[0xc8, 0x22, 0x01, 0xbb]);
        v2.extend_from_slice(b"\x04\x00\x01\x00");
        v2.extend_from_slice(b"hello");
        let (origin, rest) = read_from(&[&v2]).await;
        assert_eq!(origin.unwrap(), proxied("[2001:db8::7]:51234"));
        assert_eq!(rest, b"hello");
    }

    #[tokio::test]
    async fn a_balancer_may_speak_for_itself() {
        for header in [
            &b"PROXY UNKNOWN\r\n"[..],
            b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00",
        ] {
            let (origin, _) = read_from(&[header]).await;
            assert_eq!(origin.unwrap(), Origin::Local);
        }
    }

    #[tokio::test]
    async fn refuses_what_is_no_header() {
        for wrong in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"PROXY TCP4 203.0.113.9 10.0.0.1 512345 443\r\n",
            b"PROXY TCP4 not-an-address 10.0.0.1 5 443\r\n",
            b"PROXY ",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
            &[b'P'; 400],
            &[&b"PROXY TCP4 "[..], &[b'1'; 400]].concat(),
        ] {
            let (origin, _) = read_from(&[wrong]).await;
            assert!(origin.is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0..3_u8) {
            let mut header = match kind {
                0 => b"PROXY ".to_vec(),
                1 => b"\r\n\r\n\0\r\nQUIT\n".to_vec(),
                _ => Vec::new(),
            };
            header.extend_from_slice(&bytes);
            let _ = parse(&header);
        }
    }
}
