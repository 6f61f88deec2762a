//! `ddp-gateway rebalance`: has running gateways level their streamers, and shows how it goes.

use std::{collections::BTreeMap, io::Write, net::SocketAddr, thread};

use serde::Deserialize;

use super::{
    call::{CallError, call},
    progress::{PATIENCE, Screen, Show, stayed, to_go},
    table::{bar, table},
};

/// The pools of these gateways. Each levels its own sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebalanceOrder {
    /// Admin listeners.
    pub gateways: Vec<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum RebalanceError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(
        "the streamers of {pools} could not be levelled: who is left cannot be moved, or no \
         streamer has room"
    )]
    Stuck { pools: String },
    #[error("levelling the streamers of {pools} was stopped before it was done")]
    Stopped { pools: String },
}

/// What `/rebalance` tells; see [`crate::control::rebalance::PoolBalance`].
#[derive(Clone, Debug, Deserialize)]
struct Page {
    pools: Vec<Balance>,
}

/// A pool at one gateway.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Balance {
    pool: String,
    rate: u64,
    skew: f64,
    running: bool,
    moved: u64,
    under_way: u64,
    left: u64,
    refused: BTreeMap<String, u64>,
    eta_seconds: Option<u64>,
    last: Option<String>,
    #[serde(default)]
    streamers: Vec<Share>,
}

#[derive(Clone, Debug, Deserialize)]
struct Share {
    streamer: String,
    sessions: u64,
    gives: u64,
    gets: u64,
}

impl RebalanceOrder {
    /// Prints which streamers would give and get how many sessions; nothing is moved.
    ///
    /// # Errors
    /// When a gateway does not answer.
    pub fn dry_run(&self, out: &mut impl Write) -> Result<(), RebalanceError> {
        for gateway in &self.gateways {
            let page: Page = call(*gateway, "POST", "/rebalance?dry_run=true")?;
            let mut text = String::new();
            if self.gateways.len() > 1 {
                text = format!("gateway {gateway}\n");
            }
            text.push_str(&planned(&page));
            let _ = out.write_all(text.as_bytes());
        }
        Ok(())
    }

    /// Stops what is under way; sessions between two streamers arrive.
    ///
    /// # Errors
    /// When a gateway does not answer; the others have their order all the same.
    pub fn stop(&self, out: &mut impl Write) -> Result<(), RebalanceError> {
        for balance in self.ask("POST", "/rebalance/stop")? {
            let _ = writeln!(
                out,
                "pool {}: stopped, skew {:.2}",
                balance.pool, balance.skew
            );
        }
        Ok(())
    }

    /// Has the streamers levelled, and with `wait` shows how it goes until they are.
    ///
    /// # Errors
    /// As [`Self::stop`]; with `wait` also when it ended before they were level.
    pub fn start(&self, wait: Option<Screen>, out: &mut impl Write) -> Result<(), RebalanceError> {
        let mut balances = self.ask("POST", "/rebalance")?;
        let mut show = Show::new("levelling", wait.unwrap_or(Screen::Lines), out);
        let mut unheard = 0;
        loop {
            let sum = sum(&balances);
            show.progress(sum.moved, sum.under_way + sum.left, &describe(&sum));
            if wait.is_none() {
                return Ok(());
            }
            if !sum.running {
                return finished(&balances, &mut show);
            }
            thread::sleep(show.period());
            balances = match self.ask("GET", "/rebalance") {
                Ok(balances) => {
                    unheard = 0;
                    balances
                }
                Err(error) if error.is_timeout() && unheard < PATIENCE => {
                    unheard += 1;
                    continue;
                }
                Err(error) => {
                    show.end("may go on");
                    return Err(error.into());
                }
            };
        }
    }

    /// The pools of all gateways, or the first fault; each is asked in any case.
    fn ask(&self, method: &str, path: &str) -> Result<Vec<Balance>, CallError> {
        let answers: Vec<Result<Page, _>> = self
            .gateways
            .iter()
            .map(|gateway| call(*gateway, method, path))
            .collect();
        let mut balances = Vec::new();
        for answer in answers {
            balances.extend(answer?.pools);
        }
        Ok(balances)
    }
}

/// All of them were told to level and have ended.
fn finished<W: Write>(balances: &[Balance], show: &mut Show<'_, W>) -> Result<(), RebalanceError> {
    let that = |end: &str| {
        let pools = balances
            .iter()
            .filter(|balance| balance.last.as_deref() == Some(end));
        let mut pools: Vec<_> = pools
            .map(|balance| format!("pool {}", balance.pool))
            .collect();
        pools.dedup();
        pools.join(", ")
    };
    let skew = balances.iter().map(|balance| balance.skew);
    show.end(&format!("has ended, skew {:.2}", skew.fold(1.0, f64::max)));
    let (stopped, stuck) = (that("stopped"), that("stuck"));
    if !stopped.is_empty() {
        return Err(RebalanceError::Stopped { pools: stopped });
    }
    if !stuck.is_empty() {
        return Err(RebalanceError::Stuck { pools: stuck });
    }
    Ok(())
}

