//! Many users, each in a task of its own.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::sleep};

use super::{
    attempt::Life,
    board::{Board, Pin, Standing},
    dialogue::MAX_SUBSCRIPTIONS,
    habits::Habits,
    kind::Kind,
    talk::Talk,
    wire::Tls,
};

/// Where users connect to.
#[derive(Clone, Debug)]
pub struct Target {
    /// Users are spread over these.
    pub addresses: Vec<SocketAddr>,
    /// Addresses of this machine to come from; empty: the system chooses. One has room for some
    /// 28,000 connections to one address.
    pub sources: Vec<IpAddr>,
    /// What they call the server.
    pub host: String,
    /// With TLS.
    pub tls: Option<Arc<Tls>>,
}

impl Target {
    pub fn new(address: SocketAddr) -> Self {
        Self {
            addresses: vec![address],
            sources: Vec::new(),
            host: address.to_string(),
            tls: None,
        }
    }
}

/// One user.
#[derive(Clone, Debug)]
pub struct Person {
    pub(super) number: u32,
    pub(super) kind: Kind,
    pub(super) token: Box<str>,
    pub(super) user: Box<str>,
    pub(super) subscriptions: u8,
    pub(super) logs_in: bool,
    pub(super) habits: Option<Box<Habits>>,
    pub(super) talk: Option<Box<Talk>>,
}

impl Person {
    /// `token` is what `login` resumes with, `user` the id that belongs to it; of the
    /// subscriptions of its client it has the first so many, at most 60.
    pub fn new(number: u32, kind: Kind, token: &str, user: &str, subscriptions: u8) -> Self {
        Self {
            number,
            kind,
            token: token.into(),
            user: user.into(),
            subscriptions: subscriptions.min(MAX_SUBSCRIPTIONS),
            logs_in: true,
            habits: None,
            talk: None,
        }
    }

    /// One who is nobody: a client that greets and subscribes, and does not log in.
    #[must_use]
    pub fn without_login(mut self) -> Self {
        self.logs_in = false;
        self
    }

    /// One who talks at a rate, for what is measured.
    #[must_use]
    pub fn with_talk(mut self, talk: Talk) -> Self {
        let own = MAX_SUBSCRIPTIONS.saturating_sub(talk.subscriptions());
        self.subscriptions = self.subscriptions.min(own);
        self.talk = Some(Box::new(talk));
        self
    }

    /// One who does things besides being there. Its habits bring subscriptions of their own.
    #[must_use]
    pub fn with_habits(mut self, habits: Habits) -> Self {
        let own = MAX_SUBSCRIPTIONS.saturating_sub(habits.subscriptions());
        self.subscriptions = self.subscriptions.min(own);
        self.habits = Some(Box::new(habits));
        self
    }
}

impl Person {
    /// What others see.
    pub(super) fn name(&self) -> &str {
        self.user.strip_prefix("uid-").unwrap_or_default()
    }
}

/// Users who live until it is dropped; then their sockets end without a goodbye.
#[derive(Debug)]
pub struct Crowd {
    board: Arc<Board>,
    tasks: JoinSet<()>,
}

impl Crowd {
    /// Lets these people in, one after the other over `spread`.
    pub fn start(
        target: Target,
        people: impl IntoIterator<Item = Person>,
        spread: Duration,
        seed: u64,
    ) -> Self {
        let target = Arc::new(target);
        let people: Vec<Person> = people.into_iter().collect();
        let habits = people.iter().filter_map(|person| person.habits.as_ref());
        let rooms = habits.map(|habits| habits.all_rooms).max().unwrap_or(0);
        let board = Arc::new(Board::new(rooms));
        let pause = spread / u32::try_from(people.len().max(1)).unwrap_or(u32::MAX);
        let mut tasks = JoinSet::new();
        for (person, nth) in people.into_iter().zip(0..) {
            let (board, target) = (board.clone(), target.clone());
            tasks.spawn(async move {
                sleep(pause * nth).await;
                let mut pin = Pin::new(&board);
                Life::new(&person, &target, &board, seed)
                    .run(&mut pin)
                    .await;
                pin.set(Standing::Gone);
                std::future::pending::<()>().await;
            });
        }
        Self { board, tasks }
    }

    /// Lets one more person in, who leaves as soon as all that it asked for at its start is answered.
    /// Times count from `meant`, when that was meant to begin.
    pub fn visit(&mut self, target: &Arc<Target>, person: Person, meant: Instant, seed: u64) {
        while self.tasks.try_join_next().is_some() {}
        let (board, target) = (self.board.clone(), target.clone());
        self.tasks.spawn(async move {
            let mut pin = Pin::new(&board);
            let life = Life::new(&person, &target, &board, seed);
            life.visit(meant, &mut pin).await;
        });
    }

    /// Visits that have not ended.
    pub fn visiting(&mut self) -> usize {
        while self.tasks.try_join_next().is_some() {}
        self.tasks.len()
    }

    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Waits until all of them stand there.
    ///
    /// # Errors
    /// How they stand when that has not happened by then.
    pub async fn all(&self, standing: Standing, deadline: Instant) -> Result<(), String> {
        while self.board.count(standing) < self.len() {
            if Instant::now() >= deadline {
                return Err(self.board.to_string());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}
