//! Streamers by the message bus of Rocket.Chat's services, NATS.
//!
//! The gateway listens. Under Moleculer, all that it ever publishes is `DISCOVER`, which every node
//! answers and none remembers; so nobody expects a heartbeat or anything else of it, and services
//! are not balanced to it. `packet`, `nodes` and `roll` decide, without a socket and without a
//! clock; [`crate::bus`] has the connection. `ear` listens to what the services tell each other, of
//! which `event` finds what is of use and `rota` whose copy is heard.

mod ear;
mod event;
mod meters;
mod nodes;
mod packet;
mod roll;
mod rota;

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _,
    stream::{BoxStream, SelectAll},
};
use tokio::{sync::watch, time::sleep_until};

pub(super) use self::ear::Ear;
pub use self::event::Event;
use self::{
    event::Hearers,
    meters::Meters,
    nodes::{Ask, Nodes, Terms},
    packet::{Packet, Subjects, Topic},
    roll::Roll,
};
use super::{Board, News, RETRY_FIRST, Seen, SourceError, Tell};
use crate::{
    bus::{Link, LinkError, Messages, Turn, jitter},
    config::model::{Broker, Nats},
};

/// One bus, and what was learned from it, whatever becomes of the connection.
#[derive(Debug)]
pub(super) struct Bus {
    nats: Nats,
    own: String,
    meters: Meters,
    nodes: Nodes,
    roll: Roll,
    /// What the server does not let us hear.
    forbidden: Option<String>,
    /// For heartbeats.
    tell: Option<Tell>,
    /// Whose copies of events could be heard.
    hearers: watch::Sender<Hearers>,
}

/// What is on a bus at one time.
#[derive(Clone, Debug)]
pub struct Examined {
    /// Which server answered.
    pub server: String,
    pub seen: Seen,
}

/// Listens until the task is ended.
pub(super) async fn run(mut bus: Bus, board: Board) {
    let mut pause = RETRY_FIRST;
    loop {
        let began = Instant::now();
        // A defect that an odd packet brings to light must not end the listening for good.
        let ended = AssertUnwindSafe(bus.serve(&board)).catch_unwind().await;
        bus.nodes.handle_disconnected();
        bus.meters.link.up.set(0.0);
        let why = match ended {
            Ok(error) => error.into(),
            Err(_panic) => {
                bus.begin_anew();
                SourceError::Defect
            }
        };
        if began.elapsed() > RETRY_MOST {
            pause = RETRY_FIRST;
        }
        board.put(Err(why), Instant::now());
        tokio::time::sleep(jitter(pause)).await;
        pause = (pause * 2).min(RETRY_MOST);
    }
}

/// Connects once and looks who is there, within a few seconds.
///
/// # Errors
/// Why there is no connection.
pub async fn examine(nats: &Nats) -> Result<Examined, LinkError> {
    let mut bus = Bus::new(nats.clone());
    let mut link = Link::connect(&nats.bus, &bus.meters.link).await?;
    let server = link.server();
    let mut seen = Seen::default();
    for _ in 0..EXAMINATIONS {
        let followed = Box::pin(bus.follow(&mut link, None));
        // It ends only when the connection does.
        if let Ok(error) = tokio::time::timeout(EXAMINE_FOR, followed).await {
            return Err(error);
        }
        if let Some(text) = bus.forbidden.take() {
            return Err(LinkError::Forbidden(text));
        }
        bus.roll.end_round(Instant::now());
        seen = match nats.broker {
            Broker::Moleculer { .. } => bus.nodes.seen(),
            Broker::Micro => bus.roll.seen(),
        };
        if !seen.hosts.is_empty() {
            break;
        }
    }
    Ok(Examined { server, seen })
}

impl Bus {
    pub(super) fn new(nats: Nats) -> Self {
        let id: u128 = rand::random();
        let own = format!("ddp-gateway-{id:032x}");
        Self {
            meters: Meters::new(&nats.name()),
            nodes: Nodes::new(Terms::new(&nats, &own)),
            roll: Roll::default(),
            forbidden: None,
            tell: None,
            hearers: watch::Sender::default(),
            own,
            nats,
        }
    }

    /// One that tells what it hears, and an ear for events if they are wanted.
    pub(super) fn telling(nats: Nats, tell: Tell) -> (Self, Option<Ear>) {
        let mut bus = Self::new(nats.clone());
        let hearers = bus.hearers.subscribe();
        let ear = nats.events.then(|| Ear::new(nats, hearers, tell.clone()));
        bus.tell = Some(tell);
        (bus, ear)
    }

