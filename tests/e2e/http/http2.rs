//! HTTP/2 clients that misbehave. Frames are written by hand, as no library would.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::{Raw, Served, demo, within};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const PING: u8 = 6;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `GET` or `POST https://h/slow?ms=60000` without any table of the compression.
fn request(method: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", method),
        (":scheme", "https"),
        (":authority", "h"),
        (":path", "/slow?ms=60000"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A `GET` that the monolith may answer when it likes, as the stream of this number.
pub(super) fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET"))
}

/// A ping, or the answer to one.
pub(super) fn ping(answers: bool, payload: &[u8]) -> Vec<u8> {
    frame(PING, u8::from(answers), 0, payload)
}

pub(super) async fn open(served: &Served) -> Raw {
    let mut raw = served.connect().await;
    raw.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat())
        .await;
    raw
}

/// Kind, flags and payload of the next frame; `None` when the connection ended.
pub(super) async fn next_frame(raw: &mut Raw) -> Option<(u8, u8, Vec<u8>)> {
    within(async {
        let mut head = [0; 9];
        raw.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        raw.0.read_exact(&mut payload).await.ok()?;
        Some((head[3], head[4], payload))
    })
    .await
}

/// Reads frames until the connection ends or one of this kind comes.
async fn until_frame(raw: &mut Raw, wanted: u8) -> Option<Vec<u8>> {
    loop {
        let (kind, _, payload) = next_frame(raw).await?;
        if kind == wanted {
            return Some(payload);
        }
    }
}

/// Reads up to a ping (or the answer to one), and returns what it carries.
pub(super) async fn until_ping(raw: &mut Raw, answers: bool) -> Option<Vec<u8>> {
    loop {
        let (kind, flags, payload) = next_frame(raw).await?;
        if (kind, flags & 1 == 1) == (PING, answers) {
            return Some(payload);
        }
    }
}

/// The connection is ended by the gateway, and another one is served all the same.
async fn is_ended(served: &Served, mut raw: Raw) {
    // With or without a GOAWAY in front.
    let _ = until_frame(&mut raw, u8::MAX).await;
    let mut other = open(served).await;
    other.send(frame(PING, 0, 0, &[7; 8])).await;
    assert_eq!(until_frame(&mut other, PING).await.unwrap(), [7; 8]);
}

/// Sends without caring whether the other side still listens.
async fn flood(raw: &mut Raw, bytes: &[u8]) -> bool {
    use tokio::io::AsyncWriteExt;
    raw.0.write_all(bytes).await.is_ok()
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let monolith = demo().await;
    let served = Served::start_http2(&[monolith.address()], |_| {}).await;
    let mut raw = open(&served).await;
    for n in 0..20_000_u32 {
        let stream = 2 * n + 1;
        let mut bytes = frame(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET"));
        bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        if !flood(&mut raw, &bytes).await {
            break;
        }
    }
    is_ended(&served, raw).await;
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let monolith = demo().await;
    let served = Served::start_http2(&[monolith.address()], |_| {}).await;
    let mut raw = open(&served).await;
    for n in 0..101 {
        raw.send(frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            2 * n + 1,
            &request("GET"),
        ))
        .await;
    }
    let reason = until_frame(&mut raw, RST_STREAM).await.unwrap();
    // REFUSED_STREAM
    assert_eq!(reason, 7_u32.to_be_bytes());
}

#[tokio::test]
async fn endless_continuations_end_the_connection() {
    let monolith = demo().await;
    let served = Served::start_http2(&[monolith.address()], |_| {}).await;
    let mut raw = open(&served).await;
    flood(&mut raw, &frame(HEADERS, END_STREAM, 1, &request("GET"))).await;
    // A literal field without indexing, again and again.
    let field = [&[0, 3][..], b"x-a", &[100], &[b'x'; 100]].concat();
    let piece = frame(CONTINUATION, 0, 1, &field.repeat(100));
    for _ in 0..1000 {
        if !flood(&mut raw, &piece).await {
            break;
        }
    }
    is_ended(&served, raw).await;
}

#[tokio::test]
async fn a_large_header_list_is_refused() {
    let monolith = demo().await;
    let served = Served::start_http2(&[monolith.address()], |_| {}).await;
    let mut raw = open(&served).await;
    let field = [&[0, 3][..], b"x-a", &[100], &[b'x'; 100]].concat();
    let mut block = request("GET");
    block.extend(field.repeat(350));
    let pieces: Vec<&[u8]> = block.chunks(16_000).collect();
    for (n, piece) in pieces.iter().enumerate() {
        let kind = if n == 0 { HEADERS } else { CONTINUATION };
        let flags = if n == 0 { END_STREAM } else { 0 };
        let last = if n + 1 == pieces.len() {
            END_HEADERS
        } else {
            0
        };
        raw.send(frame(kind, flags | last, 1, piece)).await;
    }
    // 431 with END_STREAM, or the stream is reset; in any case not the minute the monolith takes.
    let answer = loop {
        let (kind, _, payload) = next_frame(&mut raw).await.unwrap();
        if [HEADERS, RST_STREAM, GOAWAY].contains(&kind) {
            break (kind, payload);
        }
    };
    // Status 200 would be the static table's entry 8.
    assert!(
        answer.0 != HEADERS || answer.1.first() != Some(&0x88),
        "{answer:?}"
    );
}

#[tokio::test]
async fn empty_data_ends_the_connection() {
    let monolith = demo().await;
    let served = Served::start_http2(&[monolith.address()], |_| {}).await;
    let mut raw = open(&served).await;
    raw.send(frame(HEADERS, END_HEADERS, 1, &request("POST")))
        .await;
    let empty = frame(DATA, 0, 1, &[]).repeat(1000);
    for _ in 0..2000 {
        if !flood(&mut raw, &empty).await {
            break;
        }
    }
    is_ended(&served, raw).await;
}

#[tokio::test]
async fn a_client_that_says_nothing_is_ended() {
    let monolith = demo().await;
    let served = Served::start_http2(&[monolith.address()], |config| {
        config.http.header_timeout = Duration::from_millis(300);
    })
    .await;
    // Not even the preface.
    served.connect().await.rest().await;
    // The preface, and nothing after it.
    let raw = open(&served).await;
    is_ended(&served, raw).await;
}
