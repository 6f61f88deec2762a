//! Rounds of all that makes a gateway take memory and give it back.

use std::{
    cell::Cell,
    fs,
    future::pending,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;
use tokio::time::{sleep, sleep_until};

use crate::{
    admin::{Gauges, ask},
    people::person,
    record::{Measure, Record},
    run::{Moment, Onlooker, Order},
    scenario::{Churn, Drain},
    schedule::Schedule,
    trend::Figure,
    units::Time,
    users::{Crowd, Standing, Target},
    watch::{Seen, Until, Watch},
};

/// Why there are no more rounds.
enum Stop {
    Interrupted,
    Fault(String),
}

impl Order {
    /// Rounds until the time is over and there were enough; the one that is under way ends.
    pub(crate) async fn churn(
        &self,
        churn: &Churn,
        target: &Arc<Target>,
        watch: &mut Watch,
        onlooker: &mut dyn Onlooker,
    ) -> Until {
        let Some(admin) = self.admin else {
            let what = "no admin listener to ask for the memory".to_owned();
            watch.record.error(what, 1);
            return Until::Done;
        };
        let (mut crowd, entered) = self.enter(target, watch).await;
        if entered != Until::Done {
            return entered;
        }
        onlooker.look(Moment::Begins, &watch.record);
        let end = Instant::now() + self.scenario.duration.0;
        let mut visits = Visits {
            order: self,
            churn,
            target,
            came: 0,
        };
        let mut rounds = 0;
        let outcome = loop {
            if let Err(stop) = visits.round(&mut crowd, admin, watch).await {
                break stop;
            }
            rounds += 1;
            if rounds >= churn.rounds && Instant::now() >= end {
                onlooker.look(Moment::Ended, &watch.record);
                return Until::Done;
            }
        };
        onlooker.look(Moment::Ended, &watch.record);
        match outcome {
            Stop::Interrupted => Until::Interrupted,
            Stop::Fault(fault) => {
                watch.record.error(fault, 1);
                Until::Done
            }
        }
    }
}

struct Visits<'a> {
    order: &'a Order,
    churn: &'a Churn,
    target: &'a Arc<Target>,
    came: u32,
}

