//! Several gateways that share streamers, on clocks and a bus that the test makes: packets are late,
//! lost, or do not pass for a while; gateways end without a word and start again; the clock of each
//! is hours away from that of the others.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a panic here is a failed test, and its numbers are small"
)]

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use ddp_gateway::{
    pool::{
        SplitMix,
        logins::{LoginOutcome, LoginPermit, LoginSettings, LoginTicket, Logins},
    },
    replicas::{Demand, Phase, ReplicaId, Replicas, State, Terms, Usage},
};
use proptest::prelude::{ProptestConfig, any, proptest};

const POOL: &str = "default";
const STEP: Duration = Duration::from_millis(10);
const STREAMERS: [&str; 2] = ["10.0.0.1:3000", "10.0.0.2:3000"];

struct Gateway {
    machine: Replicas,
    held: [u32; 2],
    terms: [Terms; 2],
    waiting: u32,
    /// By how much its clock is ahead of the others'.
    skew: Duration,
    /// Which part of a split bus it is on.
    side: u32,
    connected: bool,
}

/// Who is to get a packet, and when.
struct Flying {
    to: usize,
    state: State,
}

struct World {
    now: Instant,
    random: SplitMix,
    limit: u32,
    latest: u64,
    gateways: Vec<Gateway>,
    /// By time of arrival, and a number that tells packets of one time apart.
    flying: BTreeMap<(Instant, u64), Flying>,
    next: u64,
    /// In a thousand packets.
    lost: u64,
}

impl World {
    fn new(seed: u64, count: usize, limit: u32, latest: u64) -> Self {
        let mut world = Self {
            now: Instant::now(),
            random: SplitMix(seed),
            limit,
            latest: latest.max(1),
            gateways: Vec::new(),
            flying: BTreeMap::new(),
            next: 0,
            lost: 0,
        };
        for _ in 0..count {
            let gateway = world.gateway();
            world.gateways.push(gateway);
        }
        world
    }

    fn gateway(&mut self) -> Gateway {
        let id = ReplicaId(self.random.draw());
        let skew = Duration::from_secs(self.random.below(100_000));
        let mut machine = Replicas::new(id, String::new(), self.now + skew);
        machine.handle_connected(self.now + skew);
        let none = Terms {
            claim: Some(0),
            others: 0,
        };
        Gateway {
            machine,
            held: [0; 2],
            terms: [none; 2],
            waiting: 0,
            skew,
            side: 0,
            connected: true,
        }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random.below(end)
    }

    /// 10 ms later.
    fn step(&mut self) {
        self.now += STEP;
        while let Some(entry) = self.flying.first_entry()
            && entry.key().0 <= self.now
        {
            let Flying { to, state } = entry.remove();
            let gateway = &mut self.gateways[to];
            let _ = gateway.machine.handle(state, self.now + gateway.skew);
        }
        for at in 0..self.gateways.len() {
            let gateway = &mut self.gateways[at];
            let now = self.now + gateway.skew;
            gateway.machine.handle_timeout(now);
            gateway.claim(self.limit);
            gateway.serve(self.limit);
            gateway.claim(self.limit);
            let jitter = self.random.below(100) as f64 / 100.0;
            let packet = self.gateways[at].machine.packet(jitter, now);
            if let Some(state) = packet {
                self.send(at, &state);
            }
        }
    }

    fn send(&mut self, from: usize, state: &State) {
        // What is sent is what is read.
        let state = State::parse(&state.to_payload().unwrap()).unwrap();
        for to in 0..self.gateways.len() {
            let (one, other) = (&self.gateways[from], &self.gateways[to]);
            let passes = one.connected && other.connected && one.side == other.side;
            if to == from || !passes || self.below(1000) < self.lost {
                continue;
            }
            let late = Duration::from_millis(self.random.below(self.latest));
            self.next += 1;
            let state = state.clone();
            self.flying
                .insert((self.now + late, self.next), Flying { to, state });
        }
    }

    fn run(&mut self, time: Duration, mut each: impl FnMut(&mut Self)) {
        let end = self.now + time;
        while self.now < end {
            each(self);
            self.step();
        }
    }

    fn held(&self, streamer: usize) -> u32 {
        self.gateways
            .iter()
            .map(|gateway| gateway.held[streamer])
            .sum()
    }

    fn waiting(&self) -> u32 {
        self.gateways.iter().map(|gateway| gateway.waiting).sum()
    }

    fn never_too_many(&self) {
        for (at, streamer) in STREAMERS.iter().enumerate() {
            assert!(
                self.held(at) <= self.limit,
                "{} sessions on {streamer}, whose limit is {}",
                self.held(at),
                self.limit
            );
            let claims = self
                .gateways
                .iter()
                .map(|gateway| match gateway.machine.is_alone() {
                    true => 0,
                    false => gateway.terms[at].claim.unwrap_or(0),
                });
            let claims: u32 = claims.sum();
            assert!(claims <= self.limit, "{claims} claimed of {}", self.limit);
        }
    }

