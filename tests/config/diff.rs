//! Differences between two configurations.

use ddp_gateway::config::{Change, diff};

use crate::support::{BASE, load};

/// What the difference from the base is called, for what is added to it.
fn changes(old: &str, new: &str) -> Vec<String> {
    let changes = diff(
        &load(&format!("{BASE}{old}")),
        &load(&format!("{BASE}{new}")),
    );
    changes.iter().map(Change::to_string).collect()
}

#[test]
fn each_part_is_named() {
    let listener = "[[listener]]\naddress = \"127.0.0.1:1\"\n";
    let pools = "[[route]]\nhost = \"eu.example.com\"\npool = \"eu\"\n[pools.eu]\nstreamers = [\"127.0.0.1:4002\"]\n";
    let slower = "[[route]]\nhost = \"eu.example.com\"\npool = \"eu\"\n[pools.eu]\nslow_start = \"1m\"\nstreamers = [\"127.0.0.1:4002\"]\n";
    let cases: [(&str, &str, &[&str]); 19] = [
        ("", "", &[]),
        ("", "[http]\nconnect_timeout = \"2s\"", &[]),
        ("", "[http]\nconnect_timeout = \"3s\"", &["[http] changed"]),
        ("", "[log]\naccess = false", &["[log] changed"]),
        ("", "[drain]\ndelay = \"1s\"", &["[drain] changed"]),
        ("", "watch = false", &["watch changed"]),
        ("", "admin = \"off\"", &["admin changed"]),
        ("", "[limits]\nmessages = \"5/s\"", &["[limits] changed"]),
        ("", "[logins]\nrate = \"5/s\"", &["[logins] changed"]),
        ("", "[rebalance]\nmode = \"off\"", &["[rebalance] changed"]),
        (
            "",
            "[replicas]\nenabled = true\nurl = \"a\"",
            &["[replicas] changed"],
        ),
        ("", "[replicas]\nurl = \"a\"\nenabled = false", &[]),
        ("", "[health]\nfailures = 3", &["pool default changed"]),
        (
            "listen = \"127.0.0.1:1\"",
            "listen = [\"127.0.0.1:2\", \"127.0.0.1:1\"]",
            &["listener 127.0.0.1:2 added"],
        ),
        (
            "listen = [\"127.0.0.1:0\", \"127.0.0.1:0\"]",
            "listen = \"127.0.0.1:0\"",
            &["listener 127.0.0.1:0 removed"],
        ),
        (
            listener,
            "[[listener]]\naddress = \"127.0.0.1:1\"\nproxy_protocol = true\n",
            &["listener 127.0.0.1:1 changed"],
        ),
        ("listen = \"127.0.0.1:1\"", listener, &[]),
        ("", pools, &["pool eu added", "routes changed"]),
        (pools, slower, &["pool eu changed"]),
    ];
    for (old, new, expected) in cases {
        assert_eq!(changes(old, new), expected, "{old}\n->\n{new}");
    }
    assert_eq!(changes(pools, ""), ["pool eu removed", "routes changed"]);
}

#[test]
fn only_new_addresses_need_a_socket() {
    let old = load(&format!(
        "{BASE}listen = [\"127.0.0.1:1\", \"127.0.0.1:2\"]"
    ));
    let new = load(&format!(
        "{BASE}listen = [\"127.0.0.1:2\", \"127.0.0.1:3\"]\n[log]\nformat = \"text\""
    ));
    let needing: Vec<String> = diff(&old, &new)
        .iter()
        .filter(|change| change.needs_new_listener())
        .map(Change::to_string)
        .collect();
    assert_eq!(needing, ["listener 127.0.0.1:3 added"]);
}

#[test]
fn other_streamers_are_other_sources() {
    let old = load(BASE);
    let sources = |new: &str| match diff(&old, &load(new)).as_slice() {
        [Change::PoolChanged { sources, .. }] => *sources,
        other => panic!("{other:?}"),
    };
    assert!(sources(&BASE.replace("4001", "4002")));
    assert!(!sources(&format!("{BASE}[pool]\nqueue_length = 400")));
}
