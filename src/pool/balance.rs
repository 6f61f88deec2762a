//! When the sessions of a pool are to be levelled, which of them move, and when it is over.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use super::{
    level::{GOAL, Level, ceiling, fullest, mean},
    logins::pacer::Pacer,
    moves::{ASK_EVERY, Activity, LONGEST_MOVE, Progress, Seen, Speed},
    pick::SplitMix,
};
use crate::base::id::{SessionId, StreamerId};

/// Levels the streamers of one pool.
///
/// A run begins when a streamer has joined and is warm, when the fullest one was above the threshold
/// for a while, or on order. It ends when nobody is much above the mean any more, which is
/// far below where the next one would begin, or when who is left cannot be moved. Within a run each
/// session is told once at most, and a session goes only where it makes two streamers more even
/// ([`Pool::pick_to_move`](super::Pool::pick_to_move)): so nothing ever swings.
///
/// Whoever drives it tells what it sees ([`Self::watch`], [`Self::saw`]), says how those under way
/// are ([`Self::asked`], [`Self::heard`]), takes those whose turn has come ([`Self::next`]) and
/// confirms each that it told ([`Self::told`]).
#[derive(Debug)]
pub struct Balance {
    terms: Terms,
    random: SplitMix,
    /// Those that were warm at the last look, and since when they were well; none before the first
    /// one.
    warm: Option<BTreeSet<(StreamerId, Instant)>>,
    joined: bool,
    skewed_since: Option<Instant>,
    /// Nothing begins by itself before.
    not_before: Instant,
    run: Option<Run>,
    last: Option<(Finish, Done)>,
}

/// How a pool is levelled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Runs begin by themselves.
    pub automatic: bool,
    /// Share of the mean by which the fullest streamer may be above it, 0.1 at least.
    pub threshold: f64,
    /// Sessions per second; 0 counts as 1.
    pub rate: u32,
}

/// Why a run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Joined,
    Skewed,
    Ordered,
}

impl Cause {
    pub fn label(self) -> &'static str {
        match self {
            Self::Joined => "a streamer has joined",
            Self::Skewed => "the sessions lie too unevenly",
            Self::Ordered => "the operator's order",
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    Balanced,
    /// Nobody who is left can be moved, or nobody has room.
    Stuck,
    /// By the operator, or because it was switched off.
    Stopped,
}

impl Finish {
    pub const ALL: [Self; 3] = [Self::Balanced, Self::Stuck, Self::Stopped];

    /// Lower-case word for pages and labels.
    pub fn label(self) -> &'static str {
        match self {
            Self::Balanced => "balanced",
            Self::Stuck => "stuck",
            Self::Stopped => "stopped",
        }
    }
}

/// What a run has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub moved: u64,
    /// Sessions that were told to move and stayed, by the reason.
    pub refused: BTreeMap<&'static str, u64>,
}

/// What [`Balance::watch`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Begun(Cause),
    Finished(Finish),
}

/// A run as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    pub cause: Cause,
    pub since: Instant,
    pub done: Done,
    pub under_way: usize,
    /// Sessions that are to move yet.
    pub left: u32,
    pub eta: Option<Duration>,
}

#[derive(Debug)]
struct Run {
    cause: Cause,
    since: Instant,
    pacer: Pacer,
    /// Those that were told in this run.
    told: HashSet<SessionId>,
    under_way: HashMap<SessionId, (StreamerId, Instant)>,
    /// How many of those under way leave each streamer.
    leaving: HashMap<StreamerId, u32>,
    activities: HashMap<SessionId, Activity>,
    /// To be told, by streamer; the last one is next.
    turns: BTreeMap<StreamerId, Vec<SessionId>>,
    done: Done,
    speed: Speed,
    looked_at: Option<Instant>,
    asked_at: Instant,
    /// When something happened last, or could not.
    alive_at: Instant,
}

impl Balance {
    pub fn new(terms: Terms, seed: u64, now: Instant) -> Self {
        Self {
            terms,
            random: SplitMix(seed),
            warm: None,
            joined: false,
            skewed_since: None,
            not_before: now,
            run: None,
            last: None,
        }
    }

