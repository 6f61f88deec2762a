//! The way in, before HTTP: PROXY headers, limits on connections, redirects, vanished peers.

use std::{fs, net::SocketAddr, time::Duration};

use bytes::Bytes;
use ddp_gateway::{base::id::ListenAddr, net::listen};
use http_body_util::Empty;
use hyper::{Request, client::conn::http2, ext::Protocol};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    certificate::Pair,
    deployment::{self, Deployment, Plan, Servers},
    http,
    metrics::Metrics,
    process::Gateway,
    settles,
    socket::{Client, Way},
    soon, until,
};

fn plan(listeners: &str, tables: &str) -> Plan {
    Plan {
        listeners: Some(listeners.to_owned()),
        tables: tables.to_owned(),
        ..Plan::default()
    }
}

const PROXIED: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\n";

/// Sends a header and a request whose answer tells what the monolith saw.
async fn through(address: SocketAddr, header: &[u8]) -> http::Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    http::exchange(&mut stream, &[header, request].concat()).await
}

#[tokio::test]
async fn a_proxy_header_names_the_client() {
    let deployment = Deployment::of(plan(PROXIED, "")).await;
    let address = deployment.plain();
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    v2.extend_from_slice(&[203, 0, 113, 8, 10, 0, 0, 1, 0xc8, 0x22, 0x01, 0xbb]);
    for (header, client) in [
        (
            &b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 443\r\n"[..],
            "203.0.113.7",
        ),
        (
            b"PROXY TCP6 2001:db8::7 2001:db8::1 51234 443\r\n",
            "2001:db8::7",
        ),
        (&v2, "203.0.113.8"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    ] {
        let answer = through(address, header).await;
        assert_eq!(answer.status, 200);
        assert!(
            answer.text().contains(&format!("\"{client}\"")),
            "{}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn without_its_proxy_header_a_connection_is_closed() {
    let deployment = Deployment::of(plan(PROXIED, "[http]\nheader_timeout = \"500ms\"\n")).await;
    let address = deployment.plain();
    for (n, start) in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"PROXY TCP4 nobody 10.0.0.1 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        // Half a header, and silence.
        b"PROXY TCP4 203.0.113.7",
        b"",
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(start).await.unwrap();
        let mut answer = Vec::new();
        let _ = soon("the connection to end", stream.read_to_end(&mut answer)).await;
        assert!(answer.is_empty(), "{start:?}");
        settles("failures", (n + 1) as f64, async || {
            deployment
                .metrics()
                .await
                .sum("proxy_header_failures_total", &[])
        })
        .await;
    }
}

#[tokio::test]
async fn new_connections_are_limited_by_the_clients_address() {
    let limits = "[limits]\nconnections = \"1/s\"\nconnections_burst = 3\n";
    let deployment = Deployment::of(plan(PROXIED, limits)).await;
    let address = deployment.plain();
    let admitted = async |client: &str| {
        let mut admitted = 0;
        for _ in 0..6 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let header = format!("PROXY TCP4 {client} 10.0.0.1 51234 443\r\n");
            let request = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            stream
                .write_all((header + request).as_bytes())
                .await
                .unwrap();
            let mut answer = Vec::new();
            let _ = soon("an answer or the end", stream.read_to_end(&mut answer)).await;
            admitted += usize::from(answer.starts_with(b"HTTP/1.1 200"));
        }
        admitted
    };
    let first = admitted("203.0.113.7").await;
    assert!((3..=5).contains(&first), "{first} of 6");
    assert!(admitted("203.0.113.8").await >= 3, "another address");
    assert_eq!(admitted("127.0.0.9").await, 6, "loopback is exempt");
    let metrics = deployment.metrics().await;
    let refused = metrics.sum("connections_refused_total", &[("reason", "address_rate")]);
    assert!(refused >= 2.0);
    assert_eq!(
        metrics.sum("limited_total", &[("reason", "connections")]),
        refused
    );
}

#[tokio::test]
async fn a_full_gateway_says_so_and_recovers() {
    let plan = Plan {
        tables: "[limits]\nmax_connections = 3\n".to_owned(),
        ..Plan::default()
    };
    let deployment = Deployment::of(plan).await;
    let (plain, tls) = (deployment.plain(), deployment.tls());
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::raw(plain, Way::Plain).await);
    }
    let answer = http::get(plain, "/health").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert!(http::tls(tls, "localhost", &[]).await.is_err());
    // Operators and probes are not clients.
    assert_eq!(http::get(deployment.admin(), "/readyz").await.status, 200);
    let metrics = deployment.metrics().await;
    assert_eq!(
        metrics.sum("connections_refused_total", &[("reason", "descriptors")]),
        2.0
    );
    assert_eq!(metrics.sum("connections", &[]), 3.0);
    // Who is in is not disturbed.
    for client in &mut clients {
        assert_eq!(client.call("demo:echo", json!(["x"])).await["result"], "x");
    }
    clients.remove(0).close().await;
    until("room again", async || {
        http::get(plain, "/health").await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptors_are_kept_for_streamers_probes_and_operators() {
    let servers = Servers::start(1).await;
    let folder = tempfile::tempdir().unwrap();
    let certificate = Pair::write(folder.path(), "tls", &["localhost"]);
    let path = folder.path().join("proxy.toml");
    fs::write(
        &path,
        deployment::text(&Plan::default(), &servers, &certificate),
    )
    .unwrap();
    let mut gateway = Gateway::run_with_descriptors(&path, 300);
    let plain = gateway.address("listening: http://");
    let admin = gateway.address("admin: http://");
    let room = gateway.line("room for ");
    let room: usize = room[room.find("room for ").unwrap() + 9..]
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!((20..150).contains(&room), "{room}");
    assert_eq!(
        Metrics::read(admin).await.sum("max_descriptors", &[]),
        300.0
    );

    // Every client that is let in has a leg to the streamer; the others hear that it is full.
    let mut clients = Vec::new();
    for _ in 0..room {
        clients.push(Client::raw(plain, Way::Plain).await);
    }
    for _ in 0..20 {
        assert_eq!(http::get(plain, "/health").await.status, 503);
    }
    let line = gateway.line("clients are refused");
    assert!(line.contains("LimitNOFILE"), "{line}");
    assert_eq!(gateway.output().matches("clients are refused").count(), 1);
    let metrics = Metrics::read(admin).await;
    assert!(metrics.sum("open_descriptors", &[]) < 300.0);
    assert_eq!(metrics.sum("accept_errors_total", &[]), 0.0);
    assert_eq!(metrics.sum("streamer_up", &[]), 1.0);
    assert_eq!(
        metrics.sum("streamer_probes_total", &[("result", "failed")]),
        0.0
    );
    drop(clients);
    until("room again", async || {
        http::get(plain, "/health").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn a_vanished_peer_is_noticed_within_a_minute() {
    // The kernel's timers are too long to wait for in a test, so their sum is checked.
    let bound = listen::bind(ListenAddr("127.0.0.1:0".parse().unwrap())).unwrap();
    let connected = TcpStream::connect(bound.local().0).await.unwrap();
    let (accepted, _) = bound.accept().await.unwrap();
    let socket = SockRef::from(&accepted);
    assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
    let silent = socket.tcp_keepalive_time().unwrap()
        + socket.tcp_keepalive_interval().unwrap() * socket.tcp_keepalive_retries().unwrap();
    assert!(silent.as_secs() <= 60, "{silent:?}");
    let unacknowledged = socket.tcp_user_timeout().unwrap().unwrap();
    assert!(unacknowledged.as_secs() <= 60, "{unacknowledged:?}");
    drop(connected);
}

#[tokio::test]
async fn the_kernel_watches_clients_that_are_silent() {
    let deployment = Deployment::start().await;
    let request = b"GET /demo/whoami HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut plain = TcpStream::connect(deployment.plain()).await.unwrap();
    http::exchange(&mut plain, request).await;
    let mut tls = http::tls(deployment.tls(), "localhost", &["http/1.1"])
        .await
        .unwrap();
    http::exchange(&mut tls, request).await;
    // Between two requests, when nothing is sent and no limit of HTTP's own ends them for a while.
    for client in [&plain, tls.get_ref().0] {
        until(
            "everything is acknowledged and the keepalive runs",
            async || {
                let (timer, due) =
                    kernel_timer(client.peer_addr().unwrap(), client.local_addr().unwrap());
                timer == KEEPALIVE_TIMER && due <= Duration::from_secs(16)
            },
        )
        .await;
    }
}

/// The timer of the connection between these in `/proc/net/tcp`, and when it is due
/// (`Documentation/networking/proc_net_tcp.rst`).
fn kernel_timer(local: SocketAddr, remote: SocketAddr) -> (u32, Duration) {
    let shown = |address: SocketAddr| match address {
        SocketAddr::V4(address) => {
            let ip = u32::from_ne_bytes(address.ip().octets());
            format!("{ip:08X}:{:04X}", address.port())
        }
        SocketAddr::V6(_) => unreachable!("the tests listen on IPv4"),
    };
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let wanted = [shown(local), shown(remote)];
    let row = table
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .find(|row| row[1..3] == wanted)
        .expect("both ends are open");
    let (timer, due) = row[5].split_once(':').unwrap();
    let hex = |text| u32::from_str_radix(text, 16).unwrap();
    // In hundredths of a second, whatever the kernel's own clock is.
    (hex(timer), Duration::from_millis(10) * hex(due))
}

/// "another timer (e.g. delayed ack or keepalive)": with nothing to acknowledge, the latter.
const KEEPALIVE_TIMER: u32 = 2;

#[tokio::test]
async fn a_redirecting_listener_sends_everybody_to_https() {
    let listeners = "[[listener]]\naddress = \"127.0.0.1:0\"\nredirect_https = 8443\n";
    let deployment = Deployment::of(plan(listeners, "")).await;
    let mut stream = TcpStream::connect(deployment.plain()).await.unwrap();
    let request = b"GET /channel/general?x=1 HTTP/1.1\r\nHost: chat.example.com:8080\r\n\
                    Connection: close\r\n\r\n";
    let answer = http::exchange(&mut stream, request).await;
    assert!(
        matches!(answer.status, 301 | 307 | 308),
        "{}",
        answer.status
    );
    assert_eq!(
        answer.header("location"),
        Some("https://chat.example.com:8443/channel/general?x=1")
    );
}

#[tokio::test]
async fn requests_of_one_http2_connection_count_like_connections() {
    let plan = Plan {
        tables: "[limits]\nmax_connections = 4\n".to_owned(),
        ..Plan::default()
    };
    let deployment = Deployment::of(plan).await;
    let stream = http::tls(deployment.tls(), "localhost", &["h2"])
        .await
        .unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let ask = async |path: &str| {
        let request = Request::get(format!("https://localhost{path}"))
            .body(Empty::<Bytes>::new())
            .unwrap();
        sender.clone().send_request(request).await.unwrap()
    };
    // The connection is one of the four places, each open answer another one.
    let mut held = Vec::new();
    for _ in 0..3 {
        let answer = ask("/trickle?count=100000&ms=50").await;
        assert_eq!(answer.status(), 200);
        held.push(answer);
    }
    let refused = ask("/health").await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "5");
    assert_eq!(http::get(deployment.plain(), "/health").await.status, 503);
    held.pop();
    until("a place to be free", async || {
        ask("/health").await.status() == 200
    })
    .await;
    drop(held);
    connection.abort();
    until("room again", async || {
        http::get(deployment.plain(), "/health").await.status == 200
    })
    .await;
    let refusals = deployment.metrics().await;
    assert!(refusals.sum("http_refusals_total", &[("reason", "crowded")]) >= 1.0);
}

#[tokio::test]
async fn sockets_of_one_http2_connection_count_like_connections() {
    let folder = tempfile::tempdir().unwrap();
    let pair = Pair::write(folder.path(), "tls", &["localhost"]);
    let listeners = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\ntls = [{}]\nhttp2_websocket = true\n",
        pair.toml()
    );
    let deployment = Deployment::of(plan(&listeners, "[limits]\nmax_connections = 4\n")).await;
    let stream = http::tls(deployment.tls(), "localhost", &["h2"])
        .await
        .unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let mut sockets = Vec::new();
    for expected in [200, 200, 503] {
        let mut request = Request::connect("https://localhost/websocket")
            .header("sec-websocket-version", "13")
            .body(Empty::<Bytes>::new())
            .unwrap();
        request
            .extensions_mut()
            .insert(Protocol::from_static("websocket"));
        let answer = sender.clone().send_request(request).await.unwrap();
        assert_eq!(answer.status(), expected);
        if expected == 200 {
            sockets.push(hyper::upgrade::on(answer).await.unwrap());
        }
        deployment.sessions(sockets.len()).await;
        // The request's own place is given back.
        until("the request to be over", async || {
            deployment
                .metrics()
                .await
                .sum("http_requests_in_flight", &[])
                == 0.0
        })
        .await;
    }
    drop(sockets);
    connection.abort();
    until("room again", async || {
        http::get(deployment.plain(), "/health").await.status == 200
    })
    .await;
}
