//! Clients that have a WebSocket and break its rules, or those of DDP.

use std::{collections::BTreeMap, iter::repeat, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::{io::AsyncWriteExt, time::Instant};

use super::{CONNECT, Peer, Scene, frame, text};
use crate::support::{socket::Way, soon, until};

/// What is sent, the close code that answers it, and the reason that is counted.
struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    code: u16,
    reason: &'static str,
}

impl Case {
    fn new(name: &'static str, bytes: Vec<u8>, code: u16, reason: &'static str) -> Self {
        Self {
            name,
            bytes,
            code,
            reason,
        }
    }
}

/// Largest message in the tests below.
const LIMIT: usize = 64 * 1024;

fn cases() -> Vec<Case> {
    let mut cases = framing();
    cases.extend(texts());
    cases.extend(closes());
    cases
}

/// RFC 6455 sections 5.1 to 5.5.
fn framing() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name, bytes| cases.push(Case::new(name, bytes, 1002, "client_protocol"));
    case("unmasked text", b"\x81\x05hello".to_vec());
    case("unmasked ping", b"\x89\x00".to_vec());
    case("unmasked close", b"\x88\x02\x03\xe8".to_vec());
    for bit in [0x40, 0x20, 0x10] {
        case("reserved bit", frame(0x81 | bit, b"hello"));
        case("reserved bit of a ping", frame(0x89 | bit, b""));
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        case("reserved opcode", frame(0x80 | opcode, b"hello"));
    }
    for opcode in [8, 9, 10] {
        case("fragmented control frame", frame(opcode, b""));
        case("long control frame", frame(0x80 | opcode, &[b'x'; 126]));
        case("huge control frame", frame(0x80 | opcode, &[b'x'; 70_000]));
    }
    case("stray continuation", frame(0x80, b"hello"));
    case("stray first continuation", frame(0x00, b"hello"));
    let first = frame(0x01, br#"{"msg":"#);
    case("text within a text", [first.clone(), text(b"{}")].concat());
    case("binary within a text", [first, frame(0x82, b"{}")].concat());
    for header in [
        &[0x81, 0xfe, 0, 125][..],
        &[0x81, 0xfe, 0, 0],
        &[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
        &[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0, 5],
    ] {
        case("length not in its shortest form", header.to_vec());
    }
    for top in [0x80, 0xff] {
        let header = [0x81, 0xff, top, 0, 0, 0, 0, 0, 0, 1];
        case("length with its top bit", header.to_vec());
    }
    cases
}

/// The size of messages and section 8.1.
fn texts() -> Vec<Case> {
    let start = br#"{"msg":"connect","session":""#;
    let whole = [&start[..], &[b'x'; LIMIT]].concat();
    let mut fragments = frame(0x01, &whole[..LIMIT / 2]);
    for _ in 0..40 {
        fragments.extend_from_slice(&frame(0x00, &[b'x'; LIMIT / 32]));
    }
    let mut crumbs = frame(0x01, start);
    for _ in 0..LIMIT {
        crumbs.extend_from_slice(&frame(0x00, b"x"));
    }
    let announced = |length: u64| {
        let mut header = vec![0x81, 0xff];
        header.extend_from_slice(&length.to_be_bytes());
        header
    };
    let big = |name, bytes| Case::new(name, bytes, 1009, "message_too_big");
    let broken = |name, bytes| Case::new(name, bytes, 1007, "client_protocol");
    let unreadable = |name, bytes| Case::new(name, bytes, 1007, "unreadable");
    let split =
        |a: &[u8], b: &[u8], c: &[u8]| [frame(0x01, a), frame(0x00, b), frame(0x80, c)].concat();
    vec![
        big("long message", text(&whole)),
        big("long message in fragments", fragments),
        big("long message in crumbs", crumbs),
        big("endless message", announced(u64::MAX / 2)),
        big("message of 4 GiB", announced(1 << 32)),
        broken(
            "no UTF-8",
            text(b"{\"msg\":\"connect\",\"session\":\"\xff\"}"),
        ),
        broken(
            "overlong UTF-8",
            text(b"{\"msg\":\"connect\",\"session\":\"\xc0\xaf\"}"),
        ),
        broken(
            "surrogate in UTF-8",
            text(b"{\"msg\":\"connect\",\"session\":\"\xed\xa0\x80\"}"),
        ),
        broken(
            "beyond Unicode",
            text(b"{\"msg\":\"connect\",\"session\":\"\xf4\x90\x80\x80\"}"),
        ),
        broken(
            "no UTF-8 late",
            text(&[CONNECT.as_bytes(), &[b' '; 1000], b"\xff"].concat()),
        ),
        broken(
            "character cut by the end",
            text(b"{\"msg\":\"connect\",\"session\":\"\xe2\x82"),
        ),
        broken(
            "no UTF-8 in a fragment",
            split(b"{\"msg\":\"connect\",\"session\":\"", b"\xff", b"\"}"),
        ),
        broken(
            "character broken between fragments",
            split(b"{\"msg\":\"connect\",\"session\":\"\xe2", b"\x82", b"\"}"),
        ),
        broken(
            "character broken by an empty fragment",
            split(b"{\"msg\":\"connect\",\"session\":\"\xe2", b"", b"\xff\"}"),
        ),
        unreadable("binary", frame(0x82, CONNECT.as_bytes())),
        unreadable("empty text", text(b"")),
        unreadable(
            "binary in fragments",
            [frame(0x02, b"a"), frame(0x80, b"b")].concat(),
        ),
    ]
}

/// Section 5.5.1 and 7.4.
fn closes() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut bad = |name, payload: &[u8], code| {
        cases.push(Case::new(
            name,
            frame(0x88, payload),
            code,
            "client_protocol",
        ));
    };
    bad("half a code", b"\x03", 1002);
    for code in [
        0_u16, 1, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535,
    ] {
        bad("code that may not be sent", &code.to_be_bytes(), 1002);
    }
    bad("reason that is not UTF-8", b"\x03\xe8\xff", 1007);
    bad("reason with half a character", b"\x03\xe8\xe2\x82", 1007);
    let mut good = |name, bytes: Vec<u8>, code| {
        cases.push(Case::new(name, bytes, code, "client_closed"));
    };
    let close = frame(0x88, &1000_u16.to_be_bytes());
    good(
        "text after a close",
        [&close[..], &text(b"{}")].concat(),
        1000,
    );
    good("close after a close", [&close[..], &close].concat(), 1000);
    good(
        "garbage after a close",
        [&close[..], &[0xff; 100_000]].concat(),
        1000,
    );
    good("close without a code", frame(0x88, b""), 1000);
    cases
}

