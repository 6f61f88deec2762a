//! The access log: one line for each request, with what an operator needs and no secret.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use serde_json::Value;
use tokio::sync::watch;
use tracing_subscriber::fmt::MakeWriter;

use super::{Reluctant, Served, demo, within};

/// Everything that is logged in this process, as lines; those who wait for one are told of each.
#[derive(Clone, Default)]
struct Lines(Arc<watch::Sender<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send_modify(|text| text.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.borrow()).into_owned()
    }

    /// The access line of the request with this path.
    async fn of(&self, path: &str) -> Value {
        let mut written = self.0.subscribe();
        within(async {
            loop {
                let found = String::from_utf8_lossy(&written.borrow_and_update())
                    .lines()
                    .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                    .find(|line| line["target"] == "access" && line["fields"]["path"] == path);
                if let Some(found) = found {
                    return found["fields"].clone();
                }
                written.changed().await.unwrap();
            }
        })
        .await
    }
}

/// The test binary has one log; the first test that asks opens it.
fn log() -> Lines {
    static LINES: OnceLock<Lines> = OnceLock::new();
    LINES
        .get_or_init(|| {
            let lines = Lines::default();
            tracing_subscriber::fmt()
                .json()
                .with_max_level(tracing::Level::DEBUG)
                .with_writer(lines.clone())
                .init();
            lines
        })
        .clone()
}

#[tokio::test]
async fn a_line_says_what_happened_and_tells_no_secret() {
    let lines = log();
    let monolith = demo().await;
    let served = Served::start_with(&[monolith.address()], |config| config.log.access = true).await;
    let answer = served
        .ask(
            "POST /upload?token=QUERYSECRET HTTP/1.1\r\nHost: Chat.example\r\nCookie: rc_token=COOKIESECRET\r\n\
             Authorization: Bearer AUTHSECRET\r\nX-Auth-Token: HEADERSECRET\r\nContent-Length: 5\r\n\
             Connection: close\r\n\r\nhello",
        )
        .await;
    assert_eq!(answer.status(), 200);
    let line = lines.of("/upload").await;
    assert_eq!(line["event"], "request");
    assert_eq!(line["client"], "127.0.0.1");
    assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(line["host"], "chat.example");
    assert_eq!(line["method"], "POST");
    assert_eq!(line["status"], 200);
    assert_eq!(line["route"], "monolith");
    assert_eq!(line["server"], monolith.address().to_string());
    assert_eq!(line["bytes_in"], 5);
    assert_eq!(line["bytes_out"], answer.body_bytes());
    assert_eq!(line["reason"], "");
    assert!(line["duration_ms"].is_u64());

    served
        .ask("GET /hooks/abc/WEBHOOKSECRET HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(lines.of("/hooks/abc/***").await["status"], 404);

    served
        .ask("GET /close HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    let line = lines.of("/close").await;
    assert_eq!(line["status"], 502);
    assert_eq!(line["reason"], "bad_gateway");

    served
        .ask("GET /cut?bytes=3000000 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(lines.of("/cut").await["reason"], "monolith_cut");

    // A client that leaves before there is an answer.
    let mut reluctant = Reluctant::start().await;
    let waited = Served::start_with(&[reluctant.origin.address], |config| {
        config.log.access = true
    })
    .await;
    let mut raw = waited.connect().await;
    raw.send("GET /unanswered HTTP/1.1\r\nHost: h\r\n\r\n")
        .await;
    reluctant.asked().await;
    drop(raw);
    let line = lines.of("/unanswered").await;
    assert_eq!(line["status"], 499);
    assert_eq!(line["reason"], "client_gone");

    let text = lines.text();
    for secret in [
        "QUERYSECRET",
        "COOKIESECRET",
        "AUTHSECRET",
        "HEADERSECRET",
        "WEBHOOKSECRET",
    ] {
        assert!(!text.contains(secret), "{secret} is in the log:\n{text}");
    }
}
