//! The owner's side: the peer listener, and sessions that go to another gateway.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, oneshot},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Handover, Side, Whereabouts,
    parcel::{Guest, Parcel},
    pipe::Pipe,
    take::{adopt, take_offer},
    ticket::Grant,
    wire::{ClaimPiece, Failure, GIVEN, NOT_GIVEN, Peering, Piece, TAKEN, Wish, YOURS},
};
use crate::{
    base::id::SessionId,
    net::listen::Bound,
    proxy::{
        detached::Answer,
        registry::{Entry, Newcomer, Standing},
        relay::Kept,
        shared::{Phase, Shared},
    },
    telemetry::meters::Counted,
};

/// Serves other gateways until `stop`.
pub async fn serve(shared: Arc<Shared>, bound: Bound, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(PEERS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = bound.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "the listener for other gateways cannot accept; it tries again");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Whoever has a ticket tries another gateway or begins anew; others are not waited for.
        let Ok(place) = room.clone().try_acquire_owned() else {
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            if let Err(failure) = welcome(&shared, stream).await {
                Handover::count(Side::Given, failure.label());
                debug!(
                    error = &failure as &dyn std::error::Error,
                    "another gateway came and went"
                );
            }
            drop(place);
        });
    }
}

async fn welcome(shared: &Arc<Shared>, stream: TcpStream) -> Result<(), Failure> {
    let desk = shared.handover.desk.load_full().ok_or(Failure::NoTicket)?;
    let nonce = rand::random();
    let (peering, wish, ticket) = Peering::receive(stream, nonce, &desk.sealer).await?;
    match (shared.handover.redeem(ticket), wish) {
        (Some(Grant::Claim(holder)), Wish::Claim) => answer_claim(shared, holder, peering).await,
        (Some(Grant::Offer(_)), Wish::Offer) if shared.phase() == Phase::Running => {
            match take_offer(shared, peering).await {
                Ok(()) => Handover::count(Side::Taken, "done"),
                Err(failure) => {
                    Handover::count(Side::Taken, failure.label());
                    info!(
                        error = &failure as &dyn std::error::Error,
                        "a session that another gateway offered was not taken"
                    );
                }
            }
            Ok(())
        }
        _ => Err(Failure::NoTicket),
    }
}

async fn answer_claim(
    shared: &Arc<Shared>,
    holder: SessionId,
    mut peering: Peering<'_>,
) -> Result<(), Failure> {
    let piece = peering.read(Piece::Claim).await?;
    let claim = ClaimPiece::unpack(piece.expose())?;
    let entry = shared
        .registry
        .find(holder)
        .filter(|entry| entry.framing == claim.framing && entry.pool.name().as_str() == claim.pool);
    let kept = match &entry {
        Some(entry) => {
            let answer = shared
                .detached
                .claim_away(&claim.name, entry, Some(claim.token));
            given(answer).await
        }
        None => None,
    };
    // Whether there is no such session or the token is another one, the answer is the same.
    let (Some(entry), Some(kept)) = (entry, kept) else {
        peering.say(NOT_GIVEN).await?;
        return Err(Failure::NotGiven);
    };
    match peering.say(GIVEN).await {
        Ok(()) => hand_over(shared, &entry, kept, None, peering).await,
        Err(failure) => {
            adopt(shared, *kept, Newcomer::like(&entry));
            Err(failure)
        }
    }
}

/// What the relay that has the session says.
async fn given(mut answer: oneshot::Receiver<Answer>) -> Answer {
    match timeout(RELAY_WITHIN, &mut answer).await {
        Ok(given) => given.ok()?,
        Err(_) => {
            // From here on the relay keeps it; it may have given it a moment ago.
            answer.close();
            answer.try_recv().ok()?
        }
    }
}

