//! The moment in which the new leg takes over.

use std::borrow::Cow;

use super::{Aborted, LEVEL, Settling, Shadowing, Stage, overlap::Generation, print};
use crate::{
    ddp::reply,
    session::{
        Effects, Note, Session, Turn,
        journal::{Collection, SubView},
    },
};

impl Session {
    /// The new leg is in charge. What the client has to be told first goes to [`Effects::reply`];
    /// what was held is now for the new leg.
    pub fn handle_switched<E: Effects>(&mut self, turn: &mut Turn<'_, E>) {
        let now = turn.now;
        let Some((moving, journal)) = self.migration_mut() else {
            return;
        };
        let none = Stage::Abandoned(Aborted::Ended);
        let Stage::Shadowing(shadowing) = std::mem::replace(&mut moving.stage, none) else {
            return;
        };
        let Shadowing {
            upstream,
            shadow,
            documents,
            mut overlap,
            ..
        } = *shadowing;
        let topics: Vec<u64> = journal.subs().filter_map(|view| topic_of(&view)).collect();
        for (topic, json) in overlap.take_ahead() {
            if topics.contains(&topic) {
                turn.effects.reply(json);
            }
        }
        let refused: Vec<String> = shadow.refused().map(str::to_owned).collect();
        let served: Vec<Collection> = Collection::ALL
            .into_iter()
            .filter(|collection| {
                collection.publication().is_some_and(|name| {
                    let mut subs = journal.subs();
                    subs.any(|view| {
                        view.ready
                            && view.name.label() == name
                            && !refused.iter().any(|id| *id == view.id)
                    })
                })
            })
            .collect();
        for json in documents.settle(journal, |collection| served.contains(&collection)) {
            turn.effects.reply(json);
        }
        for id in refused {
            if journal.has_sub(&id) {
                let _ = journal.end_sub(&id);
                turn.effects.reply(reply::refused_nosub(&id));
            }
        }
        // The old leg has ignored their unsub, and the new one does not have them.
        let over: Vec<String> = journal
            .subs()
            .filter(|view| view.ready && view.ending && !shadow.has_sub(&view.id))
            .map(|view| view.id.into_owned())
            .collect();
        for id in over {
            let _ = journal.end_sub(&id);
            turn.effects.reply(reply::nosub(&id));
        }
        let former = journal.upstream().map(Cow::into_owned);
        journal.set_upstream(&upstream);
        moving.stage = Stage::Settling(Box::new(Settling {
            former,
            overlap,
            generation: Generation::new(now),
            left: LEVEL,
        }));
        let took = now.saturating_duration_since(moving.began);
        turn.effects.note(Note::Moved { took });
        self.take_over(now);
        self.arm_move(now);
    }
}

/// What a subscription to a stream asks for. If the client wants its end, that is held and comes
/// behind what the old leg would have brought.
pub(super) fn topic_of(view: &SubView<'_>) -> Option<u64> {
    let request = view.request.as_ref()?;
    let params: Vec<serde_json::Value> = serde_json::from_str(&request.params).ok()?;
    let event = params.first()?.as_str()?;
    Some(print::topic(&request.name, event))
}
