//! `ddp-gateway replicas`: who acts as one with a running gateway.

use std::{io::Write, net::SocketAddr};

use serde::Deserialize;

use super::{
    call::{CallError, call},
    table::table,
};

/// What `GET /replicas` tells; see [`crate::control::replicas_task::ReplicasReport`].
#[derive(Debug, Deserialize)]
struct Page {
    bus: String,
    subject: String,
    id: String,
    name: String,
    state: String,
    error: Option<String>,
    login_share: f64,
    others: Vec<Other>,
}

#[derive(Debug, Deserialize)]
struct Other {
    id: String,
    name: String,
    known_for_seconds: f64,
    heard_seconds_ago: f64,
    sessions: u64,
    waiting: u64,
    logins: u64,
}

/// Prints the gateways that each of these counts with.
///
/// # Errors
/// When one does not answer, or has no replicas.
pub fn replicas(gateways: &[SocketAddr], out: &mut impl Write) -> Result<(), CallError> {
    for gateway in gateways {
        let page: Page = call(*gateway, "GET", "/replicas")?;
        let mut text = String::new();
        if gateways.len() > 1 {
            text = format!("gateway {gateway}\n");
        }
        text.push_str(&overview(&page));
        let _ = out.write_all(text.as_bytes());
    }
    Ok(())
}

fn overview(page: &Page) -> String {
    let state = match (&*page.state, &page.error) {
        ("away", Some(error)) => format!("counts alone: {error}"),
        ("away", None) => "counts alone: the bus is away".to_owned(),
        ("learning", _) => "listens who else there is".to_owned(),
        ("alone", _) => "is the only one".to_owned(),
        ("together", _) => match page.others.len() {
            1 => "counts together with another one".to_owned(),
            others => format!("counts together with {others} others"),
        },
        (other, _) => other.to_owned(),
    };
    let mut text = format!(
        "{} ({}) on {}, subject {}: {state}; it has {:.0} % of the pace of logins\n",
        page.name,
        page.id,
        page.bus,
        page.subject,
        page.login_share * 100.0,
    );
    if page.others.is_empty() {
        return text;
    }
    let head = [
        "GATEWAY", "ID", "HEARD", "KNOWN", "SESSIONS", "WAITING", "LOGINS",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(page.others.iter().map(|other| {
        [
            other.name.clone(),
            other.id.clone(),
            format!("{:.1} s ago", other.heard_seconds_ago),
            format!("for {:.0} s", other.known_for_seconds),
            other.sessions.to_string(),
            other.waiting.to_string(),
            other.logins.to_string(),
        ]
    }));
    text.push_str(&table(&rows));
    text
}

#[cfg(test)]
mod tests {
    use super::{Page, overview};

    fn page(state: &str, error: &str, others: &str) -> Page {
        let text = format!(
            r#"{{"bus": "nats:4222", "subject": "ddp-gateway", "id": "0a", "name": "edge-0",
                "state": "{state}", "error": {error}, "login_share": 0.25, "others": [{others}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn it_says_who_is_there_and_how_fresh_that_is() {
        let other = r#"{"id": "0b", "name": "edge-1", "known_for_seconds": 61.2,
                        "heard_seconds_ago": 0.42, "sessions": 120, "waiting": 3, "logins": 7}"#;
        assert_eq!(
            overview(&page("together", "null", other)),
            "edge-0 (0a) on nats:4222, subject ddp-gateway: counts together with another one; \
             it has 25 % of the pace of logins\n\
             GATEWAY  ID  HEARD      KNOWN     SESSIONS  WAITING  LOGINS\n\
             edge-1   0b  0.4 s ago  for 61 s  120       3        7\n"
        );
    }

    #[test]
    fn it_says_why_it_is_alone() {
        for (state, error, says) in [
            ("alone", "null", ": is the only one;"),
            ("learning", "null", ": listens who else there is;"),
            ("away", "null", ": counts alone: the bus is away;"),
            ("away", "\"refused\"", ": counts alone: refused;"),
        ] {
            let text = overview(&page(state, error, ""));
            assert!(text.contains(says), "{text}");
            assert_eq!(text.lines().count(), 1);
        }
    }
}
