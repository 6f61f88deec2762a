//! The admin pages: each path with what it answers.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    convert::Infallible,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::{
    base::id::{PoolName, SessionId, StreamerId},
    control::{
        app::Control,
        drain::Stage,
        rebalance::PoolBalance,
        reload::Trigger,
        streamer_drain::{StreamerDrain, UnknownStreamer},
    },
    pool::{Report, logins::LoginsReport},
    telemetry::export,
};

type Answer = Response<Full<Bytes>>;

/// Answers one request. Bodies are not read: no page takes one.
pub(super) async fn answer(
    control: Control,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let (head, _) = request.into_parts();
    let query = Query(head.uri.query().unwrap_or_default());
    let get = head.method == Method::GET || head.method == Method::HEAD;
    let post = head.method == Method::POST;
    if post && sent_by_a_page(&head) {
        return Ok(fault(
            StatusCode::FORBIDDEN,
            "requests that change something are not taken from web pages",
        ));
    }
    Ok(match head.uri.path() {
        "/" if get => json(StatusCode::OK, &index()),
        "/healthz" if get => json(StatusCode::OK, &json!({"status": "ok"})),
        "/readyz" if get => ready(&control),
        "/metrics" if get => metrics(&control),
        "/streamers" if get => json(StatusCode::OK, &streamers(&control)),
        "/streamers/drain" if get => streamer_drains(&control, query),
        "/streamers/drain" if post => drain_streamer(&control, query),
        "/streamers/undrain" if post => undrain_streamer(&control, query),
        "/replicas" if get => replicas(&control),
        "/rebalance" if get => balances(StatusCode::OK, &control.balances()),
        "/rebalance" if post => rebalance(&control, query),
        "/rebalance/stop" if post => balances(StatusCode::OK, &control.stop_rebalance()),
        "/sessions" if get => sessions(&control, query),
        "/drain" if get => json(StatusCode::OK, &json!(control.progress())),
        "/drain" if post => drain(&control, query).await,
        "/config" if get => effective(&control).await,
        "/reload" if get => json(StatusCode::OK, &last_reload(&control)),
        "/reload" if post => reload(&control).await,
        "/" | "/healthz" | "/readyz" | "/metrics" | "/streamers" | "/replicas" | "/sessions"
        | "/config" => {
            let mut answer = fault(StatusCode::METHOD_NOT_ALLOWED, "this page is read with GET");
            allow(&mut answer, "GET, HEAD");
            answer
        }
        "/streamers/undrain" | "/rebalance/stop" => {
            let mut answer = fault(StatusCode::METHOD_NOT_ALLOWED, "this is done with POST");
            allow(&mut answer, "POST");
            answer
        }
        "/drain" | "/reload" | "/streamers/drain" | "/rebalance" => {
            let mut answer = fault(
                StatusCode::METHOD_NOT_ALLOWED,
                "GET tells how it went, POST does it",
            );
            allow(&mut answer, "GET, HEAD, POST");
            answer
        }
        _ => fault(
            StatusCode::NOT_FOUND,
            "there is no such page; GET / lists all of them",
        ),
    })
}

fn index() -> Value {
    json!({
        "GET /healthz": "200 while the process lives",
        "GET /readyz": "200 while new clients are welcome, else 503 with the reasons",
        "GET /metrics": "Prometheus",
        "GET /streamers": "pools and streamers with health, sessions and capacity",
        "GET /streamers/drain?streamer=ID": "streamers that are being emptied, or one of them",
        "POST /streamers/drain?streamer=ID&rate=50": "no new sessions for a streamer; move those it has to others, at a rate per second",
        "POST /streamers/undrain?streamer=ID": "take it back into rotation",
        "GET /replicas": "the gateways that act as one with this one",
        "GET /rebalance": "how even the pools are, and what is done about it",
        "POST /rebalance": "level the streamers of all pools; with dry_run=true only say how",
        "POST /rebalance/stop": "stop that",
        "GET /sessions?limit=100&after=0": "open client sockets, by id",
        "GET /config": "the values in use, each with its origin; secrets masked",
        "GET /reload": "outcome of the last reload",
        "POST /reload": "load the configuration file again",
        "GET /drain": "progress of the shutdown",
        "POST /drain?deadline=30": "close all clients gently, then exit",
    })
}

/// Ready while new clients are wanted. A pool or a monolith that is down does not make the gateway
/// unready: all gateways would leave the balancer together, and clients would get a refused
/// connection instead of an answer that tells them when to come back.
fn ready(control: &Control) -> Answer {
    let stage = control.progress().stage;
    let mut reasons = Vec::new();
    if stage != Stage::Running {
        reasons.push(json!({"reason": "draining", "detail": "the gateway is shutting down"}));
    } else if let Some(detail) = control.starting() {
        reasons.push(json!({"reason": "starting", "detail": detail}));
    }
    let degraded = control.degraded();
    let (status, ready) = match reasons.is_empty() {
        true => (StatusCode::OK, true),
        false => (StatusCode::SERVICE_UNAVAILABLE, false),
    };
    json(
        status,
        &json!({"ready": ready, "reasons": reasons, "degraded": degraded}),
    )
}

