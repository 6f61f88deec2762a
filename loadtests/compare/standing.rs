//! Users who come and stay, in processes of their own, since one has not enough open files for all.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ddp_gateway::telemetry::process;
use serde::{Deserialize, Serialize};

use crate::{
    command::StandingArgs,
    embedded::{self, Embedded},
    people::{Accounts, person},
    scenario::Scenario,
    target::{Origin, Reach, Trust},
    users::{Crowd, Standing, Target},
};

/// Users of one process, who are all in. They leave without a goodbye when it is dropped.
#[derive(Debug)]
pub(super) struct Crew(Embedded<Stood>);

/// What their process says.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Stood {
    users: u32,
}

/// Where they go.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) address: SocketAddr,
    /// The certificate to trust; `None`: plain text.
    pub(super) ca: Option<PathBuf>,
}

impl Door {
    /// For users of this process or another one, from addresses of this machine.
    ///
    /// # Errors
    /// Why it cannot be reached.
    pub(super) fn target(&self, sources: Vec<IpAddr>) -> Result<Target, String> {
        let reach = Reach {
            origin: Origin {
                is_tls: self.ca.is_some(),
                host: "localhost".to_owned(),
                port: self.address.port(),
            },
            sources: vec![Ipv4Addr::LOCALHOST.into()],
            trust: Trust::Roots(self.ca.clone()),
            resume: false,
            one_suite: true,
        };
        let mut target = reach.target()?;
        target.addresses = vec![self.address];
        target.sources = sources;
        Ok(target)
    }
}

impl Crew {
    /// Number `nth` of them, with users from number `first` on. Returns when all are in.
    ///
    /// # Errors
    /// How far they got.
    pub(super) async fn start(
        nth: u8,
        door: &Door,
        first: u32,
        users: u32,
        ramp: u32,
    ) -> Result<Self, String> {
        // The first address is for those who come and leave.
        let from = Ipv4Addr::new(127, 0, 0, nth.saturating_add(2));
        let mut words = vec!["standing".to_owned()];
        for (name, value) in [
            ("--address", door.address.to_string()),
            ("--from", from.to_string()),
            ("--first", first.to_string()),
            ("--users", users.to_string()),
            ("--ramp", format!("{ramp}/s")),
        ] {
            words.extend([name.to_owned(), value]);
        }
        if let Some(ca) = &door.ca {
            words.extend(["--ca".to_owned(), ca.display().to_string()]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let limit = spread(users, ramp.into()) + PATIENCE + PATIENCE;
        let stood: Embedded<Stood> = Embedded::within(limit, &words).await?;
        match stood.place.users == users {
            true => Ok(Self(stood)),
            false => Err(format!("{} of {users} users are in", stood.place.users)),
        }
    }

    /// Returns when they have gone.
    pub(super) async fn stop(self) {
        self.0.stop().await;
    }
}

/// Their process: lets them in, says so, and serves until standard input ends.
///
/// # Errors
/// How they stand, if they do not get in.
pub(crate) async fn stand(arguments: &StandingArgs) -> Result<(), String> {
    process::raise_descriptor_limit();
    let &StandingArgs {
        address,
        from,
        first,
        users,
        ramp,
        ..
    } = arguments;
    let ca = arguments.ca.as_deref().map(Path::to_owned);
    let target = Door { address, ca }.target(vec![from])?;
    let scenario: Scenario = toml::from_str(STANDING).map_err(|error| error.to_string())?;
    let people = (first..first.saturating_add(users))
        .map(|number| person(&scenario, &Accounts::Demo, number));
    let spread = spread(users, ramp.0);
    let crowd = Crowd::start(target, people, spread, rand::random());
    crowd
        .all(Standing::Settled, Instant::now() + spread + PATIENCE)
        .await
        .map_err(|standing| format!("not all of {users} users are in: {standing}"))?;
    embedded::tell_and_wait(&Stood { users }).await
}

fn spread(users: u32, ramp: f64) -> Duration {
    Duration::from_secs_f64(f64::from(users) / ramp)
}

const STANDING: &str = "clients = { sdk = 1 }\nsubscriptions = 1\nidle = {}\n";
/// For all to be in, after the last one has come.
const PATIENCE: Duration = Duration::from_secs(60);
