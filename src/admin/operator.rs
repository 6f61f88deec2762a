//! `ddp-gateway streamers`, `drain STREAMER` and `undrain STREAMER`: what an operator, or the
//! preStop hook of a streamer, asks of running gateways.
//!
//! A streamer has sessions from every gateway, so an order goes to all of them.

use std::{collections::BTreeMap, io::Write, net::SocketAddr, num::NonZeroU32, thread};

use serde::Deserialize;

use super::{
    call::{CallError, call, quoted},
    levelling::{self, Balance},
    progress::{PATIENCE, Screen, Show, stayed, to_go},
    sources::{self, Source, known_by},
    table::{bar, table},
};

/// Which streamer, and at which gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamerOrder {
    /// Admin listeners.
    pub gateways: Vec<SocketAddr>,
    /// Id or address.
    pub streamer: String,
}

#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(
        "streamer {streamer} is not drained any more: somebody took it back into rotation while \
         {left} of its sessions were left"
    )]
    Undrained { streamer: String, left: u64 },
}

/// The part of `GET /streamers` that is shown.
#[derive(Debug, Deserialize)]
struct Page {
    pools: Vec<PoolPart>,
}

#[derive(Debug, Deserialize)]
struct PoolPart {
    pool: String,
    waiting: u64,
    rebalance: Option<Balance>,
    #[serde(default)]
    sources: Vec<Source>,
    streamers: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    id: String,
    address: String,
    admin: String,
    health: String,
    cause: Option<String>,
    sessions: u64,
    /// Of other gateways.
    #[serde(default)]
    elsewhere: u64,
    capacity: u64,
    logged_in: u64,
    logins: LoginsPart,
    drain: Option<Drain>,
}

#[derive(Debug, Deserialize)]
struct LoginsPart {
    waiting: u64,
}

/// What `/streamers/drain` tells; see [`crate::control::streamer_drain::StreamerDrain`].
#[derive(Clone, Debug, Default, Deserialize)]
struct Drain {
    draining: bool,
    left: u64,
    moved: u64,
    under_way: u64,
    closed: u64,
    refused: BTreeMap<String, u64>,
    rate: Option<u64>,
    eta_seconds: Option<u64>,
    others: bool,
}

#[derive(Debug, Deserialize)]
struct Drains {
    streamers: Vec<Drain>,
}

impl Drains {
    /// All pools and gateways together.
    fn sum(all: impl IntoIterator<Item = Self>) -> Drain {
        let mut sum = Drain {
            others: true,
            ..Drain::default()
        };
        for drain in all.into_iter().flat_map(|drains| drains.streamers) {
            sum.draining |= drain.draining;
            sum.others &= drain.others;
            sum.left += drain.left;
            sum.moved += drain.moved;
            sum.under_way += drain.under_way;
            sum.closed += drain.closed;
            for (reason, count) in drain.refused {
                *sum.refused.entry(reason).or_default() += count;
            }
            sum.rate = match (sum.rate, drain.rate) {
                (Some(one), Some(other)) => Some(one + other),
                (one, other) => one.or(other),
            };
            sum.eta_seconds = sum.eta_seconds.max(drain.eta_seconds);
        }
        sum
    }
}

/// Prints the streamers as each gateway sees them.
///
/// # Errors
/// When one does not answer.
pub fn streamers(gateways: &[SocketAddr], out: &mut impl Write) -> Result<(), CallError> {
    for gateway in gateways {
        let page: Page = call(*gateway, "GET", "/streamers")?;
        let mut text = String::new();
        if gateways.len() > 1 {
            text = format!("gateway {gateway}\n");
        }
        text.push_str(&overview(page));
        let _ = out.write_all(text.as_bytes());
    }
    Ok(())
}

