//! What is heard on a subject, until somebody takes it: bounded in number and in bytes.
//!
//! The library knows only a number of messages for each subscription, and a server may let each have
//! 1 MiB, or 64. So a task for each subscription takes them from there at once and keeps copies,
//! those of one connection together within [`SHELF_BYTES`]. What is too large for any reader, or finds no
//! room, is dropped and counted.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use metrics::Counter;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::AbortHandle,
};

use super::{
    link::{Turn, WAITING_MESSAGES, tell},
    meters::Meters,
};

/// One message, as it was sent.
#[derive(Clone, Debug)]
pub struct Message {
    pub payload: Bytes,
    /// Where an answer is awaited.
    pub reply: Option<String>,
    /// It comes from the server and says that nobody hears what was asked.
    pub is_status: bool,
}

/// What is heard on one subject, until the connection ends. Of what nobody takes, a bounded part is
/// kept; see [`Turn::Overrun`].
#[derive(Debug)]
pub struct Messages {
    kept: mpsc::Receiver<Kept>,
    taking: AbortHandle,
}

/// A message, and its room on the shelf.
#[derive(Debug)]
struct Kept {
    message: Message,
    _room: OwnedSemaphorePermit,
}

/// Where the messages of one connection wait.
#[derive(Clone, Debug)]
pub(super) struct Shelf {
    /// Bytes.
    room: Arc<Semaphore>,
    too_large: Counter,
    no_room: Counter,
    overrun: Counter,
    /// Who looks after the connection.
    told: mpsc::WeakSender<Turn>,
}

impl Shelf {
    pub(super) fn new(meters: &Meters, told: mpsc::WeakSender<Turn>) -> Self {
        Self {
            room: Arc::new(Semaphore::new(SHELF_BYTES)),
            too_large: meters.too_large.clone(),
            no_room: meters.no_room.clone(),
            overrun: meters.slow_consumer.clone(),
            told,
        }
    }

    /// Keeps what a subscription brings.
    pub(super) fn take_in(&self, mut subscriber: Subscriber) -> Messages {
        let (sender, kept) = mpsc::channel(WAITING_MESSAGES);
        let shelf = self.clone();
        let taking = tokio::spawn(async move {
            while let Some(message) = subscriber.next().await {
                shelf.keep(message, &sender);
            }
        });
        Messages {
            kept,
            taking: taking.abort_handle(),
        }
    }

    fn keep(&self, message: async_nats::Message, to: &mpsc::Sender<Kept>) {
        let size = message.payload.len();
        if size > LARGEST_MESSAGE {
            return self.too_large.increment(1);
        }
        let bytes = u32::try_from(size + MESSAGE_BYTES).unwrap_or(u32::MAX);
        let room = self.room.clone().try_acquire_many_owned(bytes);
        let placed = room.is_ok_and(|room| {
            let kept = Kept {
                message: Message {
                    // As it is, it would keep the whole of what was read from the socket with it.
                    payload: Bytes::copy_from_slice(&message.payload),
                    reply: message.reply.map(|reply| reply.to_string()),
                    is_status: message.status.is_some(),
                },
                _room: room,
            };
            to.try_send(kept).is_ok()
        });
        if !placed && !to.is_closed() {
            self.no_room.increment(1);
            self.overrun.increment(1);
            if let Some(told) = self.told.upgrade() {
                tell(&told, Turn::Overrun);
            }
        }
    }
}

impl Stream for Messages {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        let kept = self.kept.poll_recv(context);
        kept.map(|kept| kept.map(|kept| kept.message))
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        // The subscription ends with its task.
        self.taking.abort();
    }
}

/// No reader wants larger ones; it is also what a server allows unless it is told otherwise.
const LARGEST_MESSAGE: usize = 1 << 20;

/// Of all subscriptions of a connection: the answers of 200 nodes with 100 KB each, and half as much.
const SHELF_BYTES: usize = 32 << 20;

/// What a message takes besides its payload.
const MESSAGE_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::mpsc;

    use super::{LARGEST_MESSAGE, SHELF_BYTES, Shelf, WAITING_MESSAGES};
    use crate::bus::Meters;

    fn message(length: usize) -> async_nats::Message {
        async_nats::Message {
            subject: "any".into(),
            reply: None,
            payload: Bytes::from(vec![0; length]),
            headers: None,
            status: None,
            description: None,
            length,
        }
    }

    #[test]
    fn what_is_too_large_or_finds_no_room_is_not_kept() {
        let shelf = Shelf::new(&Meters::new("test"), mpsc::channel(1).0.downgrade());
        let (sender, mut kept) = mpsc::channel(WAITING_MESSAGES);
        shelf.keep(message(LARGEST_MESSAGE + 1), &sender);
        assert!(kept.try_recv().is_err());
        let most = SHELF_BYTES / LARGEST_MESSAGE;
        for _ in 0..2 {
            for _ in 0..2 * most {
                shelf.keep(message(LARGEST_MESSAGE), &sender);
            }
            // What it takes besides the payload costs the room of one.
            let mut found = 0;
            while let Ok(one) = kept.try_recv() {
                assert_eq!(one.message.payload.len(), LARGEST_MESSAGE);
                found += 1;
            }
            assert_eq!(found, most - 1);
        }
        for _ in 0..2 * WAITING_MESSAGES {
            shelf.keep(message(1), &sender);
        }
        assert_eq!(kept.len(), WAITING_MESSAGES);
        assert_eq!(
            shelf.room.available_permits(),
            SHELF_BYTES - 257 * WAITING_MESSAGES
        );
    }
}
