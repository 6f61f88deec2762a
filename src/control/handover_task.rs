//! Detached sessions between gateways: the peer listener, the questions on the bus, and the sessions
//! that have come and want a leg of their own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{info, warn};

use super::{app::Inner, drain::Stage, moves, restart::restarting};
use crate::{
    base::{id::ListenAddr, sealing::Sealer},
    bus::{Hearing, Link, Message, Meters, Post, Turn, jitter},
    config::model::{Config, Replicas},
    net::listen::{self, Bound},
    proxy::{
        handover::{self, Desk, Handover, LOOKUPS, Question, Taker, Whereabouts, packet},
        registry::Moving,
    },
};

/// Runs until the process stops.
///
/// A defect that panics in here costs a second: what is handed over already goes on.
pub(super) async fn run(inner: Arc<Inner>) {
    let drive = || Box::pin(drive(&inner));
    restarting(&inner, "hands sessions over between gateways", drive).await;
}

/// What is configured, when it is.
#[derive(Clone, PartialEq, Eq)]
struct Terms {
    replicas: Replicas,
    listen: ListenAddr,
    secret: Vec<u8>,
}

impl Terms {
    fn of(config: &Config) -> Option<Self> {
        let replicas = config.replicas.as_deref()?.clone();
        let secret = match &config.affinity.secret {
            Some(secret) => secret.expose().clone(),
            None => replicas.subject.clone().into_bytes(),
        };
        Some(Self {
            listen: replicas.listen?,
            replicas,
            secret,
        })
    }

    fn now(inner: &Inner) -> Option<Self> {
        Self::of(&inner.shared.snapshot.load().config)
    }
}

/// However this ends, there is no way to other gateways behind it.
struct Closed<'a>(&'a Handover);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

async fn drive(inner: &Arc<Inner>) -> ! {
    let _closed = Closed(&inner.shared.handover);
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let Some(terms) = Terms::now(inner) else {
            // What came before still needs legs.
            tick.tick().await;
            settle(inner, Instant::now());
            continue;
        };
        let changed = async {
            while Terms::now(inner).as_ref() == Some(&terms) {
                tick.tick().await;
                settle(inner, Instant::now());
            }
        };
        tokio::select! {
            () = changed => {}
            () = serve(inner, &terms) => {}
        }
        inner.shared.handover.close();
    }
}

/// Until the terms change.
async fn serve(inner: &Arc<Inner>, terms: &Terms) {
    let bound = bind(terms.listen).await;
    let local = bound.local();
    let stop = inner.stop.child_token();
    let _stop = stop.clone().drop_guard();
    tokio::spawn(handover::serve(inner.shared.clone(), bound, stop));
    info!(address = %local, "other gateways can fetch sessions here");
    if inner
        .shared
        .snapshot
        .load()
        .config
        .affinity
        .secret
        .is_none()
    {
        warn!(
            "sessions that change between gateways are sealed with nothing secret: set \
             affinity.secret, the same at all gateways"
        );
    }
    let post = Post::default();
    let desk = BusDesk {
        inner,
        terms,
        port: local.0.port(),
        post: &post,
        id: format!("{:032x}", rand::random::<u128>()),
    };
    tokio::select! {
        () = keep(terms, &post) => {}
        () = desk.run() => {}
    }
}

async fn bind(address: ListenAddr) -> Bound {
    loop {
        match listen::bind(address) {
            Ok(bound) => return bound,
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                "no sessions are handed over between gateways until replicas.listen can be used"
            ),
        }
        sleep(BIND_PAUSE).await;
    }
}

/// Keeps a connection to the bus.
async fn keep(terms: &Terms, post: &Post) {
    let meters = Meters::new("handover");
    let mut said = false;
    loop {
        match Box::pin(Link::connect(&terms.replicas.bus, &meters)).await {
            Ok(mut link) => {
                post.plug(&link);
                said = false;
                while link.turn().await != Turn::Ended {}
                post.unplug();
            }
            Err(error) if !said => {
                said = true;
                warn!(
                    bus = terms.replicas.name(),
                    error = &error as &dyn std::error::Error,
                    "sessions stay with their gateways: the bus is away"
                );
            }
            Err(_) => {}
        }
        sleep(jitter(RECONNECT_PAUSE)).await;
    }
}

/// Speaks on the bus for the data path.
struct BusDesk<'a> {
    inner: &'a Arc<Inner>,
    terms: &'a Terms,
    port: u16,
    post: &'a Post,
    /// Of this gateway, since its start.
    id: String,
}

/// Answers of those who take sessions, for one call.
struct Collecting {
    until: Instant,
    takers: Vec<Taker>,
    answers: Vec<oneshot::Sender<Vec<Taker>>>,
}