/// Gives the session away, or keeps it.
async fn hand_over(
    shared: &Arc<Shared>,
    entry: &Arc<Entry>,
    mut kept: Box<Kept>,
    guest: Option<Guest>,
    mut peering: Peering<'_>,
) -> Result<(), Failure> {
    let Some(session) = kept.take_packed() else {
        adopt(shared, *kept, Newcomer::like(entry));
        return Err(Failure::NotGiven);
    };
    let streamer = kept.streamer();
    let parcel = Parcel {
        session,
        streamer: streamer.id.clone(),
        address: streamer.addr,
        guest,
    };
    let accepted = async {
        peering.send(Piece::Parcel, &parcel.pack()).await?;
        match peering.hear().await? {
            TAKEN => Ok(()),
            _ => Err(Failure::NotTaken),
        }
    };
    if let Err(failure) = accepted.await {
        info!(
            session = %entry.id,
            client = %entry.client,
            error = &failure as &dyn std::error::Error,
            "a session was to go on at another gateway: it stays"
        );
        adopt(shared, *kept, Newcomer::like(entry));
        return Err(failure);
    }
    // If this is not heard, nobody has the session: the client is a newcomer when it comes back.
    peering.say(YOURS).await?;
    Handover::count(Side::Given, "done");
    info!(
        target: "access",
        event = "session_handed_over",
        session = %entry.id,
        client = %entry.client,
        streamer = %parcel.streamer,
        peer = peering.stream.peer_addr().ok().map(tracing::field::display),
    );
    let (leg, permit, waiting) = kept.into_leg();
    let pipe = Pipe::new(leg, permit, waiting, peering.stream);
    let counted = Counted::new(&shared.handover.meters.pipes);
    shared.tasks.spawn(async move {
        pipe.await;
        drop(counted);
    });
    Ok(())
}

/// Offers the sessions whose clients are away to other gateways, those with the fewest sessions
/// first. How many went.
pub async fn give_away(shared: &Arc<Shared>) -> usize {
    let mut entries = Vec::new();
    shared.registry.for_each(|entry| {
        if entry.place().standing == Standing::Detached {
            entries.push(entry.clone());
        }
    });
    let Some(desk) = shared
        .handover
        .desk
        .load_full()
        .filter(|_| !entries.is_empty())
    else {
        return 0;
    };
    let (answer, takers) = oneshot::channel();
    if desk.calls.send(answer).await.is_err() {
        return 0;
    }
    let mut takers = takers.await.unwrap_or_default();
    let found = entries.len();
    let mut offers = Vec::new();
    for entry in entries {
        let free = takers.iter_mut().filter(|taker| taker.room > 0);
        let Some(taker) = free.min_by_key(|taker| taker.sessions) else {
            break;
        };
        taker.room -= 1;
        taker.sessions += 1;
        offers.push((entry, taker.at));
    }
    let gone = stream::iter(offers)
        .map(|(entry, to)| async move { usize::from(offer(shared, &entry, to).await) })
        .buffer_unordered(OFFERS)
        .fold(0, |gone, more| async move { gone + more })
        .await;
    info!(
        sessions = found,
        handed_over = gone,
        replicas = takers.len(),
        "sessions whose clients are away were offered to the other gateways"
    );
    gone
}

/// Offers the session of a client that is away to another gateway. Whether that has it now.
async fn offer(shared: &Arc<Shared>, entry: &Arc<Entry>, to: Whereabouts) -> bool {
    match try_offer(shared, entry, to).await {
        Ok(()) => true,
        Err(failure) => {
            Handover::count(Side::Given, failure.label());
            debug!(
                session = %entry.id,
                peer = %to.peer,
                error = &failure as &dyn std::error::Error,
                "a session was offered to another gateway, and stays"
            );
            false
        }
    }
}

async fn try_offer(
    shared: &Arc<Shared>,
    entry: &Arc<Entry>,
    to: Whereabouts,
) -> Result<(), Failure> {
    let desk = shared.handover.desk.load_full().ok_or(Failure::NotTaken)?;
    let peering = Peering::dial(to.peer, to.ticket, Wish::Offer, &desk.sealer).await?;
    let answer = shared.detached.claim_away("", entry, None);
    let kept = given(answer).await.ok_or(Failure::NotGiven)?;
    let guest = Guest::new(entry, kept.introduction());
    hand_over(shared, entry, kept, Some(guest), peering).await
}

/// Sessions that are offered at the same time.
const OFFERS: usize = 32;

/// Connections of other gateways whose session has not changed hands yet.
const PEERS: usize = 512;

const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// For a relay to come to rest between two messages of its streamer, and to the end of a login or a
/// move of its session.
const RELAY_WITHIN: Duration = Duration::from_millis(2_500);