fn metrics(control: &Control) -> Answer {
    control.observe();
    let mut answer = Response::new(Full::from(export::recorder().render()));
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    answer
}

fn streamers(control: &Control) -> Value {
    let now = Instant::now();
    let snapshot = control.shared().snapshot.load_full();
    let logins = control.shared().logins.report(now);
    let (drains, logged_in) = (
        control.streamer_drains(),
        control.shared().registry.logged_in(),
    );
    let balances = control.balances();
    let pools: Vec<Value> = snapshot
        .pools
        .iter()
        .map(|pool| {
            let mut page = with_details(&pool.report(now), &logins, &drains, &logged_in);
            let name = pool.name().as_str();
            let balance = balances.iter().find(|balance| balance.pool == name);
            page["rebalance"] = json!(balance);
            page["sources"] = json!(control.sources(pool.name()));
            page
        })
        .collect();
    let monoliths: Vec<Value> = snapshot
        .monoliths
        .iter()
        .map(|monolith| {
            let servers: Vec<Value> = monolith
                .servers()
                .map(|(server, up)| json!({"server": server, "up": up}))
                .collect();
            json!({ "servers": servers })
        })
        .collect();
    json!({"logins": logins, "pools": pools, "monoliths": monoliths})
}

/// The pool as it is; the row of each streamer has `logged_in`, an object `logins`, and `drain`,
/// which is null when it is not drained.
fn with_details(
    pool: &Report,
    logins: &LoginsReport,
    drains: &[StreamerDrain],
    logged_in: &BTreeMap<(PoolName, StreamerId), u32>,
) -> Value {
    let mut page = json!(pool);
    for (at, row) in pool.streamers.iter().enumerate() {
        let streamer = StreamerId::new(row.id.as_str());
        let drain = drains
            .iter()
            .find(|drain| drain.pool == pool.pool && drain.streamer == row.id);
        let details = &mut page["streamers"][at];
        details["logins"] = json!(logins.streamer(&streamer));
        details["drain"] = json!(drain);
        let key = (PoolName::new(pool.pool.as_str()), streamer);
        details["logged_in"] = json!(logged_in.get(&key).unwrap_or(&0));
    }
    page
}

fn replicas(control: &Control) -> Answer {
    match control.replicas() {
        Some(replicas) => json(StatusCode::OK, &json!(replicas)),
        None => fault(
            StatusCode::NOT_FOUND,
            "this gateway has no replicas: [replicas] of the configuration is not enabled",
        ),
    }
}

async fn effective(control: &Control) -> Answer {
    let text = control.effective().await;
    if text.is_empty() {
        return fault(
            StatusCode::NOT_FOUND,
            "the gateway was started without a configuration file",
        );
    }
    let mut answer = Response::new(Full::from(text));
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/toml"),
    );
    answer
}

