//! The web client has a new version: each client is told at a moment of its own.
//!
//! A web client that hears of another version loads its page anew, with all of its code, a dozen
//! calls and a login, and so do all others at the same moment: after the reconnect storm of an
//! upgrade this is the second one, and every user waits for it in front of an empty page. Nothing is
//! lost if a client hears of it a minute later and goes on as it is until then. So the news is held
//! back, as long for each client as its login would have to wait anyway.

use std::time::{Duration, Instant};

use super::{Effects, Session, Turn};
use crate::base::packing::{Garbled, Packer, Unpacker};

/// News of the version that the client does not have yet, or has just been given.
#[derive(Debug)]
pub(super) struct Reload {
    /// Messages for the client, without framing.
    news: Vec<String>,
    /// When it is told; then, until when it is expected to go.
    until: Instant,
    told: bool,
}

impl Reload {
    /// Writes it; times from `now` on.
    pub(super) fn pack(&self, now: Instant, out: &mut Packer) {
        out.list(self.news.iter(), |out, message| out.text(message));
        let left = self.until.saturating_duration_since(now).as_millis();
        out.number(u32::try_from(left).unwrap_or(u32::MAX).into());
        out.flag(self.told);
    }

    pub(super) fn unpack(now: Instant, from: &mut Unpacker<'_>) -> Result<Self, Garbled> {
        Ok(Self {
            news: from.list(MOST, |from| from.text().map(str::to_owned))?,
            until: now + Duration::from_millis(from.number_u32()?.into()),
            told: from.flag()?,
        })
    }
}

impl Session {
    /// A message with the version of the web client; gives it back if it is to pass now.
    pub(super) fn hold_reload<E: Effects>(
        &mut self,
        json: String,
        changed: bool,
        turn: &mut Turn<'_, E>,
    ) -> Option<String> {
        let delay = turn.effects.client_version(&json, changed);
        let Some(book) = &mut self.book else {
            return Some(json);
        };
        let resume = book.resume.get_or_insert_default();
        let waiting = resume.reload.as_ref().filter(|reload| !reload.told);
        let until = match (waiting, delay) {
            (Some(reload), _) if changed => reload.until,
            (_, Some(delay)) => turn.now + delay,
            (_, None) => return Some(json),
        };
        if json.len() > LARGEST {
            return Some(json);
        }
        let late = waiting.is_none() && until <= turn.now;
        let reload = resume.reload.get_or_insert_with(|| {
            Box::new(Reload {
                news: Vec::new(),
                until,
                told: false,
            })
        });
        if late {
            // Its moment within the wave is over, so it is told now, and may go now.
            (reload.until, reload.told) = (turn.now + GONE_WITHIN, true);
            return Some(json);
        }
        (reload.until, reload.told) = (until, false);
        if reload.news.len() >= MOST {
            // The latest ones count.
            reload.news.remove(0);
        }
        reload.news.push(json);
        None
    }

    /// The client was told a moment ago to load its page anew: when its connection breaks now, it
    /// does not come back for its session.
    pub fn is_reloading(&self) -> bool {
        self.reload().is_some_and(|reload| reload.told)
    }

    pub(super) fn next_reload_timeout(&self) -> Option<Instant> {
        self.reload().map(|reload| reload.until)
    }

    pub(super) fn handle_reload_timeout(&mut self, now: Instant) {
        let resume = self.book.as_mut().and_then(|book| book.resume.as_mut());
        let Some(resume) = resume else { return };
        let Some(reload) = resume.reload.as_mut().filter(|reload| reload.until <= now) else {
            return;
        };
        if reload.told {
            resume.reload = None;
            return;
        }
        resume.replies.append(&mut reload.news);
        (reload.until, reload.told) = (now + GONE_WITHIN, true);
    }

    fn reload(&self) -> Option<&Reload> {
        self.book.as_ref()?.resume.as_ref()?.reload.as_deref()
    }
}

/// There is one document for each of three kinds of clients.
const MOST: usize = 8;
/// They have some hundred bytes.
const LARGEST: usize = 16 << 10;
/// One that is still there after this has not reloaded.
const GONE_WITHIN: Duration = Duration::from_secs(30);