    /// Each counts what the others really have.
    fn counts_are_right(&self) -> bool {
        (0..STREAMERS.len()).all(|at| {
            let all = self.held(at);
            let knows = |gateway: &Gateway| gateway.held[at] + gateway.terms[at].others == all;
            self.gateways.iter().all(knows)
        })
    }

    /// Clients come and go at any of them, more than there is room for.
    fn bustle(&mut self) {
        let at = self.random.below(self.gateways.len() as u64) as usize;
        let come = self.random.below(8) == 0;
        let few = self.random.below(1 + u64::from(self.limit) / 2) as u32;
        let streamer = self.random.below(2) as usize;
        let gateway = &mut self.gateways[at];
        if come {
            gateway.waiting += few;
        } else if self.random.below(4) == 0 {
            let gone = few.min(gateway.held[streamer]);
            gateway.held[streamer] -= gone;
        } else if self.random.below(16) == 0 {
            gateway.waiting = 0;
        }
    }
}

impl Gateway {
    fn claim(&mut self, limit: u32) {
        let usage = |at: usize| Usage {
            held: self.held[at],
            limit,
            waiting: self.waiting,
        };
        let streamers = [(STREAMERS[0], usage(0)), (STREAMERS[1], usage(1))];
        let sessions = self.held.iter().sum();
        let terms = self.machine.claim(POOL, sessions, self.waiting, &streamers);
        self.terms = [terms[0], terms[1]];
    }

    fn serve(&mut self, limit: u32) {
        for (held, terms) in self.held.iter_mut().zip(self.terms) {
            while self.waiting > 0
                && terms.claim.is_none_or(|claim| *held < claim)
                && *held + terms.others < limit
            {
                *held += 1;
                self.waiting -= 1;
            }
        }
    }
}

/// The logins of one gateway.
struct Queue {
    logins: Arc<Logins>,
    /// By streamer.
    waiting: [VecDeque<LoginTicket>; 2],
    begun: VecDeque<(Instant, LoginPermit)>,
}

impl Queue {
    fn new(now: Instant) -> Self {
        let settings = LoginSettings {
            rate: RATE,
            streamer_rate: RATE,
            concurrency: 1_000,
            streamer_concurrency: 1_000,
            ..LoginSettings::default()
        };
        Self {
            logins: Logins::new(settings, now),
            waiting: Default::default(),
            begun: VecDeque::new(),
        }
    }

    /// Settles its shares with the others; how many logins begin.
    fn step(&mut self, machine: &mut Replicas, now: Instant) -> usize {
        let logins = &self.logins;
        logins.handle_timeout(now);
        while let Some((at, permit)) = self.begun.pop_front() {
            if at + LOGIN > now {
                self.begun.push_front((at, permit));
                break;
            }
            permit.finish(LoginOutcome::Done, now);
        }
        let (whole, streamers) = logins.demand();
        let streamers = streamers.iter();
        machine.set_demand(Demand {
            whole,
            streamers: streamers
                .map(|(id, logins)| (id.as_str().to_owned(), *logins))
                .collect(),
        });
        let share = |streamer: Option<&str>| machine.share(streamer, now);
        logins.set_shares(
            share(None),
            |id| share(Some(id.as_str())),
            share(Some("")),
            now,
        );
        let mut count = 0;
        for waiting in &mut self.waiting {
            let mut cx = Context::from_waker(Waker::noop());
            while let Some(ticket) = waiting.front_mut()
                && let Poll::Ready(permit) = ticket.poll(&mut cx, now)
            {
                self.begun.push_back((now, permit));
                waiting.pop_front();
                count += 1;
            }
        }
        count
    }

    fn come(&mut self, logins: u64, streamer: usize, now: Instant) {
        for _ in 0..logins {
            let ticket = self.logins.wait(&STREAMERS[streamer].into(), now);
            self.waiting[streamer].push_back(ticket.unwrap());
        }
    }
}

