//! `ddp-gateway streamers`, `drain STREAMER` and `undrain STREAMER`: what an operator, or the
//! preStop hook of a streamer, asks of running gateways.
//!
//! A streamer has sessions from every gateway, so an order goes to all of them.

use std::{io::Write, net::SocketAddr, num::NonZeroU32, thread, time::Duration};

use serde::Deserialize;

use super::{
    call::{CallError, call, quoted},
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

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screen {
    /// One line that is drawn anew.
    Terminal,
    /// A line per second, for a log.
    Lines,
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
    closed: u64,
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
            sum.closed += drain.closed;
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
            "STATE",
            "HEALTH",
            "SESSIONS",
            "LOGGED IN",
            "LOGINS WAITING",
            "",
        ]
        .map(str::to_owned),
    ];
    let mut waiting = String::new();
    for pool in page.pools {
        if pool.waiting > 0 {
            waiting.push_str(&format!(
                "{} clients wait for room in pool {}\n",
                pool.waiting, pool.pool
            ));
        }
        rows.extend(pool.streamers.into_iter().map(|row| {
            let note = match row.drain {
                Some(drain) => describe(&drain),
                None => row.cause.unwrap_or_default(),
            };
            [
                pool.pool.clone(),
                row.id,
                row.address,
                row.admin,
                row.health,
                format!("{}/{}", row.sessions, row.capacity),
                row.logged_in.to_string(),
                row.logins.waiting.to_string(),
                note,
            ]
        }));
    }
    table(&rows) + &waiting
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
        let mut show = Show {
            streamer: &self.streamer,
            screen: wait.unwrap_or(Screen::Lines),
            most: 0,
            out,
        };
        let mut unheard = 0;
        loop {
            show.progress(&drain);
            if wait.is_none() {
                return Ok(());
            }
            if drain.left == 0 {
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

/// Progress on a screen.
struct Show<'a, W> {
    streamer: &'a str,
    screen: Screen,
    /// Sessions that there were.
    most: u64,
    out: &'a mut W,
}

impl<W: Write> Show<'_, W> {
    /// A reader that has gone (`| head`) is no reason to stop.
    fn progress(&mut self, drain: &Drain) {
        self.most = self.most.max(drain.left).max(drain.left + drain.closed);
        let text = describe(drain);
        let _ = match self.screen {
            Screen::Lines => writeln!(self.out, "streamer {}: {text}", self.streamer),
            Screen::Terminal => {
                let bar = bar(self.most - drain.left, self.most, BAR);
                write!(self.out, "\r\x1b[K{} {bar} {text}", self.streamer)
            }
        };
        let _ = self.out.flush();
    }

    fn end(&mut self, how: &str) {
        let start = match self.screen {
            Screen::Lines => "",
            Screen::Terminal => "\n",
        };
        let _ = writeln!(self.out, "{start}streamer {} {how}", self.streamer);
    }

    fn period(&self) -> Duration {
        match self.screen {
            Screen::Lines => Duration::from_secs(1),
            Screen::Terminal => Duration::from_millis(200),
        }
    }
}

fn describe(drain: &Drain) -> String {
    let mut text = format!("{} closed, {} left", drain.closed, drain.left);
    if drain.left > 0
        && let (Some(rate), Some(eta)) = (drain.rate, drain.eta_seconds)
    {
        text.push_str(&format!(", {rate}/s, about {eta} s to go"));
    }
    text
}

/// Timeouts in a row that are taken for a busy gateway.
const PATIENCE: u32 = 10;

/// Characters of the bar.
const BAR: usize = 30;

#[cfg(test)]
mod tests {
    use super::{Drain, Drains, Page, Screen, Show, overview};

    fn drain(closed: u64, left: u64) -> Drain {
        Drain {
            draining: true,
            left,
            closed,
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
            (sum.closed, sum.left, sum.rate, sum.eta_seconds),
            (10, 390, Some(100), Some(6))
        );
        assert!(sum.draining && sum.others);
    }

    #[test]
    fn a_terminal_shows_one_line_that_is_drawn_anew_and_a_log_gets_lines() {
        let shown = |screen| {
            let mut out = Vec::new();
            let mut show = Show {
                streamer: "a",
                screen,
                most: 0,
                out: &mut out,
            };
            show.progress(&drain(50, 150));
            show.progress(&drain(200, 0));
            show.end("is empty");
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            shown(Screen::Lines),
            "streamer a: 50 closed, 150 left, 50/s, about 3 s to go\n\
             streamer a: 200 closed, 0 left\nstreamer a is empty\n"
        );
        assert_eq!(
            shown(Screen::Terminal),
            format!(
                "\r\x1b[Ka [{}{}] 50 closed, 150 left, 50/s, about 3 s to go\
                 \r\x1b[Ka [{}] 200 closed, 0 left\nstreamer a is empty\n",
                "#".repeat(7),
                ".".repeat(23),
                "#".repeat(30)
            )
        );
    }

    #[test]
    fn the_table_says_who_is_drained_and_why_one_is_down() {
        let page: Page = serde_json::from_str(
            r#"{"pools": [{"pool": "default", "waiting": 3, "streamers": [
                {"id": "a", "address": "10.0.0.1:3000", "admin": "drain", "health": "up", "cause": null,
                 "sessions": 90, "capacity": 0, "logged_in": 80, "logins": {"waiting": 0},
                 "drain": {"draining": true, "left": 90, "closed": 10, "rate": 50, "eta_seconds": 2,
                           "others": true}},
                {"id": "b", "address": "10.0.0.2:3000", "admin": "ready", "health": "down",
                 "cause": "no connection", "sessions": 0, "capacity": 0, "logged_in": 0,
                 "logins": {"waiting": 7}, "drain": null}]}]}"#,
        )
        .unwrap();
        assert_eq!(
            overview(page),
            "POOL     STREAMER  ADDRESS        STATE  HEALTH  SESSIONS  LOGGED IN  LOGINS WAITING\n\
             default  a         10.0.0.1:3000  drain  up      90/0      80         0               \
             10 closed, 90 left, 50/s, about 2 s to go\n\
             default  b         10.0.0.2:3000  ready  down    0/0       0          7               \
             no connection\n\
             3 clients wait for room in pool default\n"
        );
    }
}