fn overview(page: Page) -> String {
    let mut rows = vec![
        [
            "POOL",
            "STREAMER",
            "ADDRESS",
            "KNOWN BY",
            "STATE",
            "HEALTH",
            "SESSIONS",
            "ELSEWHERE",
            "LOGGED IN",
            "LOGINS WAITING",
            "",
        ]
        .map(str::to_owned),
    ];
    let mut notes = String::new();
    let origins = page.pools.iter();
    let origins = sources::overview(origins.map(|pool| (&*pool.pool, &*pool.sources)));
    for pool in page.pools {
        let balance = pool.rebalance.as_ref();
        notes.extend(balance.and_then(|balance| levelling::line(&pool.pool, balance)));
        if pool.waiting > 0 {
            notes.push_str(&format!(
                "{} clients wait for room in pool {}\n",
                pool.waiting, pool.pool
            ));
        }
        rows.extend(pool.streamers.into_iter().map(|row| {
            let note = match row.drain {
                Some(drain) => {
                    let done = drain.moved + drain.closed;
                    let bar = bar(done, done + drain.left, SMALL_BAR);
                    format!("{bar} {}", describe(&drain))
                }
                None => row.cause.unwrap_or_default(),
            };
            let known_by = known_by(&pool.sources, &row.address);
            [
                pool.pool.clone(),
                row.id,
                row.address,
                known_by,
                row.admin,
                row.health,
                format!("{}/{}", row.sessions, row.capacity),
                row.elsewhere.to_string(),
                row.logged_in.to_string(),
                row.logins.waiting.to_string(),
                note,
            ]
        }));
    }
    table(&rows) + &origins + &notes
}

impl StreamerOrder {
    /// Has the streamer emptied, `rate` sessions in a second at each gateway, and with `wait` shows
    /// how it goes until it is.
    ///
    /// # Errors
    /// When a gateway does not answer or knows no such streamer (the others have their order all
    /// the same), or when the order was taken back meanwhile.
    pub fn drain(
        &self,
        rate: Option<NonZeroU32>,
        wait: Option<Screen>,
        out: &mut impl Write,
    ) -> Result<(), OrderError> {
        let mut path = format!("/streamers/drain?streamer={}", quoted(&self.streamer));
        let look = path.clone();
        if let Some(rate) = rate {
            path.push_str(&format!("&rate={rate}"));
        }
        let mut drain = Drains::sum(self.ask("POST", &path)?);
        if drain.left > 0 && !drain.others {
            let _ = writeln!(
                out,
                "warning: no other streamer takes its clients: they will wait for one"
            );
        }
        let what = format!("streamer {}", self.streamer);
        let mut show = Show::new(&what, wait.unwrap_or(Screen::Lines), out);
        let mut unheard = 0;
        loop {
            let done = drain.moved + drain.closed;
            show.progress(done, drain.left, &describe(&drain));
            if wait.is_none() {
                return Ok(());
            }
            // The last ones have left before it is known what became of them.
            if drain.left == 0 && (drain.under_way == 0 || !drain.draining) {
                show.end("is empty");
                return Ok(());
            }
            if !drain.draining {
                show.end("goes on");
                return Err(OrderError::Undrained {
                    streamer: self.streamer.clone(),
                    left: drain.left,
                });
            }
            thread::sleep(show.period());
            drain = match self.ask("GET", &look) {
                Ok(drains) => {
                    unheard = 0;
                    Drains::sum(drains)
                }
                Err(error) if error.is_timeout() && unheard < PATIENCE => {
                    unheard += 1;
                    continue;
                }
                Err(error) => {
                    show.end("may not be empty yet");
                    return Err(error.into());
                }
            };
        }
    }

    /// Takes the streamer back into rotation.
    ///
    /// # Errors
    /// As [`Self::drain`].
    pub fn undrain(&self, out: &mut impl Write) -> Result<(), OrderError> {
        let path = format!("/streamers/undrain?streamer={}", quoted(&self.streamer));
        let now = Drains::sum(self.ask("POST", &path)?);
        let _ = writeln!(
            out,
            "streamer {}: in rotation, {} sessions",
            self.streamer, now.left
        );
        Ok(())
    }

