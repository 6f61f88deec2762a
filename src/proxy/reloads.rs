//! When each client hears that the web client has a new version.
//!
//! All hear it at the same moment, and would all come back at once. The first one to be told begins
//! a wave, which is as long as the logins of all sessions take at the pace that they have anyway;
//! each client has its moment within it by chance.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use metrics::{Counter, Gauge};
use serde::Deserialize;

use crate::telemetry::names;

/// The versions that are known, and the wave under way; one per process.
#[derive(Debug)]
pub struct Reloads {
    state: Mutex<State>,
    under_way: Gauge,
    held: Counter,
}

#[derive(Debug, Default)]
struct State {
    /// By kind of client, such as `web.browser`.
    versions: BTreeMap<String, String>,
    wave: Option<Wave>,
}

#[derive(Clone, Copy, Debug)]
struct Wave {
    began: Instant,
    length: Duration,
}

/// Who is to come back, and how fast that may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Herd {
    pub(super) sessions: usize,
    /// Logins in a second.
    pub(super) rate: u32,
}

/// The document with the version of one kind of clients.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    fields: Fields<'a>,
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    version: Cow<'a, str>,
}

impl Reloads {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            under_way: names::RELOAD_WAVE_SECONDS.gauge(&[]),
            held: names::RELOADS_HELD.counter(&[]),
        }
    }

    /// A client gets this document with its subscription.
    pub(super) fn learn(&self, json: &str) {
        if let Ok(document) = serde_json::from_str::<Document<'_>>(json) {
            let mut state = self.lock();
            if !state.versions.contains_key(&*document.id) {
                state.know(&document.id, &document.fields.version);
            }
        }
    }

    /// A client is to get this change of the document; how long it waits for that, if it belongs to
    /// a wave: zero when it hears of it after its moment. `draw` is random, from 0 to 1.
    pub(super) fn delay(
        &self,
        json: &str,
        herd: Herd,
        draw: f64,
        now: Instant,
    ) -> Option<Duration> {
        let document = serde_json::from_str::<Document<'_>>(json).ok()?;
        let mut state = self.lock();
        self.hear(
            &mut state,
            &document.id,
            &document.fields.version,
            herd,
            now,
        );
        let wave = state.wave.filter(|wave| now < wave.began + wave.length)?;
        self.held.increment(1);
        let moment = wave.began + wave.length.mul_f64(draw.clamp(0.0, 1.0));
        Some(moment.saturating_duration_since(now))
    }

    /// The bus says that clients of this kind are to have this version.
    pub(super) fn expect(&self, kind: &str, version: &str, herd: Herd, now: Instant) {
        self.hear(&mut self.lock(), kind, version, herd, now);
    }

    /// Says that a wave is over, when it is.
    pub fn settle(&self, now: Instant) {
        let ended = |wave: &mut Wave| wave.began + wave.length <= now;
        if self.lock().wave.take_if(ended).is_some() {
            self.under_way.set(0.0);
            tracing::info!("all clients have been told of the new version of the web client");
        }
    }

    /// A monolith tells the version at each of its starts, so most of it is no news.
    fn hear(&self, state: &mut State, kind: &str, version: &str, herd: Herd, now: Instant) {
        let known = state.versions.get(kind).map(String::as_str);
        if known == Some(version) {
            return;
        }
        let first = known.is_none();
        state.know(kind, version);
        // With nobody who has one of that kind, nobody reloads. The kinds change one after another.
        if first
            || state
                .wave
                .is_some_and(|wave| now < wave.began + wave.length)
        {
            return;
        }
        let Herd { sessions, rate } = herd;
        let clients = u32::try_from(sessions).unwrap_or(u32::MAX);
        let length = (Duration::from_secs(1) * clients / rate.max(1)).min(LONGEST);
        let seconds = length.as_secs();
        if length < SHORTEST {
            tracing::info!(kind, version, sessions, "the web client has a new version");
            return;
        }
        tracing::warn!(
            kind,
            version,
            sessions,
            rate,
            seconds,
            "the web client has a new version, which makes all web clients load their pages anew: \
             they are told over {seconds} s, each at a moment of its own, because {sessions} logins \
             take as long at {rate} per second; raise `rate` of [logins] to have it over earlier"
        );
        self.under_way.set(length.as_secs_f64());
        state.wave = Some(Wave { began: now, length });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn know(&mut self, kind: &str, version: &str) {
        let fits = kind.len().max(version.len()) <= LONGEST_TEXT;
        if fits && (self.versions.len() < KINDS || self.versions.contains_key(kind)) {
            self.versions.insert(kind.to_owned(), version.to_owned());
        }
    }
}

/// Fewer clients than this may all come at once.
const SHORTEST: Duration = Duration::from_secs(2);
/// Who has the old version for longer notices.
const LONGEST: Duration = Duration::from_secs(300);
/// There are three: `web.browser`, `web.browser.legacy` and `web.cordova`.
const KINDS: usize = 16;
const LONGEST_TEXT: usize = 255;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Herd, LONGEST, Reloads};

    fn document(kind: &str, version: &str) -> String {
        format!(
            r#"{{"msg":"changed","collection":"c","id":"{kind}","fields":{{"version":"{version}","assets":[]}}}}"#
        )
    }

    #[test]
    fn as_long_as_the_logins_take() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let reloads = Reloads::new();
        let delay = |version: &str, sessions: usize, draw: f64, seconds: u32| {
            let herd = Herd {
                sessions,
                rate: 100,
            };
            let json = document("web.browser", version);
            reloads.delay(&json, herd, draw, now + second * seconds)
        };
        reloads.learn(&document("web.browser", "v1"));
        // A monolith has started.
        assert_eq!(delay("v1", 5000, 0.5, 0), None);
        assert_eq!(delay("v2", 5000, 0.5, 0), Some(second * 25));
        // The wave is that of the first one, and goes on.
        assert_eq!(delay("v2", 9000, 0.5, 5), Some(second * 20));
        assert_eq!(delay("v2", 9000, 0.1, 6), Some(Duration::ZERO));
        reloads.learn(&document("web.browser", "v1"));
        reloads.settle(now + second * 49);
        assert_eq!(delay("v2", 100, 1.0, 49), Some(second));
        reloads.settle(now + second * 50);
        assert_eq!(delay("v2", 5000, 1.0, 50), None);
        // Few may come at once; of very many, some have to wait in the queue.
        assert_eq!(delay("v3", 150, 1.0, 60), None);
        assert_eq!(delay("v4", 1_000_000, 1.0, 70), Some(LONGEST));
    }

    #[test]
    fn the_bus_may_be_first() {
        let now = Instant::now();
        let reloads = Reloads::new();
        let herd = Herd {
            sessions: 1000,
            rate: 100,
        };
        // Nobody is there who has another one.
        reloads.expect("web.browser", "v1", herd, now);
        assert_eq!(
            reloads.delay(&document("web.browser", "v1"), herd, 1.0, now),
            None
        );
        reloads.expect("web.browser", "v2", herd, now);
        let told = reloads.delay(&document("web.browser", "v2"), herd, 1.0, now);
        assert_eq!(told, Some(Duration::from_secs(10)));
        // What cannot be read passes.
        assert_eq!(reloads.delay("{}", herd, 1.0, now), None);
    }
}
