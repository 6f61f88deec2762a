//! Defaults, file, environment and flags: which wins, and where each value comes from.

use std::{fs, time::Duration};

use ddp_gateway::config::{self, Environment};

use crate::support::{BASE, loaded};

fn flag(key: &str, value: &str) -> [(String, String); 1] {
    [(key.to_owned(), value.to_owned())]
}

/// The line of a key in the effective output.
fn line(effective: &str, section: &str, key: &str) -> String {
    let from = effective.find(section).expect("the section is there");
    let line = effective[from..]
        .lines()
        .find(|line| {
            line.starts_with(&format!("{key} = ")) || line.starts_with(&format!("# {key} = "))
        })
        .expect("the key is there");
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_later_layer_wins() {
    let text = format!("{BASE}[http]\nfirst_byte_timeout = \"7s\"\nidle_timeout = \"8s\"\n");
    let environment: Environment = [
        ("DDP_GATEWAY__HTTP__IDLE_TIMEOUT", "9s"),
        ("DDP_GATEWAY__HTTP__BODY_LIMIT", "1GiB"),
        ("DDP_GATEWAY__STREAMERS", "127.0.0.1:5001, 127.0.0.1:5002"),
        ("DDP_GATEWAY__TRUSTED_PROXIES", "[\"10.0.0.0/8\"]"),
        ("DDP_GATEWAY__WATCH", "false"),
        ("DDP_GATEWAY__LIMITS__MAX_CONNECTIONS", "77"),
        // What Kubernetes sets for a service called ddp-gateway is not meant.
        ("DDP_GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("DDP_GATEWAY_PORT", "tcp://10.0.0.1:80"),
    ]
    .into_iter()
    .collect();
    let environment = environment.with_flags(flag("http.body_limit", "2GiB"));
    let loaded = loaded(&text, &environment);
    let config = &loaded.config;
    assert_eq!(config.http.connect_timeout, Duration::from_secs(2));
    assert_eq!(config.http.first_byte_timeout, Duration::from_secs(7));
    assert_eq!(config.http.idle_timeout, Duration::from_secs(9));
    assert_eq!(config.http.body_limit, 2 << 30);
    assert_eq!(config.pools[0].streamers.len(), 2);
    assert_eq!(config.trusted_proxies.0.len(), 1);
    assert_eq!(config.limits.max_connections, Some(77));
    assert!(!config.watch);

    let effective = loaded.effective();
    for (section, key, expected) in [
        (
            "",
            "monolith",
            "monolith = \"http://127.0.0.1:3000\" # proxy.toml:1",
        ),
        ("", "listen", "listen = \"0.0.0.0:8080\" # default"),
        (
            "",
            "streamers",
            "streamers = [\"127.0.0.1:5001\", \"127.0.0.1:5002\"] # environment DDP_GATEWAY__STREAMERS",
        ),
        (
            "[http]",
            "connect_timeout",
            "connect_timeout = \"2s\" # default",
        ),
        (
            "[http]",
            "first_byte_timeout",
            "first_byte_timeout = \"7s\" # proxy.toml:4",
        ),
        (
            "[http]",
            "idle_timeout",
            "idle_timeout = \"9s\" # environment DDP_GATEWAY__HTTP__IDLE_TIMEOUT",
        ),
        (
            "[http]",
            "body_limit",
            "body_limit = \"2GiB\" # --set http.body_limit",
        ),
    ] {
        assert_eq!(line(&effective, section, key), expected);
    }
}

#[test]
fn a_flag_may_make_up_for_the_file() {
    let environment = Environment::empty().with_flags(flag("monolith", "http://127.0.0.1:1"));
    let loaded = loaded("streamers = [\"127.0.0.1:4001\"]", &environment);
    assert_eq!(loaded.config.monoliths[0].servers[0].port, 1);
}

#[test]
fn wrong_values_and_names_outside_of_the_file_are_faults_too() {
    let environment: Environment = [
        ("DDP_GATEWAY__HTTP__BODY_LIMT", "1GiB"),
        ("DDP_GATEWAY__HTTP__MIN_RATE", "1"),
        ("DDP_GATEWAY__TRUSTED_PROXIES", "[\"10.0.0.0/8\""),
        ("DDP_GATEWAY__AFFINITY__SECRET", "hunter2"),
    ]
    .into_iter()
    .collect();
    let environment = environment
        .with_flags(flag("http.keep_aliv", "1s"))
        .with_flags(flag("log.format", "jsn"));
    let faults = config::from_str("proxy.toml", BASE, &environment).unwrap_err();
    let said: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let said = said.join("\n");
    assert_eq!(faults.len(), 6, "{said}");
    for part in [
        "did you mean `DDP_GATEWAY__HTTP__BODY_LIMIT`?",
        "write \"1KiB/s\" or \"1MiB/s\"",
        "DDP_GATEWAY__TRUSTED_PROXIES=[\"10.0.0.0/8\"",
        "did you mean `http.keep_alive`?",
        "did you mean \"json\"?",
        "too short to be a secret",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn secrets_are_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    fs::write(&file, "fedcba9876543210\n").unwrap();

    let text = format!("{BASE}[affinity]\nsecret = \"0123456789abcdef\"\n");
    let inline = loaded(&text, &Environment::empty());
    let secret = inline.config.affinity.secret.clone().unwrap();
    assert_eq!(secret.expose(), b"0123456789abcdef");
    assert_eq!(
        line(&inline.effective(), "[affinity]", "secret"),
        "# secret = \"***\" # proxy.toml:4"
    );
    let everything = format!("{:?} {}", inline.config, inline.effective());
    assert!(!everything.contains("0123456789abcdef"));

    let text = format!("{BASE}[affinity]\nsecret_file = {file:?}\n");
    let by_file = loaded(&text, &Environment::empty());
    let secret = by_file.config.affinity.secret.clone().unwrap();
    assert_eq!(secret.expose(), b"fedcba9876543210");
    assert!(by_file.files.contains(&file));

    fs::write(&file, "short").unwrap();
    let faults = config::from_str("proxy.toml", &text, &Environment::empty()).unwrap_err();
    assert!(faults[0].to_string().contains("has less than 16 bytes"));
    fs::remove_file(&file).unwrap();
    let faults = config::from_str("proxy.toml", &text, &Environment::empty()).unwrap_err();
    assert!(faults[0].to_string().contains("there is no such file"));
}

#[test]
fn relative_paths_begin_at_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.toml");
    let text = format!(
        "{BASE}[[listener]]\naddress = \"127.0.0.1:0\"\ntls = [{{ secret_dir = \"tls\" }}]\n"
    );
    fs::write(&file, text).unwrap();
    let loaded = config::load(&file, &Environment::empty()).unwrap();
    let certificate = &loaded.config.listeners[0].tls[0];
    assert_eq!(certificate.cert, directory.path().join("tls/tls.crt"));
    assert_eq!(certificate.key, directory.path().join("tls/tls.key"));
    assert_eq!(
        loaded.files,
        [file, certificate.cert.clone(), certificate.key.clone()]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_a_fault() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.toml");
    let said = |file| {
        let faults = config::load(file, &Environment::empty()).unwrap_err();
        faults[0].to_string()
    };
    assert!(said(&file).contains("there is no such file"));
    assert!(said(directory.path()).contains("it is a directory"));
    fs::write(&file, b"listen = \"\xff\"").unwrap();
    assert!(said(&file).contains("it is not UTF-8"));
}
