//! Everybody has their turn with each load, round after round.

use std::{
    env, fs,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    thread::available_parallelism,
    time::{Duration, SystemTime},
};

use ddp_gateway::telemetry::process;
use tokio::time::sleep;

use crate::{
    embedded::Embedded,
    machine::{Machine, Program},
    people::Accounts,
    record::Measure,
    report::Report,
    run::Order,
    scenario::{Load, Scenario},
    stop::Stop,
    target::{Origin, Reach, Trust},
    users::Target,
};

use super::{
    case::{Act, Case, Operation, Way, What},
    certificate::Certificate,
    gauge::{Gauge, Reading},
    install::install,
    outcome::{Candidate, Outcome},
    peer::Peer,
    proxy::Proxy,
    servers::Servers,
    setting::Setting,
};

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) peers: Vec<Peer>,
    pub(crate) cases: Vec<String>,
    pub(crate) rounds: u32,
    pub(crate) is_quick: bool,
    pub(crate) installs: bool,
    pub(crate) home: Option<PathBuf>,
    pub(crate) gateway: Option<PathBuf>,
}

pub(crate) struct Bench {
    wish: Wish,
    home: PathBuf,
    cases: Vec<Case>,
    candidates: Vec<Candidate>,
    threads: usize,
    files: u64,
}

/// Where one peer is found while it has its turn.
struct Turn<'a> {
    peer: Peer,
    case: &'a Case,
    way: Way,
    proxy: Option<Proxy>,
    servers: &'a Servers,
    trust: Trust,
}

impl Bench {
    /// # Errors
    /// Who is missing, or what there is not.
    pub(crate) fn prepare(wish: Wish) -> Result<Self, String> {
        let home = match &wish.home {
            Some(home) => home.clone(),
            None => default_home()?,
        };
        fs::create_dir_all(&home)
            .map_err(|error| format!("{} cannot be made: {error}", home.display()))?;
        let home = home.canonicalize().unwrap_or(home);
        let known = Case::all()?;
        let names: Vec<&str> = known.iter().map(|case| case.name.as_str()).collect();
        // A whole name is that one only.
        let is_meant = |name: &str, wanted: &str| match names.contains(&wanted) {
            true => name == wanted,
            false => name.starts_with(wanted),
        };
        for wanted in &wish.cases {
            if !names.iter().any(|name| is_meant(name, wanted)) {
                return Err(format!(
                    "no load begins with {wanted}: {}",
                    names.join(", ")
                ));
            }
        }
        let is_wanted = |case: &Case| {
            let mut wanted = wish.cases.iter();
            wish.cases.is_empty() || wanted.any(|wanted| is_meant(&case.name, wanted))
        };
        let cases = known
            .iter()
            .filter(|case| is_wanted(case))
            .cloned()
            .collect();
        let asked = match wish.peers.is_empty() {
            true => Peer::ALL.to_vec(),
            false => wish.peers.clone(),
        };
        let mut candidates = Vec::new();
        for peer in asked {
            if peer == Peer::Direct {
                candidates.push(Candidate::direct());
                continue;
            }
            let gateway = wish.gateway.as_deref();
            let is_named = !wish.peers.is_empty();
            let installs = wish.installs && (is_named || !peer.is_compiled());
            if installs && peer.find(&home, gateway).is_none() {
                install(peer, &home)?;
            }
            match peer.find(&home, gateway) {
                Some(program) => candidates.push(Candidate::new(peer, program)),
                None if !is_named => {
                    let name = peer.name();
                    let how = match peer.is_compiled() {
                        true => format!("--install --peers {name}"),
                        false => "--install".to_owned(),
                    };
                    eprintln!("{name} is left out: its program is not there ({how})");
                }
                None => {
                    return Err(format!(
                        "the program of {} is not there: --install gets it",
                        peer.name()
                    ));
                }
            }
        }
        Ok(Self {
            home,
            cases,
            candidates,
            threads: available_parallelism().map_or(1, usize::from),
            files: process::raise_descriptor_limit(),
            wish,
        })
    }

