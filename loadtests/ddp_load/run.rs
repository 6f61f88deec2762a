//! A run: everybody in, load, and what is still under way.

use std::{
    cell::Cell,
    future::pending,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use ddp_gateway::telemetry::process;
use tokio::time::{sleep, sleep_until};

use crate::{
    machine::{Machine, Program, processor_time},
    people::{Accounts, people, person},
    record::{Measure, Record},
    report::{Cost, Report},
    requests::{Requests, Window},
    scenario::{Drain, Http, Load, Scenario},
    schedule::Schedule,
    users::{Board, Crowd, Pulse, Standing, Target},
    watch::{Seen, Until, Watch},
};

/// What is to be done.
pub(crate) struct Order {
    pub(crate) scenario: Scenario,
    pub(crate) load: Load,
    pub(crate) target: Arc<Target>,
    /// What the report calls the target.
    pub(crate) url: String,
    /// Nothing is shown while it runs.
    pub(crate) is_quiet: bool,
    pub(crate) accounts: Accounts,
    /// Of the gateway, where the scenario drains.
    pub(crate) admin: Option<SocketAddr>,
    /// Of a gateway that was started here.
    pub(crate) config: Option<PathBuf>,
    /// The process of the gateway, if it was started here.
    pub(crate) started: Option<u32>,
}

/// Between users who come in and users who have rested, there is load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Begins,
    Ended,
}

/// Somebody who wants to know when there is load, and what was measured until then.
pub(crate) trait Onlooker {
    fn look(&mut self, moment: Moment, record: &Record);
}

/// Nobody.
impl Onlooker for () {
    fn look(&mut self, _moment: Moment, _record: &Record) {}
}

impl Order {
    /// # Errors
    /// Why it cannot begin. What goes wrong later is in the report.
    pub(crate) async fn run(&self, onlooker: &mut dyn Onlooker) -> Result<Report, String> {
        let target = &self.target;
        self.is_possible(target)?;
        let duration = self.scenario.duration.0;
        let mut watch = Watch::start(duration, self.is_quiet)
            .map_err(|error| format!("the system takes no signal handler: {error}"))?;
        let began = SystemTime::now();
        let pulse = Pulse::start();
        let used = processor_time("self");
        let used_there = || self.started.and_then(|id| processor_time(&id.to_string()));
        let before = used_there();
        let ended = Box::pin(self.execute(&mut watch, onlooker)).await;
        watch.end_line();
        let spent = |before: Option<Duration>, now: Option<Duration>| {
            Some((now? - before?.min(now?)).as_secs_f64())
        };
        Ok(Report {
            program: Program::this(),
            machine: Machine::here(),
            scenario: self.scenario.clone(),
            target: self.url.clone(),
            is_embedded: self.started.is_some(),
            handshakes: target.tls.as_ref().map(|tls| tls.handshakes()),
            began,
            is_interrupted: ended == Until::Interrupted,
            late: pulse.take(),
            cost: Cost {
                load: spent(used, processor_time("self")),
                embedded: spent(before, used_there()),
            },
            record: watch.record,
        })
    }

    async fn execute(&self, watch: &mut Watch, onlooker: &mut dyn Onlooker) -> Until {
        let target = &self.target;
        match &self.load {
            Load::Http(http) => self.requests(http, target, watch, onlooker).await,
            Load::ConnectRate(rate) => self.visits(rate.rate.0, target, watch, onlooker).await,
            Load::Churn(churn) => Box::pin(self.churn(churn, target, watch, onlooker)).await,
            Load::Idle | Load::Chat(_) | Load::FanOut(_) | Load::Calls(_) | Load::Storm => {
                self.crowd(target, watch, onlooker).await
            }
        }
    }

    /// Files that have to be open at the same time, and ports to come from.
    fn is_possible(&self, target: &Target) -> Result<(), String> {
        let connections = match &self.load {
            Load::Http(http) => u64::from(http.connections),
            _ => u64::from(self.scenario.users),
        };
        // A web client asks for /info on a connection of its own.
        let files = connections + connections / 10 + RESERVE;
        let limit = process::raise_descriptor_limit();
        if files > limit {
            return Err(format!(
                "{connections} connections need {files} open files, and {limit} are allowed: raise \
                 the limit (ulimit -Hn, LimitNOFILE), or take --users {} at most",
                limit.saturating_sub(RESERVE) * 10 / 11
            ));
        }
        let sources = target.sources.len().max(1) as u64;
        let ports = sources * target.addresses.len() as u64 * PORTS;
        if connections > ports {
            return Err(format!(
                "{connections} connections need more ports than the {PORTS} that one address has: \
                 take {} source addresses with --from",
                connections.div_ceil(target.addresses.len() as u64 * PORTS)
            ));
        }
        Ok(())
    }

