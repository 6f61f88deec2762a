//! Who has delivered what while two legs bring the same events.
//!
//! Before the switch the old leg speaks and the new one is only compared with it; behind the switch
//! it is the other way round. Events are counted, not just remembered, because the same event may
//! rightly come twice (somebody types on).
//!
//! Nothing is kept for longer than two generations. A generation ends not before [`SKEW`], and not
//! before each leg has answered a ping that was sent behind that time: then everything that its
//! streamer had to say within the skew has arrived, however far its socket lags.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use super::print::{Print, as_write};
use crate::ddp::published::Event;

/// Streamers deliver an event within this time of each other.
pub const SKEW: Duration = Duration::from_millis(250);

/// The overlap knows more than it may; nothing was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Default)]
pub(super) struct Overlap {
    /// The client has these from the old leg, the new one has not brought them.
    owed: Aging,
    /// The new leg has brought these, the old one has not.
    ahead: VecDeque<Ahead>,
    ahead_bytes: usize,
    /// Both legs have brought these.
    met: Aging,
    /// What both legs were asked for, so that the old one may serve it later than the new one.
    asked: HashSet<u64>,
    /// What the client wrote to streams itself. Its own streamer does not echo it, another one does.
    written: Aging,
}

/// An event that only the new leg has brought.
struct Ahead {
    print: Print,
    aged: bool,
    json: String,
}

impl Overlap {
    /// A subscription to this is new to both legs; it may be the second one.
    pub(super) fn both_asked(&mut self, topic: u64) {
        if self.asked.len() < MOST_NOTED {
            self.asked.insert(topic);
        }
    }

    /// The old leg brought an event, which the client gets. `served` tells whether the new leg has
    /// served all that it was asked for since before the event can have been published.
    pub(super) fn old_brought(&mut self, print: Print, served: bool) -> Result<(), Full> {
        let same = |ahead: &Ahead| ahead.print == print;
        let Some(at) = self.ahead.iter().position(same) else {
            if served {
                self.drop_passed_over(print);
            }
            return self.owed.add(print.content);
        };
        self.meet(print.content);
        // What the old leg has passed over on this topic it will not bring any more: it was not
        // subscribed then, and neither was the client.
        let mut index = 0;
        self.ahead.retain(|ahead| {
            let passed_over = index < at && ahead.print.topic == print.topic;
            let gone = index == at || passed_over && !print.unordered;
            index += 1;
            if gone {
                self.ahead_bytes -= ahead.json.len();
            }
            !gone
        });
        Ok(())
    }

    /// The new leg brought an event before the switch.
    pub(super) fn new_brought(&mut self, event: &Event<'_>, json: &str) -> Result<(), Full> {
        let print = Print::of(event, json);
        if self.is_echo(event) {
            return Ok(());
        }
        if self.owed.take(print.content) {
            self.meet(print.content);
            return Ok(());
        }
        if self.ahead.len() >= MOST_AHEAD || self.ahead_bytes + json.len() > MOST_AHEAD_BYTES {
            return Err(Full);
        }
        self.ahead_bytes += json.len();
        self.ahead.push_back(Ahead {
            print,
            aged: false,
            json: json.to_owned(),
        });
        Ok(())
    }

    /// The leg that has taken over brought an event. Whether the client has it already.
    pub(super) fn is_delivered(&mut self, event: &Event<'_>, json: &str) -> bool {
        self.is_echo(event) || self.owed.take(Print::of(event, json).content)
    }

    /// The client wrote this to a stream.
    pub(super) fn wrote(&mut self, content: u64) -> Result<(), Full> {
        self.written.add(content)
    }

    /// The events that the old leg has not brought, in their order.
    pub(super) fn take_ahead(&mut self) -> impl Iterator<Item = (u64, String)> + use<> {
        self.ahead_bytes = 0;
        std::mem::take(&mut self.ahead)
            .into_iter()
            .map(|ahead| (ahead.print.topic, ahead.json))
    }

    /// A generation ends. `written` tells whether all that the client wrote has been published: a
    /// streamer runs methods one after the other, and a slow one delays those behind it.
    pub(super) fn grow_older(&mut self, written: bool) {
        self.owed.grow_older();
        self.met.grow_older();
        if written {
            self.written.grow_older();
        }
        // An event that the old leg has still not brought is one that it never will: it was not
        // subscribed, or wrote it in other words.
        self.ahead.retain(|ahead| !ahead.aged);
        self.ahead_bytes = self.ahead.iter().map(|ahead| ahead.json.len()).sum();
        for ahead in &mut self.ahead {
            ahead.aged = true;
        }
    }