    /// # Errors
    /// Why there is no outcome. What one peer cannot do, and what was cut short by Ctrl-C, is in it.
    pub(crate) async fn run(self) -> Result<Outcome, String> {
        let servers: Embedded<Servers> = Embedded::with(&["servers"]).await?;
        let certificate = Certificate::make()?;
        let folder = self.home.join(format!("run-{}", std::process::id()));
        let wrong = |error| format!("{}: {error}", folder.display());
        fs::create_dir_all(&folder).map_err(wrong)?;
        let trusted = folder.join("trusted.pem");
        fs::write(&trusted, &certificate.certificate).map_err(wrong)?;
        let trust = Trust::Roots(Some(trusted));
        let mut outcome = Outcome {
            program: Program::this(),
            machine: Machine::here(),
            began: SystemTime::now(),
            threads: self.threads,
            rounds: self.wish.rounds,
            is_quick: self.wish.is_quick,
            cases: self.cases.clone(),
            candidates: self.candidates.clone(),
            series: Default::default(),
            faults: Vec::new(),
        };
        let wrong = |error| format!("the system takes no signal handler: {error}");
        let mut stop = Stop::listen().map_err(wrong)?;
        'rounds: for round in 0..self.wish.rounds {
            for case in &self.cases {
                for way in &case.ways {
                    // Nobody is always the first.
                    let count = self.candidates.len();
                    for nth in 0..count {
                        let candidate = &self.candidates[(nth + round as usize) % count];
                        let peer = candidate.peer;
                        if !case.has_a_place_for(peer, *way) {
                            continue;
                        }
                        let run = self.turn(
                            candidate,
                            case,
                            *way,
                            &servers.place,
                            (&certificate, &trust),
                            folder.join(peer.name()),
                        );
                        // A turn that is dropped takes its proxy with it.
                        let found = tokio::select! {
                            biased;
                            () = stop.asked() => {
                                outcome.faults.push("the rest: interrupted".to_owned());
                                break 'rounds;
                            }
                            found = Box::pin(run) => found,
                        };
                        let about = format!("{} {} {}", case.name, way.name(), peer.name());
                        match found {
                            Ok(found) => {
                                let shown = outcome.add(case, *way, peer, &found);
                                eprintln!("{}/{} {about}: {shown}", round + 1, self.wish.rounds);
                            }
                            Err(fault) => {
                                eprintln!("{}/{} {about}: {fault}", round + 1, self.wish.rounds);
                                outcome.faults.push(format!("{about}: {fault}"));
                            }
                        }
                    }
                }
            }
        }
        let _ = fs::remove_dir_all(&folder);
        servers.stop().await;
        Ok(outcome)
    }

    async fn turn(
        &self,
        candidate: &Candidate,
        case: &Case,
        way: Way,
        servers: &Servers,
        (certificate, trust): (&Certificate, &Trust),
        folder: PathBuf,
    ) -> Result<Vec<(What, f64)>, String> {
        let peer = candidate.peer;
        let proxy = match &candidate.program {
            Some(program) => {
                let setting = Setting::new(folder, servers, self.threads, self.files)
                    .map_err(|error| format!("no port is free: {error}"))?;
                let program = program.clone();
                Some(Proxy::start(
                    peer,
                    program,
                    setting,
                    certificate,
                    self.threads,
                )?)
            }
            None => None,
        };
        let turn = Turn {
            peer,
            case,
            way,
            proxy,
            servers,
            trust: trust.clone(),
        };
        turn.take(self.wish.is_quick).await
    }
}

impl Case {
    fn has_a_place_for(&self, peer: Peer, way: Way) -> bool {
        let is_latency = self.operation.measure().is_some();
        match (peer, self.act) {
            (Peer::Direct, act) => way == Way::Plain && is_latency && act == Act::Nothing,
            (peer, Act::Reload) => peer.can_reload(),
            _ => true,
        }
    }
}

