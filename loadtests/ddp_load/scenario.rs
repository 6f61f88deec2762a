//! What is to be done to the target, from a TOML file.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    units::{Rate, Size, Time},
    users::Kind,
};

/// Scenarios that the program brings along.
pub(crate) const KNOWN: [(&str, &str); 12] = [
    ("idle", include_str!("../scenarios/idle.toml")),
    ("chat", include_str!("../scenarios/chat.toml")),
    ("fan-out", include_str!("../scenarios/fan-out.toml")),
    ("calls", include_str!("../scenarios/calls.toml")),
    (
        "connect-rate",
        include_str!("../scenarios/connect-rate.toml"),
    ),
    ("storm", include_str!("../scenarios/storm.toml")),
    ("drain", include_str!("../scenarios/drain.toml")),
    ("http", include_str!("../scenarios/http.toml")),
    (
        "http-saturation",
        include_str!("../scenarios/http-saturation.toml"),
    ),
    ("http-mix", include_str!("../scenarios/http-mix.toml")),
    ("uploads", include_str!("../scenarios/uploads.toml")),
    ("soak", include_str!("../scenarios/soak.toml")),
];

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    #[serde(skip)]
    pub(crate) name: String,
    /// What it does, in a sentence.
    #[serde(default)]
    pub(crate) about: String,
    #[serde(default = "users")]
    pub(crate) users: u32,
    /// How long there is load, after everybody is in.
    #[serde(default = "duration")]
    pub(crate) duration: Time,
    /// Users who come in a second. More than logins that are let through only wait.
    #[serde(default = "ramp")]
    pub(crate) ramp: Rate,
    /// For everybody to be in, counted from when the last one came.
    #[serde(default = "patience")]
    pub(crate) patience: Time,
    /// Clients that the users have, by their shares.
    #[serde(default)]
    pub(crate) clients: Clients,
    /// Subscriptions of each user's client; those of its rooms come on top. 60 at most.
    #[serde(default = "subscriptions")]
    pub(crate) subscriptions: u8,
    /// Whether they log in.
    #[serde(default = "yes")]
    pub(crate) login: bool,
    /// Errors above which the run has failed.
    #[serde(default)]
    pub(crate) max_errors: u64,
    pub(crate) idle: Option<Idle>,
    pub(crate) chat: Option<Chat>,
    pub(crate) fan_out: Option<FanOut>,
    pub(crate) calls: Option<Calls>,
    pub(crate) connect_rate: Option<ConnectRate>,
    pub(crate) storm: Option<Storm>,
    pub(crate) churn: Option<Churn>,
    pub(crate) http: Option<Http>,
    /// Besides one of those above: what happens to the streamers meanwhile.
    pub(crate) drain: Option<Drain>,
}

/// Nobody says anything.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Idle {}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Chat {
    /// Rooms; `room_ids` names them, otherwise they are load-0, load-1 and so on.
    #[serde(default = "one")]
    pub(crate) rooms: u32,
    #[serde(default = "one")]
    pub(crate) rooms_per_user: u32,
    #[serde(default)]
    pub(crate) room_ids: Vec<String>,
    /// Messages of all users together.
    pub(crate) messages: Rate,
    /// Signs of typing of all users together.
    pub(crate) typing: Option<Rate>,
    /// Looks into rooms that the user is not in, of all users together.
    pub(crate) switches: Option<Rate>,
    #[serde(default = "length")]
    pub(crate) length: usize,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FanOut {
    #[serde(default = "room")]
    pub(crate) room_id: String,
    #[serde(default = "one")]
    pub(crate) speakers: u32,
    /// Messages of all speakers together.
    pub(crate) messages: Rate,
    #[serde(default = "length")]
    pub(crate) length: usize,
}

/// A method is called, and answered.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Calls {
    /// Of all users together. A server that limits calls answers what is too much with an error.
    pub(crate) rate: Rate,
    #[serde(default = "echo")]
    pub(crate) method: String,
    /// Of the text that is its parameter.
    #[serde(default = "length")]
    pub(crate) length: usize,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConnectRate {
    pub(crate) rate: Rate,
}

/// Streamers are emptied one after the other, the fullest first.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Drain {
    #[serde(default = "one")]
    pub(crate) streamers: u32,
    /// Sessions that move in a second; otherwise as many as may log in.
    pub(crate) rate: Option<Rate>,
    /// Between the beginning of the load and the first order.
    #[serde(default = "second")]
    pub(crate) after: Time,
}

/// All are cut at once.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Storm {}