    /// The old leg brought what the new one still has to bring, so what that has brought before is
    /// earlier, and the old leg has passed it over: it came before a subscription that the old leg
    /// began to serve later than the new one did.
    ///
    /// What the old leg has always served it does not pass over. And something that has met its like
    /// before may be earlier than it seems. One too many is better than one too few.
    fn drop_passed_over(&mut self, later: Print) {
        let asked = self.asked.contains(&later.topic);
        if !asked || later.unordered || self.met.has(later.content) {
            return;
        }
        self.ahead.retain(|ahead| ahead.print.topic != later.topic);
        self.ahead_bytes = self.ahead.iter().map(|ahead| ahead.json.len()).sum();
    }

    fn meet(&mut self, content: u64) {
        // Unnoted, it is kept for too long at worst.
        let _ = self.met.add(content);
    }

    fn is_echo(&self, event: &Event<'_>) -> bool {
        // Not counted: who has asked for the event twice has it echoed twice.
        !self.written.is_empty() && as_write(event).is_some_and(|print| self.written.has(print))
    }
}

/// A multiset whose members are forgotten with the second generation.
#[derive(Default)]
struct Aging {
    young: HashMap<u64, u32>,
    aged: HashMap<u64, u32>,
    members: usize,
}

impl Aging {
    fn is_empty(&self) -> bool {
        self.members == 0
    }

    fn add(&mut self, content: u64) -> Result<(), Full> {
        if self.members >= MOST_NOTED {
            return Err(Full);
        }
        self.members += 1;
        *self.young.entry(content).or_default() += 1;
        Ok(())
    }

    fn has(&self, content: u64) -> bool {
        self.aged.contains_key(&content) || self.young.contains_key(&content)
    }

    /// Takes one out, the oldest first; false when there is none.
    fn take(&mut self, content: u64) -> bool {
        for generation in [&mut self.aged, &mut self.young] {
            if let Some(count) = generation.get_mut(&content) {
                *count -= 1;
                if *count == 0 {
                    generation.remove(&content);
                }
                self.members -= 1;
                return true;
            }
        }
        false
    }

    fn grow_older(&mut self) {
        self.aged = std::mem::take(&mut self.young);
        self.members = self.aged.values().map(|&count| count as usize).sum();
    }
}

/// When a generation ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Generation {
    began: Instant,
    fence: Option<Fence>,
}

/// A ping that has to be answered.
#[derive(Clone, Copy, Debug)]
struct Fence {
    number: u32,
    old: bool,
    new: bool,
}

impl Generation {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            fence: None,
        }
    }

    /// When [`Self::wants_fence`] may become true.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.fence.is_none().then(|| self.began + SKEW)
    }

    pub(super) fn wants_fence(&self, now: Instant) -> bool {
        self.fence.is_none() && now >= self.began + SKEW
    }

    /// The fence with this number is on its way to these legs.
    pub(super) fn send_fence(&mut self, number: u32, old: bool, new: bool) {
        self.fence = Some(Fence { number, old, new });
    }

    /// A leg answered a fence. Whether the generation is over.
    pub(super) fn answered(&mut self, number: u32, by_new: bool, now: Instant) -> bool {
        let Some(fence) = &mut self.fence else {
            return false;
        };
        if fence.number != number {
            return false;
        }
        if by_new {
            fence.new = false;
        } else {
            fence.old = false;
        }
        let over = !fence.old && !fence.new;
        if over {
            *self = Self::new(now);
        }
        over
    }
}

