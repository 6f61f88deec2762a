//! The body of a request that came over HTTP/2.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::{Hints, Pulse};
use crate::net::incoming::BrokenOff;

/// Gives the client room for more as it is read.
#[derive(Debug)]
pub struct Received {
    stream: RecvStream,
    /// Bytes that have yet to come, if the client said how many.
    left: Option<u64>,
    /// Only trailers can follow.
    data_over: bool,
    /// Of a client that waits for `100 Continue`, until it got it.
    awaited: Option<Arc<Hints>>,
    pulse: Pulse,
}

impl Received {
    pub(super) fn new(
        stream: RecvStream,
        length: Option<u64>,
        awaited: Option<Arc<Hints>>,
        pulse: Pulse,
    ) -> Self {
        Self {
            stream,
            left: length,
            data_over: false,
            awaited,
            pulse,
        }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let body = self.get_mut();
        if let Some(hints) = body.awaited.take() {
            // Who asks for the body wants it.
            hints.inform(StatusCode::CONTINUE, &HeaderMap::new());
        }
        if !body.data_over {
            match ready!(body.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    body.pulse.beat();
                    // Fails only when the stream is over, and then needs no room.
                    let _ = body.stream.flow_control().release_capacity(data.len());
                    if let Some(left) = &mut body.left {
                        *left = left.saturating_sub(data.len() as u64);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // Whatever the reason: the body has not reached its end.
                Some(Err(_)) => return Poll::Ready(Some(Err(BrokenOff))),
                None => body.data_over = true,
            }
        }
        Poll::Ready(match ready!(body.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(None) => None,
            Err(_) => Some(Err(BrokenOff)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::new(),
        }
    }
}
