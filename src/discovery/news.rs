//! What sources hear besides who is there.

use tokio::sync::mpsc;

use super::nats::Event;
use crate::base::id::StreamerAddr;

/// Something that happened, or that somebody said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A streamer's heartbeat says how much of its machine's CPU is in use, in percent.
    Beat {
        address: StreamerAddr,
        cpu: u8,
    },
    Event(Event),
}

/// Where sources say it. What finds no room is lost: nobody relies on hearing everything.
#[derive(Clone, Debug)]
pub struct Tell(mpsc::Sender<News>);

impl Tell {
    /// The receiver is for whoever is interested.
    pub fn channel() -> (Self, mpsc::Receiver<News>) {
        let (tell, told) = mpsc::channel(WAITING);
        (Self(tell), told)
    }

    /// False: there was no room.
    pub(super) fn say(&self, news: News) -> bool {
        self.0.try_send(news).is_ok()
    }
}

const WAITING: usize = 1024;