/// Bounds of what is noted for one session.
const MOST_NOTED: usize = 4_096;
const MOST_AHEAD: usize = 512;
const MOST_AHEAD_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Full, Generation, MOST_AHEAD, MOST_NOTED, Overlap, SKEW};
    use crate::{
        ddp::Published,
        session::migration::print::{Print, topic},
    };

    fn json(number: u32) -> String {
        format!(
            r#"{{"msg":"changed","collection":"stream-roles","id":"id","fields":{{"eventName":"roles","args":[{number}]}}}}"#
        )
    }

    fn old(overlap: &mut Overlap, number: u32) -> Result<(), Full> {
        let json = json(number);
        let Ok(Published::Event(event)) = Published::parse(&json) else {
            panic!("an event");
        };
        overlap.old_brought(Print::of(&event, &json), true)
    }

    fn new(overlap: &mut Overlap, number: u32) -> Result<(), Full> {
        let json = json(number);
        let Ok(Published::Event(event)) = Published::parse(&json) else {
            panic!("an event");
        };
        overlap.new_brought(&event, &json)
    }

    fn is_delivered(overlap: &mut Overlap, number: u32) -> bool {
        let json = json(number);
        let Ok(Published::Event(event)) = Published::parse(&json) else {
            panic!("an event");
        };
        overlap.is_delivered(&event, &json)
    }

    fn ahead(overlap: &mut Overlap) -> Vec<String> {
        overlap.take_ahead().map(|(_, json)| json).collect()
    }

    #[test]
    fn each_event_counts_as_often_as_it_came() {
        let mut overlap = Overlap::default();
        for number in [1, 1, 2] {
            old(&mut overlap, number).unwrap();
        }
        for number in [1, 3, 4] {
            new(&mut overlap, number).unwrap();
        }
        old(&mut overlap, 3).unwrap();
        assert_eq!(ahead(&mut overlap), [json(4)]);
        assert!(is_delivered(&mut overlap, 1));
        assert!(!is_delivered(&mut overlap, 1));
        assert!(is_delivered(&mut overlap, 2));
        assert!(!is_delivered(&mut overlap, 3));
    }

    #[test]
    fn what_the_old_leg_passed_over_is_not_for_the_client() {
        let mut overlap = Overlap::default();
        for number in [1, 2, 3] {
            new(&mut overlap, number).unwrap();
        }
        old(&mut overlap, 2).unwrap();
        assert_eq!(ahead(&mut overlap), [json(3)]);
    }

    #[test]
    fn what_came_before_a_subscription_of_the_old_leg_does_not_come_behind_it() {
        let topic = topic("stream-roles", "roles");
        for (asked, like, served) in [
            (true, false, true),
            (false, false, true),
            (true, true, true),
            (true, false, false),
        ] {
            let mut overlap = Overlap::default();
            // A second subscription: the new leg serves it already.
            old(&mut overlap, 1).unwrap();
            new(&mut overlap, 1).unwrap();
            new(&mut overlap, 1).unwrap();
            new(&mut overlap, 2).unwrap();
            if asked {
                overlap.both_asked(topic);
            }
            let later = json(if like { 1 } else { 3 });
            // With its like ahead it is matched by that.
            if like {
                old(&mut overlap, 1).unwrap();
            }
            let Ok(Published::Event(event)) = Published::parse(&later) else {
                panic!("an event");
            };
            overlap
                .old_brought(Print::of(&event, &later), served)
                .unwrap();
            let left = match (like, asked && served) {
                (true, _) => vec![json(2)],
                (false, true) => vec![],
                (false, false) => vec![json(1), json(2)],
            };
            assert_eq!(ahead(&mut overlap), left, "{asked} {like} {served}");
        }
    }

    #[test]
    fn nothing_outlives_two_generations() {
        let mut overlap = Overlap::default();
        old(&mut overlap, 1).unwrap();
        new(&mut overlap, 2).unwrap();
        overlap.grow_older(true);
        old(&mut overlap, 3).unwrap();
        new(&mut overlap, 4).unwrap();
        overlap.grow_older(true);
        assert!(!is_delivered(&mut overlap, 1));
        assert!(is_delivered(&mut overlap, 3));
        assert_eq!(ahead(&mut overlap), [json(4)]);
    }

    #[test]
    fn bounds_hold() {
        let mut overlap = Overlap::default();
        for number in 0..u32::try_from(MOST_NOTED).unwrap() {
            old(&mut overlap, number).unwrap();
        }
        assert_eq!(old(&mut overlap, 0), Err(Full));
        let first = 1_000_000;
        for number in 0..u32::try_from(MOST_AHEAD).unwrap() {
            new(&mut overlap, first + number).unwrap();
        }
        assert_eq!(new(&mut overlap, 5), Ok(()), "that one was owed");
        assert_eq!(new(&mut overlap, 2_000_000), Err(Full));
        overlap.grow_older(true);
        overlap.grow_older(true);
        assert_eq!(overlap.ahead_bytes, 0);
        assert_eq!(new(&mut overlap, 2_000_000), Ok(()));
    }

    #[test]
    fn a_generation_waits_for_both_legs() {
        let start = Instant::now();
        let mut generation = Generation::new(start);
        assert!(!generation.wants_fence(start + SKEW / 2));
        let at = generation.next_timeout().unwrap();
        assert_eq!(at, start + SKEW);
        assert!(generation.wants_fence(at));
        generation.send_fence(7, true, true);
        assert!(!generation.wants_fence(at + SKEW));
        assert_eq!(generation.next_timeout(), None);
        assert!(!generation.answered(6, true, at));
        assert!(!generation.answered(7, true, at));
        assert!(!generation.answered(7, true, at));
        let end = at + Duration::from_secs(3);
        assert!(generation.answered(7, false, end));
        assert_eq!(generation.next_timeout(), Some(end + SKEW));
    }
}
