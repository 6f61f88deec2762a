//! One HTTP/1.1 connection: hyper reads and writes it, but for what is not HTTP.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper::server::conn::http1::{Builder, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWrite as _;

use super::{Gateway, connection::Activity};
use crate::net::wire::Wire;

/// Serves the connection until it ends, or its socket goes to whoever made it another protocol's.
pub(super) struct Serving {
    stage: Stage,
    activity: Arc<Activity>,
    builder: Builder,
    /// No further request is taken.
    leaves: bool,
}

enum Stage {
    Http(Box<Connection<TokioIo<Wire>, Gateway>>),
    /// An answer goes past HTTP.
    Bypass(Gateway, Pin<Box<dyn Future<Output = Option<Wire>> + Send>>),
    /// The goodbye.
    Closing(Box<Wire>),
    Over,
}

impl Serving {
    pub(super) fn new(wire: Wire, gateway: Gateway, builder: Builder) -> Self {
        Self {
            activity: gateway.activity.clone(),
            stage: http(&builder, wire, gateway),
            builder,
            leaves: false,
        }
    }

    /// Ends the connection after the answer that is under way.
    pub(super) fn graceful_shutdown(self: Pin<&mut Self>) {
        let serving = self.get_mut();
        serving.leaves = true;
        if let Stage::Http(connection) = &mut serving.stage {
            Pin::new(connection.as_mut()).graceful_shutdown();
        }
    }

    /// HTTP has nothing more to do on the connection.
    fn finished(&mut self) {
        let Stage::Http(connection) = mem::replace(&mut self.stage, Stage::Over) else {
            return;
        };
        let parts = connection.into_parts();
        let wire = parts.io.into_inner();
        self.stage = match self.activity.side().switches() {
            Some(next) => {
                // Whoever waited may have left in this moment: the socket closes then.
                let _ = next.send((wire.into_inner(), parts.read_buf));
                Stage::Over
            }
            None => Stage::Closing(Box::new(wire)),
        };
    }

    /// Takes the connection out of HTTP if an answer is to go past it.
    fn step_aside(&mut self) -> bool {
        let Some(answer) = self.activity.aside() else {
            return false;
        };
        let Stage::Http(connection) = mem::replace(&mut self.stage, Stage::Over) else {
            return false;
        };
        let parts = connection.into_parts();
        let mut wire = parts.io.into_inner();
        // The next request, if it is there already.
        wire.unread(parts.read_buf);
        self.stage = Stage::Bypass(parts.service, Box::pin(answer.send(wire)));
        true
    }
}

impl Future for Serving {
    type Output = Result<(), hyper::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let serving = self.get_mut();
        loop {
            match &mut serving.stage {
                Stage::Http(connection) => match connection.poll_without_shutdown(cx) {
                    Poll::Ready(Ok(())) => serving.finished(),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending if serving.step_aside() => {}
                    Poll::Pending => return Poll::Pending,
                },
                Stage::Bypass(gateway, answer) => {
                    let wire = ready!(answer.as_mut().poll(cx));
                    serving.stage = match wire {
                        Some(wire) if serving.leaves => Stage::Closing(Box::new(wire)),
                        Some(wire) => http(&serving.builder, wire, gateway.clone()),
                        None => Stage::Over,
                    };
                }
                Stage::Closing(wire) => {
                    // A client that is gone needs no goodbye.
                    let _ = ready!(Pin::new(wire.as_mut()).poll_shutdown(cx));
                    serving.stage = Stage::Over;
                }
                Stage::Over => return Poll::Ready(Ok(())),
            }
        }
    }
}

fn http(builder: &Builder, wire: Wire, gateway: Gateway) -> Stage {
    Stage::Http(Box::new(
        builder.serve_connection(TokioIo::new(wire), gateway),
    ))
}
