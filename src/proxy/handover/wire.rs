//! The first bytes between two gateways, before those of a leg.
//!
//! The gateway that listens sends 16 random bytes. The other one shows what it wants, its ticket and
//! a sealed piece: a claim, or a session that it offers. A claim is answered with 0 or with 1 and
//! the sealed session. Whoever gets a session says [`TAKEN`] when it can go on with it, and the
//! giver says [`YOURS`]: up to that byte the session is the giver's, from then on the taker's. What
//! follows are the bytes of the leg in both directions.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::ticket::{TICKET_BYTES, Ticket};
use crate::{
    base::{
        packing::{Garbled, Packer, Unpacker},
        sealing::{Sealer, TAG_BYTES},
        secret::Secret,
    },
    ddp::Framing,
    session::{Unreadable, portable},
};

/// Why a session did not get from one gateway to the other.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the other gateway cannot be reached")]
    Unreachable(#[source] io::Error),
    #[error("the connection to the other gateway was lost")]
    Lost(#[from] io::Error),
    #[error("the other gateway does not answer in time")]
    Late,
    #[error("the ticket is not known here, or is used up")]
    NoTicket,
    #[error(
        "what the other gateway sent cannot be opened: both need the same affinity.secret and the \
         same replicas.subject"
    )]
    Foreign,
    #[error("what the other gateway sent is not understood")]
    Garbled(#[from] Garbled),
    #[error("the session cannot be read")]
    Unreadable(#[from] Unreadable),
    #[error("no pool here is called as that of the session")]
    NoPool,
    #[error("the session is not given")]
    NotGiven,
    #[error("the other gateway does not take the session")]
    NotTaken,
}

impl Failure {
    /// Value of the `outcome` label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Lost(_) => "lost",
            Self::Late => "late",
            Self::NotGiven => "not_given",
            Self::NoTicket
            | Self::Foreign
            | Self::Garbled(_)
            | Self::Unreadable(_)
            | Self::NoPool
            | Self::NotTaken => "refused",
        }
    }
}

/// What one comes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Claim,
    Offer,
}

impl Wish {
    fn code(self) -> u8 {
        match self {
            Self::Claim => b'C',
            Self::Offer => b'O',
        }
    }
}

/// A connection between two gateways.
#[derive(Debug)]
pub(super) struct Peering<'a> {
    pub(super) stream: TcpStream,
    sealer: &'a Sealer,
    /// What is sealed for this connection can be opened in this connection only.
    context: Vec<u8>,
}

impl<'a> Peering<'a> {
    /// Reaches the gateway that gave out the ticket.
    pub(super) async fn dial(
        peer: SocketAddr,
        ticket: Ticket,
        wish: Wish,
        sealer: &'a Sealer,
    ) -> Result<Self, Failure> {
        let dialled = timeout(DIAL_WITHIN, TcpStream::connect(peer)).await;
        let mut stream = dialled
            .map_err(|_| Failure::Late)?
            .map_err(Failure::Unreachable)?;
        crate::net::dial::configure(&stream)?;
        let mut nonce = [0; NONCE_BYTES];
        within(stream.read_exact(&mut nonce)).await?;
        let head = [&[wish.code()][..], &ticket.0].concat();
        within(stream.write_all(&head)).await?;
        Ok(Self {
            stream,
            sealer,
            context: [&nonce[..], &head].concat(),
        })
    }

    /// Hears what somebody who came wants, and by which ticket.
    pub(super) async fn receive(
        mut stream: TcpStream,
        nonce: [u8; NONCE_BYTES],
        sealer: &'a Sealer,
    ) -> Result<(Self, Wish, Ticket), Failure> {
        within(stream.write_all(&nonce)).await?;
        let mut head = [0; 1 + TICKET_BYTES];
        within(stream.read_exact(&mut head)).await?;
        let (&[code], ticket) = head.split_first_chunk::<1>().ok_or(Garbled)?;
        let wish = [Wish::Claim, Wish::Offer];
        let wish = wish.into_iter().find(|wish| wish.code() == code);
        let ticket = Ticket(ticket.try_into().map_err(|_| Garbled)?);
        let peering = Self {
            stream,
            sealer,
            context: [&nonce[..], &head].concat(),
        };
        Ok((peering, wish.ok_or(Garbled)?, ticket))
    }

