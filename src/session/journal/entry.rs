//! What stands in the records of subscriptions and methods.
//!
//! Both begin with the id and the name. A subscription's goes on with the text of a name that [`Name`] does not know and
//! with the parameters, unless the journal has overflowed.

use std::{borrow::Cow, fmt};

use super::{
    Name,
    packed::{
        ID_ROOM, Out, Short, pack, put_varint, take, take_byte, take_counted, take_varint, unpack,
    },
};

/// One subscription.
#[derive(Clone, PartialEq, Eq)]
pub struct SubView<'a> {
    pub id: Cow<'a, str>,
    pub name: Name,
    /// The name as the client wrote it, its parameters too (`""` when it gave none). `None` when they were dropped,
    /// see [`Journal::overflowed`](super::Journal::overflowed).
    pub request: Option<SubRequest<'a>>,
    /// The streamer has answered `ready`.
    pub ready: bool,
    /// The client has sent `unsub`.
    pub ending: bool,
}

#[derive(Clone, PartialEq, Eq)]
pub struct SubRequest<'a> {
    pub name: Cow<'a, str>,
    pub params: Cow<'a, str>,
}

impl fmt::Debug for SubView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubView")
            .field("name", &self.name)
            .field("ready", &self.ready)
            .field("ending", &self.ending)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SubRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SubRequest")
    }
}

/// What both have in common, which is all that a method needs.
pub(super) fn bare(id: &str, name: Name) -> Short<ID_ROOM> {
    let mut entry = Short::counted(id);
    entry.push(name.code());
    entry
}

/// How much of a subscription's entry is left without name and parameters.
pub(super) fn bare_len(entry: &[u8]) -> usize {
    let mut rest = entry;
    let bare = take_id(&mut rest).and_then(|_| take_name(&mut rest));
    bare.map_or(0, |_| entry.len() - rest.len())
}

/// Takes the packed id off the start of an entry.
pub(super) fn take_id<'a>(entry: &mut &'a [u8]) -> Option<&'a [u8]> {
    take_counted(entry)
}

/// Takes the name behind the id.
pub(super) fn take_name(entry: &mut &[u8]) -> Option<Name> {
    take_byte(entry).map(Name::from_code)
}

/// Appends what the client asked for, the parameters last.
pub(super) fn put_request(name: &str, params: &str, own_user: &str, entry: &mut Vec<u8>) {
    if Name::of(name) == Name::OTHER {
        let mut packed = Vec::new();
        pack(name, "", &mut packed);
        put_varint(packed.len() as u64, entry);
        entry.extend_from_slice(&packed);
    }
    pack(params, own_user, entry);
}

/// The text of the name and the packed parameters, which follow the name.
pub(super) fn split_request(name: Name, mut rest: &[u8]) -> Option<(Cow<'_, str>, &[u8])> {
    if name != Name::OTHER {
        return Some((Cow::Borrowed(name.label()), rest));
    }
    let len = usize::try_from(take_varint(&mut rest)?).ok()?;
    let text = unpack(take(&mut rest, len)?, "");
    Some((text, rest))
}

/// The packed parameters of a subscription that has them.
pub(super) fn packed_params(mut entry: &[u8]) -> Option<&[u8]> {
    take_id(&mut entry)?;
    let name = take_name(&mut entry)?;
    split_request(name, entry).map(|(_, params)| params)
}