fn sessions(control: &Control, query: Query<'_>) -> Answer {
    let limit = match query.number("limit") {
        Ok(limit) => limit.unwrap_or(DEFAULT_PAGE),
        Err(error) => return fault(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let after = match query
        .text("after")
        .map(|id| id.strip_prefix('s').unwrap_or(id))
    {
        None => 0,
        Some(id) => match u64::from_str_radix(id, 16) {
            Ok(id) => id,
            Err(_) => {
                return fault(
                    StatusCode::BAD_REQUEST,
                    "`after` is the id of a session, such as s1f",
                );
            }
        },
    };
    let limit = usize::try_from(limit)
        .unwrap_or(LARGEST_PAGE)
        .min(LARGEST_PAGE);
    let registry = &control.shared().registry;
    let rows = registry.rows(SessionId(after), limit, Instant::now());
    let next = (rows.len() == limit)
        .then(|| rows.last().map(|row| row.id.clone()))
        .flatten();
    json(
        StatusCode::OK,
        &json!({"total": registry.len(), "sessions": rows, "next_after": next}),
    )
}

async fn drain(control: &Control, query: Query<'_>) -> Answer {
    let deadline = match query.number("deadline") {
        Ok(deadline) => deadline.map(Duration::from_secs),
        Err(error) => return fault(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    control.drain(deadline, "asked by the admin listener").await;
    json(StatusCode::ACCEPTED, &json!(control.progress()))
}

fn streamer_drains(control: &Control, query: Query<'_>) -> Answer {
    if query.text("streamer").is_none() {
        return json(
            StatusCode::OK,
            &json!({"streamers": control.streamer_drains()}),
        );
    }
    let name = match query.streamer() {
        Ok(name) => name,
        Err(error) => return fault(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    drains(StatusCode::OK, control.streamer_drain(&name))
}

fn drain_streamer(control: &Control, query: Query<'_>) -> Answer {
    let name = match query.streamer() {
        Ok(name) => name,
        Err(error) => return fault(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let rate = match query.text("rate").map(str::parse::<NonZeroU32>) {
        None => None,
        Some(Ok(rate)) if rate <= HIGHEST_RATE => Some(rate),
        Some(_) => {
            return fault(
                StatusCode::BAD_REQUEST,
                "`rate` is how many sessions end in a second, from 1 to 100000",
            );
        }
    };
    drains(StatusCode::ACCEPTED, control.drain_streamer(&name, rate))
}

fn undrain_streamer(control: &Control, query: Query<'_>) -> Answer {
    match query.streamer() {
        Ok(name) => drains(StatusCode::OK, control.undrain_streamer(&name)),
        Err(error) => fault(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

fn rebalance(control: &Control, query: Query<'_>) -> Answer {
    match query.text("dry_run") {
        None | Some("false") => balances(StatusCode::ACCEPTED, &control.rebalance()),
        Some("true") => balances(StatusCode::OK, &control.balances()),
        Some(_) => fault(StatusCode::BAD_REQUEST, "`dry_run` is true or false"),
    }
}

fn balances(status: StatusCode, pools: &[PoolBalance]) -> Answer {
    json(status, &json!({ "pools": pools }))
}

fn drains(status: StatusCode, drains: Result<Vec<StreamerDrain>, UnknownStreamer>) -> Answer {
    match drains {
        Ok(drains) => json(status, &json!({ "streamers": drains })),
        Err(error) => json(
            StatusCode::NOT_FOUND,
            &json!({"error": error.to_string(), "known": error.known}),
        ),
    }
}

async fn reload(control: &Control) -> Answer {
    match control.reload(Trigger::Operator).await {
        Ok(applied) => json(
            StatusCode::OK,
            &json!({
                "reloaded": true,
                "changed": applied.changed,
                "changes": applied.changes.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "generation": applied.generation.0,
                "warnings": applied.warnings,
            }),
        ),
        Err(error) => json(
            StatusCode::UNPROCESSABLE_ENTITY,
            &json!({
                "reloaded": false,
                "error": "nothing was changed; correct these and reload again",
                "faults": error.faults(),
            }),
        ),
    }
}

fn last_reload(control: &Control) -> Value {
    let Some(outcome) = control.last_reload() else {
        return json!({"reloads": "none since the start"});
    };
    let at = outcome
        .at
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    match outcome.result {
        Ok(applied) => json!({
            "at_unix_seconds": at,
            "successful": true,
            "generation": applied.generation.0,
            "warnings": applied.warnings,
        }),
        Err(error) => json!({
            "at_unix_seconds": at,
            "successful": false,
            "faults": error.faults(),
        }),
    }
}

/// Browsers say where a request comes from, and any page can send a POST to this machine's ports.
fn sent_by_a_page(head: &http::request::Parts) -> bool {
    head.headers.contains_key(header::ORIGIN)
        || head
            .headers
            .get("sec-fetch-site")
            .is_some_and(|site| site != "none")
}

fn json(status: StatusCode, value: &Value) -> Answer {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn fault(status: StatusCode, text: &str) -> Answer {
    json(status, &json!({"error": text}))
}

fn allow(answer: &mut Answer, methods: &'static str) {
    answer
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(methods));
}

#[derive(Debug, thiserror::Error)]
#[error("`{0}` must be a whole number")]
struct NotANumber(String);

#[derive(Debug, thiserror::Error)]
#[error("`streamer` must be the id or the address of a streamer; GET /streamers lists them")]
struct NotAStreamer;

#[derive(Clone, Copy, Debug)]
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn text(self, key: &str) -> Option<&'a str> {
        self.0
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
    }

    /// The parameter `streamer`.
    fn streamer(self) -> Result<Cow<'a, str>, NotAStreamer> {
        let name = unquoted(self.text("streamer").unwrap_or_default());
        name.filter(|name| !name.is_empty()).ok_or(NotAStreamer)
    }

    fn number(self, key: &str) -> Result<Option<u64>, NotANumber> {
        self.text(key)
            .map(|text| text.parse().map_err(|_| NotANumber(key.to_owned())))
            .transpose()
    }
}

/// A value of a query without its percent signs.
fn unquoted(value: &str) -> Option<Cow<'_, str>> {
    if !value.contains('%') {
        return Some(value.into());
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, others @ ..] = rest {
        match (first, others) {
            (b'%', [high, low, others @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                let value = digit(high)? * 16 + digit(low)?;
                bytes.push(u8::try_from(value).ok()?);
                rest = others;
            }
            (b'%', _) => return None,
            _ => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

const HIGHEST_RATE: NonZeroU32 = NonZeroU32::new(100_000).unwrap();
const DEFAULT_PAGE: u64 = 100;
const LARGEST_PAGE: usize = 1000;

#[cfg(test)]
mod tests {
    use super::unquoted;

    #[test]
    fn values_of_a_query() {
        for (value, meant) in [
            ("10.0.0.1:3000", Some("10.0.0.1:3000")),
            ("%5b::1%5D:3000", Some("[::1]:3000")),
            ("%c3%a4", Some("\u{e4}")),
            ("%", None),
            ("a%4", None),
            ("%zz", None),
            ("%ff", None),
        ] {
            assert_eq!(unquoted(value).as_deref(), meant, "{value}");
        }
    }
}
