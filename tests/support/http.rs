//! HTTP by hand: what is sent is exactly what a test says, what came back is read by httparse.

use std::{net::SocketAddr, sync::Arc};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{certificate, soon};

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case, in the order of arrival.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// Value of the first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// A GET over a connection of its own.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, "GET", path).await
}

pub async fn post(address: SocketAddr, path: &str) -> Answer {
    request(address, "POST", path).await
}

async fn request(address: SocketAddr, method: &str, path: &str) -> Answer {
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    exchange(&mut stream, text.as_bytes()).await
}

/// A GET over TLS with SNI `localhost`.
pub async fn get_tls(address: SocketAddr, path: &str) -> Answer {
    let mut stream = tls(address, "localhost", &["http/1.1"]).await.unwrap();
    let text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    exchange(&mut stream, text.as_bytes()).await
}

/// Sends these bytes and reads the one answer to them.
pub async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
) -> Answer {
    stream.write_all(request).await.unwrap();
    stream.flush().await.unwrap();
    let head_only = request.starts_with(b"HEAD ");
    soon("an HTTP answer", read_answer(stream, head_only)).await
}

/// Reads one answer; for a HEAD request without its body.
pub async fn read_answer(stream: &mut (impl AsyncRead + Unpin), head_only: bool) -> Answer {
    let mut bytes = Vec::new();
    loop {
        if let Some((mut answer, body_at)) = parse_head(&bytes) {
            let body = bytes.split_off(body_at);
            answer.body = match (head_only, &answer) {
                (true, _) => Vec::new(),
                (_, answer) if answer.status < 200 || matches!(answer.status, 204 | 304) => body,
                (_, answer) => read_body(stream, answer, body).await,
            };
            return answer;
        }
        let read = stream.read_buf(&mut bytes).await.unwrap();
        assert!(
            read > 0,
            "the connection ended within the head of an answer: {:?}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

fn parse_head(bytes: &[u8]) -> Option<(Answer, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes).unwrap() {
        httparse::Status::Partial => None,
        httparse::Status::Complete(head) => Some((
            Answer {
                status: response.code.unwrap(),
                headers: response
                    .headers
                    .iter()
                    .map(|header| {
                        (
                            header.name.to_ascii_lowercase(),
                            String::from_utf8_lossy(header.value).into_owned(),
                        )
                    })
                    .collect(),
                body: Vec::new(),
            },
            head,
        )),
    }
}

async fn read_body(
    stream: &mut (impl AsyncRead + Unpin),
    answer: &Answer,
    mut bytes: Vec<u8>,
) -> Vec<u8> {
    if answer
        .header("transfer-encoding")
        .is_some_and(|coding| coding.contains("chunked"))
    {
        return read_chunks(stream, bytes).await;
    }
    let length = answer
        .header("content-length")
        .map(|length| length.parse::<usize>().unwrap());
    while length.is_none_or(|length| bytes.len() < length) {
        match stream.read_buf(&mut bytes).await {
            Ok(0) => {
                assert!(
                    length.is_none(),
                    "the body was cut at {} bytes",
                    bytes.len()
                );
                break;
            }
            Ok(_) => {}
            // A TLS peer may end without its goodbye.
            Err(_) if length.is_none() => break,
            Err(error) => panic!("{error}"),
        }
    }
    bytes
}

async fn read_chunks(stream: &mut (impl AsyncRead + Unpin), mut bytes: Vec<u8>) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        match httparse::parse_chunk_size(&bytes).unwrap() {
            httparse::Status::Complete((start, size)) => {
                let size = usize::try_from(size).unwrap();
                // The last chunk is followed by trailers and an empty line.
                let whole = match size {
                    0 => bytes[start..]
                        .windows(2)
                        .position(|end| end == b"\r\n")
                        .map(|_| start),
                    _ => (bytes.len() >= start + size + 2).then_some(start + size + 2),
                };
                match whole {
                    Some(_) if size == 0 => return body,
                    Some(end) => {
                        body.extend_from_slice(&bytes[start..start + size]);
                        bytes.drain(..end);
                        continue;
                    }
                    None => {}
                }
            }
            httparse::Status::Partial => {}
        }
        let read = stream.read_buf(&mut bytes).await.unwrap();
        assert!(read > 0, "the body was cut within a chunk");
    }
}

/// A TLS connection with this name in SNI.
pub async fn tls(
    address: SocketAddr,
    name: &str,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    tls_with(address, name, certificate::client(alpn)).await
}

/// The same with a client of one's own.
pub async fn tls_with(
    address: SocketAddr,
    name: &str,
    client: rustls::ClientConfig,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(client))
        .connect(name, stream)
        .await
}
