//! One stream of an HTTP/2 connection as a socket (RFC 8441).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Pulse, exchange::poll_room};

/// Reads and writes at the pace of the stream's windows. Dropped before [`AsyncWrite::poll_shutdown`],
/// it resets the stream.
#[derive(Debug)]
pub struct Multiplexed {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Came, and was not read yet.
    rest: Bytes,
    pulse: Pulse,
    ended: bool,
}

impl Multiplexed {
    pub(super) fn new(send: SendStream<Bytes>, receive: RecvStream, pulse: Pulse) -> Self {
        Self {
            send,
            receive,
            rest: Bytes::new(),
            pulse,
            ended: false,
        }
    }
}

impl AsyncRead for Multiplexed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        while socket.rest.is_empty() {
            match ready!(socket.receive.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(data)) => {
                    socket.pulse.beat();
                    socket.rest = data;
                }
                // How streams are ended that nobody needs any more.
                Some(Err(error))
                    if matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL)) =>
                {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let count = socket.rest.len().min(buf.remaining());
        buf.put_slice(&socket.rest[..count]);
        socket.rest.advance(count);
        // Fails only when the stream is over, and then needs no room.
        let _ = socket.receive.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Multiplexed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if socket.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if ready!(poll_room(&mut socket.send, cx)).is_none() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let piece = &buf[..buf.len().min(PIECE)];
        let sent = socket.send.send_data(Bytes::copy_from_slice(piece), false);
        Poll::Ready(sent.map(|()| piece.len()).map_err(io::Error::other))
    }

    /// What was written is with the connection's task, which flushes.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        if !socket.ended {
            socket.ended = true;
            // The stream may be over already, which is as good.
            let _ = socket.send.send_data(Bytes::new(), true);
        }
        Poll::Ready(Ok(()))
    }
}

/// Most that one write hands to h2 beyond the window.
const PIECE: usize = 16 * 1024;
