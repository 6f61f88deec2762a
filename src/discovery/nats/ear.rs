//! Listens to events, by a connection of its own: however much is said there, nothing that
//! discovery hears is lost for it.

use std::{
    future::poll_fn,
    panic::AssertUnwindSafe,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, StreamExt as _};
use metrics::Counter;
use tokio::{
    sync::watch,
    time::{sleep, sleep_until},
};

use super::{
    event::{self, Event, Hearers, Name},
    packet::{Subjects, Unusable},
    rota::{Rota, Step},
};
use crate::{
    bus::{self, Link, LinkError, Messages, Turn, jitter},
    config::model::{Broker, Nats},
    discovery::{News, Tell},
    telemetry::names,
};

/// Hears events of one bus and tells those that are of interest.
#[derive(Debug)]
pub(in crate::discovery) struct Ear {
    nats: Nats,
    tell: Tell,
    /// Who gets copies of what.
    hearers: watch::Receiver<Hearers>,
    meters: bus::Meters,
    heard: Heard,
}

/// Counts what was heard.
#[derive(Debug)]
struct Heard {
    forced_logout: Counter,
    client_version: Counter,
    socket: Counter,
    other: Counter,
    unusable: Counter,
    dropped: Counter,
}

/// Where a message came.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Node(String),
    Event(Name),
}

/// Why the listening has ended for a while.
enum Stopped {
    Lost,
    Forbidden,
    /// For good: nobody says any more who is there.
    Over,
}

impl Ear {
    pub(super) fn new(nats: Nats, hearers: watch::Receiver<Hearers>, tell: Tell) -> Self {
        let source = nats.name();
        let heard = |event| names::NATS_HEARD.counter(&[&source, event]);
        Self {
            tell,
            hearers,
            // Its own name, so that the two connections are told apart.
            meters: bus::Meters::new(&format!("{source} events")),
            heard: Heard {
                forced_logout: heard("forced_logout"),
                client_version: heard("client_version"),
                socket: heard("socket"),
                other: heard("other"),
                unusable: heard("unusable"),
                dropped: heard("dropped"),
            },
            nats,
        }
    }

    /// Listens until the task is ended.
    pub(in crate::discovery) async fn run(mut self) {
        loop {
            let served = AssertUnwindSafe(self.serve()).catch_unwind().await;
            self.meters.up.set(0.0);
            let pause = match served {
                Ok(Stopped::Over) => return,
                Ok(Stopped::Lost) => LOST_PAUSE,
                Ok(Stopped::Forbidden) | Err(_) => LONG_PAUSE,
            };
            sleep(jitter(pause)).await;
        }
    }

    async fn serve(&mut self) -> Stopped {
        // Nobody is on the bus whose copies could be heard, or the bus is not there.
        if let Broker::Moleculer { .. } = self.nats.broker {
            let some = self.hearers.wait_for(|hearers| !hearers.0.is_empty());
            if some.await.is_err() {
                return Stopped::Over;
            }
        }
        // Discovery has said why there is none.
        let Ok(mut link) = Link::connect(&self.nats.bus, &self.meters).await else {
            return Stopped::Lost;
        };
        self.meters.up.set(1.0);
        let heard = match self.nats.broker.clone() {
            Broker::Moleculer { namespace } => {
                self.hear_nodes(&mut link, &Subjects::new(&namespace)).await
            }
            Broker::Micro => self.hear_events(&mut link).await,
        };
        heard.unwrap_or(Stopped::Lost)
    }

    /// Copies of one node at a time.
    async fn hear_nodes(
        &mut self,
        link: &mut Link,
        subjects: &Subjects,
    ) -> Result<Stopped, LinkError> {
        let mut rota = Rota::new(Instant::now());
        let mut open = Open::default();
        loop {
            let (draw, now) = (rand::random(), Instant::now());
            let steps = rota.poll(&self.hearers.borrow_and_update(), draw, now);
            for step in steps {
                match step {
                    Step::Hear(node) => {
                        let copies = link.subscribe(subjects.events_of(&node)).await?;
                        open.0.push((Source::Node(node), copies));
                    }
                    Step::Leave(node) => {
                        let left = Source::Node(node);
                        open.0.retain(|(source, _)| *source != left);
                    }
                }
            }
            tokio::select! {
                said = open.next() => self.handle(said?),
                changed = self.hearers.changed() => if changed.is_err() {
                    return Ok(Stopped::Over);
                },
                turn = link.turn() => if let Some(stopped) = self.turned(turn, link).await {
                    return Ok(stopped);
                },
                () = sleep_until(rota.next_timeout().into()) => {}
            }
        }
    }

    /// Under `BROKER=nats` each event has a subject; that of early versions is just its name.
    async fn hear_events(&self, link: &mut Link) -> Result<Stopped, LinkError> {
        let mut open = Open::default();
        for name in Name::ALL {
            for subject in [format!("event.{}", name.text()), name.text().to_owned()] {
                let events = link.subscribe(subject).await?;
                open.0.push((Source::Event(name), events));
            }
        }
        loop {
            tokio::select! {
                said = open.next() => self.handle(said?),
                turn = link.turn() => if let Some(stopped) = self.turned(turn, link).await {
                    return Ok(stopped);
                },
            }
        }
    }

    fn handle(&self, said: Said) {
        let heard = &self.heard;
        let event = match said.0 {
            None => return heard.other.increment(1),
            Some(Err(_)) => return heard.unusable.increment(1),
            Some(Ok(event)) => event,
        };
        match event {
            Event::ForcedLogout { .. } => heard.forced_logout.increment(1),
            Event::ClientVersion { .. } => heard.client_version.increment(1),
            Event::Socket { .. } => heard.socket.increment(1),
        }
        if !self.tell.say(News::Event(event)) {
            heard.dropped.increment(1);
        }
    }

    async fn turned(&self, turn: Turn, link: &Link) -> Option<Stopped> {
        match turn {
            Turn::Restored => self.meters.up.set(1.0),
            Turn::Lost => self.meters.up.set(0.0),
            // What was dropped is lost: everything works without it.
            Turn::Overrun => {}
            Turn::LameDuck => link.leave_server().await,
            Turn::Forbidden(text) => {
                let source = self.nats.name();
                tracing::warn!(
                    %source, answer = %text,
                    "the server of the message bus {source} does not let the gateway hear events: \
                     {text}; permit it to (README, \"Finding the streamers\"), or set `events = \
                     false`; it is tried again in a few minutes"
                );
                return Some(Stopped::Forbidden);
            }
            Turn::Ended => return Some(Stopped::Lost),
        }
        None
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.meters.up.set(0.0);
    }
}

/// What was said: `None` is of no interest.
#[derive(Debug)]
struct Said(Option<Result<Event, Unusable>>);

/// What is subscribed to; at most eight.
#[derive(Debug, Default)]
struct Open(Vec<(Source, Messages)>);

impl Open {
    /// # Errors
    /// When the connection has ended.
    async fn next(&mut self) -> Result<Said, LinkError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Said, LinkError>> {
        for (source, said) in &mut self.0 {
            if let Poll::Ready(message) = said.poll_next_unpin(cx) {
                let payload = message.ok_or(LinkError::Lost)?.payload;
                return Poll::Ready(Ok(Said(match source {
                    Source::Node(_) => event::of_packet(&payload),
                    Source::Event(name) => Some(event::of_arguments(*name, &payload)),
                })));
            }
        }
        Poll::Pending
    }
}

const LOST_PAUSE: Duration = Duration::from_secs(2);
const LONG_PAUSE: Duration = Duration::from_secs(300);