    /// Lets everybody in who stays. [`Until::Done`] says that they are all in.
    pub(crate) async fn enter(&self, target: &Arc<Target>, watch: &mut Watch) -> (Crowd, Until) {
        let Scenario {
            users,
            ramp,
            patience,
            ..
        } = self.scenario;
        let spread = Duration::from_secs_f64(f64::from(users) / ramp.0);
        let run = rand::random();
        let people = people(&self.scenario, &self.load, &self.accounts, run);
        let crowd = Crowd::start((**target).clone(), people, spread, run);
        let board = crowd.board().clone();
        let all_in = || board.count(Standing::Settled) == users as usize;
        let deadline = Instant::now() + spread + patience.0;
        // Where nobody gets in, nobody has to be waited for.
        let is_hopeless = |errors| errors > 2 * u64::from(users) && nobody_is_in(&board);
        let ramp = watch.until(Seen::Users(&board), "ramp", deadline, |record| {
            all_in() || is_hopeless(record.all_errors())
        });
        let ended = match ramp.await {
            Until::Done if !all_in() => Until::Late,
            ended => ended,
        };
        if ended == Until::Late {
            self.count_missing(&board, watch);
        }
        (crowd, ended)
    }

    fn count_missing(&self, board: &Board, watch: &mut Watch) {
        let here = board.count(Standing::Settled) as u64;
        let missing = u64::from(self.scenario.users).saturating_sub(here);
        watch.record.error("user who is not in".to_owned(), missing);
    }

    /// Users who stay.
    async fn crowd(
        &self,
        target: &Arc<Target>,
        watch: &mut Watch,
        onlooker: &mut dyn Onlooker,
    ) -> Until {
        let Scenario {
            users, duration, ..
        } = self.scenario;
        let (crowd, mut ended) = self.enter(target, watch).await;
        if ended != Until::Done {
            return ended;
        }
        let board = crowd.board().clone();
        let seen = Seen::Users(&board);
        let all_in = || board.count(Standing::Settled) == users as usize;
        onlooker.look(Moment::Begins, &watch.record);
        board.set_busy(true);
        let end = Instant::now() + duration.0;
        ended = match &self.load {
            Load::Storm => {
                let before = watch.record.measured(Measure::Back);
                board.cut();
                let back = u64::from(users);
                let until = watch.until(seen, "storm", end, |record| {
                    record.count("cut") >= back
                        && record.measured(Measure::Back) - before >= back
                        && all_in()
                });
                until.await
            }
            _ => match (&self.scenario.drain, self.admin) {
                (Some(drain), Some(admin)) => self.drains(drain, admin, seen, end, watch).await,
                _ => watch.until(seen, "load", end, |_| false).await,
            },
        };
        board.set_busy(false);
        onlooker.look(Moment::Ended, &watch.record);
        if ended == Until::Interrupted {
            return ended;
        }
        self.count_missing(&board, watch);
        if let Load::Chat(_) | Load::FanOut(_) | Load::Calls(_) = self.load {
            ended = self.rest(seen, watch).await;
        }
        ended
    }

    /// The load goes on until all streamers have had their turn.
    async fn drains(
        &self,
        drain: &Drain,
        admin: SocketAddr,
        seen: Seen<'_>,
        end: Instant,
        watch: &mut Watch,
    ) -> Until {
        let drained = Cell::new(None);
        let is_done = Cell::new(false);
        let drains = async {
            drained.set(Some(drain.run(admin).await));
            is_done.set(true);
            pending::<()>().await;
        };
        let deadline = end + DRAINS * drain.streamers;
        let is_over = |_: &Record| is_done.get() && Instant::now() >= end;
        let ended = tokio::select! {
            ended = watch.until(seen, "load", deadline, is_over) => ended,
            () = drains => Until::Done,
        };
        match drained.take() {
            Some(drained) => watch.record.add(drained.sample(), "load", seen.settled()),
            None => watch.record.error("drain that did not end".to_owned(), 1),
        }
        match ended {
            Until::Late => Until::Done,
            ended => ended,
        }
    }