/// Rounds of all that makes a gateway take memory and give it back, as long as the load lasts. The
/// gateway must have no other users.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Churn {
    /// Users besides those who stay, who come, look and leave in each round.
    pub(crate) visits: u32,
    pub(crate) visit_rate: Rate,
    /// Whether those who stay are cut off in each round.
    #[serde(default = "yes")]
    pub(crate) storm: bool,
    /// Streamers that are emptied in each round. Who has come back after a storm cannot be moved for
    /// five seconds.
    #[serde(default = "one")]
    pub(crate) drains: u32,
    /// At least so many rounds, however long they take.
    #[serde(default = "rounds")]
    pub(crate) rounds: u32,
    /// For how long the gateway is looked at behind each round; the least of it counts.
    #[serde(default = "second")]
    pub(crate) rest: Time,
    /// Between two rounds.
    pub(crate) pause: Option<Time>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Http {
    #[serde(default = "paths")]
    pub(crate) paths: Vec<String>,
    /// Instead of `paths`: several kinds of requests, each connection in turn.
    #[serde(default)]
    pub(crate) requests: Vec<Ask>,
    /// Of all connections together; without it each asks as soon as it has its answer.
    pub(crate) rate: Option<Rate>,
    #[serde(default = "connections")]
    pub(crate) connections: u32,
}

/// A kind of request.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ask {
    pub(crate) path: String,
    /// Of all requests, as a share of the sum of the shares.
    #[serde(default = "one")]
    pub(crate) share: u32,
    /// A POST with a body of this size, instead of a GET.
    pub(crate) upload: Option<Size>,
}

impl Http {
    /// What a connection asks for, one after the other and then from the start: each kind as often
    /// as its share says, spread over the round.
    pub(crate) fn round(&self) -> Vec<Ask> {
        let path = |path: &String| Ask {
            path: path.clone(),
            share: 1,
            upload: None,
        };
        let kinds: Vec<Ask> = match self.requests.is_empty() {
            true => self.paths.iter().map(path).collect(),
            false => self.requests.clone(),
        };
        let all: u32 = kinds.iter().map(|kind| kind.share).sum();
        let mut credit = vec![0_i64; kinds.len()];
        let mut round = Vec::new();
        for _ in 0..all {
            for (credit, kind) in credit.iter_mut().zip(&kinds) {
                *credit += i64::from(kind.share);
            }
            let next = (0..kinds.len()).max_by_key(|n| (credit[*n], usize::MAX - n));
            let Some(next) = next else { break };
            credit[next] -= i64::from(all);
            round.push(kinds[next].clone());
        }
        round
    }
}

/// What a scenario is about.
#[derive(Clone, Debug)]
pub(crate) enum Load {
    Idle,
    Chat(Chat),
    FanOut(FanOut),
    Calls(Calls),
    ConnectRate(ConnectRate),
    Storm,
    Churn(Churn),
    Http(Http),
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Clients {
    #[serde(default)]
    pub(crate) web: u32,
    #[serde(default)]
    pub(crate) app: u32,
    #[serde(default)]
    pub(crate) sdk: u32,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            web: 5,
            app: 3,
            sdk: 2,
        }
    }
}

impl Clients {
    pub(crate) fn of(self, n: u32) -> Kind {
        let all = (self.web + self.app + self.sdk).max(1);
        match n % all {
            n if n < self.web => Kind::Web,
            n if n < self.web + self.app => Kind::ReactNative,
            _ => Kind::SDK,
        }
    }
}

