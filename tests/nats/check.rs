//! `ddp-gateway check --connect` names what is wrong, where it is written, with its exit code.

use std::fs;

use tempfile::TempDir;
use tokio::{net::TcpListener, process::Command};

use crate::{
    server::NatsServer,
    site::Hosts,
    support::{certificate::Pair, soon},
};

/// Exit code, and both outputs.
async fn check(url: &str, keys: &str, port: u16) -> (Option<i32>, String) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("proxy.toml");
    let text = format!(
        "monolith = \"http://127.0.0.1:3000\"\n[discovery.nats]\nurl = \"{url}\"\nport = {port}\n{keys}\n"
    );
    fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ddp-gateway"));
    command
        .args(["check", "--connect", "--config"])
        .arg(&file)
        .kill_on_drop(true);
    let output = soon("the check", command.output()).await.unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(!format!("{out}{err}").contains("hunter2"), "{out}{err}");
    (output.status.code(), out + &err)
}

async fn fails(url: &str, keys: &str, code: i32, text: &str) {
    let (exit, said) = check(url, keys, 3000).await;
    assert!(said.contains(text), "{text} is not in:\n{said}");
    assert!(said.contains("proxy.toml:3:7"), "{said}");
    assert_eq!(exit, Some(code), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_there() {
    let server = NatsServer::with("server_name: bus-1");
    let hosts = Hosts::start(1).await;
    let (exit, said) = check(&server.url(), "", hosts.port()).await;
    assert_eq!(exit, Some(0), "{said}");
    assert!(
        said.contains("warning: no streamer answers on the bus"),
        "{said}"
    );
    let _node = hosts.node(0, &server.url()).await;
    let (exit, said) = check(&server.url(), "", hosts.port()).await;
    assert_eq!(exit, Some(0), "{said}");
    let streamer = format!(
        "1 streamer: pod-127-0-0-11 at {}",
        hosts.streamers[0].address()
    );
    assert!(
        said.contains("connected to bus-1 (nats-server 2."),
        "{said}"
    );
    assert!(said.contains(&streamer), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials() {
    let server = NatsServer::with("authorization { user: me, password: secret }");
    let host = format!("127.0.0.1:{}", server.port);
    let refused = "refuses the gateway, which comes with";
    let url = format!("nats://me:hunter2@{host}");
    fails(&url, "", 64, &format!("{refused} user and password")).await;
    fails(&server.url(), "", 64, &format!("{refused} no credentials")).await;
    fails(
        &format!("nats://hunter2@{host}"),
        "",
        64,
        &format!("{refused} the token"),
    )
    .await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("seed");
    fs::write(&file, "hunter2").unwrap();
    for key in ["nkey_file", "credentials_file"] {
        let keys = format!("{key} = {:?}", file.display().to_string());
        let server = NatsServer::with(&format!(
            "authorization {{ users: [ {{ nkey: {} }} ] }}",
            nkeys::KeyPair::new_user().public_key()
        ));
        fails(&server.url(), &keys, 64, "no valid seed of a key").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_permissions() {
    let server = NatsServer::with(
        "authorization { users: [ { user: me, password: hunter2, \
         permissions: { publish: \"MOL.>\", subscribe: \"other\" } } ] }",
    );
    let url = format!("nats://me:hunter2@127.0.0.1:{}", server.port);
    fails(
        &url,
        "",
        64,
        "does not let the gateway listen: Permissions Violation",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_addresses() {
    fails("nats://nosuch.invalid", "", 64, "no address is known").await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone_at = gone.local_addr().unwrap();
    drop(gone);
    fails(&format!("nats://{gone_at}"), "", 1, "nobody listens").await;
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hanging = hanging
        .local_addr()
        .map(|address| (hanging, address))
        .unwrap();
    fails(&format!("nats://{}", hanging.1), "", 1, "does not answer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_something_else() {
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap();
    let served = tokio::spawn(async move {
        while let Ok((stream, _)) = other.accept().await {
            let _ = stream.try_write(b"220 mail.example.com ESMTP\r\n");
        }
    });
    fails(&format!("nats://{address}"), "", 64, "is no NATS server").await;
    served.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_nobody_trusts() {
    let folder = TempDir::new().unwrap();
    let served = Pair::write(folder.path(), "server", &["localhost"]);
    let other = Pair::write(folder.path(), "other", &["localhost"]);
    let server = NatsServer::with(&format!(
        "tls {{ cert_file: {:?}, key_file: {:?} }}",
        served.cert, served.key
    ));
    let url = format!("tls://localhost:{}", server.port);
    fails(
        &url,
        &format!("ca = {:?}", other.cert),
        64,
        "no TLS with the NATS server",
    )
    .await;
    let missing = folder.path().join("missing.crt");
    fails(
        &url,
        &format!("ca = {missing:?}"),
        64,
        "files for TLS cannot be used",
    )
    .await;
}

/// The bus of the replicas, which is the same one when it has no URL of its own.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_are_there() {
    let server = NatsServer::with("server_name: bus-1");
    let hosts = Hosts::start(1).await;
    let replicas = "[replicas]\nenabled = true";
    let tables = format!("{}{replicas}", hosts.discovery(&server.url(), ""));
    let _gateway = hosts.gateway("", &tables).await;
    let (exit, said) = check(&server.url(), replicas, hosts.port()).await;
    assert_eq!(exit, Some(0), "{said}");
    let there = "the message bus of the replicas: connected to bus-1 (nats-server";
    assert!(said.contains(there), "{said}");
    assert!(
        said.contains("1 gateway running below ddp-gateway: "),
        "{said}"
    );
    let url = "nats://127.0.0.1:1";
    let keys = format!("{replicas}\nurl = \"{url}\"");
    let (exit, said) = check(&server.url(), &keys, hosts.port()).await;
    assert_eq!(exit, Some(1), "{said}");
    assert!(said.contains("nobody listens"), "{said}");
    assert!(said.contains(&format!("url = \"{url}\"")), "{said}");
}
