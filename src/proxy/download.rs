//! A response's body on its way from the monolith to the client.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::{
    body::BodyError,
    pace::{Late, Pace, Rules},
    upload::Progress,
};
use crate::net::monolith::Used;

/// Streams a response. Whoever reads it sets the pace of the monolith; the monolith has to be quick
/// enough when it is asked.
#[derive(Debug)]
pub struct Download {
    body: Incoming,
    pace: Pace,
    /// Given back once the body was read to its end.
    connection: Option<Used>,
    upload: Option<Arc<Progress>>,
}

impl Download {
    /// `upload` is told when the response is over.
    pub(super) fn new(
        body: Incoming,
        rules: Rules,
        connection: Used,
        upload: Option<Arc<Progress>>,
    ) -> Self {
        Self {
            body,
            pace: Pace::new(rules),
            connection: Some(connection),
            upload,
        }
    }

    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &mut self.connection {
            Some(connection) if polled.is_pending() => {
                connection.drive(cx);
                Pin::new(&mut self.body).poll_frame(cx)
            }
            _ => polled,
        }
    }

    fn finish(&mut self) {
        if let Some(upload) = &self.upload {
            upload.over();
        }
        if let Some(connection) = self.connection.take() {
            connection.give_back();
        }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(connection) = self.connection.take() {
            if error == BodyError::MonolithSilent {
                connection.lease().timed_out();
            }
            tracing::warn!(
                server = connection.lease().server(),
                %error,
                "the client's response was cut, so that it does not look complete"
            );
        }
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.poll_body(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                if self.pace.came(length, Instant::now()).is_err() {
                    return self.fail(BodyError::Deadline);
                }
                if self.body.is_end_stream() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => self.fail(BodyError::MonolithCut),
            Poll::Pending => match self.pace.poll_late(cx) {
                Poll::Ready(Late::Deadline) => self.fail(BodyError::Deadline),
                Poll::Ready(Late::Idle | Late::Slow) => self.fail(BodyError::MonolithSilent),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.finish();
        }
        if let Some(upload) = &self.upload {
            upload.over();
        }
    }
}
