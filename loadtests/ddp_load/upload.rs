//! The body of a request.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use hyper::body::Bytes;

/// So many bytes that nobody looks at.
#[derive(Debug)]
pub(crate) struct Upload {
    left: u64,
}

impl Upload {
    pub(crate) fn of(bytes: u64) -> Self {
        Self { left: bytes }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let size = self.left.min(BLOCK.len() as u64);
        self.left -= size;
        let size = usize::try_from(size).unwrap_or(BLOCK.len());
        let block = Bytes::from_static(&BLOCK[..size]);
        Poll::Ready(Some(Ok(Frame::data(block))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

static BLOCK: [u8; 64 << 10] = [b'.'; 64 << 10];
