//! What comes in with a request, whatever the version of HTTP: its body, and the socket that it may
//! turn into.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::ext::Protocol;
use http::{Extensions, HeaderMap, Request, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use super::{
    http2::{Hints, Multiplexed, Received},
    stream::Downstream,
    wire::{Side, Switched},
};

/// The body of a client's request.
#[derive(Debug)]
pub enum Incoming {
    Http1(hyper::body::Incoming),
    Http2(Received),
    /// What follows is not HTTP any more.
    Empty,
}

/// A request's body ended before it was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request's body broke off")]
pub struct BrokenOff;

impl Body for Incoming {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|_| BrokenOff))),
            Self::Http2(body) => Pin::new(body).poll_frame(cx),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

/// The protocol that an extended CONNECT asks for (RFC 8441).
pub fn protocol(extensions: &Extensions) -> Option<&str> {
    extensions.get().map(Protocol::as_str)
}

/// Where informational responses to a request go.
#[derive(Clone, Debug)]
pub enum Informs {
    Http1(Arc<Side>),
    Http2(Arc<Hints>),
}

impl Informs {
    pub fn inform(&self, status: StatusCode, headers: &HeaderMap) {
        match self {
            Self::Http1(side) => side.inform(status, headers),
            Self::Http2(hints) => hints.inform(status, headers),
        }
    }
}

/// A socket that is there once the answer is out.
#[derive(Debug)]
pub enum OnUpgrade {
    Http1(oneshot::Receiver<Switched>),
    Http2(oneshot::Receiver<Multiplexed>),
}

/// The client left before its request became a socket, or the request was answered otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection ended during its upgrade")]
pub struct UpgradeLost;

/// Lets a request of HTTP/1.1 become the socket of its connection.
pub fn may_upgrade<T>(request: &mut Request<T>, side: &Arc<Side>) {
    request.extensions_mut().insert(Own(side.clone()));
}

/// Takes the socket that `request` asks for.
pub fn on_upgrade<T>(request: &mut Request<T>) -> OnUpgrade {
    let extensions = request.extensions_mut();
    if let Some(pending) = extensions.remove::<Pending>() {
        return OnUpgrade::Http2(pending.take());
    }
    OnUpgrade::Http1(match extensions.remove::<Own>() {
        Some(Own(side)) => side.switch(),
        // Never gets anything.
        None => oneshot::channel().1,
    })
}

impl Future for OnUpgrade {
    /// The socket, and bytes that came behind the request and are to be read first.
    type Output = Result<(Downstream, Bytes), UpgradeLost>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.get_mut() {
            Self::Http1(upgrade) => ready!(Pin::new(upgrade).poll(cx)).map_err(|_| UpgradeLost),
            Self::Http2(upgrade) => match ready!(Pin::new(upgrade).poll(cx)) {
                Ok(socket) => Ok((Downstream::Multiplexed(Box::new(socket)), Bytes::new())),
                Err(_) => Err(UpgradeLost),
            },
        })
    }
}

/// In the extensions of a request that may become its connection's socket.
#[derive(Clone, Debug)]
struct Own(Arc<Side>);

/// In the extensions of a request, which can be cloned: whoever takes it first gets the socket.
#[derive(Clone, Debug)]
pub(super) struct Pending(Arc<Mutex<oneshot::Receiver<Multiplexed>>>);

impl Pending {
    pub(super) fn new(socket: oneshot::Receiver<Multiplexed>) -> Self {
        Self(Arc::new(Mutex::new(socket)))
    }

    fn take(self) -> oneshot::Receiver<Multiplexed> {
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The receiver left behind never gets anything.
        std::mem::replace(&mut *socket, oneshot::channel().1)
    }
}
