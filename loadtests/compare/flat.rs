//! What a connection costs while few or many others stand.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
    thread::available_parallelism,
    time::{Duration, Instant, SystemTime},
};

use ddp_gateway::telemetry::process;
use tokio::time::sleep;

use crate::{
    machine::{Machine, Program},
    people::Accounts,
    record::{Measure, Record},
    run::{Moment, Onlooker, Order},
    scenario::Scenario,
    stop::Stop,
    users::Target,
};

use super::{
    bench::default_home,
    certificate::Certificate,
    fleet::{Fleet, Size, Spent},
    levels::{Figures, Levels},
    peer::Peer,
    standing::{Crew, Door},
};

/// What is asked for.
#[derive(Debug)]
pub(crate) struct FlatWish {
    /// Connections that stand, from few to many.
    pub(crate) standing: Vec<u32>,
    pub(crate) rounds: u32,
    pub(crate) is_quick: bool,
    pub(crate) is_tls: bool,
    pub(crate) home: Option<PathBuf>,
    pub(crate) gateway: Option<PathBuf>,
}

pub(crate) struct Flat {
    wish: FlatWish,
    program: PathBuf,
    home: PathBuf,
    size: Size,
    pace: Pace,
}

/// How long is looked, and at how much.
#[derive(Clone, Copy)]
struct Pace {
    windows: u32,
    window: Duration,
    /// Visits in a second.
    rate: u32,
    /// Of those who stay, in a second.
    ramp: u32,
    /// Until what has come is at rest.
    rest: Duration,
}

impl Flat {
    /// # Errors
    /// What is wrong with the wish, or missing.
    pub(crate) fn prepare(wish: FlatWish) -> Result<Self, String> {
        if !wish.standing.is_sorted_by(|a, b| a < b)
            || wish.standing.first().is_none_or(|n| *n == 0)
        {
            return Err("--standing wants numbers above 0 that rise, as 1000,50000".to_owned());
        }
        let home = match &wish.home {
            Some(home) => home.clone(),
            None => default_home()?,
        };
        fs::create_dir_all(&home)
            .map_err(|error| format!("{} cannot be made: {error}", home.display()))?;
        let home = home.canonicalize().unwrap_or(home);
        let program = Peer::Gateway.find(&home, wish.gateway.as_deref());
        let program =
            program.ok_or("the program of the gateway is not there: --gateway names it")?;
        let program = program.canonicalize().unwrap_or(program);
        let files = process::raise_descriptor_limit().min(MOST_FILES);
        let most = u64::from(wish.standing.last().copied().unwrap_or(0));
        let processes =
            |each: u64| usize::try_from(most.div_ceil(each.max(1))).unwrap_or(usize::MAX);
        let size = Size {
            // Two for each connection; the system spreads them not quite evenly, and they keep some.
            // At least two of them, so that a port is shared whatever the number is.
            gateways: processes(files * 2 / 5).max(2),
            servers: processes(files * 3 / 4),
            threads: available_parallelism().map_or(1, usize::from),
            files,
        };
        Ok(Self {
            pace: if wish.is_quick { QUICK } else { PACE },
            wish,
            program,
            home,
            size,
        })
    }

    /// # Errors
    /// Why there are no figures. What went wrong in between is in them.
    pub(crate) async fn run(self) -> Result<Levels, String> {
        let folder = self.home.join(format!("flat-{}", std::process::id()));
        let wrong = |error| format!("{}: {error}", folder.display());
        fs::create_dir_all(&folder).map_err(wrong)?;
        let mut levels = Levels {
            program: Program::this(),
            machine: Machine::here(),
            version: Peer::Gateway.version(&self.program),
            began: SystemTime::now(),
            gateways: self.size.gateways,
            servers: self.size.servers,
            rounds: self.wish.rounds,
            is_quick: self.wish.is_quick,
            is_tls: self.wish.is_tls,
            levels: Vec::new(),
            faults: Vec::new(),
        };
        let wrong = |error| format!("the system takes no signal handler: {error}");
        let mut stop = Stop::listen().map_err(wrong)?;
        for round in 1..=self.wish.rounds {
            // A round that is dropped takes its processes with it.
            let ended = tokio::select! {
                biased;
                () = stop.asked() => Err("interrupted".to_owned()),
                ended = Box::pin(self.round(round, &folder, &mut levels)) => ended,
            };
            if let Err(fault) = ended {
                levels.faults.push(format!("round {round}: {fault}"));
                break;
            }
        }
        let _ = fs::remove_dir_all(&folder);
        Ok(levels)
    }

