//! TLS as clients see it.

use std::os::unix::fs::symlink;

use rustls::{NamedGroup, ProtocolVersion};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    certificate::{self, Pair},
    deployment::{Deployment, Plan},
    http, soon, until,
};

/// A listener with these certificates, after a plain one.
fn with_certificates(pairs: &[&Pair], extra: &str) -> Plan {
    let pairs: Vec<String> = pairs.iter().map(|pair| pair.toml()).collect();
    Plan {
        listeners: Some(format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\ntls = [{}]\n{extra}\n",
            pairs.join(", ")
        )),
        ..Plan::default()
    }
}

async fn seen(deployment: &Deployment, name: &str) -> Vec<u8> {
    let stream = http::tls(deployment.tls(), name, &[]).await.unwrap();
    let certificates = stream.get_ref().1.peer_certificates().unwrap();
    certificates[0].to_vec()
}

#[tokio::test]
async fn serves_the_certificate_of_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let one = Pair::write(folder.path(), "one", &["chat.example.com"]);
    let two = Pair::write(folder.path(), "two", &["*.example.org", "example.org"]);
    let deployment = Deployment::of(with_certificates(&[&one, &two], "")).await;
    for (name, pair) in [
        ("chat.example.com", &one),
        ("chat.example.org", &two),
        ("example.org", &two),
        ("unknown.test", &one),
        ("a.b.example.org", &one),
    ] {
        assert_eq!(seen(&deployment, name).await, pair.der, "{name}");
    }
    // A client without SNI, by address.
    assert_eq!(seen(&deployment, "127.0.0.1").await, one.der);
}

#[tokio::test]
async fn negotiates_versions_protocols_and_a_post_quantum_group() {
    let deployment = Deployment::start().await;
    for (version, expected) in [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let client = certificate::client_of(&["http/1.1"], &[version]);
        let stream = http::tls_with(deployment.tls(), "localhost", client)
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(expected));
    }
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let stream = http::tls(deployment.tls(), "localhost", offered)
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
        let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap();
        assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
    }
    let refused = http::tls(deployment.tls(), "localhost", &["acme-tls/1"]).await;
    assert!(refused.is_err(), "no protocol in common");
}