impl Scenario {
    /// Reads a file, or one of those that the program brings along.
    ///
    /// # Errors
    /// What is wrong with it, with file and line.
    pub(crate) fn load(named: &str) -> Result<Self, String> {
        let known = KNOWN.iter().find(|(name, _)| *name == named);
        let (name, text) = match known {
            Some((name, text)) => ((*name).to_owned(), (*text).to_owned()),
            None => {
                let text = fs::read_to_string(named).map_err(|error| {
                    let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
                    format!(
                        "the scenario {named} cannot be read: {error}. It is a file, or one of {}",
                        names.join(", ")
                    )
                })?;
                let stem = Path::new(named).file_stem().unwrap_or_default();
                (stem.to_string_lossy().into_owned(), text)
            }
        };
        let mut scenario: Self = toml::from_str(&text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let before = text.get(..at).unwrap_or(&text);
            let line = before.matches('\n').count() + 1;
            format!("{named}:{line}: {}", error.message().trim_end())
        })?;
        scenario.name = name;
        Ok(scenario)
    }

    /// Whether it asks the gateway for something, or how it is.
    pub(crate) fn needs_admin(&self) -> bool {
        self.drain.is_some() || self.churn.is_some()
    }

    /// What it is about, and all that cannot be meant.
    pub(crate) fn check(&self) -> Result<Load, String> {
        let mut faults = String::new();
        let mut fault = |what: String| {
            let _ = writeln!(faults, "{}: {what}", self.name);
        };
        let mut loads: Vec<(&str, Load)> = Vec::new();
        loads.extend(self.idle.as_ref().map(|_| ("idle", Load::Idle)));
        loads.extend(self.chat.clone().map(|chat| ("chat", Load::Chat(chat))));
        let fan_out = self.fan_out.clone();
        loads.extend(fan_out.map(|fan_out| ("fan_out", Load::FanOut(fan_out))));
        let calls = self.calls.clone();
        loads.extend(calls.map(|calls| ("calls", Load::Calls(calls))));
        let rate = self.connect_rate.clone();
        loads.extend(rate.map(|rate| ("connect_rate", Load::ConnectRate(rate))));
        loads.extend(self.storm.as_ref().map(|_| ("storm", Load::Storm)));
        let churn = self.churn.clone();
        loads.extend(churn.map(|churn| ("churn", Load::Churn(churn))));
        loads.extend(self.http.clone().map(|http| ("http", Load::Http(http))));
        if loads.len() != 1 {
            let names: Vec<&str> = loads.iter().map(|(name, _)| *name).collect();
            fault(format!(
                "exactly one of the tables [idle], [chat], [fan_out], [calls], [connect_rate], \
                 [storm], [churn] and [http] says what is done; here are {}: {}",
                names.len(),
                names.join(", ")
            ));
        }
        if !(1..=MOST_USERS).contains(&self.users) {
            fault(format!("users has to be between 1 and {MOST_USERS}"));
        }
        if self.subscriptions > 60 {
            fault("subscriptions has to be 60 at most".to_owned());
        }
        let Clients { web, app, sdk } = self.clients;
        let shares = [web, app, sdk];
        if shares.iter().all(|share| *share == 0) || shares.iter().any(|share| *share > 1000) {
            fault("clients needs a share between 1 and 1000 of web, app or sdk".to_owned());
        }
        if let Some(drain) = &self.drain {
            let is_crowd = |load: &Load| {
                matches!(
                    load,
                    Load::Idle | Load::Chat(_) | Load::FanOut(_) | Load::Calls(_)
                )
            };
            if !loads.first().is_some_and(|(_, load)| is_crowd(load)) {
                fault("drain needs users who stay: idle, chat, fan_out or calls".to_owned());
            }
            if !(1..=1000).contains(&drain.streamers) {
                fault("drain.streamers has to be between 1 and 1000".to_owned());
            }
        }
        match loads.first().map(|(_, load)| load) {
            Some(Load::Chat(chat)) => {
                if !(1..=MOST_USERS).contains(&chat.rooms) {
                    fault(format!("chat.rooms has to be between 1 and {MOST_USERS}"));
                }
                if chat.rooms_per_user == 0 || chat.rooms_per_user > chat.rooms.min(20) {
                    fault("chat.rooms_per_user has to be between 1 and rooms, 20 at most".into());
                }
                let named = chat.room_ids.len();
                if named != 0 && named != chat.rooms as usize {
                    fault(format!(
                        "chat.room_ids names {named} rooms, and chat.rooms says {}",
                        chat.rooms
                    ));
                }
                if chat.messages.0 > f64::from(self.users) * A_USER {
                    fault(too_many("chat.messages", chat.messages, self.users, A_USER));
                }
                let typing = chat.typing.unwrap_or(Rate(0.0));
                if typing.0 > f64::from(self.users) * A_TYPIST {
                    fault(too_many("chat.typing", typing, self.users, A_TYPIST));
                }
                let switches = chat.switches.unwrap_or(Rate(0.0));
                if switches.0 > f64::from(self.users) * A_WALKER {
                    fault(too_many("chat.switches", switches, self.users, A_WALKER));
                }
                if chat.length > LONGEST {
                    fault(format!("chat.length has to be {LONGEST} at most"));
                }
            }
            Some(Load::FanOut(fan_out)) => {
                let FanOut {
                    speakers, messages, ..
                } = *fan_out;
                if !(1..=self.users.max(1)).contains(&speakers) {
                    fault("fan_out.speakers has to be between 1 and users".into());
                }
                if messages.0 > f64::from(speakers) * A_USER {
                    fault(too_many("fan_out.messages", messages, speakers, A_USER));
                }
                if fan_out.length > LONGEST {
                    fault(format!("fan_out.length has to be {LONGEST} at most"));
                }
            }
            Some(Load::Calls(calls)) => {
                if calls.length > LONGEST {
                    fault(format!("calls.length has to be {LONGEST} at most"));
                }
                if !self.login {
                    fault("calls needs users who log in".to_owned());
                }
            }
            Some(Load::Churn(churn)) => {
                if churn.visits > MOST_USERS {
                    fault(format!("churn.visits has to be {MOST_USERS} at most"));
                }
                if churn.drains > 1000 {
                    fault("churn.drains has to be 1000 at most".to_owned());
                }
            }
            Some(Load::Http(http)) => {
                let named = http.requests.iter().map(|ask| &ask.path);
                let mut all = http.paths.iter().chain(named);
                let is_empty = http.paths.is_empty() && http.requests.is_empty();
                if is_empty || all.any(|path| !path.starts_with('/')) {
                    fault("http.paths needs paths that begin with /".into());
                }
                let shares = http.requests.iter().map(|ask| ask.share);
                if shares.clone().any(|share| !(1..=100).contains(&share)) || shares.count() > 100 {
                    fault("http.requests needs shares between 1 and 100, of 100 kinds".into());
                }
                if !(1..=MOST_USERS).contains(&http.connections) {
                    fault(format!(
                        "http.connections has to be between 1 and {MOST_USERS}"
                    ));
                }
            }
            _ => {}
        }
        match loads.pop() {
            Some((_, load)) if faults.is_empty() => Ok(load),
            _ => Err(faults.trim_end().to_owned()),
        }
    }
}

