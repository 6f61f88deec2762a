//! Streamers that are emptied one after the other while there is load, through the admin listener of
//! the gateway.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use http::Method;
use serde_json::Value;
use tokio::time::sleep;

use crate::{
    admin::ask,
    record::{Measure, Sample},
    scenario::Drain,
    users::Spread,
};

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Drained {
    took: Spread,
    moved: u64,
    closed: u64,
    fault: Option<String>,
}

impl Drained {
    pub(crate) fn sample(self) -> Sample {
        let Self {
            took,
            moved,
            closed,
            fault,
        } = self;
        Sample {
            spreads: vec![(Measure::Drain, took)],
            counts: vec![("moved", moved), ("closed_by_drain", closed)],
            errors: fault.into_iter().map(|fault| (fault, 1)).collect(),
            examples: Vec::new(),
        }
    }
}

impl Drain {
    /// Empties the fullest streamer and takes it back, so many times. It ends with the first fault.
    pub(crate) async fn run(&self, admin: SocketAddr) -> Drained {
        let mut drained = Drained::default();
        sleep(self.after.0).await;
        for _ in 0..self.streamers {
            if let Err(fault) = self.one(admin, &mut drained).await {
                drained.fault = Some(fault);
                break;
            }
        }
        drained
    }

    async fn one(&self, admin: SocketAddr, drained: &mut Drained) -> Result<(), String> {
        let page = ask(admin, Method::GET, "/streamers").await?;
        let id = fullest(&page).ok_or("the gateway has no streamer that could be drained")?;
        let rate = self
            .rate
            .map_or_else(String::new, |rate| format!("&rate={:.0}", rate.0.max(1.0)));
        let began = Instant::now();
        ask(
            admin,
            Method::POST,
            &format!("/streamers/drain?streamer={id}{rate}"),
        )
        .await?;
        let page = format!("/streamers/drain?streamer={id}");
        let last = loop {
            let page = ask(admin, Method::GET, &page).await?;
            let row = page["streamers"][0].clone();
            // The last ones have left before it is known what became of them.
            match row["left"].as_u64() {
                Some(0) if row["under_way"] == 0 => break row,
                Some(_) if began.elapsed() < LIMIT => sleep(LOOK).await,
                Some(left) => {
                    return Err(format!("streamer not empty after 60 s, {left} are left"));
                }
                None => return Err("the gateway does not say how a drain goes".to_owned()),
            }
        };
        drained.took.record(began.elapsed());
        drained.moved += last["moved"].as_u64().unwrap_or(0);
        drained.closed += last["closed"].as_u64().unwrap_or(0);
        ask(
            admin,
            Method::POST,
            &format!("/streamers/undrain?streamer={id}"),
        )
        .await?;
        Ok(())
    }
}

/// The id of the one with the most sessions.
fn fullest(page: &Value) -> Option<String> {
    let pools = page["pools"].as_array()?.iter();
    let rows = pools
        .filter_map(|pool| pool["streamers"].as_array())
        .flatten();
    let fullest = rows.max_by_key(|row| row["sessions"].as_u64())?;
    fullest["id"].as_str().map(str::to_owned)
}

const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::fullest;

    #[test]
    fn the_fullest_streamer_of_all_pools_goes_first() {
        let row = |id: &str, sessions: u64| json!({ "id": id, "sessions": sessions });
        let page = json!({ "pools": [
            { "streamers": [row("a", 3), row("b", 7)] },
            { "streamers": [row("c", 5)] },
        ]});
        assert_eq!(fullest(&page).as_deref(), Some("b"));
        assert_eq!(fullest(&json!({ "pools": [] })), None);
    }
}