    /// The answers of all gateways, or the first fault; each is asked in any case.
    fn ask(&self, method: &str, path: &str) -> Result<Vec<Drains>, CallError> {
        let answers: Vec<_> = self
            .gateways
            .iter()
            .map(|gateway| call(*gateway, method, path))
            .collect();
        answers.into_iter().collect()
    }
}

fn describe(drain: &Drain) -> String {
    let Drain {
        moved,
        closed,
        left,
        under_way,
        ..
    } = drain;
    let mut text = format!("{moved} moved, {closed} closed, {left} left");
    if *under_way > 0 {
        text.push_str(&format!(" ({under_way} under way)"));
    }
    if drain.left > 0
        && let Some(rate) = drain.rate
    {
        text.push_str(&format!(", {rate}/s{}", to_go(drain.eta_seconds)));
    }
    text + &stayed(&drain.refused)
}

/// Characters of a bar within a table.
const SMALL_BAR: usize = 10;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Drain, Drains, Page, describe, overview};

    fn drain(moved: u64, left: u64) -> Drain {
        Drain {
            draining: true,
            left,
            moved,
            under_way: left.min(2),
            closed: 1,
            refused: BTreeMap::from([("livechat".to_owned(), 1)]),
            rate: Some(50),
            eta_seconds: Some(left.div_ceil(50)),
            others: true,
        }
    }

    #[test]
    fn gateways_add_up() {
        let drains = |one| Drains {
            streamers: vec![one],
        };
        let sum = Drains::sum([drains(drain(10, 90)), drains(drain(0, 300))]);
        assert_eq!(
            (sum.moved, sum.left, sum.rate, sum.eta_seconds),
            (10, 390, Some(100), Some(6))
        );
        assert_eq!(
            (sum.closed, sum.under_way, sum.refused["livechat"]),
            (2, 4, 2)
        );
        assert_eq!(
            describe(&sum),
            "10 moved, 2 closed, 390 left (4 under way), 100/s, about 6 s to go; not to be moved: \
             2 livechat"
        );
        assert!(sum.draining && sum.others);
    }

    #[test]
    fn the_table_says_who_is_drained_and_why_one_is_down() {
        let page: Page = serde_json::from_str(
            r#"{"pools": [{"pool": "default", "waiting": 3, "sources": [
                {"kind": "list", "source": "streamers", "status": "fresh", "error": null,
                 "heard_seconds_ago": null, "streamers": [
                     {"address": "10.0.0.1:3000", "host": null, "leaving": false}]}],
                "streamers": [
                {"id": "a", "address": "10.0.0.1:3000", "admin": "drain", "health": "up", "cause": null,
                 "sessions": 90, "elsewhere": 35, "capacity": 0, "logged_in": 80, "logins": {"waiting": 0},
                 "drain": {"draining": true, "left": 90, "moved": 9, "under_way": 0, "closed": 1,
                           "refused": {"odd": 1}, "rate": 50, "eta_seconds": 2, "others": true}},
                {"id": "b", "address": "10.0.0.2:3000", "admin": "ready", "health": "down",
                 "cause": "no connection", "sessions": 0, "capacity": 0, "logged_in": 0,
                 "logins": {"waiting": 7}, "drain": null}]}]}"#,
        )
        .unwrap();
        assert_eq!(
            overview(page),
            "POOL     STREAMER  ADDRESS        KNOWN BY  STATE  HEALTH  SESSIONS  ELSEWHERE  LOGGED IN  LOGINS WAITING\n\
             default  a         10.0.0.1:3000  list      drain  up      90/0      35         80         0               \
             [#.........] 9 moved, 1 closed, 90 left, 50/s, about 2 s to go; not to be moved: 1 odd\n\
             default  b         10.0.0.2:3000  nobody    ready  down    0/0       0          0          7               \
             no connection\n\
             POOL     SOURCE             SAYS         HEARD\n\
             default  list    streamers  1 streamers\n\
             3 clients wait for room in pool default\n"
        );
    }
}