    pub(super) async fn send(&mut self, piece: Piece, bytes: &[u8]) -> Result<(), Failure> {
        let sealed = self.sealer.close(&self.context(piece), bytes);
        let length = u32::try_from(sealed.len()).map_err(|_| Garbled)?;
        within(self.stream.write_all(&length.to_be_bytes())).await?;
        within(self.stream.write_all(&sealed)).await
    }

    pub(super) async fn read(&mut self, piece: Piece) -> Result<Secret<Vec<u8>>, Failure> {
        let length = within(self.stream.read_u32()).await? as usize;
        if length > piece.most() + TAG_BYTES {
            return Err(Garbled.into());
        }
        // Grows with what comes, whatever was announced.
        let mut sealed = Vec::new();
        let mut rest = (&mut self.stream).take(length as u64);
        within(rest.read_to_end(&mut sealed)).await?;
        if sealed.len() < length {
            return Err(Failure::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        let opened = self.sealer.open(&self.context(piece), &sealed);
        opened.ok_or(Failure::Foreign)
    }

    pub(super) async fn say(&mut self, byte: u8) -> Result<(), Failure> {
        within(self.stream.write_all(&[byte])).await
    }

    pub(super) async fn hear(&mut self) -> Result<u8, Failure> {
        within(self.stream.read_u8()).await
    }

    fn context(&self, piece: Piece) -> Vec<u8> {
        [self.context.as_slice(), &[piece as u8]].concat()
    }
}

/// What is sealed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Piece {
    Claim,
    Parcel,
}

impl Piece {
    fn most(self) -> usize {
        match self {
            Self::Claim => CLAIM_BYTES,
            Self::Parcel => portable::MOST_BYTES + REST_BYTES,
        }
    }
}

/// A client that wants its session back, as the gateway says that it came to.
pub(super) struct ClaimPiece {
    pub(super) name: String,
    pub(super) token: Secret<String>,
    pub(super) framing: Framing,
    pub(super) pool: String,
}

impl ClaimPiece {
    pub(super) fn pack(&self) -> Vec<u8> {
        let mut out = Packer::new();
        out.text(&self.name);
        out.text(self.token.expose());
        out.flag(self.framing == Framing::SockJs);
        out.text(&self.pool);
        out.finish()
    }

    pub(super) fn unpack(bytes: &[u8]) -> Result<Self, Garbled> {
        let mut from = Unpacker::new(bytes);
        let piece = Self {
            name: from.text()?.to_owned(),
            token: Secret::new(from.text()?.to_owned()),
            framing: match from.flag()? {
                true => Framing::SockJs,
                false => Framing::Raw,
            },
            pool: from.text()?.to_owned(),
        };
        from.end()?;
        Ok(piece)
    }
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> Result<T, Failure> {
    let done = timeout(STEP_WITHIN, work).await;
    Ok(done.map_err(|_| Failure::Late)??)
}

pub(super) const NONCE_BYTES: usize = 16;

pub(super) const NOT_GIVEN: u8 = 0;
pub(super) const GIVEN: u8 = 1;
pub(super) const TAKEN: u8 = 2;
pub(super) const YOURS: u8 = 3;

/// A name and a token have 512 bytes at most.
const CLAIM_BYTES: usize = 4 * 1024;

/// What goes with a session: what its streamer was told about the client.
const REST_BYTES: usize = 64 * 1024;

/// A client waits for it.
const DIAL_WITHIN: Duration = Duration::from_millis(750);
const STEP_WITHIN: Duration = Duration::from_millis(3_000);

#[cfg(test)]
mod tests {
    use super::ClaimPiece;
    use crate::{base::secret::Secret, ddp::Framing};

    #[test]
    fn a_claim_comes_through() {
        let claim = ClaimPiece {
            name: "n".to_owned(),
            token: Secret::new("t".to_owned()),
            framing: Framing::SockJs,
            pool: "p".to_owned(),
        };
        let bytes = claim.pack();
        let read = ClaimPiece::unpack(&bytes).unwrap();
        assert_eq!(
            (read.name, read.token, read.framing, read.pool),
            (claim.name, claim.token, claim.framing, claim.pool)
        );
        for cut in 0..bytes.len() {
            assert!(ClaimPiece::unpack(&bytes[..cut]).is_err());
        }
    }
}
