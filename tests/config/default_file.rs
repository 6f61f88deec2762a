//! `proxy.toml` at the top of the repository.

use ddp_gateway::config;

use crate::support::{expect_file, load, path};

/// Every key stands in it with its true default, because it is made from the declaration.
#[test]
fn is_what_the_keys_say() {
    expect_file(&path("proxy.toml"), &config::template());
}

#[test]
fn loads() {
    let config = load(config::DEFAULT_FILE);
    assert_eq!(
        &*config.monoliths[0].servers[0].host,
        "rocketchat-rocketchat"
    );
    assert_eq!(config.monoliths[0].servers[0].port, 80);
    assert_eq!(
        config.pools[0].dns[0].name,
        "rocketchat-ddp-streamer-headless"
    );
}

/// With every default written out the file still means the same.
#[test]
fn defaults_are_the_defaults() {
    let mut written = String::new();
    let mut repeated = false;
    for line in config::DEFAULT_FILE.lines() {
        if line.starts_with('[') {
            repeated = false;
        }
        let commented = line.strip_prefix('#').filter(|rest| {
            rest.starts_with(|c: char| c.is_ascii_lowercase()) && rest.contains(" = ")
        });
        match commented {
            _ if line.starts_with("#[") => repeated = true,
            Some(default) if !repeated && !line.ends_with("# not set") => {
                written.push_str(default);
                written.push('\n');
            }
            _ => {
                written.push_str(line);
                written.push('\n');
            }
        }
    }
    assert!(written.contains("\nconnect_timeout = \"2s\"\n"));
    assert_eq!(load(&written), load(config::DEFAULT_FILE));
}