    /// Forgets what was learned.
    fn begin_anew(&mut self) {
        self.nodes = Nodes::new(Terms::new(&self.nats, &self.own));
        self.roll = Roll::default();
    }

    /// One connection from its beginning to its end.
    async fn serve(&mut self, board: &Board) -> LinkError {
        let mut link = match Link::connect(&self.nats.bus, &self.meters.link).await {
            Ok(link) => link,
            Err(error) => return error,
        };
        self.meters.link.up.set(1.0);
        self.forbidden = None;
        let (source, server) = (self.nats.name(), link.server());
        tracing::info!(%source, %server, "connected to the message bus at {source}");
        self.follow(&mut link, Some(board)).await
    }

    async fn follow(&mut self, link: &mut Link, board: Option<&Board>) -> LinkError {
        match &self.nats.broker {
            Broker::Moleculer { namespace } => {
                let subjects = Subjects::new(namespace);
                match Packets::hear(link, &subjects, &self.own).await {
                    Ok(packets) => self.listen(link, packets, &subjects, board).await,
                    Err(error) => error,
                }
            }
            Broker::Micro => {
                let inbox = link.inbox();
                match link.subscribe(inbox.clone()).await {
                    Ok(answers) => self.call_roll(link, answers, &inbox, board).await,
                    Err(error) => error,
                }
            }
        }
    }

    /// A Moleculer node that nobody sees.
    async fn listen(
        &mut self,
        link: &mut Link,
        mut packets: Packets,
        subjects: &Subjects,
        board: Option<&Board>,
    ) -> LinkError {
        let mut ask_at = Instant::now();
        let mut told_at = None;
        self.nodes.handle_connected(ask_at);
        loop {
            let now = Instant::now();
            if ask_at <= now {
                let everybody = subjects.discover(None);
                link.publish(everybody, packet::discover(&self.own)).await;
                ask_at = now + ASK_EVERY;
            }
            self.nodes.handle_timeout(now);
            let due = told_at.is_none_or(|told| now >= told + TELL_EVERY);
            if let Some(board) = board
                && self.nodes.is_settled()
                && (self.nodes.take_changed() || due)
            {
                told_at = Some(now);
                self.tell(board, self.nodes.seen(), now);
                self.tell_hearers();
            }
            let wake_at = self.nodes.next_due().map_or(ask_at, |due| due.min(ask_at));
            tokio::select! {
                heard = packets.next() => {
                    let Some((topic, payload)) = heard else {
                        return LinkError::Lost;
                    };
                    let parsed = self.meters.packet(packet::parse(topic, &payload));
                    let ask = parsed.map_or(Ask::Nobody, |packet| self.handle(packet));
                    if let Ask::One(node) = ask {
                        let one = subjects.discover(Some(&node));
                        link.publish(one, packet::discover(&self.own)).await;
                    }
                }
                turn = link.turn() => match self.turned(turn, link, board).await {
                    Turned::On => {}
                    Turned::AskAgain(pause) => ask_at = ask_at.min(Instant::now() + pause),
                    Turned::Over => return LinkError::Lost,
                },
                () = sleep_until(wake_at.into()) => {}
            }
        }
    }

    fn handle(&mut self, packet: Packet) -> Ask {
        if let Packet::Disconnect { sender } = &packet {
            tracing::debug!(node = %sender, "a node leaves the message bus");
        }
        if let Packet::Heartbeat {
            sender,
            cpu: Some(cpu),
        } = &packet
            && let (Some(tell), Some(address)) = (&self.tell, self.nodes.address_of(sender))
        {
            // The next one comes in ten seconds.
            let _ = tell.say(News::Beat { address, cpu: *cpu });
        }
        self.nodes.handle(packet, Instant::now())
    }