    /// Takes effect at once. What is switched off stops.
    pub fn set_terms(&mut self, terms: Terms, now: Instant) -> Option<Event> {
        let before = std::mem::replace(&mut self.terms, terms);
        if let Some(run) = &mut self.run
            && before.rate != terms.rate
        {
            run.pacer.set(terms.rate, now);
        }
        (before.automatic && !terms.automatic)
            .then(|| self.stop(now))
            .flatten()
    }

    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// Begins a run unless there is one, whatever the threshold.
    pub fn order(&mut self, now: Instant) -> Option<Event> {
        self.run.is_none().then(|| self.begin(Cause::Ordered, now))
    }

    /// Ends the run; those that are under way arrive. Nothing begins by itself for a while.
    pub fn stop(&mut self, now: Instant) -> Option<Event> {
        self.run
            .is_some()
            .then(|| self.finish(Finish::Stopped, now))
    }

    /// The run under way. `levels` as they are now.
    pub fn running(&self, levels: &[Level], now: Instant) -> Option<Running> {
        let run = self.run.as_ref()?;
        let left = run.surplus(levels, now);
        let under_way = run.under_way.len();
        Some(Running {
            cause: run.cause,
            since: run.since,
            done: run.done.clone(),
            under_way,
            left,
            eta: run
                .speed
                .remaining(u64::from(left) + under_way as u64, self.terms.rate),
        })
    }

    /// The last run that ended.
    pub fn last(&self) -> Option<&(Finish, Done)> {
        self.last.as_ref()
    }

    /// So full are the streamers; decides whether to begin or to end. `held`: something is under way
    /// that comes first, so nothing begins and a run pauses.
    pub fn watch(&mut self, levels: &[Level], held: bool, now: Instant) -> Option<Event> {
        self.note_joined(levels);
        if let Some(run) = &mut self.run {
            run.speed.pass(now);
            if held {
                run.alive_at = now;
            }
            let finish = run.finish(levels, now)?;
            return Some(self.finish(finish, now));
        }
        let warm = levels.iter().all(|level| level.warm);
        if held || !warm || !self.terms.automatic {
            self.skewed_since = None;
            return None;
        }
        let (fullest, mean) = (fullest(levels), mean(levels, 0));
        let above = f64::from(fullest) - mean;
        let worth_it = |share: f64| above >= WORTH_IT && fullest > ceiling(mean, share);
        if std::mem::take(&mut self.joined) && worth_it(LEVEL) {
            return Some(self.begin(Cause::Joined, now));
        }
        if !worth_it(self.terms.threshold.max(LEVEL)) || now < self.not_before {
            self.skewed_since = None;
            return None;
        }
        let since = *self.skewed_since.get_or_insert(now);
        (now.saturating_duration_since(since) >= SETTLED).then(|| self.begin(Cause::Skewed, now))
    }

    /// [`Self::saw`] is to be called.
    pub fn wants_look(&self, now: Instant) -> bool {
        let run = self.run.as_ref();
        run.is_some_and(|run| run.look_at().is_none_or(|at| at <= now))
    }

    /// These sessions are on the streamers.
    pub fn saw(&mut self, there: &BTreeMap<StreamerId, Vec<Seen>>, now: Instant) {
        let Some(run) = &mut self.run else { return };
        let mut before = std::mem::take(&mut run.activities);
        run.turns.clear();
        for (streamer, sessions) in there {
            let mut order = Vec::with_capacity(sessions.len());
            for seen in sessions {
                let mut activity = before
                    .remove(&seen.id)
                    .unwrap_or_else(|| Activity::new(seen, now));
                activity.update(seen, now);
                if !seen.moving && !run.told.contains(&seen.id) {
                    order.push((activity.per_second(), self.random.draw(), seen.id));
                }
                run.activities.insert(seen.id, activity);
            }
            order.sort_unstable_by(|one, other| {
                let busier = other.0.total_cmp(&one.0);
                busier.then(one.1.cmp(&other.1))
            });
            let turns = order.into_iter().map(|(_, _, id)| id).collect();
            run.turns.insert(streamer.clone(), turns);
        }
        run.looked_at = Some(now);
    }