    /// From nobody to the largest number.
    async fn round(&self, round: u32, folder: &Path, levels: &mut Levels) -> Result<(), String> {
        let certificate = Certificate::make()?;
        let trusted = folder.join("trusted.pem");
        fs::write(&trusted, &certificate.certificate).map_err(|error| error.to_string())?;
        let fleet = Fleet::start(&self.program, folder, &certificate, self.size).await?;
        let mut crews = Vec::new();
        let ended = Box::pin(self.levels(round, &fleet, &trusted, &mut crews, levels)).await;
        let ended = ended.map_err(|fault| match fleet.last_words() {
            words if words.is_empty() => fault,
            words => format!("{fault}; the gateways say: {words}"),
        });
        for crew in crews {
            crew.stop().await;
        }
        fleet.stop().await;
        ended
    }

    async fn levels(
        &self,
        round: u32,
        fleet: &Fleet,
        trusted: &Path,
        crews: &mut Vec<Crew>,
        levels: &mut Levels,
    ) -> Result<(), String> {
        let address = fleet.address(self.wish.is_tls);
        let door = Door {
            address: address.ok_or("there is no gateway")?,
            ca: self.wish.is_tls.then(|| trusted.to_owned()),
        };
        let visitors = Arc::new(door.target(vec![IpAddr::from(Ipv4Addr::LOCALHOST)])?);
        // What a process does for the first time is not measured.
        self.visits(fleet, &visitors, self.pace.window).await?;
        sleep(self.pace.rest).await;
        let empty = Rest::look(fleet, self.pace.window).await?;
        let mut here = 0;
        for wanted in &self.wish.standing {
            here = self.fill(&door, crews, here, *wanted).await?;
            sleep(self.pace.rest).await;
            // Before visits leave anything behind: who was where is remembered for a while.
            let filled = Rest::look(fleet, Duration::ZERO).await?;
            let mut before = Rest::look(fleet, self.pace.window).await?;
            for _ in 0..self.pace.windows {
                before.has(here)?;
                let visits = self.visits(fleet, &visitors, self.pace.window).await?;
                sleep(self.pace.rest).await;
                let after = Rest::look(fleet, self.pace.window).await?;
                let quiet = f64::midpoint(before.share, after.share);
                let figures = figures(&empty, &filled, quiet, &visits, here);
                eprintln!("{round}/{} {here} standing: {figures}", self.wish.rounds);
                levels.add(here, figures);
                before = after;
            }
            // Nobody was lost meanwhile, who would have come back at the cost of the others.
            before.has(here)?;
        }
        Ok(())
    }

    /// Lets users in until there are so many.
    async fn fill(
        &self,
        door: &Door,
        crews: &mut Vec<Crew>,
        mut here: u32,
        wanted: u32,
    ) -> Result<u32, String> {
        let each = u32::try_from(self.size.files * 3 / 4).unwrap_or(u32::MAX);
        while here < wanted {
            let users = (wanted - here).min(each);
            let nth = u8::try_from(crews.len()).map_err(|_| "too many users")?;
            crews.push(Crew::start(nth, door, here, users, self.pace.ramp).await?);
            here += users;
        }
        Ok(here)
    }

