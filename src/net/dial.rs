//! A connection to a streamer and the WebSocket handshake on it.

use std::{io, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    base::id::StreamerAddr,
    ws::{HandshakeError, handshake},
};

/// Why no WebSocket to a streamer came about.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("the connection ended during the handshake")]
    Lost(#[source] io::Error),
    #[error("the answer to the handshake is not HTTP")]
    NotHttp,
    #[error("the answer to the handshake is longer than {MAX_HEAD} bytes")]
    TooLong,
    #[error("the handshake was refused")]
    Refused(#[source] HandshakeError),
}

/// Whether a connection failed for lack of something on this machine (descriptors, memory, ports),
/// which says nothing about the server.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL)
    )
}

/// What a leg's upgrade request says.
#[derive(Clone, Debug)]
pub struct LegRequest {
    /// Path and query. Exactly `/websocket` makes a streamer speak without SockJS framing.
    pub target: String,
    pub host: String,
    /// Headers of the client that the streamer shall see.
    pub headers: HeaderMap,
}

/// Connects to `address` and upgrades; returns the stream and what had been read beyond the answer.
///
/// Has no deadline of its own: the caller bounds the whole attachment. `nonce` is 16 random bytes.
///
/// # Errors
/// See [`DialError`]. At most 16 KiB of answer are read.
pub async fn dial(
    address: StreamerAddr,
    request: &LegRequest,
    nonce: [u8; 16],
) -> Result<(TcpStream, Vec<u8>), DialError> {
    let mut stream = TcpStream::connect(address.0)
        .await
        .map_err(DialError::Connect)?;
    configure(&stream).map_err(DialError::Connect)?;
    let key = handshake::request_key(nonce);
    let head = handshake::upgrade_request(&request.target, &request.host, &key, &request.headers);
    stream.write_all(&head).await.map_err(DialError::Lost)?;

    let mut read = Vec::with_capacity(512);
    loop {
        if stream.read_buf(&mut read).await.map_err(DialError::Lost)? == 0 {
            return Err(DialError::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some((status, headers, length)) = parse_head(&read)? {
            handshake::check_response(status, &headers, &key).map_err(DialError::Refused)?;
            read.drain(..length);
            return Ok((stream, read));
        }
        if read.len() > MAX_HEAD {
            return Err(DialError::TooLong);
        }
    }
}

/// Small messages go out at once, and a peer that vanished is noticed.
pub fn configure(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(20))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

fn parse_head(bytes: &[u8]) -> Result<Option<(StatusCode, HeaderMap, usize)>, DialError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(DialError::TooLong),
        Err(_) => return Err(DialError::NotHttp),
    };
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or(DialError::NotHttp)?;
    let mut map = HeaderMap::with_capacity(response.headers.len());
    for header in response.headers {
        let name = HeaderName::try_from(header.name).map_err(|_| DialError::NotHttp)?;
        let value = HeaderValue::from_bytes(header.value).map_err(|_| DialError::NotHttp)?;
        map.append(name, value);
    }
    Ok(Some((status, map, length)))
}

const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::{DialError, parse_head};

    #[test]
    fn reads_a_head_and_says_where_it_ends() {
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x00";
        let (status, headers, length) = parse_head(answer).unwrap().unwrap();
        assert_eq!(status, 101);
        assert_eq!(headers["upgrade"], "websocket");
        assert_eq!(&answer[length..], b"\x81\x00");
        for end in 0..answer.len() - 2 {
            assert!(
                parse_head(&answer[..end]).unwrap().is_none(),
                "cut at {end}"
            );
        }
        assert!(matches!(
            parse_head(b"SSH-2.0-x\r\n"),
            Err(DialError::NotHttp)
        ));
    }
}