impl BusDesk<'_> {
    async fn run(&self) {
        let (questions, mut asked) = mpsc::channel::<Question>(LOOKUPS);
        let (calls, mut called) = mpsc::channel(CALLS);
        let mut owners = self.hear("owner");
        let mut takers = self.hear("take");
        let mut peers = self.hear("peer");
        let mut greet_at = Instant::now();
        // Others are there until then.
        let mut peered_until = None;
        let mut rooms = self.hear(&format!("room.{}", self.id));
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut collecting: Option<Collecting> = None;
        loop {
            let done = collecting.as_ref().map(|calling| calling.until);
            tokio::select! {
                Some(question) = asked.recv() => self.ask(question),
                message = owners.next() => self.answer_owner(&message).await,
                message = peers.next() => {
                    if packet::is_hello(&self.id, &message.payload) {
                        // It may be new, and have missed the last hello.
                        if peered_until.is_none() {
                            greet_at = Instant::now();
                        }
                        peered_until = Some(Instant::now() + PEER_SILENCE);
                    }
                }
                message = takers.next() => self.answer_call(&message).await,
                message = rooms.next() => {
                    if let Some(calling) = &mut collecting
                        && calling.takers.len() < MOST_TAKERS
                    {
                        calling.takers.extend(packet::read_room(&message.payload));
                    }
                }
                Some(answer) = called.recv() => match &mut collecting {
                    Some(calling) => calling.answers.push(answer),
                    None => {
                        self.call().await;
                        collecting = Some(Collecting {
                            until: Instant::now() + COLLECT_FOR,
                            takers: Vec::new(),
                            answers: vec![answer],
                        });
                    }
                },
                () = sleep_until(done) => {
                    if let Some(Collecting { takers, answers, .. }) = collecting.take() {
                        for answer in answers {
                            let _ = answer.send(takers.clone());
                        }
                    }
                }
                _ = tick.tick() => {
                    let (handover, now) = (&self.inner.shared.handover, Instant::now());
                    if greet_at <= now {
                        greet_at = now + GREET_EVERY;
                        self.post.publish(self.subject("peer"), packet::hello(&self.id)).await;
                    }
                    peered_until = peered_until.filter(|until| now < *until);
                    match self.post.is_up() && peered_until.is_some() {
                        true if !handover.is_open() => handover.open(Desk {
                            questions: questions.clone(),
                            calls: calls.clone(),
                            sealer: Sealer::new(PURPOSE, &self.terms.secret),
                        }),
                        true => {}
                        false => handover.close(),
                    }
                }
            }
        }
    }

    fn hear(&self, what: &str) -> Hearing {
        self.post.hear(self.subject(what))
    }

    fn subject(&self, what: &str) -> String {
        format!("{}.{what}", self.terms.replicas.subject)
    }

    /// Where others reach this gateway.
    fn own(&self, ticket: handover::Ticket) -> Option<Whereabouts> {
        let peer = match self.terms.replicas.address {
            Some(address) => address.0,
            None => (self.post.own_ip()?, self.port).into(),
        };
        Some(Whereabouts { peer, ticket })
    }

    fn ask(&self, question: Question) {
        let (post, subject) = (self.post.clone(), self.subject("owner"));
        let payload = packet::question(&self.id, question.name);
        tokio::spawn(async move {
            let answer = post.ask(subject, payload, ANSWER_WITHIN).await;
            let place = answer.ok().and_then(|answer| packet::read_place(&answer));
            let _ = question.answer.send(place);
        });
    }

    async fn answer_owner(&self, message: &Message) {
        let Some(name) = packet::read_question(&self.id, &message.payload) else {
            return;
        };
        let shared = &self.inner.shared;
        let ticket = shared.handover.ticket_for(name, shared);
        if let Some(own) = ticket.and_then(|ticket| self.own(ticket)) {
            self.post.answer(message, packet::place(&own)).await;
        }
    }

    async fn answer_call(&self, message: &Message) {
        let prefix = self.subject("room.");
        let to = packet::read_call(&self.id, &prefix, &message.payload);
        let Some(to) = to.filter(|_| self.inner.exit.stage() == Stage::Running) else {
            return;
        };
        let handover = &self.inner.shared.handover;
        let ticket = handover.ticket_to_offer(ROOM);
        if let Some(at) = ticket.and_then(|ticket| self.own(ticket)) {
            let taker = Taker {
                at,
                room: ROOM,
                sessions: u32::try_from(self.inner.sessions()).unwrap_or(u32::MAX),
            };
            self.post.publish(to, packet::room(&taker)).await;
        }
    }

    async fn call(&self) {
        let answer = self.subject(&format!("room.{}", self.id));
        let payload = packet::call(&self.id, &answer);
        self.post.publish(self.subject("take"), payload).await;
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Has the sessions move to legs of this gateway's own that have come from others.
fn settle(inner: &Inner, now: Instant) {
    let borrowed = inner.shared.handover.borrowed();
    if borrowed.is_empty() {
        return;
    }
    let mut entries = Vec::new();
    for id in borrowed {
        match inner.shared.registry.find(id) {
            Some(entry) => entries.push(entry),
            None => inner.shared.handover.settle(id),
        }
    }
    let under_way = |moving| moving == Moving::UnderWay;
    let (moving, waiting): (Vec<_>, Vec<_>) = entries
        .into_iter()
        .partition(|entry| under_way(entry.place().moving));
    let room = moves::most_under_way(inner, now).saturating_sub(moving.len());
    for entry in waiting.into_iter().take(room) {
        entry.order_move(false);
    }
}

/// What the keys of the seal are for.
const PURPOSE: &str = "ddp-gateway hand-over v1";

const LOOK_EVERY: Duration = Duration::from_millis(500);
const BIND_PAUSE: Duration = Duration::from_secs(5);
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// How often a gateway says that it is there, and how long it is believed to be.
const GREET_EVERY: Duration = Duration::from_secs(1);
const PEER_SILENCE: Duration = Duration::from_millis(3_500);

/// A client waits for it.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);

/// For the answers to a call.
const COLLECT_FOR: Duration = Duration::from_millis(300);
const MOST_TAKERS: usize = 64;
const CALLS: usize = 4;

/// Sessions that may come by one call.
const ROOM: u32 = 2_000;
