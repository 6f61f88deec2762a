//! Every way to log in, against a server that takes only that one.

use std::fs;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{server::NatsServer, site::Hosts, support::certificate::Pair};

/// A server's configuration, and the gateway's keys for it.
struct Case {
    server: String,
    keys: String,
    /// Goes between `nats://` and the host.
    login: &'static str,
}

/// The gateway gets in when no streamer being there is all that it complains about.
async fn gets_in(case: Case) {
    let server = NatsServer::with(&case.server);
    let hosts = Hosts::start(1).await;
    let url = server
        .url()
        .replace("127.0.0.1", &format!("{}localhost", case.login));
    let gateway = hosts.gateway("", &hosts.discovery(&url, &case.keys)).await;
    let source = gateway.source_is("nats", "stale").await;
    assert_eq!(source["error"], "the answer is empty", "{source}");
    assert!(!source.to_string().contains("hunter2"));
}

fn written(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn user_and_password() {
    let folder = tempfile::tempdir().unwrap();
    let file = written(&folder, "password", "hunter2\n");
    let server = "authorization { user: me, password: hunter2 }";
    gets_in(Case {
        server: server.to_owned(),
        keys: format!("user = \"me\"\npassword_file = \"{file}\""),
        login: "",
    })
    .await;
    gets_in(Case {
        server: server.to_owned(),
        keys: String::new(),
        login: "me:hunter2@",
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token() {
    let folder = tempfile::tempdir().unwrap();
    let file = written(&folder, "token", "hunter2\n");
    gets_in(Case {
        server: "authorization { token: hunter2 }".to_owned(),
        keys: format!("token_file = \"{file}\""),
        login: "",
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nkey() {
    let folder = tempfile::tempdir().unwrap();
    let user = KeyPair::new_user();
    let file = written(&folder, "seed", &user.seed().unwrap());
    gets_in(Case {
        server: format!(
            "authorization {{ users: [ {{ nkey: {} }} ] }}",
            user.public_key()
        ),
        keys: format!("nkey_file = \"{file}\""),
        login: "",
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_file() {
    let folder = tempfile::tempdir().unwrap();
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let user = KeyPair::new_user();
    let limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
                        "wildcards": true, "conn": -1, "leaf": -1});
    let operator_jwt = jwt(
        &operator,
        &operator,
        json!({"type": "operator", "version": 2}),
    );
    let account_jwt = jwt(
        &operator,
        &account,
        json!({"type": "account", "version": 2, "limits": limits}),
    );
    let user_jwt = jwt(
        &account,
        &user,
        json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1}),
    );
    let file = written(
        &folder,
        "me.creds",
        &format!(
            "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            user.seed().unwrap()
        ),
    );
    gets_in(Case {
        server: format!(
            "operator: {operator_jwt}\nresolver: MEMORY\n\
             resolver_preload: {{ {}: {account_jwt} }}",
            account.public_key()
        ),
        keys: format!("credentials_file = \"{file}\""),
        login: "",
    })
    .await;
}

/// What `nsc` makes: claims that the issuer's key signs.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: Value) -> String {
    let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = encoded(&json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let claims = encoded(&json!({
        "jti": "test", "iat": 1_700_000_000, "iss": issuer.public_key(), "name": "test",
        "sub": subject.public_key(), "nats": nats,
    }));
    let signed = format!("{head}.{claims}");
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// TLS both ways: the server's certificate is checked, and it checks the gateway's.
#[tokio::test(flavor = "multi_thread")]
async fn certificates() {
    let folder = tempfile::tempdir().unwrap();
    let server = Pair::write(folder.path(), "server", &["localhost"]);
    let own = Pair::write(folder.path(), "own", &["gateway"]);
    gets_in(Case {
        server: format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
            server.cert, server.key, own.cert
        ),
        keys: format!(
            "ca = {:?}\ncert = {:?}\nkey = {:?}",
            server.cert, own.cert, own.key
        ),
        login: "",
    })
    .await;
}