#[tokio::test]
async fn broken_frames_are_answered_with_their_code() {
    let tables = format!(
        "[websocket]\nmessage_limit = \"{}KiB\"\n[limits]\nmessages = \"100000/s\"\n\
         messages_burst = 100000\n",
        LIMIT / 1024
    );
    let mut scene = Scene::start(&tables).await;
    let mut reasons = BTreeMap::new();
    for Case {
        name,
        bytes,
        code,
        reason,
    } in cases()
    {
        // Together with the upgrade request, before the client has greeted in DDP.
        let mut early = Peer::upgraded(&scene.deployment, Way::Plain, "/websocket", &bytes).await;
        assert_eq!(early.close_code().await, Some(code), "{name}, early");
        *reasons.entry(reason).or_default() += 1;
    }
    for Case {
        name,
        bytes,
        code,
        reason,
    } in cases()
    {
        let mut live = Peer::live(&scene.deployment, Way::Tls, "/websocket").await;
        live.send(&bytes).await;
        assert_eq!(live.close_code().await, Some(code), "{name}, live");
        *reasons.entry(reason).or_default() += 1;
    }
    scene.closed(&reasons).await;
    scene.undisturbed().await;
}

#[tokio::test]
async fn what_is_not_ddp_is_answered_as_a_streamer_would() {
    let mut scene = Scene::start("").await;
    let sockjs = "/sockjs/1/hostile/websocket";
    let mut reasons = BTreeMap::new();
    for (path, first, code, reason) in [
        (
            "/websocket",
            r#"{"msg":"sub","id":"1"}"#,
            1002,
            "not_connect",
        ),
        ("/websocket", r#"{"msg":"ping"}"#, 1002, "not_connect"),
        ("/websocket", "{", 1007, "unreadable"),
        (
            "/websocket",
            r#"{"msg":"connect","version":"1""#,
            1007,
            "unreadable",
        ),
        ("/websocket", r#"{"msg":"ping""#, 1007, "unreadable"),
        ("/websocket", "hello", 1007, "unreadable"),
        ("/websocket", "\0", 1007, "unreadable"),
        ("/websocket", "", 1007, "unreadable"),
        (sockjs, "[", 1007, "unreadable"),
        (sockjs, "[1]", 1007, "unreadable"),
        (sockjs, "{}", 1007, "unreadable"),
        (sockjs, CONNECT, 1007, "unreadable"),
        (sockjs, r#"["{"]"#, 1007, "unreadable"),
        (sockjs, r#"["\ud800"]"#, 1007, "unreadable"),
        (sockjs, r#"["{\"msg\":\"ping\"}"]"#, 1002, "not_connect"),
    ] {
        let bytes = text(first.as_bytes());
        let mut peer = Peer::upgraded(&scene.deployment, Way::Plain, path, &bytes).await;
        assert_eq!(peer.close_code().await, Some(code), "{first} at {path}");
        *reasons.entry(reason).or_default() += 1;
    }
    // A JSON text of many levels or many numbers is not looked into for long.
    for first in ["[".repeat(60_000), format!("[{}", "1,".repeat(30_000))] {
        let bytes = text(first.as_bytes());
        for path in ["/websocket", sockjs] {
            let mut peer = Peer::upgraded(&scene.deployment, Way::Plain, path, &bytes).await;
            assert_eq!(peer.close_code().await, Some(1007), "{path}");
            *reasons.entry("unreadable").or_default() += 1;
        }
    }
    // The streamer of a live session is not asked either.
    let large = format!(
        r#"{{"msg":"sub","id":"1","name":"x","params":[{}"#,
        "1,".repeat(500)
    );
    for (path, later, code, reason) in [
        ("/websocket", "{", 1007, "unreadable"),
        ("/websocket", "hello", 1007, "unreadable"),
        ("/websocket", &large, 1007, "unreadable"),
        ("/websocket", r#"{"msg":"sub","id":"1"}"#, 1002, "malformed"),
        (
            "/websocket",
            r#"{"msg":"method","method":"a"}"#,
            1002,
            "malformed",
        ),
        ("/websocket", r#"{"msg":"unsub"}"#, 1002, "malformed"),
        (sockjs, "[1]", 1007, "unreadable"),
        (sockjs, r#"["{\"msg\":\"sub\"}"]"#, 1002, "malformed"),
        (sockjs, r#"["{\"msg\":\"ping\"}","{"]"#, 1007, "unreadable"),
    ] {
        let mut peer = Peer::live(&scene.deployment, Way::Plain, path).await;
        peer.send(&text(later.as_bytes())).await;
        assert_eq!(peer.close_code().await, Some(code), "{later} at {path}");
        *reasons.entry(reason).or_default() += 1;
    }
    scene.closed(&reasons).await;
    scene.undisturbed().await;
}

#[tokio::test]
async fn empty_sockjs_frames_are_ignored() {
    let mut scene = Scene::start("").await;
    let path = "/sockjs/1/empty/websocket";
    let mut early = Vec::new();
    for nothing in ["", "[]", " [ ] ", ""] {
        early.extend_from_slice(&text(nothing.as_bytes()));
    }
    let mut peer = Peer::upgraded(&scene.deployment, Way::Plain, path, &early).await;
    peer.send(&text(json!([CONNECT]).to_string().as_bytes()))
        .await;
    peer.message("connected").await;
    peer.send(&early).await;
    let ping = json!([r#"{"msg":"ping","id":"still here"}"#]);
    peer.send(&text(ping.to_string().as_bytes())).await;
    peer.message("still here").await;
    drop(peer);
    scene.undisturbed().await;
}

#[tokio::test]
async fn a_flood_of_pings_is_slowed_down_and_only_abuse_is_closed() {
    let tables = "[limits]\nmessages = \"200/s\"\nmessages_burst = 100\nabuse_after = \"1s\"\n";
    let mut scene = Scene::start(tables).await;
    let mut hasty = Peer::live(&scene.deployment, Way::Plain, "/websocket").await;
    let mut burst = frame(0x89, b"hasty").repeat(200);
    burst.extend_from_slice(&text(br#"{"msg":"ping","id":"after the burst"}"#));
    hasty.send(&burst).await;
    // Over the limit, so its ping waits, and is answered all the same.
    hasty.message("after the burst").await;
    until("the burst was slowed down", async || {
        let metrics = scene.deployment.metrics().await;
        metrics.sum("limited_total", &[("reason", "messages")]) >= 1.0
    })
    .await;

    let flood = Peer::live(&scene.deployment, Way::Tls, "/websocket").await;
    let (mut flood, sending) = flood.flooding(repeat(frame(0x89, &[b'x'; 125]).repeat(50)));
    // What is still in the air may cut the connection before the close frame is read.
    let code = flood.close_code().await;
    assert!(matches!(code, Some(1008) | None), "{code:?}");
    scene.closed(&BTreeMap::from([("rate_abuse", 1)])).await;

    // The hasty one has paused since, so nothing is held against it.
    hasty.send(&text(br#"{"msg":"ping","id":"at last"}"#)).await;
    hasty.message("at last").await;
    drop((hasty, flood));
    soon("the flood to end", sending).await.unwrap();
    scene.undisturbed().await;
}

#[tokio::test]
async fn clients_that_do_nothing_are_left() {
    let mut scene = Scene::start("[websocket]\nconnect_timeout = \"1s\"\n").await;
    let started = Instant::now();
    // Never greets, though it pings; and one that stops within its greeting.
    let ping = frame(0x89, b"");
    let mut silent = Peer::upgraded(&scene.deployment, Way::Tls, "/websocket", &ping).await;
    let half = &text(CONNECT.as_bytes())[..20];
    let mut half = Peer::upgraded(&scene.deployment, Way::Plain, "/websocket", half).await;
    // These two stay open and never read a byte.
    let mut deaf = Peer::live(&scene.deployment, Way::Plain, "/websocket").await;
    deaf.send(b"\x81\x05hello").await;
    let mut deaf_tls = Peer::live(&scene.deployment, Way::Tls, "/websocket").await;
    deaf_tls.send(b"\x81\x05hello").await;

    assert_eq!(silent.close_code().await, Some(1001));
    assert_eq!(half.close_code().await, Some(1001));
    soon("the sessions to end", scene.deployment.sessions(2)).await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    let reasons = BTreeMap::from([("no_connect", 2), ("client_protocol", 2)]);
    scene.closed(&reasons).await;
    scene.undisturbed().await;
    drop((deaf, deaf_tls));
}

#[tokio::test]
async fn mutated_streams_disturb_nobody() {
    let mut scene = Scene::start("").await;
    let seed: u64 = rand::random();
    // Shown when the test fails.
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let sockjs = "/sockjs/1/mutant/websocket";
    for n in 0..200 {
        let path = ["/websocket", sockjs][n % 2];
        let framed = |message: &str| match path {
            "/websocket" => text(message.as_bytes()),
            _ => text(json!([message]).to_string().as_bytes()),
        };
        let login = r#"{"msg":"method","id":"1","method":"login","params":[{"resume":"x"}]}"#;
        let mut bytes = [
            framed(CONNECT),
            framed(
                r#"{"msg":"sub","id":"s","name":"meteor.loginServiceConfiguration","params":[]}"#,
            ),
            frame(0x89, b"ping"),
            framed(login),
            frame(0x01, b"{\"msg\":"),
            frame(0x80, b"\"ping\"}"),
            framed(&format!(r#"{{"msg":"ping","id":"{}"}}"#, "x".repeat(700))),
            frame(0x88, b"\x03\xe8bye"),
        ]
        .concat();
        // Half of them are broken from the start, the others when a streamer has them.
        let early = n % 4 < 2;
        if early {
            bytes.splice(0..0, framed(CONNECT));
        }
        for _ in 0..random.random_range(1..5) {
            // Cut after its first byte, and then without it: nothing is left to mutate.
            if bytes.is_empty() {
                break;
            }
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..4) {
                0 => bytes[at] ^= 1 << random.random_range(0..8),
                1 => bytes.insert(at, random.random()),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at + 1),
            }
        }
        let mut peer = if early {
            Peer::upgraded(&scene.deployment, Way::Plain, path, b"").await
        } else {
            Peer::live(&scene.deployment, Way::Plain, path).await
        };
        for piece in bytes.chunks(random.random_range(1..400)) {
            peer.send(piece).await;
        }
        let _ = soon("the end of sending", peer.stream.shutdown()).await;
        peer.rest().await;
    }
    scene.undisturbed().await;
}
