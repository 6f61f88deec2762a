//! A user's life: attempts to have a session, and the pauses between them.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    time::{sleep, sleep_until, timeout},
};

use super::{
    board::{Board, Pin, Standing},
    chance::Chance,
    crowd::{Person, Target},
    dialogue::{Dialogue, Due},
    kind::Kind,
    reconnect::{Loss, Reconnect},
    socket::{Heard, Nonsense, OpenError, Socket, dial, request},
    tally::Ended,
};

pub(super) struct Life<'a> {
    person: &'a Person,
    target: &'a Target,
    board: &'a Board,
    chance: Chance,
    reconnect: Reconnect,
    /// The id in the last `connected`.
    session: Option<String>,
    /// When the last session that was logged in was lost.
    lost: Option<Instant>,
    cuts: watch::Receiver<()>,
    /// It only looks in: when that was meant to begin.
    visit: Option<Instant>,
}

/// A transport that is open.
struct Opened {
    socket: Socket,
    began: Instant,
    /// What was read behind the opening.
    heard: Vec<Heard>,
}

impl<'a> Life<'a> {
    pub(super) fn new(person: &'a Person, target: &'a Target, board: &'a Board, seed: u64) -> Self {
        Self {
            person,
            target,
            board,
            chance: Chance::new(seed ^ (u64::from(person.number) << 32)),
            reconnect: Reconnect::new(person.kind),
            session: None,
            lost: None,
            cuts: board.cuts(),
            visit: None,
        }
    }

    /// Ends when the client would never try again.
    pub(super) async fn run(mut self, pin: &mut Pin<'_>) {
        loop {
            let ended = self.attempt(pin).await;
            let loss = match ended {
                Ended::Closed(code) => Loss::Opened(code),
                Ended::GivenUp => Loss::GivenUp,
                ended if ended.was_open() => Loss::Opened(None),
                _ => Loss::Unopened,
            };
            let pause = self
                .reconnect
                .after(self.person.kind, loss, &mut self.chance);
            let Some(pause) = pause else { return };
            sleep(pause).await;
        }
    }

    /// One session, which the client leaves as soon as it has the answers to all that it asked for at
    /// the start. Times count from `meant`, when it was meant to begin.
    pub(super) async fn visit(mut self, meant: Instant, pin: &mut Pin<'_>) {
        self.visit = Some(meant);
        if timeout(VISIT_LIMIT, self.attempt(pin)).await.is_err() {
            *self.board.tally().ended.entry(Ended::GivenUp).or_default() += 1;
        }
    }

    async fn attempt(&mut self, pin: &mut Pin<'_>) -> Ended {
        let at = self.board.elapsed();
        self.board.tally().attempt(self.person.number, at);
        let opened = match self.person.kind {
            Kind::Web => self.open_sockjs().await,
            Kind::ReactNative | Kind::Sdk { .. } => self.open_raw().await,
        };
        let ended = match opened {
            Ok(opened) => {
                let ended = self.talk(opened, pin).await;
                if matches!(pin.standing(), Standing::LoggedIn | Standing::Settled) {
                    self.lost = Some(Instant::now());
                }
                ended
            }
            Err(ended) => ended,
        };
        pin.set(Standing::Away);
        *self.board.tally().ended.entry(ended).or_default() += 1;
        ended
    }

    /// `sockjs/sockjs-client:lib/main.js`: `/info` measures the round trip, which sets the time that
    /// the WebSocket has until `o`; what fails in another way than by a final close is followed by
    /// the polling transports. All of it has Meteor's ten seconds.
    async fn open_sockjs(&mut self) -> Result<Opened, Ended> {
        match timeout(METEOR_LIMIT, self.open_transports()).await {
            Ok(opened) => opened,
            Err(_) => Err(Ended::OpenedLate),
        }
    }

