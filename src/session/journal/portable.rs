//! The journal as another gateway reads it: texts, not as they lie in the arena, for what is on the
//! lists of names and words differs from one version of the gateway to the next.

use std::collections::BTreeSet;

use super::{
    Bounds, Collection, Journal, LONGEST_ID, LONGEST_TEXT, MOST_DOCUMENTS, Name, Presence,
    arena::{Head, Kind, Record},
    entry,
    entry::{put_request, take_id},
    packed::unpack,
};
use crate::base::packing::{Garbled, Packer, Unpacker};

impl Journal {
    /// Writes all of it. `now` is the time in milliseconds since the session began.
    pub(in crate::session) fn pack(&self, now: u32, out: &mut Packer) {
        for kind in [Kind::Session, Kind::Upstream, Kind::User, Kind::Token] {
            out.option(self.text(kind), |out, text| out.text(&text));
        }
        out.byte(match self.presence {
            None => 0,
            Some(Presence::Online) => 1,
            Some(Presence::Away) => 2,
        });
        for flag in [self.overflowed, self.resumable, self.odd, self.livechat] {
            out.flag(flag);
        }
        out.number(self.unseen.into());
        let of_kind = |kind| -> Vec<Record> {
            let records = self.arena.records();
            records.filter(|record| record.head.is(kind)).collect()
        };
        out.list(of_kind(Kind::Sub).into_iter(), |out, record| {
            self.pack_state(&record, now, out);
            let view = self.view(&record, &self.own_user());
            let request = view.and_then(|view| view.request);
            match &request {
                Some(request) => out.text(&request.name),
                None => out.text(self.name(&record).label()),
            }
            out.option(request, |out, request| out.text(&request.params));
        });
        out.list(of_kind(Kind::Method).into_iter(), |out, record| {
            self.pack_state(&record, now, out);
            out.text(self.name(&record).label());
        });
        let documents: Vec<_> = self.documents().collect();
        out.list(documents.into_iter(), |out, document| {
            out.text(document.collection.name());
            out.text(&document.id);
            out.option(document.hash, |out, hash| out.number(hash.into()));
            out.list(document.fields.iter(), |out, name| out.text(name));
        });
    }

    /// A journal with the default bounds that says what was written. `now` is the time in
    /// milliseconds since the session began, as its age is known here.
    pub(in crate::session) fn unpack(now: u32, from: &mut Unpacker<'_>) -> Result<Self, Garbled> {
        let mut journal = Self::new(Bounds::default());
        for kind in [Kind::Session, Kind::Upstream, Kind::User, Kind::Token] {
            if let Some(text) = from.option(|from| from.text())? {
                if text.len() > LONGEST_TEXT {
                    return Err(Garbled);
                }
                journal.keep(kind, text);
            }
        }
        journal.presence = match from.byte()? {
            0 => None,
            1 => Some(Presence::Online),
            2 => Some(Presence::Away),
            _ => return Err(Garbled),
        };
        journal.overflowed = from.flag()?;
        journal.resumable = from.flag()?;
        journal.odd = from.flag()?;
        journal.livechat = from.flag()?;
        journal.unseen = from.number_u32()?;
        let bounds = Bounds::default();
        from.list(bounds.subs as usize, |from| journal.unpack_sub(now, from))?;
        from.list(bounds.methods as usize, |from| {
            journal.unpack_method(now, from)
        })?;
        from.list(MOST_DOCUMENTS, |from| journal.unpack_document(from))?;
        // What is overflowed stays so for as long as there are subscriptions.
        journal.overflowed &= journal.subs > 0;
        Ok(journal)
    }

    /// The id of a subscription or method, and how far it is.
    fn pack_state(&self, record: &Record, now: u32, out: &mut Packer) {
        let mut body = self.arena.body(record);
        let id = take_id(&mut body).unwrap_or_default();
        out.text(&unpack(id, ""));
        let age = || u64::from(now.saturating_sub(record.since));
        let waiting = record.head.has(Head::WAITING);
        out.option(waiting.then(age), Packer::number);
        out.flag(record.head.has(Head::MARKED));
    }

    fn unpack_sub(&mut self, now: u32, from: &mut Unpacker<'_>) -> Result<(), Garbled> {
        let State { id, head, since } = State::unpack(Kind::Sub, now, from)?;
        let name = from.text()?;
        let params = from.option(|from| from.text())?;
        if self.has_sub(id) || params.is_none() != self.overflowed {
            return Err(Garbled);
        }
        let mut body = entry::bare(id, Name::of(name)).as_bytes().to_vec();
        if let Some(params) = params {
            put_request(name, params, &self.own_user(), &mut body);
        }
        self.unpacked(head, since, &body)?;
        self.subs += 1;
        self.pending_subs += u32::from(head.has(Head::WAITING));
        Ok(())
    }

    fn unpack_method(&mut self, now: u32, from: &mut Unpacker<'_>) -> Result<(), Garbled> {
        let State { id, head, since } = State::unpack(Kind::Method, now, from)?;
        let name = Name::of(from.text()?);
        self.unpacked(head, since, entry::bare(id, name).as_bytes())?;
        self.methods += 1;
        Ok(())
    }

    fn unpack_document(&mut self, from: &mut Unpacker<'_>) -> Result<(), Garbled> {
        let collection = Collection::of(from.text()?).ok_or(Garbled)?;
        let id = from.text()?;
        let hash = from.option(|from| from.number_u32())?;
        let names = from.list(MOST_FIELDS, |from| from.text().map(str::to_owned))?;
        let names = BTreeSet::from_iter(names);
        self.keep_document(collection, id, hash, &names);
        Ok(())
    }

    /// Without room for it there is no such session: parameters are not dropped for it here.
    fn unpacked(&mut self, head: Head, since: u32, body: &[u8]) -> Result<(), Garbled> {
        let pushed = self.arena.push(head, since, body, self.bounds.bytes());
        pushed.map_err(|_| Garbled)
    }
}

/// What subscriptions and methods have in common.
struct State<'a> {
    id: &'a str,
    head: Head,
    since: u32,
}

impl<'a> State<'a> {
    fn unpack(kind: Kind, now: u32, from: &mut Unpacker<'a>) -> Result<Self, Garbled> {
        let id = from.text()?;
        let age = from.option(|from| from.number_u32())?;
        let marked = from.flag()?;
        if id.len() > LONGEST_ID {
            return Err(Garbled);
        }
        let mut head = Head::new(kind);
        if age.is_some() {
            head = head.with(Head::WAITING);
        }
        if marked {
            head = head.with(Head::MARKED);
        }
        Ok(Self {
            id,
            head,
            since: now.saturating_sub(age.unwrap_or(0)),
        })
    }
}

/// Of one document. What is kept of them is less.
const MOST_FIELDS: usize = 4_096;