impl Visits<'_> {
    async fn round(
        &mut self,
        crowd: &mut Crowd,
        admin: SocketAddr,
        watch: &mut Watch,
    ) -> Result<(), Stop> {
        let board = crowd.board().clone();
        let seen = Seen::Users(&board);
        let users = self.order.scenario.users;
        let patience = self.order.scenario.patience.0;

        during(self.visits(crowd), watch, seen, "visits").await?;

        if self.churn.storm {
            let all = u64::from(users);
            let cut = watch.record.count("cut") + all;
            let back = watch.record.measured(Measure::Back) + all;
            board.cut();
            let is_over = |record: &Record| {
                record.count("cut") >= cut
                    && record.measured(Measure::Back) >= back
                    && board.count(Standing::Settled) == users as usize
            };
            let deadline = Instant::now() + patience;
            let ended = watch.until(seen, "storm", deadline, is_over).await;
            go_on(ended, || format!("not everybody is back: {board}"))?;
        }

        let config = self.order.config.as_deref();
        let reloads = async {
            if let Some(config) = config {
                change(config)?;
            }
            ask(admin, Method::POST, "/reload").await.map(|_| ())
        };
        let reloaded = during(reloads, watch, seen, "reload").await?;
        reloaded.map_err(Stop::Fault)?;

        if self.churn.drains > 0 {
            let drain = Drain {
                streamers: self.churn.drains,
                rate: None,
                after: Time(Duration::from_millis(1)),
            };
            let drained = during(drain.run(admin), watch, seen, "drain").await?;
            watch.record.add(drained.sample(), "drain", seen.settled());
        }

        let least = during(self.rest(admin), watch, seen, "rest").await?;
        let least = least.map_err(Stop::Fault)?;
        let at = watch.record.began.elapsed();
        for (figure, value) in [
            (Figure::Heap, least.heap_bytes),
            (Figure::Resident, least.resident_bytes),
            (Figure::Descriptors, least.descriptors),
        ] {
            let trend = watch.record.trends.entry(figure).or_default();
            trend.look(at, value);
        }
        if let Some(Time(pause)) = self.churn.pause {
            let ended = watch.until(seen, "pause", Instant::now() + pause, |_| false);
            if ended.await == Until::Interrupted {
                return Err(Stop::Interrupted);
            }
        }
        Ok(())
    }

    /// The same people each round: who is new each time may be remembered for a while.
    async fn visits(&mut self, crowd: &mut Crowd) {
        let users = self.order.scenario.users;
        let mut schedule = Schedule::share(Instant::now(), self.churn.visit_rate.0, 0, 1);
        for n in 0..self.churn.visits {
            sleep_until(schedule.due().into()).await;
            let person = person(&self.order.scenario, &self.order.accounts, users + n);
            crowd.visit(self.target, person, schedule.due(), u64::from(self.came));
            self.came = self.came.wrapping_add(1);
            schedule.advance();
        }
        // A visit is given up by itself.
        while crowd.visiting() > users as usize {
            sleep(LOOK).await;
        }
    }

    /// The least that is seen while nothing happens.
    async fn rest(&self, admin: SocketAddr) -> Result<Gauges, String> {
        let users = f64::from(self.order.scenario.users);
        let deadline = Instant::now() + QUIET_LIMIT;
        loop {
            let seen = Gauges::read(admin).await?;
            if seen.sessions <= users {
                break;
            }
            if Instant::now() >= deadline {
                let sessions = seen.sessions;
                return Err(format!("{sessions} sessions are left of {users} users"));
            }
            sleep(LOOK).await;
        }
        let end = Instant::now() + self.churn.rest.0;
        let mut least = Gauges::read(admin).await?;
        while Instant::now() < end {
            sleep(LOOK).await;
            least = least.least(Gauges::read(admin).await?);
        }
        Ok(least)
    }
}

/// Does something while the users are looked at.
async fn during<T>(
    work: impl Future<Output = T>,
    watch: &mut Watch,
    seen: Seen<'_>,
    phase: &'static str,
) -> Result<T, Stop> {
    let done = Cell::new(None);
    let is_done = Cell::new(false);
    let work = async {
        done.set(Some(work.await));
        is_done.set(true);
        pending::<()>().await;
    };
    let deadline = Instant::now() + STEP_LIMIT;
    let ended = tokio::select! {
        ended = watch.until(seen, phase, deadline, |_| is_done.get()) => ended,
        () = work => Until::Done,
    };
    go_on(ended, || format!("{phase} does not end"))?;
    done.take()
        .ok_or_else(|| Stop::Fault(format!("{phase} has no end")))
}

fn go_on(ended: Until, late: impl FnOnce() -> String) -> Result<(), Stop> {
    match ended {
        Until::Done => Ok(()),
        Until::Late => Err(Stop::Fault(late())),
        Until::Interrupted => Err(Stop::Interrupted),
    }
}

/// Another value of a key, so that there is something to load.
fn change(config: &Path) -> Result<(), String> {
    let wrong = |error| format!("{}: {error}", config.display());
    let text = fs::read_to_string(config).map_err(wrong)?;
    let [one, other] = CHANGED;
    let text = match text.contains(one) {
        true => text.replace(one, other),
        false => text.replace(other, one),
    };
    // As a whole: the gateway watches the file.
    let part = config.with_extension("part");
    fs::write(&part, text).map_err(wrong)?;
    fs::rename(&part, config).map_err(wrong)
}

/// In the files of the gateways that are started here.
const CHANGED: [&str; 2] = ["request_timeout = \"3600s\"", "request_timeout = \"3601s\""];
const LOOK: Duration = Duration::from_millis(20);
/// What a client left behind may be kept for a while.
const QUIET_LIMIT: Duration = Duration::from_secs(60);
const STEP_LIMIT: Duration = Duration::from_secs(600);