    /// What was said has to be answered and heard.
    async fn rest(&self, seen: Seen<'_>, watch: &mut Watch) -> Until {
        let deadline = Instant::now() + REST;
        let ended = watch.until(seen, "rest", deadline, |record| {
            let known = ["results", "failed_calls", "abandoned_calls"];
            let known: u64 = known.iter().map(|name| record.count(name)).sum();
            record.count("calls") <= known && record.count("owed") <= record.count("deliveries")
        });
        let ended = ended.await;
        let record = &mut watch.record;
        let known = ["results", "failed_calls", "abandoned_calls"];
        let known: u64 = known.iter().map(|name| record.count(name)).sum();
        let unanswered = record.count("calls").saturating_sub(known);
        record.error("call without an answer".to_owned(), unanswered);
        let (owed, heard) = (record.count("owed"), record.count("deliveries"));
        record.error(
            "message not delivered".to_owned(),
            owed.saturating_sub(heard),
        );
        if unanswered + record.count("abandoned_calls") == 0 {
            let again = heard.saturating_sub(owed);
            record.error("message delivered twice".to_owned(), again);
        }
        ended
    }

    /// Users who come, look and leave.
    async fn visits(
        &self,
        rate: f64,
        target: &Arc<Target>,
        watch: &mut Watch,
        onlooker: &mut dyn Onlooker,
    ) -> Until {
        let users = self.scenario.users;
        let nobody = Vec::new();
        let mut crowd = Crowd::start((**target).clone(), nobody, Duration::ZERO, 0);
        let board = crowd.board().clone();
        onlooker.look(Moment::Begins, &watch.record);
        let start = Instant::now();
        let end = start + self.scenario.duration.0;
        let deadline = end + VISITS;
        let unsent = Cell::new(None);
        let come = async {
            let mut schedule = Schedule::share(start, rate, 0, 1);
            for n in 0_u32.. {
                let meant = schedule.due();
                if meant >= end {
                    break;
                }
                unsent.set(Some(schedule.left(end)));
                sleep_until(meant.into()).await;
                while crowd.visiting() >= users as usize {
                    sleep(LOOK).await;
                }
                let person = person(&self.scenario, &self.accounts, n % users.max(1));
                crowd.visit(target, person, meant, u64::from(n));
                schedule.advance();
            }
            while crowd.visiting() > 0 {
                sleep(LOOK).await;
            }
            unsent.set(Some(0));
            pending::<()>().await;
        };
        let seen = Seen::Users(&board);
        let ended = tokio::select! {
            ended = watch.until(seen, "load", deadline, |_| unsent.get() == Some(0)) => ended,
            () = come => Until::Done,
        };
        if ended == Until::Late {
            let left = unsent.get().unwrap_or(0).max(1);
            let what = "visit that did not end, or begin, in time";
            watch.record.error(what.to_owned(), left);
        }
        onlooker.look(Moment::Ended, &watch.record);
        ended
    }

    async fn requests(
        &self,
        http: &Http,
        target: &Arc<Target>,
        watch: &mut Watch,
        onlooker: &mut dyn Onlooker,
    ) -> Until {
        let Scenario {
            ramp,
            patience,
            duration,
            ..
        } = self.scenario;
        // Connections cost no login; they come ten times as fast.
        let ramp = ramp.0 * 10.0;
        let all = http.connections;
        let requests = Requests::open(http, target, ramp);
        let seen = Seen::Requests(&requests);
        let spread = Duration::from_secs_f64(f64::from(all) / ramp);
        let deadline = Instant::now() + spread + patience.0;
        let mut ended = watch
            .until(seen, "ramp", deadline, |record| {
                requests.connections() == all as usize || record.all_errors() >= u64::from(all)
            })
            .await;
        if ended != Until::Interrupted && requests.connections() > 0 {
            onlooker.look(Moment::Begins, &watch.record);
            let start = Instant::now();
            let end = start + duration.0;
            let deadline = end + REST;
            requests.begin(Window {
                start,
                end,
                deadline,
            });
            let done = |_: &_| requests.are_done();
            ended = watch.until(seen, "load", deadline + LAST, done).await;
            onlooker.look(Moment::Ended, &watch.record);
        }
        ended
    }
}

fn nobody_is_in(board: &Board) -> bool {
    let here = [Standing::Connected, Standing::LoggedIn, Standing::Settled];
    here.iter().all(|standing| board.count(*standing) == 0)
}

/// Files that are open besides the connections.
const RESERVE: u64 = 100;
/// Of `net.ipv4.ip_local_port_range`, as it is by default.
const PORTS: u64 = 28_000;
/// For answers and messages that are under way.
const REST: Duration = Duration::from_secs(10);
/// A GET that was sent at the last moment is given up by itself.
const LAST: Duration = Duration::from_secs(31);
/// One that takes longer is given up by itself.
const DRAINS: Duration = Duration::from_secs(65);
/// A visit is given up after 60 s.
const VISITS: Duration = Duration::from_secs(61);
const LOOK: Duration = Duration::from_millis(2);