impl Turn<'_> {
    async fn take(mut self, is_quick: bool) -> Result<Vec<(What, f64)>, String> {
        let target = Arc::new(self.target()?);
        let early = match self.proxy {
            Some(_) => self.warm_up(is_quick, &target).await?,
            None => 0,
        };
        let handshakes = |target: &Target| target.tls.as_ref().map(|tls| tls.handshakes());
        let before = handshakes(&target);
        let empty = self.memory();
        let (scenario, load) = self.case.scenario(is_quick)?;
        let users = scenario.users;
        let order = self.order(scenario, load, target.clone());
        let Self { case, way, .. } = self;
        let mut gauge = Gauge::new(self.proxy.as_mut(), self.servers, case.operation, case.act);
        let report = order.run(&mut gauge).await;
        if case.act == Act::Kill {
            self.servers.revive()?;
        }
        let report = report?;
        let (reading, fault) = (gauge.reading.take(), gauge.fault.take());
        drop(order);
        if let Some(fault) = fault {
            return Err(fault);
        }
        if report.is_interrupted {
            return Err("interrupted".to_owned());
        }
        let reading = reading.ok_or_else(|| {
            let errors = &report.record.errors;
            let said = self
                .proxy
                .as_ref()
                .map_or_else(String::new, Proxy::last_words);
            format!("there was no load: {errors:?} {said}")
        })?;
        let mut found = self.figures(&reading, &report, f64::from(users), empty);
        let errors = match self.case.operation {
            // Whoever is cut off has one.
            Operation::Loss => early,
            _ => early + report.record.all_errors(),
        };
        found.push((What::Errors, number(errors)));
        if case.operation == Operation::Presence
            && let (Some(empty), Some(full)) = (empty, reading.memory)
        {
            sleep(if is_quick { QUICK_REST } else { REST }).await;
            if let Some(left) = self.memory() {
                let taken = full.saturating_sub(empty).max(1);
                let back = taken.saturating_sub(left.saturating_sub(empty));
                found.push((What::GivenBack, 100.0 * number(back) / number(taken)));
            }
        }
        if let (Way::Resumed, Some(before), Some(now)) = (way, before, handshakes(&target)) {
            let (full, resumed) = (now.0 - before.0, now.1 - before.1);
            let all = number(full + resumed).max(1.0);
            found.push((What::Resumed, 100.0 * number(resumed) / all));
        }
        Ok(found)
    }

    fn figures(
        &self,
        reading: &Reading,
        report: &Report,
        users: f64,
        empty: Option<u64>,
    ) -> Vec<(What, f64)> {
        let Case { operation, .. } = *self.case;
        let mut found = Vec::new();
        let operations = number(reading.operations);
        if let (Some(cost), true) = (reading.cost, reading.operations > 0) {
            let each = cost.as_secs_f64() / operations;
            let unit = if operation == Operation::Body {
                1e9
            } else {
                1e6
            };
            found.push((What::Cost, each * unit));
        }
        let spread = operation
            .measure()
            .and_then(|measure| report.record.totals.get(&measure));
        if let Some(spread) = spread {
            found.push((What::P50, spread.at(0.5).as_secs_f64() * 1e6));
            found.push((What::P99, spread.at(0.99).as_secs_f64() * 1e6));
        }
        if operation.is_http() {
            let time = report.scenario.duration.0.as_secs_f64();
            let each = if operation == Operation::Body {
                1e9
            } else {
                1.0
            };
            found.push((What::Rate, operations / each / time));
        }
        if let (Operation::Presence, Some(empty), Some(full)) = (operation, empty, reading.memory) {
            found.push((
                What::Memory,
                number(full.saturating_sub(empty)) / 1024.0 / users,
            ));
        }
        if operation == Operation::Loss {
            found.push((What::Cut, number(reading.attempts)));
            if let Some(spread) = report.record.totals.get(&Measure::Back) {
                found.push((What::Back, spread.max().as_secs_f64() * 1e3));
            }
        }
        found
    }

    fn memory(&self) -> Option<u64> {
        self.proxy.as_ref().and_then(|proxy| proxy.tree().memory())
    }

    fn target(&self) -> Result<Target, String> {
        let is_tls = self.way != Way::Plain;
        let is_http = self.case.operation.is_http();
        let addresses: Vec<SocketAddr> = match &self.proxy {
            Some(proxy) if is_tls => vec![proxy.setting.https],
            Some(proxy) => vec![proxy.setting.http],
            None if is_http => vec![self.servers.monolith],
            None => self.servers.streamers.clone(),
        };
        let port = addresses.first().map_or(0, SocketAddr::port);
        let reach = Reach {
            origin: Origin {
                is_tls,
                host: "localhost".to_owned(),
                port,
            },
            sources: vec![[127, 0, 0, 1].into()],
            trust: self.trust.clone(),
            resume: self.way == Way::Resumed,
            one_suite: true,
        };
        let mut target = reach.target()?;
        target.addresses = addresses;
        target.sources = Vec::new();
        Ok(target)
    }

    /// What a process does for the first time is not measured. Returns how often it went wrong.
    ///
    /// # Errors
    /// Why no more than a few went well.
    async fn warm_up(&self, is_quick: bool, target: &Arc<Target>) -> Result<u64, String> {
        let text = match self.case.operation.is_http() {
            true => HTTP_WARM_UP,
            false => WARM_UP,
        };
        let mut scenario: Scenario = toml::from_str(text).map_err(|error| error.to_string())?;
        scenario.name = "warm-up".to_owned();
        let report = self.warm_up_with(scenario, target).await?;
        let record = &report.record;
        let well = record.measured(Measure::Visit) + record.measured(Measure::Request);
        let errors = record.all_errors();
        if well > 0 && errors <= well / 10 {
            let more = match self.case.operation {
                Operation::Presence => self.come_and_go(is_quick, target).await?,
                _ => 0,
            };
            return Ok(errors + more);
        }
        let said = self
            .proxy
            .as_ref()
            .map_or_else(String::new, Proxy::last_words);
        Err(format!(
            "does not even let a few in: {:?} {said}",
            record.errors
        ))
    }

    /// A few come, stay and leave as those do whose memory is looked at: code that is used for the
    /// first time, when they come and when all of them go, is not theirs.
    async fn come_and_go(&self, is_quick: bool, target: &Arc<Target>) -> Result<u64, String> {
        let (mut scenario, _) = self.case.scenario(is_quick)?;
        scenario.users = scenario.users.min(50);
        let report = self.warm_up_with(scenario, target).await?;
        sleep(if is_quick { QUICK_REST } else { REST }).await;
        Ok(report.record.all_errors())
    }

    async fn warm_up_with(
        &self,
        scenario: Scenario,
        target: &Arc<Target>,
    ) -> Result<Report, String> {
        let load = scenario.check()?;
        self.order(scenario, load, target.clone())
            .run(&mut ())
            .await
    }

    fn order(&self, scenario: Scenario, load: Load, target: Arc<Target>) -> Order {
        Order {
            scenario,
            load,
            target,
            url: self.peer.name().to_owned(),
            is_quiet: true,
            accounts: Accounts::Demo,
            admin: None,
            config: None,
            started: None,
        }
    }
}

pub(super) fn default_home() -> Result<PathBuf, String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let target = program.parent().and_then(|folder| folder.parent());
    target
        .map(|target| target.join("compare"))
        .ok_or_else(|| "there is no folder for the programs: name one with --home".to_owned())
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn number(count: u64) -> f64 {
    count as f64
}

/// Users who come and leave.
const WARM_UP: &str = "users = 50\nduration = \"300ms\"\nclients = { sdk = 1 }\n\
                       subscriptions = 1\nconnect_rate = { rate = \"200/s\" }\n";
/// Requests of the same number.
const HTTP_WARM_UP: &str = "duration = \"300ms\"\n\
                            http = { paths = [\"/health\"], rate = \"200/s\", connections = 8 }\n";
/// Between the end of all connections and the look at what is left of them.
const REST: Duration = Duration::from_secs(10);
const QUICK_REST: Duration = Duration::from_millis(500);
