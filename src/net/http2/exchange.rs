//! Answering one request over HTTP/2.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderValue, Response, header};
use http_body::{Body, Frame};
use tokio::sync::oneshot;

use super::{Hints, Multiplexed, Pulse};
use crate::headers::hop;

/// The way back of one stream. Dropped before the answer is complete, it resets the stream.
#[derive(Debug)]
pub struct Exchange {
    respond: SendResponse<Bytes>,
    hints: Arc<Hints>,
    /// Of a stream that a good answer turns into a socket.
    upgrade: Option<(oneshot::Sender<Multiplexed>, RecvStream)>,
    pulse: Pulse,
}

impl Exchange {
    pub(super) fn new(
        respond: SendResponse<Bytes>,
        hints: Arc<Hints>,
        upgrade: Option<(oneshot::Sender<Multiplexed>, RecvStream)>,
        pulse: Pulse,
    ) -> Self {
        Self {
            respond,
            hints,
            upgrade,
            pulse,
        }
    }

    /// Sends what `answer` gives, and before it what the request was informed of. Returns when the
    /// last byte is with h2, or when the client does not want it any more.
    ///
    /// `answer` is on the heap, so that it is gone while its body is sent.
    pub async fn answer<B, F>(mut self, mut answer: Pin<Box<F>>)
    where
        B: Body<Data = Bytes>,
        F: Future<Output = Response<B>>,
    {
        let answered = poll_fn(|cx| {
            let polled = answer.as_mut().poll(cx);
            while let Some(head) = self.hints.next(cx.waker()) {
                // Fails only when the stream is over.
                let _ = self.respond.send_informational(head);
            }
            if let Poll::Ready(response) = polled {
                return Poll::Ready(Some(response));
            }
            // An error means that the connection is over.
            self.respond.poll_reset(cx).map(|_| None)
        });
        let answered = answered.await;
        drop(answer);
        if let Some(response) = answered {
            self.send(response).await;
        }
    }

    async fn send<B: Body<Data = Bytes>>(mut self, response: Response<B>) {
        let (mut head, body) = response.into_parts();
        hop::strip(&mut head.headers);
        head.headers.remove(header::TE);
        date(&mut head.headers);
        let upgrade = self.upgrade.take().filter(|_| head.status.is_success());
        let mut head = Response::from_parts(head, ());
        if let Some((ready, receive)) = upgrade {
            // RFC 9110 section 9.3.6: such an answer has no length.
            head.headers_mut().remove(header::CONTENT_LENGTH);
            if let Ok(send) = self.respond.send_response(head, false) {
                // Fails when whoever wanted the socket is gone, which resets the stream.
                let _ = ready.send(Multiplexed::new(send, receive, self.pulse));
            }
            return;
        }
        let over = body.is_end_stream();
        if let Some(length) = body.size_hint().exact().filter(|_| !over) {
            head.headers_mut()
                .entry(header::CONTENT_LENGTH)
                .or_insert_with(|| HeaderValue::from(length));
        }
        if let Ok(stream) = self.respond.send_response(head, over)
            && !over
        {
            pour(body, stream).await;
        }
    }
}

/// Sends a body at the pace at which the client takes it.
async fn pour<B: Body<Data = Bytes>>(body: B, mut stream: SendStream<Bytes>) {
    let mut body = pin!(body);
    loop {
        // A client that lost interest is noticed while the body has nothing either.
        let frame = poll_fn(|cx| match poll_gone(&mut stream, cx) {
            Poll::Ready(()) => Poll::Ready(Err(())),
            Poll::Pending => body.as_mut().poll_frame(cx).map(Ok),
        });
        match frame.await {
            Err(()) => return,
            Ok(Some(Ok(frame))) => {
                let over = body.is_end_stream();
                match send_frame(frame, over, &mut stream).await {
                    Some(false) => {}
                    Some(true) | None => return,
                }
            }
            Ok(Some(Err(_))) => {
                // What arrived must not look complete.
                stream.send_reset(Reason::INTERNAL_ERROR);
                return;
            }
            Ok(None) => {
                // Fails only when the stream is over.
                let _ = stream.send_data(Bytes::new(), true);
                return;
            }
        }
    }
}

/// Whether the stream is over after this frame; `None`: the client does not take it.
async fn send_frame(
    frame: Frame<Bytes>,
    over: bool,
    stream: &mut SendStream<Bytes>,
) -> Option<bool> {
    let frame = match frame.into_data() {
        Ok(data) => {
            if !data.is_empty() {
                poll_fn(|cx| match poll_gone(stream, cx) {
                    Poll::Ready(()) => Poll::Ready(None),
                    Poll::Pending => poll_room(stream, cx),
                })
                .await?;
            }
            stream.send_data(data, over).ok()?;
            return Some(over);
        }
        Err(frame) => frame,
    };
    match frame.into_trailers() {
        Ok(trailers) => {
            stream.reserve_capacity(0);
            stream.send_trailers(trailers).ok()?;
            Some(true)
        }
        // No kind of frame that there is today.
        Err(_) => Some(false),
    }
}

/// Ready when the client reset the stream, or the connection is over.
fn poll_gone(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<()> {
    stream.poll_reset(cx).map(drop)
}

/// Ready when the client takes more; `None`: it never will.
///
/// Asks for one byte: h2 raises that to what is sent, and a claim on the connection's window that
/// nobody fills would hold other streams back.
pub(super) fn poll_room(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Option<()>> {
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        match ready!(stream.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Poll::Ready(None),
        }
    }
    Poll::Ready(Some(()))
}

/// RFC 9110 section 6.6.1: a server with a clock says when it answered, unless the origin did.
fn date(headers: &mut http::HeaderMap) {
    if !headers.contains_key(header::DATE)
        && let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(SystemTime::now()))
    {
        headers.insert(header::DATE, date);
    }
}
