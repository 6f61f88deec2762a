//! A session comes from another gateway: with its client, or before it.

use std::{sync::Arc, time::Instant};

use tokio::sync::oneshot;
use tracing::info;

use super::{
    Desk, Handover, Side, Whereabouts,
    parcel::Parcel,
    wire::{ClaimPiece, Failure, GIVEN, Peering, Piece, TAKEN, Wish, YOURS},
};
use crate::{
    base::secret::Secret,
    net::stream::Upstream,
    proxy::{
        detached::Answer,
        introduction::Introduction,
        registry::{Entry, Newcomer, Registry},
        relay::{Kept, Relay},
        shared::Shared,
    },
    session::{Session, quota::Asker},
};

/// A client that wants a session which another gateway may have.
pub(in crate::proxy) struct Errand {
    pub(in crate::proxy) name: String,
    pub(in crate::proxy) entry: Arc<Entry>,
    pub(in crate::proxy) introduction: Arc<Introduction>,
    pub(in crate::proxy) asker: Asker,
}

/// The other gateway is being asked.
pub(in crate::proxy) struct Fetch {
    /// For the client's token, once it has shown one.
    pub(in crate::proxy) token: Option<oneshot::Sender<Secret<String>>>,
    /// Comes without the token when nobody has the session.
    pub(in crate::proxy) answer: oneshot::Receiver<Answer>,
}

impl Fetch {
    /// Begins to ask, if there is anybody to be asked.
    pub(in crate::proxy) fn begin(shared: &Arc<Shared>, errand: Errand) -> Option<Self> {
        let desk = shared.handover.desk.load_full()?;
        let (token, shown) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        let shared = shared.clone();
        tokio::spawn(async move {
            let entry = errand.entry.clone();
            let kept = fetch(&shared, &desk, errand, shown).await;
            if let Err(Some(kept)) = answer.send(kept) {
                // The client has left again, and may come back once more.
                adopt(&shared, *kept, Newcomer::like(&entry));
            }
        });
        Some(Self {
            token: Some(token),
            answer: answered,
        })
    }
}

async fn fetch(
    shared: &Arc<Shared>,
    desk: &Desk,
    errand: Errand,
    shown: oneshot::Receiver<Secret<String>>,
) -> Answer {
    let began = Instant::now();
    let at = shared.handover.look_up(desk, &errand.name).await?;
    let token = shown.await.ok()?;
    let entry = errand.entry.clone();
    match claim(shared, desk, at, errand, token).await {
        Ok(kept) => {
            Handover::count(Side::Taken, "done");
            let meters = &shared.handover.meters;
            meters.seconds.record(began.elapsed());
            info!(
                session = %entry.id,
                client = %entry.client,
                peer = %at.peer,
                "a client came back whose session another gateway had: it goes on here"
            );
            Some(Box::new(kept))
        }
        Err(failure) => {
            Handover::count(Side::Taken, failure.label());
            info!(
                session = %entry.id,
                client = %entry.client,
                peer = %at.peer,
                error = &failure as &dyn std::error::Error,
                "the session of a client is not handed over: the client gets a new one"
            );
            None
        }
    }
}

async fn claim(
    shared: &Arc<Shared>,
    desk: &Desk,
    at: Whereabouts,
    errand: Errand,
    token: Secret<String>,
) -> Result<Kept, Failure> {
    let mut peering = Peering::dial(at.peer, at.ticket, Wish::Claim, &desk.sealer).await?;
    let piece = ClaimPiece {
        name: errand.name,
        token,
        framing: errand.entry.framing,
        pool: errand.entry.pool.name().to_string(),
    };
    peering.send(Piece::Claim, &piece.pack()).await?;
    if peering.hear().await? != GIVEN {
        return Err(Failure::NotGiven);
    }
    let parcel = Parcel::unpack(peering.read(Piece::Parcel).await?.expose())?;
    let session = parcel.open(errand.asker, shared)?;
    let stream = accept(peering).await?;
    Ok(Kept::borrowed(
        stream,
        parcel.permit(),
        errand.introduction,
        session,
        shared,
    ))
}

/// From here on the session is this gateway's, unless it fails.
async fn accept(mut peering: Peering<'_>) -> Result<Upstream, Failure> {
    peering.say(TAKEN).await?;
    match peering.hear().await? {
        YOURS => Ok(Upstream::new(peering.stream)),
        _ => Err(Failure::NotGiven),
    }
}

/// Takes a session whose client is away.
pub(super) async fn take_offer(
    shared: &Arc<Shared>,
    mut peering: Peering<'_>,
) -> Result<(), Failure> {
    let parcel = Parcel::unpack(peering.read(Piece::Parcel).await?.expose())?;
    let asker = Asker {
        connection: rand::random(),
        user: None,
        client: rand::random(),
        address: None,
    };
    let session: Session = parcel.open(asker, shared)?;
    let guest = parcel.guest.as_ref().ok_or(Failure::NoPool)?;
    let (newcomer, introduction) = guest.settle(&session, shared)?;
    let stream = accept(peering).await?;
    let kept = Kept::borrowed(stream, parcel.permit(), introduction, session, shared);
    adopt(shared, kept, newcomer);
    Ok(())
}

/// Keeps a session whose client is away.
pub(super) fn adopt(shared: &Arc<Shared>, kept: Kept, newcomer: Newcomer) {
    let now = Instant::now();
    let registration = Registry::register(shared, newcomer, now);
    let relay = Relay::adopt(kept, registration, now);
    shared.tasks.spawn(relay);
}