    async fn open_transports(&mut self) -> Result<Opened, Ended> {
        let asked = Instant::now();
        let path = format!("/sockjs/info?cb={}", self.chance.letters(8));
        let info = timeout(INFO_LIMIT, self.request("GET", &path)).await;
        if !matches!(info, Ok(Ok(200))) {
            return Err(Ended::NoInfo);
        }
        let limit = 2 * retransmission(asked.elapsed());

        let server = self.chance.next() % 1000;
        let session = self.chance.letters(8).to_lowercase();
        let prefix = format!("/sockjs/{server:03}/{session}");
        let path = format!("{prefix}/websocket");
        let ended = match timeout(limit, self.open_framed(&path)).await {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(ended)) => ended,
            Err(_) => Ended::OpenedLate,
        };
        let is_final = match ended {
            Ended::TurnedAway(_) => true,
            Ended::ClosedEarly(Some(code)) => matches!(code, 1000 | 2000 | 3000..=4999),
            _ => false,
        };
        if !is_final {
            for (method, transport) in [("POST", "xhr"), ("GET", "jsonp?c=_jp.a")] {
                self.board.tally().fallbacks += 1;
                let path = format!("{prefix}/{transport}");
                let _ = timeout(limit, self.request(method, &path)).await;
            }
        }
        Err(ended)
    }

    async fn open_framed(&mut self, path: &str) -> Result<Opened, Ended> {
        let mut opened = self.upgrade(path).await?;
        loop {
            if !opened.heard.is_empty() {
                break;
            }
            let heard = opened.socket.hear(&mut opened.heard).await;
            heard.map_err(|Nonsense| Ended::Nonsense)?;
        }
        match opened.heard.remove(0) {
            Heard::Open => {
                let took = opened.began.elapsed();
                self.board.tally().opened.record(took);
                Ok(opened)
            }
            Heard::Goodbye(code) => Err(Ended::TurnedAway(code)),
            Heard::Closed(code) => Err(Ended::ClosedEarly(code)),
            Heard::End => Err(Ended::ClosedEarly(None)),
            Heard::Heartbeat | Heard::Message(_) => Err(Ended::Nonsense),
        }
    }

    async fn open_raw(&mut self) -> Result<Opened, Ended> {
        match timeout(RAW_LIMIT, self.upgrade("/websocket")).await {
            Ok(opened) => opened,
            Err(_) => Err(Ended::OpenedLate),
        }
    }

    async fn upgrade(&mut self, path: &str) -> Result<Opened, Ended> {
        let began = self.visit.unwrap_or_else(Instant::now);
        let stream = dial(self.target, self.person.number)
            .await
            .map_err(|_| Ended::Unreachable)?;
        let mut heard = Vec::new();
        let socket = Socket::upgrade(
            stream,
            self.target,
            path,
            self.person.kind.user_agent(),
            self.person.kind.framing(),
            Chance::new(self.chance.next()),
            &mut heard,
        )
        .await
        .map_err(|error| match error {
            OpenError::Refused(status) => Ended::Refused(status),
            OpenError::Cut => Ended::ClosedEarly(None),
            OpenError::Nonsense => Ended::Nonsense,
        })?;
        self.board.tally().upgraded.record(began.elapsed());
        Ok(Opened {
            socket,
            began,
            heard,
        })
    }

    async fn request(&self, method: &str, path: &str) -> io::Result<u16> {
        let agent = self.person.kind.user_agent();
        request(self.target, self.person.number, method, path, agent).await
    }

    /// From the opening of the transport to its end.
    async fn talk(&mut self, opened: Opened, pin: &mut Pin<'_>) -> Ended {
        let Opened {
            mut socket,
            began,
            mut heard,
        } = opened;
        pin.set(Standing::Parked);
        let now = Instant::now();
        let chance = Chance::new(self.chance.next());
        let mut dialogue = Dialogue::new(self.person, self.board, began, self.lost, chance, now);
        let mut say = Vec::new();
        self.cuts.mark_unchanged();
        dialogue.open(self.session.as_deref(), &mut say, now);
        loop {
            let now = Instant::now();
            for heard in heard.drain(..) {
                match heard {
                    Heard::Open => return Ended::Nonsense,
                    Heard::Heartbeat => dialogue.hear_heartbeat(now),
                    Heard::Message(text) => {
                        if let Some(session) = dialogue.hear(&text, &mut say, pin, now) {
                            self.session = Some(session);
                        }
                    }
                    Heard::Goodbye(code) => {
                        socket.say_close(1000);
                        socket.flush().await;
                        return Ended::Closed(Some(code));
                    }
                    Heard::Closed(code) => {
                        socket.say_close(1000);
                        socket.flush().await;
                        return Ended::Closed(code);
                    }
                    Heard::End => return Ended::Closed(None),
                }
            }
            for message in say.drain(..) {
                socket.say(&message);
            }
            if !socket.flush().await {
                return Ended::Closed(None);
            }
            if let (Some(began), true) = (self.visit, pin.has_its_answers()) {
                if pin.standing() == Standing::Settled {
                    self.board.tally().visit.record(began.elapsed());
                }
                return leave(&mut socket).await;
            }
            let due = dialogue.next_timeout();
            let hearing = tokio::select! {
                hearing = socket.hear(&mut heard) => hearing,
                _ = self.cuts.changed() => return Ended::Cut,
                () = until(due) => {
                    match dialogue.due(&mut say, Instant::now()) {
                        None => {}
                        Some(Due::Ping) => say.push(ddp_gateway::ddp::message::PING.to_owned()),
                        Some(Due::GiveUp(code)) => {
                            socket.say_close(code);
                            socket.flush().await;
                            return Ended::GivenUp;
                        }
                    }
                    Ok(())
                }
            };
            if let Err(Nonsense) = hearing {
                self.board.tally().breach(
                    self.person.number,
                    "bytes that are no WebSocket or SockJS frame",
                );
                return Ended::Nonsense;
            }
        }
    }
}

/// Says goodbye, and waits for the server's.
async fn leave(socket: &mut Socket) -> Ended {
    socket.say_close(1000);
    if !socket.flush().await {
        return Ended::Left;
    }
    let goodbye = async {
        let mut heard = Vec::new();
        while socket.hear(&mut heard).await.is_ok() {
            let is_last = |heard: &Heard| matches!(heard, Heard::Closed(_) | Heard::End);
            if heard.drain(..).any(|heard| is_last(&heard)) {
                break;
            }
        }
    };
    // A server that does not answer is left all the same.
    let _ = timeout(GOODBYE_LIMIT, goodbye).await;
    Ended::Left
}

/// Time that a transport has per round trip.
fn retransmission(rtt: Duration) -> Duration {
    if rtt > Duration::from_millis(100) {
        4 * rtt
    } else {
        rtt + Duration::from_millis(300)
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// `CONNECT_TIMEOUT` of `meteor/meteor:packages/socket-stream-client`.
const METEOR_LIMIT: Duration = Duration::from_secs(10);
const INFO_LIMIT: Duration = Duration::from_secs(8);
/// React Native finds a socket dead after 20 s of silence, open or not.
const RAW_LIMIT: Duration = Duration::from_secs(20);
/// No visit takes longer.
const VISIT_LIMIT: Duration = Duration::from_secs(60);
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);
