//! Starting the program: the smallest files that work, and those that do not.

use std::fs;

use serde_json::json;

use crate::support::{
    certificate::Pair,
    deployment::Servers,
    http,
    process::Gateway,
    socket::{Client, Way},
};

/// As the README shows it.
const SMALLEST: &str = "\
listen = \"127.0.0.1:8080\"
monolith = \"http://127.0.0.1:3000\"
streamers = [\"127.0.0.1:4001\", \"127.0.0.1:4002\"]
";

const WITH_TLS: &str = "\
admin = \"127.0.0.1:9901\"
monolith = \"http://127.0.0.1:3000\"
streamers = [\"127.0.0.1:4001\", \"127.0.0.1:4002\"]
[[listener]]
address = \"127.0.0.1:8080\"
[[listener]]
address = \"127.0.0.1:8443\"
tls = [{ cert = \"certs/tls.crt\", key = \"certs/tls.key\" }]
";

/// Flags that lead to these servers, and to free ports, whatever the file says.
fn flags(servers: &Servers) -> Vec<String> {
    let streamers: Vec<String> = servers
        .streamers
        .iter()
        .map(|streamer| streamer.address().to_string())
        .collect();
    vec![
        "--set=admin=127.0.0.1:0".to_owned(),
        format!("--set=monolith=http://{}", servers.monolith.address()),
        format!("--set=streamers={}", streamers.join(",")),
    ]
}

fn start(file: &str, flags: &[String]) -> Gateway {
    let mut arguments = vec!["run", "--config", file];
    arguments.extend(flags.iter().map(String::as_str));
    Gateway::with(&arguments)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_lines_are_enough() {
    let servers = Servers::start(2).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("proxy.toml");
    fs::write(&file, SMALLEST).unwrap();
    let mut flags = flags(&servers);
    flags.push("--set=listen=127.0.0.1:0".to_owned());
    let mut gateway = start(file.to_str().unwrap(), &flags);
    let plain = gateway.address("listening: http://");
    let admin = gateway.address("admin: http://");
    assert_eq!(http::get(admin, "/healthz").await.status, 200);
    assert_eq!(http::get(plain, "/").await.status, 200);
    let mut client = Client::sockjs(plain, Way::Plain).await;
    assert_eq!(client.call("demo:echo", json!(["x"])).await["result"], "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_needs_a_listener_more() {
    let servers = Servers::start(1).await;
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("certs")).unwrap();
    Pair::write(&folder.path().join("certs"), "tls", &["localhost"]);
    let file = folder.path().join("proxy.toml");
    // The addresses of [[listener]] cannot be set from outside.
    let text = WITH_TLS.replace(":8080", ":0").replace(":8443", ":0");
    fs::write(&file, text).unwrap();
    let mut gateway = start(file.to_str().unwrap(), &flags(&servers));
    let plain = gateway.address("listening: http://");
    let tls = gateway.address("listening: https://");
    assert_eq!(http::get(plain, "/").await.status, 200);
    assert_eq!(http::get_tls(tls, "/").await.status, 200);
    let mut client = Client::raw(tls, Way::Tls).await;
    assert_eq!(client.call("demo:echo", json!(["x"])).await["result"], "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_configuration_ends_with_64_and_all_its_faults() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("proxy.toml");
    let name = file.to_str().unwrap();
    for command in ["run", "check"] {
        fs::write(&file, SMALLEST.replace("listen", "lisen") + "watch = 1\n").unwrap();
        let mut gateway = Gateway::with(&[command, "--config", name]);
        gateway.line("proxy.toml: 2 faults");
        assert_eq!(gateway.ended().await.code(), Some(64));
        let output = gateway.output();
        assert!(output.contains("did you mean `listen`?"), "{output}");
        assert!(output.contains("`watch` must be true or false"), "{output}");

        fs::remove_file(&file).unwrap();
        let mut gateway = Gateway::with(&[command, "--config", name]);
        gateway.line("there is no file");
        assert_eq!(gateway.ended().await.code(), Some(64));
    }
    let mut gateway = Gateway::with(&["serve"]);
    gateway.line("unrecognized subcommand");
    assert_eq!(gateway.ended().await.code(), Some(64));
}