fn too_many(what: &str, rate: Rate, users: u32, each: f64) -> String {
    format!(
        "{what} of {}/s by {users} users is more than the {each}/s that Rocket.Chat allows each of \
         them: take more users or a lower rate",
        rate.0
    )
}

const MOST_USERS: u32 = 1_000_000;
/// Calls of one method by one connection that Rocket.Chat's limiter lets through for good.
const A_USER: f64 = 1.0;
const A_TYPIST: f64 = 1.0;
/// Each of them is a call and four subscriptions or their ends.
const A_WALKER: f64 = 0.5;
const LONGEST: usize = 5000;

fn users() -> u32 {
    100
}

fn duration() -> Time {
    Time(Duration::from_secs(30))
}

/// Below the logins that the gateway lets through by default, 100 in a second.
fn ramp() -> Rate {
    Rate(80.0)
}

fn patience() -> Time {
    Time(Duration::from_secs(60))
}

fn subscriptions() -> u8 {
    20
}

fn one() -> u32 {
    1
}

/// As many as it takes to tell whether something grows, and some more.
fn rounds() -> u32 {
    12
}

fn second() -> Time {
    Time(Duration::from_secs(1))
}

fn yes() -> bool {
    true
}

fn echo() -> String {
    "demo:echo".to_owned()
}

fn length() -> usize {
    120
}

fn room() -> String {
    "load-0".to_owned()
}

fn paths() -> Vec<String> {
    vec!["/".to_owned()]
}

fn connections() -> u32 {
    32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_brings_along_can_be_run() {
        for (name, _) in KNOWN {
            let scenario = Scenario::load(name).unwrap();
            assert_eq!(scenario.name, name);
            assert!(!scenario.about.is_empty());
            scenario.check().unwrap();
        }
    }

    #[test]
    fn all_that_cannot_be_meant_is_said_at_once() {
        let text = "users = 0\nsubscriptions = 61\nclients = {}\n[chat]\nrooms = 0\n\
                    messages = \"5/s\"\n[storm]\n";
        let mut scenario: Scenario = toml::from_str(text).unwrap();
        scenario.name = "x".to_owned();
        let faults = scenario.check().unwrap_err();
        for what in [
            "chat, storm",
            "users has",
            "subscriptions",
            "clients",
            "rooms has",
            "5/s by 0",
        ] {
            assert!(faults.contains(what), "{what}: {faults}");
        }
    }

    #[test]
    fn requests_come_by_their_shares() {
        let text =
            "requests = [{ path = \"/a\", share = 3 }, { path = \"/b\", upload = \"1KiB\" }]";
        let http: Http = toml::from_str(text).unwrap();
        let round = http.round();
        let paths: Vec<&str> = round.iter().map(|ask| ask.path.as_str()).collect();
        assert_eq!(paths, ["/a", "/a", "/b", "/a"]);
        assert_eq!(round[2].upload, Some(Size(1024)));
        let http: Http = toml::from_str("").unwrap();
        assert_eq!(http.round().len(), 1);
    }

    #[test]
    fn clients_come_by_their_shares() {
        let kinds: Vec<Kind> = (0..10).map(|n| Clients::default().of(n)).collect();
        let count = |kind| kinds.iter().filter(|one| **one == kind).count();
        assert_eq!(count(Kind::Web), 5);
        assert_eq!(count(Kind::ReactNative), 3);
        assert_eq!(count(Kind::SDK), 2);
    }
}