/// Logins a second, of all gateways together.
const RATE: u32 = 100;
const LOGIN: Duration = Duration::from_millis(20);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However late packets are, as long as they come, and whoever comes or ends.
    #[test]
    fn while_packets_arrive_nobody_gets_too_much(
        seed in any::<u64>(), count in 2_usize..7, limit in 1_u32..40, latest in 1_u64..900,
    ) {
        let mut world = World::new(seed, count, limit, latest);
        world.run(Duration::from_secs(25), |world| {
            world.bustle();
            if world.below(700) == 0 {
                // It ends, its sessions with it, and starts again.
                let at = world.below(count as u64) as usize;
                world.gateways[at] = world.gateway();
            }
            world.never_too_many();
        });
    }

    /// A bus that splits, loses half of the packets or is away: whatever happened, all is right
    /// again 5 s after it is whole, and nobody was sent away.
    #[test]
    fn after_a_split_all_is_right_again(
        seed in any::<u64>(), count in 2_usize..5, limit in 4_u32..40, how in 0_u32..3,
    ) {
        let mut world = World::new(seed, count, limit, 50);
        world.run(Duration::from_secs(4), World::bustle);
        match how {
            0 => for at in 0..count {
                world.gateways[at].side = at as u32 % 2;
            },
            1 => world.lost = 500,
            _ => for gateway in &mut world.gateways {
                gateway.connected = false;
                gateway.machine.handle_disconnected();
            },
        }
        world.run(Duration::from_secs(8), World::bustle);
        let now = world.now;
        world.lost = 0;
        for gateway in &mut world.gateways {
            gateway.side = 0;
            if !gateway.connected {
                gateway.connected = true;
                gateway.machine.handle_connected(now + gateway.skew);
            }
        }
        // Nobody comes above the limit from when all have heard of each other.
        world.run(Duration::from_millis(1_500), |_| {});
        let before: Vec<u32> = (0..2).map(|at| world.held(at)).collect();
        world.run(Duration::from_millis(3_500), |world| {
            for (at, before) in before.iter().enumerate() {
                assert!(world.held(at) <= limit.max(*before));
            }
        });
        assert!(world.counts_are_right());
        // What is given back can be had again.
        for gateway in &mut world.gateways {
            gateway.held = [0; 2];
            gateway.waiting = 0;
        }
        world.run(Duration::from_secs(3), |_| {});
        world.gateways[0].waiting = 2 * limit;
        world.run(Duration::from_secs(5), |world| world.never_too_many());
        assert_eq!((world.held(0), world.held(1), world.waiting()), (limit, limit, 0));
    }

    /// Herds of clients log in here and there, and begin no faster than they might at one gateway:
    /// within any time at the rate, and a burst before it. At a burst of less than a login each
    /// gateway has that one.
    #[test]
    fn logins_keep_the_pace_of_one_gateway(
        seed in any::<u64>(), count in 2_usize..7, latest in 1_u64..400,
    ) {
        let mut world = World::new(seed, count, 10, latest);
        world.run(Duration::from_secs(3), |_| {});
        let now = world.now;
        let mut queues: Vec<Queue> = world.gateways.iter().map(|one| Queue::new(now + one.skew)).collect();
        let (mut level, mut begun, mut come) = (0.0_f64, 0, 0);
        let most = f64::from(RATE / 10) + count as f64;
        let mut each = |world: &mut World, herds: bool| {
            if herds && world.below(150) == 0 {
                let at = world.below(count as u64) as usize;
                let (herd, streamer) = (world.below(150), world.below(2) as usize);
                queues[at].come(herd, streamer, world.now + world.gateways[at].skew);
                come += herd as usize;
            }
            let now = world.now;
            let mut begin = 0;
            for (queue, gateway) in queues.iter_mut().zip(&mut world.gateways) {
                begin += queue.step(&mut gateway.machine, now + gateway.skew);
            }
            begun += begin;
            level = (level - f64::from(RATE) * STEP.as_secs_f64()).max(0.0) + begin as f64;
            assert!(level <= most, "{level} of {most} logins at once");
            for of in [None, Some(STREAMERS[0]), Some(STREAMERS[1]), Some("")] {
                let shares = world.gateways.iter();
                let shares = shares.map(|one| one.machine.share(of, now + one.skew));
                let sum: f64 = shares.sum();
                assert!(sum < 1.0 + 1e-6, "{sum} of the pace at {of:?}");
            }
            (come, begun)
        };
        world.run(Duration::from_secs(8), |world| { each(world, true); });
        let mut left = (0, 0);
        world.run(Duration::from_millis(500), |world| left = each(world, false));
        // The busiest gateway has three quarters at least, and takes a moment to get them.
        let patience = (left.0 - left.1) as f64 / f64::from(RATE) / 0.7 + 2.0;
        world.run(Duration::from_secs_f64(patience), |world| left = each(world, false));
        assert_eq!(left.0, left.1);
    }

    /// All room is found, to the last place, wherever those who want it are.
    #[test]
    fn nobody_waits_while_there_is_room(
        seed in any::<u64>(), count in 2_usize..6, limit in 1_u32..600,
    ) {
        let mut world = World::new(seed, count, limit, 30);
        world.run(Duration::from_secs(2), |_| {});
        for _ in 0..2 * limit {
            let at = world.below(count as u64) as usize;
            world.gateways[at].waiting += 1;
        }
        world.run(Duration::from_secs(6), |world| world.never_too_many());
        assert_eq!((world.waiting(), world.held(0), world.held(1)), (0, limit, limit));
        assert!(world.gateways.iter().all(|one| one.machine.phase() == Phase::Knowing));
    }
}
