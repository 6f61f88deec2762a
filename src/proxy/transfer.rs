//! A session's way to another streamer: its second leg, from the wish for one to the switch.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, time::timeout};
use tracing::{debug, info};

use super::{
    attach::{Answer, LegError, masked_text_frame, open_leg},
    detached::Alias,
    introduction::Introduction,
    pump::{Held, Inspector, Passed, Pump},
    registry::Entry,
    shared::Shared,
};
use crate::{
    base::chunk::Backlog,
    ddp::{Connect, wrap_for_streamer},
    net::stream::Upstream,
    pool::{Outcome, Permit, Streamer, logins::LoginPermit},
    session::{Disconnect, Verdict, migration::Aborted},
    ws::{ControlPayload, Sender},
};

/// A move under way. Dropping it closes the new leg and gives everything back.
pub(super) enum Transfer {
    Reaching(Reaching),
    Shadowing(ShadowLeg),
}

type Reaching = Pin<Box<dyn Future<Output = Result<Reached, Aborted>> + Send>>;

/// The new leg, until it is in charge.
pub(super) struct ShadowLeg {
    pub(super) stream: Upstream,
    pub(super) permit: Permit,
    pub(super) pump: Pump,
    pub(super) backlog: Backlog,
    /// The turn to log in on it, until that is answered.
    pub(super) login: Option<LoginPermit>,
    /// What its streamer calls the session.
    _alias: Box<Alias>,
}

/// A new leg whose streamer has answered `connected`.
pub(super) struct Reached {
    pub(super) stream: TcpStream,
    pub(super) permit: Permit,
    pub(super) login: Option<LoginPermit>,
    pub(super) session: String,
    /// What had been read beyond the answer.
    pub(super) rest: Vec<u8>,
}

/// Who moves, and how.
pub(super) struct Departure {
    pub(super) shared: Arc<Shared>,
    pub(super) entry: Arc<Entry>,
    pub(super) from: Arc<Streamer>,
    pub(super) introduction: Arc<Introduction>,
    pub(super) optional: bool,
    pub(super) logs_in: bool,
}

impl Transfer {
    pub(super) fn begin(departure: Departure) -> Self {
        Self::Reaching(Box::pin(reach(departure)))
    }

    /// The new leg, when it has just been reached.
    pub(super) fn poll_reached(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reached, Aborted>> {
        match self {
            Self::Reaching(reaching) => reaching.as_mut().poll(cx),
            Self::Shadowing(_) => Poll::Pending,
        }
    }
}

/// Finds a place, waits for a turn to log in, and sets up a leg.
async fn reach(departure: Departure) -> Result<Reached, Aborted> {
    let Departure {
        shared,
        entry,
        from,
        introduction,
        optional,
        logs_in,
    } = departure;
    let unreachable = |_| Aborted::Unreachable;
    let permit = entry
        .pool
        .pick_to_move(&from, optional, Instant::now())
        .map_err(unreachable)?;
    let streamer = permit.streamer().clone();
    let login = if logs_in {
        let ticket = shared.logins.wait(&streamer.id, Instant::now());
        let mut ticket = ticket.map_err(|_| Aborted::Unreachable)?;
        Some(poll_fn(|cx| ticket.poll(cx, Instant::now())).await)
    } else {
        None
    };
    let connect = wrap_for_streamer(entry.framing, &Connect::fresh().to_json());
    let connect = masked_text_frame(&connect, rand::random());
    let request = introduction.request(&entry);
    let turn = shared.attaching.acquire().await;
    let opened = timeout(
        leg_timeout(&shared, &entry),
        open_leg(streamer.addr, &request, &connect, entry.framing),
    );
    let opened = opened.await.unwrap_or(Err(LegError::TimedOut));
    drop(turn);
    match opened {
        Ok((
            stream,
            Answer {
                session,
                frames: _,
                rest,
            },
        )) => {
            streamer.report(Outcome::Ok, Instant::now());
            debug!(session = %entry.id, streamer = %streamer.id, "a session that moves has its new leg");
            Ok(Reached {
                stream,
                permit,
                login,
                session,
                rest,
            })
        }
        Err(error) => {
            if let Some(outcome) = error.outcome() {
                streamer.report(outcome, Instant::now());
            }
            info!(
                session = %entry.id,
                client = %entry.client,
                streamer = %streamer.id,
                error = &error as &dyn std::error::Error,
                "a streamer did not take a session that was to move; it stays on {}",
                from.id,
            );
            Err(Aborted::Unreachable)
        }
    }
}

/// As configured for the session's pool.
fn leg_timeout(shared: &Shared, entry: &Entry) -> Duration {
    let snapshot = shared.snapshot.load();
    let mut pools = snapshot.config.pools.iter();
    pools
        .find(|pool| pool.name == *entry.pool.name())
        .map_or(LEG_TIMEOUT, |pool| pool.attach_timeout)
}

impl ShadowLeg {
    pub(super) fn new(
        reached: Reached,
        alias: Alias,
        backlog: Backlog,
        message_limit: u64,
    ) -> (Self, Vec<u8>) {
        let leg = Self {
            stream: Upstream::new(reached.stream),
            permit: reached.permit,
            pump: Pump::new(Sender::Server, message_limit),
            backlog,
            login: reached.login,
            _alias: Box::new(alias),
        };
        (leg, reached.rest)
    }
}

/// Takes the messages of the new leg apart; none of them passes.
#[derive(Default)]
pub(super) struct FromShadow {
    pub(super) messages: Vec<Vec<u8>>,
    /// A message is larger than what is put together.
    pub(super) too_large: bool,
    pub(super) pong: Option<Box<ControlPayload>>,
}

impl Inspector for FromShadow {
    fn judge(&mut self, _text: bool, _prefix: &[u8], _whole: bool) -> Verdict {
        Verdict::Assemble
    }

    fn assembled(&mut self, message: Held) -> Result<Passed, Disconnect> {
        self.messages.push(message.text);
        Ok(Passed::default())
    }

    fn oversized(&mut self, _prefix: &[u8]) -> Verdict {
        self.too_large = true;
        Verdict::Drop
    }

    fn ping(&mut self, payload: Box<ControlPayload>) {
        self.pong = Some(payload);
    }

    fn pong(&mut self, _payload: &ControlPayload) {}
}

const LEG_TIMEOUT: Duration = Duration::from_secs(10);
