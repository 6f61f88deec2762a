//! The login queue with as many threads as may be: nobody is forgotten, nothing is given out twice.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use ddp_gateway::pool::{
    SplitMix,
    logins::{LoginOutcome, LoginPermit, LoginSettings, LoginTicket, Logins},
};

use super::index;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

#[test]
fn every_client_gets_its_turn_under_many_threads() {
    const CLIENTS: u64 = 8;
    const LOGINS: u32 = 1_500;
    let settings = LoginSettings {
        streamer_concurrency: 3,
        concurrency: 5,
        streamer_rate: 20_000,
        rate: 30_000,
        timeout: Duration::from_secs(120),
        ..LoginSettings::default()
    };
    let logins = Logins::new(settings, Instant::now());
    let in_flight: HashMap<_, _> = NAMES.map(|name| (name, AtomicU32::new(0))).into();
    let in_all = AtomicU32::new(0);
    let done = AtomicBool::new(false);
    let give_up = Instant::now() + Duration::from_secs(100);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|seed| {
                let (logins, in_flight, in_all) = (&logins, &in_flight, &in_all);
                scope.spawn(move || {
                    let mut random = SplitMix(seed);
                    for _ in 0..LOGINS {
                        let name = NAMES[index(&mut random, NAMES.len())];
                        let mut ticket = logins
                            .wait(&name.into(), Instant::now())
                            .expect("the queue has room");
                        if random.below(5) == 0 {
                            continue;
                        }
                        let permit = await_turn(&mut ticket, give_up);
                        let here = in_flight[name].fetch_add(1, Ordering::SeqCst) + 1;
                        assert!(here <= 3, "{here} at one streamer");
                        let all = in_all.fetch_add(1, Ordering::SeqCst) + 1;
                        assert!(all <= 5, "{all} in all");
                        thread::yield_now();
                        in_flight[name].fetch_sub(1, Ordering::SeqCst);
                        in_all.fetch_sub(1, Ordering::SeqCst);
                        match random.below(5) {
                            0 => drop(permit),
                            1 => permit.finish(LoginOutcome::Failed, Instant::now()),
                            _ => permit.finish(LoginOutcome::Done, Instant::now()),
                        }
                    }
                })
            })
            .collect();
        let driver = scope.spawn(|| {
            let waker = Waker::from(Arc::new(Unpark(thread::current())));
            while !done.load(Ordering::SeqCst) {
                logins.handle_timeout(Instant::now());
                let now = Instant::now();
                let until = logins.next_timeout().unwrap_or(give_up);
                if logins
                    .poll_hurried(&mut Context::from_waker(&waker))
                    .is_pending()
                {
                    thread::park_timeout(until.saturating_duration_since(now));
                }
            }
        });
        for client in clients {
            client.join().expect("a client failed");
        }
        done.store(true, Ordering::SeqCst);
        driver.thread().unpark();
        driver.join().expect("the driver failed");
    });
    let report = logins.report(Instant::now());
    assert_eq!((report.waiting, report.in_flight), (0, 0));
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn await_turn(ticket: &mut LoginTicket, give_up: Instant) -> LoginPermit {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        let now = Instant::now();
        assert!(now < give_up, "a client was forgotten");
        match ticket.poll(&mut Context::from_waker(&waker), now) {
            Poll::Ready(permit) => return permit,
            Poll::Pending => thread::park_timeout(give_up - now),
        }
    }
}
