//! A session on its way, with what the gateway knows about it beside the session itself.

use std::{net::IpAddr, sync::Arc, time::Instant};

use super::wire::Failure;
use crate::{
    base::{
        chunk::Backlog,
        id::{ClientAddr, StreamerAddr, StreamerId},
        packing::{Garbled, Packer, Unpacker},
        secret::Secret,
    },
    pool::{Permit, Pool},
    proxy::{
        introduction::Introduction,
        registry::{Entry, Newcomer},
        shared::Shared,
    },
    session::{Arrival, Session, quota::Asker},
};

/// What goes from one gateway to the other.
pub(super) struct Parcel {
    pub(super) session: Secret<Vec<u8>>,
    pub(super) streamer: StreamerId,
    pub(super) address: StreamerAddr,
    /// Who the client was, for one that takes the session without it.
    pub(super) guest: Option<Guest>,
}

/// A client that is away.
pub(super) struct Guest {
    pool: String,
    client: ClientAddr,
    tls: bool,
    introduction: Introduction,
}

impl Guest {
    pub(super) fn new(entry: &Entry, introduction: &Introduction) -> Self {
        Self {
            pool: entry.pool.name().to_string(),
            client: entry.client,
            tls: entry.tls,
            introduction: introduction.clone(),
        }
    }

    /// As whom the session is registered here, until its client is back.
    pub(super) fn settle(
        &self,
        session: &Session,
        shared: &Shared,
    ) -> Result<(Newcomer, Arc<Introduction>), Failure> {
        let snapshot = shared.snapshot.load();
        let mut pools = snapshot.pools.iter();
        let pool: &Arc<Pool> = pools
            .find(|pool| pool.name().as_str() == self.pool)
            .ok_or(Failure::NoPool)?;
        let newcomer = Newcomer {
            client: self.client,
            connection: None,
            stream: None,
            pool: pool.clone(),
            framing: session.framing(),
            tls: self.tls,
        };
        Ok((newcomer, Arc::new(self.introduction.clone())))
    }
}

impl Parcel {
    pub(super) fn pack(&self) -> Vec<u8> {
        let mut out = Packer::new();
        out.bytes(self.session.expose());
        out.text(self.streamer.as_str());
        out.text(&self.address.0.to_string());
        out.option(self.guest.as_ref(), |out, guest| {
            out.text(&guest.pool);
            out.text(&guest.client.0.to_string());
            out.flag(guest.tls);
            guest.introduction.pack(out);
        });
        out.finish()
    }

    pub(super) fn unpack(bytes: &[u8]) -> Result<Self, Garbled> {
        let mut from = Unpacker::new(bytes);
        let parcel = Self {
            session: Secret::new(from.bytes()?.to_vec()),
            streamer: StreamerId::new(from.text()?),
            address: StreamerAddr(from.text()?.parse().map_err(|_| Garbled)?),
            guest: from.option(|from| {
                Ok(Guest {
                    pool: from.text()?.to_owned(),
                    client: ClientAddr(from.text()?.parse::<IpAddr>().map_err(|_| Garbled)?),
                    tls: from.flag()?,
                    introduction: Introduction::unpack(from)?,
                })
            })?,
        };
        from.end()?;
        Ok(parcel)
    }

    /// The session, for this gateway.
    pub(super) fn open(&self, asker: Asker, shared: &Shared) -> Result<Session, Failure> {
        let arrival = Arrival {
            rules: shared.terms.load().rules.clone(),
            quotas: &shared.quotas,
            asker,
            tail: Backlog::new(shared.budget.clone()),
            now: Instant::now(),
        };
        Ok(Session::unpack(self.session.expose(), arrival)?)
    }

    /// The place on the streamer, which the other gateway counts.
    pub(super) fn permit(&self) -> Permit {
        Permit::borrowed(self.streamer.clone(), self.address)
    }
}
