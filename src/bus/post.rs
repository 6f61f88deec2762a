//! The bus for those who do not keep the connection.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use async_nats::{Client, RequestErrorKind};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::{
    link::{Link, is_up, publish},
    messages::{Message, Messages, Shelf},
};

/// Publishes, asks and hears by whatever connection there is at the moment.
#[derive(Clone, Debug)]
pub struct Post {
    line: Arc<watch::Sender<Option<Line>>>,
}

/// A connection.
#[derive(Clone, Debug)]
struct Line {
    client: Client,
    shelf: Shelf,
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    #[error("there is no connection to the bus")]
    Away,
    #[error("nobody hears this subject")]
    Unheard,
    #[error("nobody answered in time")]
    Late,
}

impl Default for Post {
    fn default() -> Self {
        let (line, _) = watch::channel(None);
        Self {
            line: Arc::new(line),
        }
    }
}

impl Post {
    /// From now on, by this connection.
    pub fn plug(&self, link: &Link) {
        self.line.send_replace(Some(Line {
            client: link.client().clone(),
            shelf: link.shelf().clone(),
        }));
    }

    /// From now on, by none.
    pub fn unplug(&self) {
        self.line.send_replace(None);
    }

    /// Whether what is published now goes out.
    pub fn is_up(&self) -> bool {
        let line = self.line.borrow();
        line.as_ref().is_some_and(|line| is_up(&line.client))
    }

    /// The address by which this gateway comes to its server, as that sees it; if it is not a
    /// loopback one, others may reach the gateway there.
    pub fn own_ip(&self) -> Option<IpAddr> {
        let client = self.client()?;
        let ip: IpAddr = client.server_info().client_ip.parse().ok()?;
        (ip.to_canonical() != Ipv4Addr::UNSPECIFIED).then(|| ip.to_canonical())
    }

    /// Sends without waiting for more than the queue of the connection. What cannot be sent now
    /// is dropped.
    pub async fn publish(&self, subject: String, payload: impl Into<Bytes>) {
        if let Some(client) = self.client() {
            publish(&client, subject, payload.into()).await;
        }
    }

    /// Waits, but not for long, until all that was published is with the server.
    pub async fn flush(&self) {
        if let Some(client) = self.client().filter(is_up) {
            let _ = tokio::time::timeout(FLUSH_TIMEOUT, client.flush()).await;
        }
    }

    /// The first answer to a question, within this time.
    ///
    /// # Errors
    /// When there is none. Where several hear the subject and all keep silent, that is
    /// [`Unanswered::Late`].
    pub async fn ask(
        &self,
        subject: String,
        payload: impl Into<Bytes>,
        wait: Duration,
    ) -> Result<Bytes, Unanswered> {
        let client = self.client().filter(is_up).ok_or(Unanswered::Away)?;
        let asked = Box::pin(client.request(subject, payload.into()));
        match tokio::time::timeout(wait, asked).await {
            Ok(Ok(answer)) => Ok(answer.payload),
            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
                Err(Unanswered::Unheard)
            }
            Ok(Err(error)) if error.kind() == RequestErrorKind::TimedOut => Err(Unanswered::Late),
            Ok(Err(_)) => Err(Unanswered::Away),
            Err(_) => Err(Unanswered::Late),
        }
    }

    /// Answers a question that was heard, if it asks for one.
    pub async fn answer(&self, question: &Message, payload: impl Into<Bytes>) {
        if let Some(reply) = question.reply.clone() {
            self.publish(reply, payload).await;
        }
    }

    /// Hears a subject for as long as the value lives, by one connection after the other. What is
    /// said while there is none is missed.
    pub fn hear(&self, subject: impl Into<String>) -> Hearing {
        Hearing {
            subject: subject.into(),
            line: self.line.subscribe(),
            messages: None,
        }
    }

    fn client(&self) -> Option<Client> {
        self.line.borrow().as_ref().map(|line| line.client.clone())
    }
}

/// What is said on one subject; `*` and `>` in it stand for others as usual.
#[derive(Debug)]
pub struct Hearing {
    subject: String,
    line: watch::Receiver<Option<Line>>,
    messages: Option<Messages>,
}

impl Hearing {
    /// The next message; waits while the bus is away, and for good when each [`Post`] is dropped.
    /// May be cancelled: no message is lost by it.
    pub async fn next(&mut self) -> Message {
        loop {
            if let Some(messages) = &mut self.messages {
                let mut replaced = self.line.clone();
                tokio::select! {
                    biased;
                    message = messages.next() => match message {
                        Some(message) => return message,
                        None => self.messages = None,
                    },
                    Ok(()) = replaced.changed() => self.messages = None,
                }
                if self.messages.is_some() {
                    continue;
                }
            }
            let line = self.line.borrow_and_update().clone();
            if let Some(line) = line
                && let Ok(subscriber) = line.client.subscribe(self.subject.clone()).await
            {
                self.messages = Some(line.shelf.take_in(subscriber));
                continue;
            }
            if self.line.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

const FLUSH_TIMEOUT: Duration = Duration::from_millis(200);