    async fn visits(
        &self,
        fleet: &Fleet,
        target: &Arc<Target>,
        time: Duration,
    ) -> Result<Visits, String> {
        let text = format!(
            "users = 500\nduration = \"{}ms\"\nclients = {{ sdk = 1 }}\nsubscriptions = 0\n\
             login = false\nconnect_rate = {{ rate = \"{}/s\" }}\n",
            time.as_millis(),
            self.pace.rate
        );
        let mut scenario: Scenario = toml::from_str(&text).map_err(|error| error.to_string())?;
        scenario.name = "visits".to_owned();
        let load = scenario.check()?;
        let order = Order {
            scenario,
            load,
            target: target.clone(),
            url: "gateway".to_owned(),
            is_quiet: true,
            accounts: Accounts::Demo,
            admin: None,
            config: None,
            started: None,
        };
        let mut reader = Reader {
            fleet,
            begun: None,
            visits: None,
        };
        let report = order.run(&mut reader).await?;
        let errors = &report.record.errors;
        if !errors.is_empty() {
            return Err(format!("visits failed: {errors:?}"));
        }
        if report.is_interrupted {
            return Err("interrupted".to_owned());
        }
        let mut visits = reader.visits.ok_or("nobody came")?;
        let spread = report.record.totals.get(&Measure::Visit);
        visits.middle = spread.map(|spread| spread.at(0.5));
        Ok(visits)
    }
}

/// A look while nobody comes.
struct Rest {
    /// Time of processors in a second of the clock, all gateways together.
    share: f64,
    memory: Option<u64>,
    heap: f64,
    sessions: f64,
}

impl Rest {
    async fn look(fleet: &Fleet, time: Duration) -> Result<Self, String> {
        let (start, before) = (Instant::now(), fleet.spent());
        sleep(time).await;
        let spent = before.until(&fleet.spent());
        let share = spent.as_secs_f64() / start.elapsed().as_secs_f64().max(1e-3);
        let memory = fleet.memory();
        let gauges = fleet.gauges().await?;
        Ok(Self {
            share,
            memory,
            heap: gauges.iter().map(|one| one.heap_bytes).sum(),
            sessions: gauges.iter().map(|one| one.sessions).sum(),
        })
    }

    fn has(&self, standing: u32) -> Result<(), String> {
        match self.sessions >= f64::from(standing) {
            true => Ok(()),
            false => Err(format!(
                "of {standing} users only {} are still there",
                self.sessions
            )),
        }
    }
}

/// What came of a window.
#[derive(Clone, Copy, Debug)]
struct Visits {
    count: u64,
    took: Duration,
    spent: Duration,
    middle: Option<Duration>,
}

struct Reader<'a> {
    fleet: &'a Fleet,
    begun: Option<(Instant, Spent, u64)>,
    visits: Option<Visits>,
}

impl Onlooker for Reader<'_> {
    fn look(&mut self, moment: Moment, record: &Record) {
        let count = record.measured(Measure::Visit);
        match (moment, &self.begun) {
            (Moment::Begins, _) => self.begun = Some((Instant::now(), self.fleet.spent(), count)),
            (Moment::Ended, Some((start, before, earlier))) => {
                self.visits = Some(Visits {
                    count: count.saturating_sub(*earlier),
                    took: start.elapsed(),
                    spent: before.until(&self.fleet.spent()),
                    middle: None,
                });
            }
            (Moment::Ended, None) => {}
        }
    }
}

/// `quiet`: time of processors in a second, before and after the visits.
fn figures(empty: &Rest, filled: &Rest, quiet: f64, visits: &Visits, standing: u32) -> Figures {
    let standing = f64::from(standing);
    // What those who stand cost goes on while others come.
    let standing_share = quiet * visits.took.as_secs_f64();
    let each = (visits.spent.as_secs_f64() - standing_share) / number(visits.count.max(1));
    let memory = empty.memory.zip(filled.memory);
    Figures {
        visit: each * 1e6,
        standing: (quiet - empty.share) / standing * 1e6,
        memory: memory.map_or(f64::NAN, |(empty, now)| {
            (number(now) - number(empty)) / standing / 1024.0
        }),
        heap: (filled.heap - empty.heap) / standing / 1024.0,
        middle: visits
            .middle
            .map_or(f64::NAN, |took| took.as_secs_f64() * 1e6),
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn number(count: u64) -> f64 {
    count as f64
}

const PACE: Pace = Pace {
    windows: 4,
    window: Duration::from_secs(4),
    rate: 400,
    ramp: 1000,
    rest: Duration::from_secs(2),
};
const QUICK: Pace = Pace {
    windows: 1,
    window: Duration::from_millis(500),
    rate: 60,
    ramp: 200,
    rest: Duration::from_millis(200),
};
/// Where the system allows a million, one process would have all; several is what is looked at.
const MOST_FILES: u64 = 20_000;