#[tokio::test]
async fn a_new_certificate_serves_the_next_handshake() {
    let deployment = Deployment::start().await;
    let mut open = http::tls(deployment.tls(), "localhost", &["http/1.1"])
        .await
        .unwrap();
    let first = deployment.certificate.der.clone();
    assert_eq!(seen(&deployment, "localhost").await, first);

    let second = Pair::write(deployment.folder.path(), "tls", &["localhost"]);
    until("the new certificate", async || {
        seen(&deployment, "localhost").await == second.der
    })
    .await;
    // The connection from before still answers.
    let answer = http::exchange(
        &mut open,
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_broken_certificate_keeps_the_old_one_and_says_so() {
    let deployment = Deployment::start().await;
    let first = deployment.certificate.der.clone();
    let other = Pair::write(deployment.folder.path(), "other", &["localhost"]);
    let good_key = std::fs::read(&deployment.certificate.key).unwrap();
    let cases: [(&str, Vec<u8>, &str); 3] = [
        ("tls.crt", b"garbage".to_vec(), "no `BEGIN CERTIFICATE`"),
        ("tls.key", std::fs::read(&other.key).unwrap(), "not the key"),
        ("tls.key", Vec::new(), "no private key"),
    ];
    let good_cert = std::fs::read(&deployment.certificate.cert).unwrap();
    for (n, (file, content, reason)) in cases.into_iter().enumerate() {
        std::fs::write(&deployment.certificate.cert, &good_cert).unwrap();
        std::fs::write(&deployment.certificate.key, &good_key).unwrap();
        std::fs::write(deployment.folder.path().join(file), content).unwrap();
        let answer = http::post(deployment.admin(), "/reload").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let warning = answer.json()["warnings"][0].as_str().unwrap().to_owned();
        assert!(
            warning.contains(file) && warning.contains(reason),
            "{warning}"
        );
        assert_eq!(seen(&deployment, "localhost").await, first);
        let failed = deployment
            .metrics()
            .await
            .sum("certificate_reloads_total", &[("result", "failed")]);
        assert!(failed > n as f64);
    }
}

#[tokio::test]
async fn garbage_ends_one_connection_and_is_counted() {
    let deployment = Deployment::start().await;
    let mut stream = TcpStream::connect(deployment.tls()).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut rest = Vec::new();
    let _ = soon("the end of the connection", stream.read_to_end(&mut rest)).await;
    assert!(!rest.starts_with(b"HTTP"));
    let garbage = async || {
        let metrics = deployment.metrics().await;
        metrics.sum("tls_handshake_failures_total", &[("reason", "garbage")])
    };
    until("the failure to be counted", async || garbage().await == 1.0).await;
    assert_eq!(http::get_tls(deployment.tls(), "/health").await.status, 200);
}

#[tokio::test]
async fn handshakes_are_bounded_in_time_and_number() {
    let plan = Plan {
        tables: "[http]\nheader_timeout = \"1s\"\n[limits]\nhandshakes = 2\n".to_owned(),
        ..Plan::default()
    };
    let deployment = Deployment::of(plan).await;
    // Two that began and stall, and many that say nothing at all.
    let mut stalled = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(deployment.tls()).await.unwrap();
        stream.write_all(&[0x16, 0x03, 0x01, 0x02]).await.unwrap();
        stalled.push(stream);
    }
    for _ in 0..20 {
        stalled.push(TcpStream::connect(deployment.tls()).await.unwrap());
    }
    // An honest client waits its turn.
    let honest = http::get_tls(deployment.tls(), "/health");
    assert_eq!(soon("an honest handshake", honest).await.status, 200);
    for mut stream in stalled {
        let mut rest = Vec::new();
        let _ = soon("a stalled handshake to end", stream.read_to_end(&mut rest)).await;
    }
    let metrics = deployment.metrics().await;
    assert_eq!(
        metrics.sum("tls_handshake_failures_total", &[("reason", "timeout")]),
        22.0
    );
    until("all handshakes to be over", async || {
        deployment.metrics().await.sum("tls_handshakes", &[]) == 0.0
    })
    .await;
}

#[tokio::test]
async fn a_session_is_resumed_by_ticket() {
    let deployment = Deployment::start().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = certificate::client_of(&["http/1.1"], &[version]);
        for n in 0..3 {
            let mut stream = http::tls_with(deployment.tls(), "localhost", client.clone())
                .await
                .unwrap();
            let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            assert_eq!(http::exchange(&mut stream, request).await.status, 200);
            let kind = stream.get_ref().1.handshake_kind().unwrap();
            let resumed = kind == rustls::HandshakeKind::Resumed;
            assert_eq!(resumed, n > 0, "{version:?}, connection {n}");
        }
    }
}

#[tokio::test]
async fn a_mounted_secret_is_followed_through_its_links() {
    // As the kubelet mounts a TLS secret: tls.crt -> ..data/tls.crt, ..data -> ..1
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut pairs = Vec::new();
    for version in ["..1", "..2"] {
        std::fs::create_dir(path(version)).unwrap();
        pairs.push(Pair::write(&path(version), "tls", &["localhost"]));
    }
    symlink("..1", path("..data")).unwrap();
    symlink("..data/tls.crt", path("tls.crt")).unwrap();
    symlink("..data/tls.key", path("tls.key")).unwrap();
    let plan = Plan {
        listeners: Some(format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\ntls = [{{ secret_dir = {:?} }}]\n",
            folder.path().display().to_string()
        )),
        ..Plan::default()
    };
    let deployment = Deployment::of(plan).await;
    assert_eq!(seen(&deployment, "localhost").await, pairs[0].der);
    symlink("..2", path("..data_tmp")).unwrap();
    std::fs::rename(path("..data_tmp"), path("..data")).unwrap();
    until("the renewed certificate", async || {
        seen(&deployment, "localhost").await == pairs[1].der
    })
    .await;
    let metrics = deployment.metrics().await;
    assert!(metrics.sum("certificate_reloads_total", &[("result", "ok")]) >= 1.0);
    assert_eq!(
        metrics.sum("certificate_reloads_total", &[("result", "failed")]),
        0.0
    );
}