    /// Asks again and again which services are there.
    async fn call_roll(
        &mut self,
        link: &mut Link,
        mut answers: Messages,
        inbox: &str,
        board: Option<&Board>,
    ) -> LinkError {
        let mut call_at = Instant::now();
        let mut end_at = None;
        let mut unanswered = 0;
        self.nodes.handle_connected(call_at);
        loop {
            let now = Instant::now();
            if call_at <= now {
                link.call(roll::subject(), inbox).await;
                (end_at, call_at) = (Some(now + ROUND), now + CALL_EVERY);
            }
            if let Some(board) = board
                && end_at.is_some_and(|end| end <= now)
            {
                end_at = None;
                let answered = self.roll.end_round(now);
                unanswered = if answered { 0 } else { unanswered + 1 };
                if answered {
                    self.tell(board, self.roll.seen(), now);
                } else if unanswered >= ROUNDS && link.is_up() {
                    self.tell(board, Seen::default(), now);
                }
            }
            let wake_at = end_at.map_or(call_at, |end: Instant| end.min(call_at));
            tokio::select! {
                answer = answers.next() => {
                    let Some(answer) = answer else {
                        return LinkError::Lost;
                    };
                    // A status says that nobody is there to answer.
                    if !answer.is_status
                        && let Some(node) = self.meters.packet(roll::parse(&answer.payload))
                    {
                        self.roll.handle(node);
                    }
                }
                turn = link.turn() => match self.turned(turn, link, board).await {
                    Turned::On => {}
                    Turned::AskAgain(pause) => call_at = call_at.min(Instant::now() + pause),
                    Turned::Over => return LinkError::Lost,
                },
                () = sleep_until(wake_at.into()) => {}
            }
        }
    }

    async fn turned(&mut self, turn: Turn, link: &Link, board: Option<&Board>) -> Turned {
        let source = self.nats.name();
        match turn {
            Turn::Restored => {
                self.meters.link.up.set(1.0);
                self.nodes.handle_connected(Instant::now());
                let server = link.server();
                tracing::info!(%source, %server, "connected to the message bus at {source} again");
                Turned::AskAgain(Duration::ZERO)
            }
            Turn::Lost => {
                self.meters.link.up.set(0.0);
                self.nodes.handle_disconnected();
                let lost = Err(LinkError::Lost.into());
                board.inspect(|board| board.put(lost, Instant::now()));
                Turned::On
            }
            Turn::Overrun => Turned::AskAgain(ASK_SOON),
            Turn::LameDuck => {
                tracing::info!(%source, "a server of the message bus {source} is about to end");
                link.leave_server().await;
                Turned::On
            }
            Turn::Forbidden(text) => {
                tracing::warn!(
                    %source, answer = %text,
                    "the server of the message bus {source} refuses something: {text}; the \
                     permissions that the gateway needs are in the README"
                );
                self.forbidden = Some(text);
                Turned::On
            }
            Turn::Ended => Turned::Over,
        }
    }

    fn tell_hearers(&self) {
        if !self.nats.events {
            return;
        }
        let now = self.nodes.hearers();
        self.hearers.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    fn tell(&self, board: &Board, seen: Seen, now: Instant) {
        let forbidden = self.forbidden.clone().filter(|_| seen.is_empty());
        let has_addresses = matches!(self.nats.broker, Broker::Moleculer { .. });
        let answer = match forbidden {
            Some(text) => Err(LinkError::Forbidden(text).into()),
            None if has_addresses && seen.endpoints.0.is_empty() && !seen.is_empty() => {
                Err(SourceError::NoAddress)
            }
            None => Ok(seen),
        };
        // Again and again: whoever had this source before may have said otherwise at its end.
        self.meters.link.up.set(1.0);
        board.put(answer, now);
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.meters.link.up.set(0.0);
    }
}

/// What follows from what happened to the connection.
enum Turned {
    On,
    AskAgain(Duration),
    Over,
}

/// What comes on all subjects, with what each carries.
struct Packets(SelectAll<BoxStream<'static, (Topic, Bytes)>>);

impl Packets {
    async fn hear(link: &Link, subjects: &Subjects, own: &str) -> Result<Self, LinkError> {
        let mut all = SelectAll::new();
        for (subject, topic) in subjects.heard_by(own) {
            let heard = link.subscribe(subject).await?;
            all.push(heard.map(move |message| (topic, message.payload)).boxed());
        }
        Ok(Self(all))
    }

    /// `None`: the connection has ended.
    async fn next(&mut self) -> Option<(Topic, Bytes)> {
        self.0.next().await
    }
}

const EXAMINE_FOR: Duration = Duration::from_millis(1500);
/// An empty bus is asked again: its nodes may be busy.
const EXAMINATIONS: u32 = 3;
/// Streamers announce themselves; this is for announcements that were lost.
const ASK_EVERY: Duration = Duration::from_secs(60);
const ASK_SOON: Duration = Duration::from_secs(2);
/// How fresh the picture is that others see.
const TELL_EVERY: Duration = Duration::from_secs(1);
const CALL_EVERY: Duration = Duration::from_secs(2);
/// For the answers to one call.
const ROUND: Duration = Duration::from_secs(1);
/// Rounds without any answer until that is said.
const ROUNDS: u32 = 2;
const RETRY_MOST: Duration = Duration::from_secs(5);
