//! The steps, each on input as real clients and streamers send it.

use std::hint::black_box;

use ddp_gateway::{
    base::id::{ClientAddr, PeerAddr},
    config::{self, Environment},
    ddp::{self, Framing},
    headers::forwarded::{self, Origin},
    proxy::{route::RouteTable, target::Target},
    ws::{FrameCursor, Piece, Sender},
};
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};

use crate::talk::{EVENT, METHOD, Talk};

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(u64),
}

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "cursor",
        run: cursor,
    },
    Case {
        name: "peek_event",
        run: peek_event,
    },
    Case {
        name: "peek_method",
        run: peek_method,
    },
    Case {
        name: "verdict_event",
        run: |rounds| Talk::new().repeat(rounds, Talk::event),
    },
    Case {
        name: "verdict_method",
        run: |rounds| Talk::new().repeat(rounds, Talk::method),
    },
    Case {
        name: "verdict_result",
        run: |rounds| {
            Talk::new()
                .after_a_large_method()
                .repeat(rounds, Talk::result);
        },
    },
    Case {
        name: "verdict_ping",
        run: |rounds| Talk::new().repeat(rounds, Talk::ping),
    },
    Case {
        name: "target_and_route",
        run: target_and_route,
    },
    Case {
        name: "forwarded_headers",
        run: forwarded_headers,
    },
];

/// A masked text frame of a client, followed and un-masked.
fn cursor(rounds: u64) {
    let key = [0x37, 0xfa, 0x21, 0x3d];
    let payload = METHOD.as_bytes();
    let length = u8::try_from(payload.len()).unwrap_or(u8::MAX);
    let mut frame = vec![0x81, 0x80 | 126, 0, length];
    frame.extend_from_slice(&key);
    frame.extend(
        payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    let mut cursor = FrameCursor::new(Sender::Client, 1 << 20);
    let mut clear = vec![0; frame.len()];
    for _ in 0..rounds {
        let mut input = black_box(&frame[..]);
        while !input.is_empty() {
            let Ok(step) = cursor.step(input) else {
                panic!("the frame is not valid");
            };
            if let Piece::Payload {
                mask: Some(mask), ..
            } = step.piece
            {
                mask.apply(&input[..step.used], &mut clear[..step.used]);
            }
            input = &input[step.used..];
        }
        black_box(&clear);
    }
    assert!(cursor.at_message_boundary());
    assert_eq!(&clear[..payload.len()], payload);
}

fn peek_event(rounds: u64) {
    for _ in 0..rounds {
        black_box(ddp::peek(
            black_box(EVENT.as_bytes()),
            Framing::SockJs,
            ddp::framing::Sender::Server,
        ));
    }
}

fn peek_method(rounds: u64) {
    for _ in 0..rounds {
        black_box(ddp::peek(
            black_box(METHOD.as_bytes()),
            Framing::SockJs,
            ddp::framing::Sender::Client,
        ));
    }
}

/// A request for an avatar: its target is read in every way, its host and path find their route.
fn target_and_route(rounds: u64) {
    let folder = std::env::temp_dir().join(format!("micro-{}.toml", std::process::id()));
    let text = "listen = \"127.0.0.1:8080\"\nmonolith = \"http://127.0.0.1:3000\"\n\
                streamers = [\"127.0.0.1:4001\"]\n";
    std::fs::write(&folder, text).expect("the folder for temporary files can be written");
    let loaded = config::load(&folder, &Environment::default());
    let config = loaded.unwrap_or_else(|faults| panic!("{faults:?}")).config;
    let _ = std::fs::remove_file(&folder);
    let table = RouteTable::new(&config);
    let uri = Uri::from_static("/avatar/ada%20l?format=svg&etag=k7Nd2");
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_static("chat.example.org"));
    for _ in 0..rounds {
        let target = Target::read(
            &Method::GET,
            black_box(&uri),
            Version::HTTP_11,
            black_box(&headers),
            |host, path| table.place(host, path),
        );
        let Ok(target) = target else {
            panic!("the target is not valid");
        };
        black_box(&target);
    }
}

fn forwarded_headers(rounds: u64) {
    let peer = PeerAddr(([192, 0, 2, 7], 50_000).into());
    let origin = Origin {
        client: ClientAddr(peer.0.ip()),
        trusted: false,
        https: true,
    };
    let host = HeaderValue::from_static("chat.example.org");
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::ACCEPT, "application/json"),
        (
            header::USER_AGENT,
            "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Firefox/128.0",
        ),
        (header::COOKIE, "rc_uid=nDb9CZTMt8pDvqqnP; rc_token=x"),
        (header::ACCEPT_LANGUAGE, "en"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    for _ in 0..rounds {
        forwarded::apply(black_box(&mut headers), &origin, peer, Some(&host));
    }
    black_box(&headers);
}
