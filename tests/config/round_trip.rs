//! The effective output is a configuration itself, and means the same.

use std::fs;

use ddp_gateway::config::{self, Environment};
use proptest::{collection::vec, option, prelude::*};

use crate::support::{environment, files, loaded};

fn assert_round_trip(text: &str, environment: &Environment) {
    let first = loaded(text, environment);
    let effective = first.effective();
    let second = match config::from_str("effective.toml", &effective, &Environment::empty()) {
        Ok(second) => second,
        Err(faults) => panic!("{}\n{effective}", faults[0]),
    };
    let mut expected = first.config;
    // Secrets that stand in the file are masked.
    if second.config.affinity.secret.is_none() {
        expected.affinity.secret = None;
    }
    assert_eq!(expected, second.config, "{effective}");
    let values = |effective: &str| -> Vec<String> {
        effective
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                line.rsplit_once(" # ")
                    .map_or(line, |(value, _)| value)
                    .to_owned()
            })
            .collect()
    };
    assert_eq!(values(&effective), values(&second.effective()));
}

#[test]
fn of_every_valid_file() {
    assert_round_trip(config::DEFAULT_FILE, &Environment::empty());
    for file in files("tests/config/valid") {
        assert_round_trip(&fs::read_to_string(file).unwrap(), &environment());
    }
}

fn host() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9-]{0,8}[a-z0-9](\\.[a-z]{2,5})?",
        any::<[u8; 4]>().prop_map(|[a, b, c, d]| format!("{a}.{b}.{c}.{d}")),
        any::<[u16; 2]>().prop_map(|[a, b]| format!("[fd00:{a:x}::{b:x}]")),
    ]
}

fn duration() -> impl Strategy<Value = String> {
    (
        100u32..50_000,
        prop_oneof![Just("s"), Just("m"), Just("ms"), Just("s 5ms")],
    )
        .prop_map(|(number, unit)| format!("{number}{unit}"))
}

prop_compose! {
    fn text()(
        streamers in vec((host(), 1u16..), 1..5),
        monolith in vec((host(), option::of(1u16..)), 1..4),
        listeners in vec((1u16.., any::<bool>(), option::of(1u16..)), 0..3),
        routes in vec((prop_oneof![Just("*".to_owned()), host(), host().prop_map(|h| format!("*.x{}", h.replace(['[', ']', ':', '.'], "")))], "(/[a-z]{1,4}){0,3}/?", any::<bool>()), 0..4),
        timeouts in vec(duration(), 5),
        body in 0u64..1 << 50,
        rate in prop_oneof![Just("off".to_owned()), (1u32..1 << 20).prop_map(|n| format!("{n}KiB/min"))],
        messages in 60u32..,
        filter in prop_oneof![Just("info"), Just("debug,ddp_gateway::ws=trace")],
        share in 0.0f64..=1.0,
        cookie in prop_oneof![Just("off".to_owned()), "[a-zA-Z_]{1,10}"],
    ) -> String {
        let streamers: std::collections::BTreeSet<String> = streamers
            .iter()
            .map(|(host, port)| format!("\"{host}:{port}\""))
            .collect();
        let monolith: std::collections::BTreeSet<String> = monolith
            .iter()
            .map(|(host, port)| match port {
                Some(port) => format!("\"http://{host}:{port}\""),
                None => format!("\"http://{host}/\""),
            })
            .collect();
        let mut text = format!(
            "admin = \"127.0.0.1:0\"\nstreamers = [{}]\nmonolith = [{}]\n",
            streamers.into_iter().collect::<Vec<_>>().join(", "),
            monolith.into_iter().collect::<Vec<_>>().join(",")
        );
        for (at, (port, proxy, redirect)) in listeners.iter().enumerate() {
            text += &format!(
                "[[listener]]\naddress = \"127.0.{at}.1:{port}\"\nproxy_protocol = {proxy}\n"
            );
            if let Some(redirect) = redirect {
                text += &format!("redirect_https = {redirect}\n");
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        for (host, path, off) in routes {
            let path = if path.is_empty() { "/".to_owned() } else { path };
            if seen.insert((host.clone(), path.trim_end_matches('/').to_owned())) {
                let pool = if off { "off" } else { "default" };
                text += &format!("[[route]]\nhost = '{host}'\npath = '{path}'\npool = '{pool}'\n");
            }
        }
        text += &format!(
            "[http]\nidle_timeout = '{}'\nrequest_timeout = '{}'\nbody_limit = '{body}B'\n\
             min_rate = '{rate}'\n[pool]\nslow_start = '{}'\n[health]\nddp_interval = '{}'\n\
             max_ejected = {share:?}\n[limits]\nmessages = '{messages}/min'\n\
             abuse_after = '10{}'\n[log]\nfilter = '{filter}'\n[affinity]\ncookie = '{cookie}'\n",
            timeouts[0], timeouts[1], timeouts[2], timeouts[3], timeouts[4]
        );
        text
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn of_any_configuration(text in text()) {
        assert_round_trip(&text, &Environment::empty());
    }

    /// Whatever stands in the file, it is judged without a panic, and faults can be shown.
    #[test]
    fn any_text_is_judged(text in "([a-z_]{1,8}( = |=|\\.)|\\[{0,2}[a-z.]{0,6}\\]{0,2}|['\"\\[\\]{}#,é0-9\n]| ){0,40}") {
        if let Err(faults) = config::from_str("x", &text, &Environment::empty()) {
            for fault in faults {
                prop_assert!(!fault.render(true).is_empty());
                prop_assert!(!fault.to_string().is_empty());
            }
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A good file that is cut somewhere or has a byte changed is judged without a panic.
    #[test]
    fn damaged_files_are_judged(at in 0usize..8000, with in any::<char>(), cut in any::<bool>()) {
        let good = include_str!("../../proxy.toml");
        let mut text: String = good.replace("\n#", "\n");
        let mut at = at % text.len();
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        if cut {
            text.truncate(at);
        }
        text.insert(at, with);
        if let Err(faults) = config::from_str("x", &text, &Environment::empty()) {
            for fault in faults {
                prop_assert!(!fault.to_string().is_empty());
            }
        }
    }
}