    /// The sessions that [`Self::heard`] is to be told of, if it is time for that, and where they
    /// were.
    pub fn asked(&mut self, now: Instant) -> Vec<(SessionId, StreamerId)> {
        match &mut self.run {
            Some(run) if now.saturating_duration_since(run.asked_at) >= ASK_EVERY => {
                run.asked_at = now;
                let under_way = run.under_way.iter();
                under_way
                    .map(|(id, (from, _))| (*id, from.clone()))
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    /// A session that was told to move is so far.
    pub fn heard(&mut self, id: SessionId, progress: Progress, now: Instant) {
        let Some(run) = &mut self.run else { return };
        let Some((_, since)) = run.under_way.get(&id) else {
            return;
        };
        match progress {
            Progress::UnderWay if now.saturating_duration_since(*since) < LONGEST_MOVE => return,
            Progress::UnderWay => *run.done.refused.entry("late").or_default() += 1,
            Progress::Moved => {
                run.done.moved += 1;
                run.speed.add(now);
            }
            Progress::Gone => {}
            Progress::Stays { reason, begun, .. } => {
                *run.done.refused.entry(reason).or_default() += 1;
                if !begun {
                    run.pacer.give_back();
                }
            }
        }
        if let Some((from, _)) = run.under_way.remove(&id)
            && let Some(count) = run.leaving.get_mut(&from)
        {
            *count = count.saturating_sub(1);
        }
        run.alive_at = now;
    }

    /// The session whose turn it is, if it is somebody's, and where it is. At most `most` are under
    /// way. It counts only when it is [`Self::told`]: it may have ended by itself.
    pub fn next(
        &mut self,
        levels: &[Level],
        most: usize,
        now: Instant,
    ) -> Option<(SessionId, StreamerId)> {
        let run = self.run.as_mut()?;
        if run.pacer.ready_at() > now || run.under_way.len() >= most {
            return None;
        }
        let goal = run.goal(levels, now);
        let giver = levels
            .iter()
            .filter(|level| run.turns.get(&level.id).is_some_and(|ids| !ids.is_empty()))
            .max_by_key(|level| run.surplus_of(level, goal))
            .filter(|level| run.surplus_of(level, goal) > 0)?;
        let room: u32 = levels
            .iter()
            .filter(|level| level.load.saturating_add(1) < giver.load)
            .map(|level| level.room.min(goal.saturating_sub(level.load)))
            .sum();
        // Those that were told just now may not have their places yet.
        if room <= run.fresh(now) {
            return None;
        }
        let id = run.turns.get_mut(&giver.id)?.pop()?;
        Some((id, giver.id.clone()))
    }

    /// The session was there and was told.
    pub fn told(&mut self, id: SessionId, from: StreamerId, now: Instant) {
        let Some(run) = &mut self.run else { return };
        run.pacer.take(now);
        run.told.insert(id);
        *run.leaving.entry(from.clone()).or_default() += 1;
        run.under_way.insert(id, (from, now));
        run.alive_at = now;
    }

    /// When there is something to do next.
    pub fn next_timeout(&self, now: Instant) -> Instant {
        let Some(run) = &self.run else {
            return now + WATCH_EVERY;
        };
        let ask = match run.under_way.is_empty() {
            true => now + WATCH_EVERY,
            false => run.asked_at + ASK_EVERY,
        };
        let look = run.look_at().unwrap_or(now);
        let turn = run.pacer.ready_at().max(now + ASK_EVERY / 5);
        ask.min(look).min(turn)
    }

    /// One that is warm now and was not before has joined.
    fn note_joined(&mut self, levels: &[Level]) {
        let warm = levels.iter().filter(|level| level.warm);
        let warm: BTreeSet<_> = warm.map(|level| (level.id.clone(), level.since)).collect();
        if let Some(before) = &self.warm {
            self.joined |= !before.is_empty() && !warm.is_subset(before);
        }
        self.warm = Some(warm);
    }

    fn begin(&mut self, cause: Cause, now: Instant) -> Event {
        self.joined = false;
        self.skewed_since = None;
        self.run = Some(Run {
            cause,
            since: now,
            pacer: Pacer::new(self.terms.rate, now),
            told: HashSet::new(),
            under_way: HashMap::new(),
            leaving: HashMap::new(),
            activities: HashMap::new(),
            turns: BTreeMap::new(),
            done: Done::default(),
            speed: Speed::default(),
            looked_at: None,
            asked_at: now,
            alive_at: now,
        });
        Event::Begun(cause)
    }

    fn finish(&mut self, finish: Finish, now: Instant) -> Event {
        let done = self.run.take().map(|run| run.done).unwrap_or_default();
        self.last = Some((finish, done));
        self.skewed_since = None;
        self.not_before = now
            + match finish {
                Finish::Balanced => REST,
                Finish::Stuck | Finish::Stopped => LONG_REST,
            };
        Event::Finished(finish)
    }
}

impl Run {
    /// Most sessions that a streamer is to have in the end.
    fn goal(&self, levels: &[Level], now: Instant) -> u32 {
        let under_way = u32::try_from(self.under_way.len()).unwrap_or(u32::MAX);
        // Whoever is on the way has a place on two streamers.
        let doubled = under_way.saturating_sub(self.fresh(now));
        ceiling(mean(levels, doubled), GOAL)
    }

    /// Sessions that were told a moment ago.
    fn fresh(&self, now: Instant) -> u32 {
        let fresh = |(_, since): &&(StreamerId, Instant)| {
            now.saturating_duration_since(*since) < PLACE_WITHIN
        };
        u32::try_from(self.under_way.values().filter(fresh).count()).unwrap_or(u32::MAX)
    }

    /// What the streamer is to give yet, besides those under way.
    fn surplus_of(&self, level: &Level, goal: u32) -> u32 {
        let leaving = self.leaving.get(&level.id).copied().unwrap_or(0);
        level.sessions.saturating_sub(leaving).saturating_sub(goal)
    }

    fn surplus(&self, levels: &[Level], now: Instant) -> u32 {
        let goal = self.goal(levels, now);
        let surpluses = levels.iter().map(|level| self.surplus_of(level, goal));
        surpluses.sum()
    }

    fn finish(&self, levels: &[Level], now: Instant) -> Option<Finish> {
        if !self.under_way.is_empty() {
            return None;
        }
        let goal = self.goal(levels, now);
        let mut givers = levels
            .iter()
            .filter(|level| self.surplus_of(level, goal) > 0)
            .peekable();
        if givers.peek().is_none() {
            return Some(Finish::Balanced);
        }
        // Sessions that were not there at the look may be by the next one.
        let exhausted = self
            .looked_at
            .is_some_and(|at| at > self.since && at >= self.alive_at)
            && givers.all(|level| self.turns.get(&level.id).is_none_or(Vec::is_empty));
        let idle = now.saturating_duration_since(self.alive_at) >= PATIENCE;
        (exhausted || idle).then_some(Finish::Stuck)
    }

    /// `None`: at once.
    fn look_at(&self) -> Option<Instant> {
        Some(self.looked_at? + LOOK_EVERY)
    }
}

/// Streamers with up to this share above the mean are level.
const LEVEL: f64 = 0.1;

/// Sessions above the mean for which nothing begins by itself.
const WORTH_IT: f64 = 10.0;

/// A skew that is gone after this was none.
const SETTLED: Duration = Duration::from_secs(5);

/// After a run, until the next one by itself.
const REST: Duration = Duration::from_secs(30);
const LONG_REST: Duration = Duration::from_secs(600);

/// Without a move for this long, there will be none.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who is told to move has its place on another streamer after this.
const PLACE_WITHIN: Duration = Duration::from_millis(250);

const LOOK_EVERY: Duration = Duration::from_secs(1);
const WATCH_EVERY: Duration = Duration::from_millis(500);
