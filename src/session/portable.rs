//! A session without its client as one piece of bytes, for another gateway to go on with.
//!
//! The form is versioned and checks itself; its parts are written by those who own them (`journal`,
//! `resume`). It carries the token of the user and what the client missed: it is a secret.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Phase, Quotas, Rules, Session,
    book::{Book, Logins},
    journal::Journal,
    machine::Timer,
    quota::Asker,
    resume::Resume,
};
use crate::{
    base::{
        chunk::Backlog,
        packing::{Garbled, Packer, Unpacker},
        secret::Secret,
    },
    ddp::Framing,
};

/// Why a session cannot be packed, at least now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpackable {
    /// It has a client, no streamer yet, or it is ending.
    NotDetached,
    /// A login is under way.
    LoggingIn,
    /// It is being moved to another streamer, or has just been.
    Moving,
    /// All of it is more than [`MOST_BYTES`].
    TooLarge,
}

impl Unpackable {
    /// Whether the reason goes by itself within seconds.
    pub fn passes(self) -> bool {
        matches!(self, Self::LoggingIn | Self::Moving)
    }

    /// The word for it in logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotDetached => "not_detached",
            Self::LoggingIn => "logging_in",
            Self::Moving => "moving",
            Self::TooLarge => "too_large",
        }
    }
}

/// Why bytes are no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("it was packed by another version of the gateway")]
    Version,
    #[error("the bytes are not those that were packed")]
    Damaged,
    #[error(transparent)]
    Garbled(#[from] Garbled),
}

/// Where a session goes on.
#[derive(Debug)]
pub struct Arrival<'a> {
    pub rules: Arc<Rules>,
    pub quotas: &'a Quotas,
    /// Who is asked when the limits want to know, until the client is back. The user is the
    /// session's.
    pub asker: Asker,
    /// Empty; takes what the client missed.
    pub tail: Backlog,
    pub now: Instant,
}

impl Session {
    /// All that is known of a session without client. It stays as it is.
    ///
    /// # Errors
    /// With the reason why it has to stay, at least now.
    pub fn pack(&self, now: Instant) -> Result<Secret<Vec<u8>>, Unpackable> {
        let Some(book) = self.book.as_ref().filter(|_| self.is_alone()) else {
            return Err(Unpackable::NotDetached);
        };
        if book.logins != Logins::default() {
            return Err(Unpackable::LoggingIn);
        }
        if book.aside.is_some() {
            return Err(Unpackable::Moving);
        }
        let mut out = Packer::new();
        out.flag(self.framing == Framing::SockJs);
        let age = self.millis(now);
        out.number(age.into());
        let until = self.timers.deadline(Timer::Client as usize);
        let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        out.number(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        out.number(book.sent.into());
        book.journal.pack(age, &mut out);
        let mut packed = Ok(());
        out.option(book.resume.as_deref(), |out, resume| {
            packed = resume.pack(now, out);
        });
        packed.map_err(|_| Unpackable::LoggingIn)?;
        let body = out.finish();
        if body.len() > MOST_BYTES {
            return Err(Unpackable::TooLarge);
        }
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&checksum(&body));
        bytes.extend_from_slice(&body);
        Ok(Secret::new(bytes))
    }

    /// The session that was packed, without its client; the time that is left for the client's
    /// return goes on, but is never longer than the rules here allow.
    ///
    /// # Errors
    /// When these are not the bytes of a session; nothing is kept of them.
    pub fn unpack(bytes: &[u8], arrival: Arrival<'_>) -> Result<Self, Unreadable> {
        let (&version, rest) = bytes.split_first().ok_or(Garbled)?;
        if version != VERSION {
            return Err(Unreadable::Version);
        }
        let (sum, body) = rest.split_first_chunk().ok_or(Garbled)?;
        if *sum != checksum(body) {
            return Err(Unreadable::Damaged);
        }
        let Arrival {
            rules,
            quotas,
            asker,
            tail,
            now,
        } = arrival;
        let mut from = Unpacker::new(body);
        let framing = match from.flag()? {
            true => Framing::SockJs,
            false => Framing::Raw,
        };
        let age = from.number_u32()?;
        let left = from.number_u32()?;
        let sent = from.number_u32()?;
        let mut session = Self::unpacked(framing, rules, age, left, now);
        let journal = Journal::unpack(session.millis(now), &mut from)?;
        let resume = from.option(|from| Resume::unpack(tail, now, from))?;
        from.end()?;
        let user = journal.user();
        let user = user.map(|user| quotas.key(&[b"user", user.as_bytes()]));
        session.book = Some(Box::new(Book {
            asker: Asker { user, ..asker },
            journal,
            logins: Logins::default(),
            sent,
            resume: resume.map(Box::new),
            aside: None,
        }));
        Ok(session)
    }

    /// Whether nothing is under way of what keeps a session from being packed for a while.
    pub fn is_quiet(&self) -> bool {
        let aside = self.book.as_ref().is_some_and(|book| book.aside.is_some());
        !aside && !self.is_logging_in()
    }

    /// The client is gone, its return is possible, and nobody has ordered the end.
    fn is_alone(&self) -> bool {
        let proving = || {
            let resume = self.book.as_ref().and_then(|book| book.resume.as_ref());
            resume.is_some_and(|resume| resume.is_proving())
        };
        self.phase == Phase::Detached
            && self.timers.deadline(Timer::Doom as usize).is_none()
            && !proving()
    }
}

fn checksum(body: &[u8]) -> [u8; SUM_BYTES] {
    let mut sum = [0; SUM_BYTES];
    sum.copy_from_slice(&blake3::hash(body).as_bytes()[..SUM_BYTES]);
    sum
}

/// Of everything behind it; another number, another form.
const VERSION: u8 = 1;

const SUM_BYTES: usize = 16;

/// Largest session that is packed. A web client with thirty subscriptions takes 3 KiB, and what a
/// client missed at most 256.
pub const MOST_BYTES: usize = 384 * 1024;
