//! Messages in rooms, one after the other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{board::Board, habits::room_name};

/// Publishes in the rooms of a crowd, in turn, until it is dropped or told to end.
pub struct Herald {
    rooms: u32,
    board: Arc<Board>,
    to: Arc<dyn Audience>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// Gets a message to all who listen to a room.
pub trait Audience: Send + Sync {
    fn tell(&self, room: &str, message: Value);
}

impl<F: Fn(&str, Value) + Send + Sync> Audience for F {
    fn tell(&self, room: &str, message: Value) {
        self(room, message);
    }
}

impl Herald {
    /// `per_second` messages in all the rooms together.
    pub fn start(
        board: Arc<Board>,
        rooms: u32,
        per_second: u32,
        to: impl Audience + 'static,
    ) -> Self {
        let to: Arc<dyn Audience> = Arc::new(to);
        let stop = Arc::new(AtomicBool::new(false));
        let mut ticks = interval(Duration::from_secs(1) / per_second.max(1));
        // What is late is made up for: the rate is that of a real server, which waits for nobody.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (numbers, audience, stopped) = (board.clone(), to.clone(), stop.clone());
        let task = tokio::spawn(async move {
            for room in (0..rooms).cycle() {
                ticks.tick().await;
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                say(&numbers, &*audience, room, false);
            }
        });
        Self {
            rooms,
            board,
            to,
            stop,
            task,
        }
    }

    /// One message in each room.
    pub fn all(board: &Board, rooms: u32, to: &dyn Audience) {
        for room in 0..rooms {
            say(board, to, room, false);
        }
    }

    /// Ends with one more message in each room, marked as the last.
    pub async fn finish(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Its last message is out when the task has ended.
        let _ = (&mut self.task).await;
        for room in 0..self.rooms {
            say(&self.board, &*self.to, room, true);
        }
    }
}

impl Drop for Herald {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// As large as a short message in Rocket.Chat.
fn say(board: &Board, to: &dyn Audience, room: u32, last: bool) {
    let name = room_name(room);
    board.publish(room, |n, at| {
        let date = SystemTime::now().duration_since(UNIX_EPOCH);
        let date = date.map_or(0, |date| date.as_secs() * 1000);
        let message = json!({
            "_id": format!("{name}-{n}"),
            "rid": name,
            "msg": format!("This is message number {n}, and it goes to everybody in {name}."),
            "ts": { "$date": date },
            "u": { "_id": "uid-herald", "username": "herald", "name": "Herald" },
            "_updatedAt": { "$date": date },
            "urls": [], "mentions": [], "channels": [],
            "n": n,
            "at": u64::try_from(at.as_micros()).unwrap_or(u64::MAX),
            "last": last,
        });
        to.tell(&name, message);
    });
}
