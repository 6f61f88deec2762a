//! What gateways say to each other on the bus to find a session, or somebody who takes one.
//!
//! JSON with a version. What is of another version, too long or cannot be read is passed over.

use std::{fmt::Write as _, net::SocketAddr, sync::LazyLock};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Ticket, Whereabouts};

/// A session's name without the name: only who knows it can make this of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NameHash(pub(in crate::proxy) [u8; HASH_BYTES]);

impl NameHash {
    pub fn of(name: &str) -> Self {
        static KEY: LazyLock<[u8; 32]> =
            LazyLock::new(|| blake3::derive_key("ddp-gateway session name v2", b""));
        let mut hash = [0; HASH_BYTES];
        let whole = blake3::keyed_hash(&KEY, name.as_bytes());
        hash.copy_from_slice(&whole.as_bytes()[..HASH_BYTES]);
        Self(hash)
    }

    pub(in crate::proxy) fn number(self) -> u64 {
        let (first, _) = self.0.split_at(8);
        first
            .iter()
            .fold(0, |number, &byte| number << 8 | u64::from(byte))
    }

    fn to_text(self) -> String {
        let mut text = String::with_capacity(2 * HASH_BYTES);
        for byte in self.0 {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    fn parse(text: &str) -> Option<Self> {
        // The same form.
        Ticket::parse(text).map(|ticket| Self(ticket.0))
    }
}

/// `<subject>.owner`: who has this session? Only who has it answers, with a [`Place`].
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    v: u32,
    from: String,
    name: String,
}

/// `<subject>.take`: who takes sessions? Whoever has room answers on the subject `answer`, with a
/// [`Room`].
#[derive(Debug, Serialize, Deserialize)]
struct Call {
    v: u32,
    from: String,
    answer: String,
}

/// `<subject>.peer`: sessions can be fetched from this gateway, and left there.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    v: u32,
    from: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Place {
    v: u32,
    peer: SocketAddr,
    ticket: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Room {
    v: u32,
    peer: SocketAddr,
    ticket: String,
    room: u32,
    sessions: u32,
}

/// Somebody who takes sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taker {
    pub at: Whereabouts,
    /// So many of them.
    pub room: u32,
    /// Those that it has.
    pub sessions: u32,
}

pub fn hello(from: &str) -> String {
    write(&Hello {
        v: VERSION,
        from: from.to_owned(),
    })
}

/// Whether another gateway than `own` says that it is there.
pub fn is_hello(own: &str, payload: &[u8]) -> bool {
    read(payload).is_some_and(|Hello { v, from }| v == VERSION && from != own)
}

pub fn question(from: &str, name: NameHash) -> String {
    write(&Question {
        v: VERSION,
        from: from.to_owned(),
        name: name.to_text(),
    })
}

/// The name that is looked for by another gateway than `own`.
pub fn read_question(own: &str, payload: &[u8]) -> Option<NameHash> {
    let Question { v, from, name } = read(payload)?;
    NameHash::parse(&name).filter(|_| v == VERSION && from != own)
}

pub fn place(at: &Whereabouts) -> String {
    write(&Place {
        v: VERSION,
        peer: at.peer,
        ticket: at.ticket.to_text(),
    })
}

pub fn read_place(payload: &[u8]) -> Option<Whereabouts> {
    let Place { v, peer, ticket } = read(payload)?;
    let ticket = Ticket::parse(&ticket).filter(|_| v == VERSION)?;
    Some(Whereabouts { peer, ticket })
}

pub fn call(from: &str, answer: &str) -> String {
    write(&Call {
        v: VERSION,
        from: from.to_owned(),
        answer: answer.to_owned(),
    })
}

/// The subject on which another gateway than `own` waits for answers; it begins with `prefix`.
pub fn read_call(own: &str, prefix: &str, payload: &[u8]) -> Option<String> {
    let Call { v, from, answer } = read(payload)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let fits = answer.starts_with(prefix) && answer.bytes().all(plain) && !answer.ends_with('.');
    (v == VERSION && from != own && fits).then_some(answer)
}

pub fn room(taker: &Taker) -> String {
    write(&Room {
        v: VERSION,
        peer: taker.at.peer,
        ticket: taker.at.ticket.to_text(),
        room: taker.room,
        sessions: taker.sessions,
    })
}

pub fn read_room(payload: &[u8]) -> Option<Taker> {
    let Room {
        v,
        peer,
        ticket,
        room,
        sessions,
    } = read(payload)?;
    let ticket = Ticket::parse(&ticket).filter(|_| v == VERSION)?;
    Some(Taker {
        at: Whereabouts { peer, ticket },
        room,
        sessions,
    })
}

fn write(packet: &impl Serialize) -> String {
    serde_json::to_string(packet).unwrap_or_default()
}

fn read<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    let short = payload.len() <= LONGEST;
    serde_json::from_slice(payload).ok().filter(|_| short)
}

const VERSION: u32 = 1;
const HASH_BYTES: usize = 16;
const LONGEST: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::{
        NameHash, Taker, Ticket, Whereabouts, call, hello, is_hello, place, question, read_call,
        read_place, read_question, read_room, room,
    };

    #[test]
    fn what_one_says_the_other_understands() {
        let name = NameHash::of("a session");
        let asked = question("me", name);
        assert!(!asked.contains("a session"));
        assert_eq!(read_question("you", asked.as_bytes()), Some(name));
        assert_eq!(read_question("me", asked.as_bytes()), None);
        let at = Whereabouts {
            peer: "[::1]:9".parse().unwrap(),
            ticket: Ticket::fresh(7),
        };
        assert_eq!(read_place(place(&at).as_bytes()), Some(at));
        let taker = Taker {
            at,
            room: 3,
            sessions: 4,
        };
        assert_eq!(read_room(room(&taker).as_bytes()), Some(taker));
        assert!(is_hello("you", hello("me").as_bytes()));
        assert!(!is_hello("me", hello("me").as_bytes()));
        let called = call("me", "ddp-gateway.offer.1");
        let heard = |own, prefix| read_call(own, prefix, called.as_bytes());
        assert_eq!(
            heard("you", "ddp-gateway."),
            Some("ddp-gateway.offer.1".to_owned())
        );
        assert_eq!(heard("me", "ddp-gateway."), None);
        assert_eq!(heard("you", "MOL."), None);
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        let name = NameHash::of("x");
        let asked = question("me", name);
        let newer = asked.replace("\"v\":1", "\"v\":2");
        let long = asked.replace("me", &"m".repeat(2_000));
        for payload in ["", "{}", "null", &newer, &long, &asked[1..]] {
            assert_eq!(read_question("you", payload.as_bytes()), None, "{payload}");
        }
        for answer in ["a.b c", "a.*", "a.>", "b.c", "a."] {
            let payload = call("me", answer);
            assert_eq!(read_call("you", "a.", payload.as_bytes()), None, "{answer}");
        }
    }
}