/// All pools and gateways together.
fn sum(balances: &[Balance]) -> Balance {
    let mut sum = Balance {
        pool: String::new(),
        rate: 0,
        skew: 1.0,
        running: false,
        moved: 0,
        under_way: 0,
        left: 0,
        refused: BTreeMap::new(),
        eta_seconds: None,
        last: None,
        streamers: Vec::new(),
    };
    for balance in balances {
        sum.running |= balance.running;
        sum.skew = sum.skew.max(balance.skew);
        sum.moved += balance.moved;
        sum.under_way += balance.under_way;
        sum.left += balance.left;
        sum.rate += if balance.running { balance.rate } else { 0 };
        sum.eta_seconds = sum.eta_seconds.max(balance.eta_seconds);
        for (reason, count) in &balance.refused {
            *sum.refused.entry(reason.clone()).or_default() += count;
        }
    }
    sum
}

fn describe(balance: &Balance) -> String {
    let Balance {
        moved,
        under_way,
        left,
        rate,
        skew,
        ..
    } = balance;
    let mut text = format!("skew {skew:.2}, {moved} moved, {under_way} under way, {left} left");
    if balance.running {
        text.push_str(&format!(", {rate}/s{}", to_go(balance.eta_seconds)));
    }
    text + &stayed(&balance.refused)
}

/// A line for a pool that is being levelled.
pub(super) fn line(pool: &str, balance: &Balance) -> Option<String> {
    let Balance {
        moved,
        under_way,
        left,
        ..
    } = *balance;
    let bar = bar(moved, moved + under_way + left, 10);
    let text = describe(balance);
    balance
        .running
        .then(|| format!("pool {pool} is being levelled {bar} {text}\n"))
}

fn planned(page: &Page) -> String {
    let head = ["POOL", "STREAMER", "SESSIONS", "GIVES", "GETS"];
    let mut rows = vec![head.map(str::to_owned)];
    let mut notes = String::new();
    for balance in &page.pools {
        let gives: u64 = balance.streamers.iter().map(|share| share.gives).sum();
        let takes = gives.div_ceil(balance.rate.max(1));
        notes.push_str(&match gives {
            0 => format!(
                "pool {}: skew {:.2}, nothing is to be moved\n",
                balance.pool, balance.skew
            ),
            _ => format!(
                "pool {}: skew {:.2}, {gives} sessions would move, {}/s, about {takes} s\n",
                balance.pool, balance.skew, balance.rate
            ),
        });
        rows.extend(balance.streamers.iter().map(|share| {
            [
                balance.pool.clone(),
                share.streamer.clone(),
                share.sessions.to_string(),
                share.gives.to_string(),
                share.gets.to_string(),
            ]
        }));
    }
    table(&rows) + &notes
}

#[cfg(test)]
mod tests {
    use super::{Page, RebalanceError, Screen, Show, describe, finished, line, planned, sum};

    fn page(running: bool, last: &str) -> Page {
        let text = format!(
            r#"{{"pools": [
                {{"pool": "default", "rate": 10, "skew": 1.5, "running": {running}, "moved": 20,
                  "under_way": 2, "left": 58, "refused": {{"livechat": 3}}, "eta_seconds": 6,
                  "last": "{last}",
                  "streamers": [{{"streamer": "a", "sessions": 100, "gives": 30, "gets": 0}},
                                {{"streamer": "b", "sessions": 40, "gives": 0, "gets": 30}}]}},
                {{"pool": "eu", "rate": 10, "skew": 1.0, "running": false, "moved": 0,
                  "under_way": 0, "left": 0, "refused": {{}}, "eta_seconds": null, "last": null,
                  "streamers": []}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_plan_says_who_gives_and_who_gets() {
        assert_eq!(
            planned(&page(false, "balanced")),
            "POOL     STREAMER  SESSIONS  GIVES  GETS\n\
             default  a         100       30     0\n\
             default  b         40        0      30\n\
             pool default: skew 1.50, 30 sessions would move, 10/s, about 3 s\n\
             pool eu: skew 1.00, nothing is to be moved\n"
        );
    }

    #[test]
    fn progress_of_all_pools_together() {
        let balances = page(true, "balanced").pools;
        let text = "skew 1.50, 20 moved, 2 under way, 58 left, 10/s, about 6 s to go; not to be \
                    moved: 3 livechat";
        assert_eq!(describe(&sum(&balances)), text);
        let line_of = |at: usize| line(&balances[at].pool, &balances[at]);
        let expected = format!("pool default is being levelled [##........] {text}\n");
        assert_eq!(line_of(0), Some(expected));
        assert_eq!(line_of(1), None);
    }

    #[test]
    fn only_level_streamers_are_a_success() {
        let end = |last: &str| {
            let mut out = Vec::new();
            let mut show = Show::new("levelling", Screen::Lines, &mut out);
            let ended = finished(&page(false, last).pools, &mut show);
            (ended, String::from_utf8(out).unwrap())
        };
        let (ended, said) = end("balanced");
        assert!(ended.is_ok());
        assert_eq!(said, "levelling has ended, skew 1.50\n");
        assert!(
            matches!(end("stuck").0, Err(RebalanceError::Stuck { pools }) if pools == "pool default")
        );
        assert!(matches!(
            end("stopped").0,
            Err(RebalanceError::Stopped { .. })
        ));
    }
}
