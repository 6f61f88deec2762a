//! Large answers of the monolith, past HTTP: from socket to socket within the kernel.
//!
//! What hyper reads and writes is copied up from the kernel and down again. Once the head of an
//! answer is known and how long its body is, the rest is bytes: both connections are taken out of
//! hyper, which has finished with the request, and the body is spliced. Then both are given to hyper
//! again for the next request. Only where both ends are plain TCP, and the client will send no other
//! request before it has the answer.

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response, StatusCode, Version, header};
use tokio::{
    io::{AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use super::{
    body::{BodyError, Recorded},
    download::Raw,
    pace::Late,
};
use crate::{
    headers::hop,
    net::{
        splice::{Pipe, Pipes},
        wire::{Wire, response_head},
    },
};

/// An answer whose head and body are still to be sent, on a connection that was taken out of hyper.
#[derive(Debug)]
pub(super) struct Bypass {
    status: StatusCode,
    headers: HeaderMap,
    body: Recorded,
    raw: Raw,
    pipe: Pipe,
}

/// Whether the connection goes on after the answer to this request, as far as the client has a say.
pub(super) fn lasts<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && !hop::has_token(request.headers(), header::CONNECTION, "close")
}

/// What the body of an answer goes past HTTP with.
#[derive(Debug)]
pub(super) struct Way {
    raw: Raw,
    pipe: Pipe,
}

impl Way {
    /// Takes the body of an answer out of HTTP. `None`: hyper is to send it.
    pub(super) fn past(response: &mut Response<Recorded>, pipes: &Pipes) -> Option<Self> {
        // The length is the sender's own, so that it can be told on; the date as well, since hyper
        // alone would add one.
        let headers = response.headers();
        let told = headers.contains_key(header::CONTENT_LENGTH)
            && headers.contains_key(header::DATE)
            && !headers.contains_key(header::CONNECTION);
        let download = response.body_mut().download().filter(|_| told)?;
        if download.length()? < WORTH_IT {
            return None;
        }
        let pipe = pipes.open()?;
        let raw = download.take_raw()?;
        Some(Self { raw, pipe })
    }
}

impl Bypass {
    pub(super) fn new(response: Response<Recorded>, way: Way) -> Box<Self> {
        let (parts, body) = response.into_parts();
        Box::new(Self {
            status: parts.status,
            headers: parts.headers,
            body,
            raw: way.raw,
            pipe: way.pipe,
        })
    }

    /// Sends the answer. The wire is given back when another request may follow.
    pub(super) async fn send(mut self: Box<Self>, mut wire: Wire) -> Option<Wire> {
        if self.begin(&mut wire).await.is_err() {
            return None;
        }
        let client = wire.plain()?;
        match poll_fn(|cx| self.poll_body(cx, client)).await {
            Ok(()) => {}
            Err(Ended::Client) => return None,
            Err(Ended::Monolith(error)) => {
                let lease = self.raw.socket.lease();
                if error == BodyError::MonolithSilent {
                    lease.timed_out();
                }
                tracing::warn!(
                    server = lease.server(),
                    %error,
                    "the client's response was cut, so that it does not look complete"
                );
                self.body.end(Some(error));
                return None;
            }
        }
        self.body.end(None);
        let Self { raw, body, .. } = *self;
        if raw.lasts {
            raw.socket.give_back().await;
        }
        drop(body);
        Some(wire)
    }

    /// The head, and the part of the body that hyper had read.
    async fn begin(&mut self, wire: &mut Wire) -> std::io::Result<()> {
        let mut head = response_head(self.status, &self.headers);
        for piece in self.raw.early.drain(..) {
            self.body.sent(piece.len() as u64);
            head.extend_from_slice(&piece);
        }
        wire.write_all(&head).await?;
        wire.expect_much();
        Ok(())
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, client: &TcpStream) -> Poll<Result<(), Ended>> {
        loop {
            while !self.pipe.is_empty() {
                match self.pipe.poll_drain(cx, client) {
                    Poll::Ready(Ok(moved)) => self.body.sent(moved as u64),
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Ended::Client)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            if self.raw.left == 0 {
                return Poll::Ready(Ok(()));
            }
            self.body.asked();
            let socket = self.raw.socket.stream();
            match self.pipe.poll_fill(cx, socket, self.raw.left) {
                Poll::Ready(Ok(moved)) if moved > 0 => {
                    self.raw.left = self.raw.left.saturating_sub(moved as u64);
                    // From here on it is the client's turn.
                    self.body.sent(0);
                    if self.is_late(moved) {
                        return Poll::Ready(Err(Ended::Monolith(BodyError::Deadline)));
                    }
                }
                Poll::Ready(_) => {
                    return Poll::Ready(Err(Ended::Monolith(BodyError::MonolithCut)));
                }
                Poll::Pending if is_gone(client, cx) => return Poll::Ready(Err(Ended::Client)),
                Poll::Pending => return self.poll_late(cx),
            }
        }
    }

    fn is_late(&mut self, bytes: usize) -> bool {
        self.body
            .download()
            .is_some_and(|download| download.pace().came(bytes, Instant::now()).is_err())
    }

    /// Nothing came from the monolith: whether that is so for too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        let Some(download) = self.body.download() else {
            return Poll::Pending;
        };
        download.pace().poll_late(cx).map(|late| {
            Err(Ended::Monolith(match late {
                Late::Deadline => BodyError::Deadline,
                Late::Idle | Late::Slow => BodyError::MonolithSilent,
            }))
        })
    }
}

/// Whether the client has closed its side: there is no one to wait with for the monolith.
fn is_gone(client: &TcpStream, cx: &mut Context<'_>) -> bool {
    let mut byte = [0];
    match client.poll_peek(cx, &mut ReadBuf::new(&mut byte)) {
        Poll::Ready(Ok(0) | Err(_)) => true,
        // Or it has sent its next request.
        Poll::Ready(Ok(_)) | Poll::Pending => false,
    }
}

/// Why an answer was not completed.
enum Ended {
    Client,
    Monolith(BodyError),
}

/// Below that, taking both connections apart costs more than it saves.
const WORTH_IT: u64 = 256 * 1024;
