//! A client's TLS connection that owns no buffer while nothing is under way.
//!
//! A rustls connection with buffers of its own keeps 4 KiB for what it reads next, as long as it
//! lives: half of what an idle session over TLS took. Here records are read into a buffer of the
//! thread, and only what is left over stays with the connection: the beginning of a record, bytes that
//! had no room where they were asked for, records that the socket does not take.

use std::{
    cell::RefCell,
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{
    ServerConfig,
    server::UnbufferedServerConnection,
    unbuffered::{
        ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// TLS (RFC 8446, RFC 5246) on a socket, on the side of the server.
pub struct Secure {
    socket: TcpStream,
    tls: UnbufferedServerConnection,
    /// Read from the socket, and not a whole record or handshake message yet.
    incoming: Vec<u8>,
    /// Decrypted, and not asked for yet.
    plain: Leftover,
    /// Encrypted, and not taken by the socket yet. Nothing is encrypted behind it before it is gone.
    outgoing: Leftover,
    reading: Reading,
    /// Our close_notify is sent, or in `outgoing`.
    is_write_closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Open,
    /// The client has said that no more comes.
    Ended,
    /// The stream has ended without that.
    Cut,
    /// Something that came cannot be understood. What `tls` remembers of it is not there any more, so
    /// it is not used again.
    Broken,
}

/// Bytes of which the first ones have gone.
#[derive(Debug, Default)]
struct Leftover {
    bytes: Vec<u8>,
    gone: usize,
}

impl Leftover {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.gone..]
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Puts what `write` writes behind the rest.
    fn append<E: Into<Full>>(
        &mut self,
        write: impl FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> io::Result<()> {
        let mut records = Records::default();
        records.append(write)?;
        self.bytes.extend_from_slice(records.filled());
        Ok(())
    }

    fn take(&mut self, count: usize) {
        self.gone += count;
        if self.gone == self.bytes.len() {
            *self = Self::default();
        }
    }
}

impl Secure {
    /// Returns when the handshake is done. Has no deadline of its own.
    ///
    /// # Errors
    /// What is wrong with the socket, or a [`rustls::Error`]; the client has been told then.
    pub async fn accept(socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let tls = UnbufferedServerConnection::new(config).map_err(invalid)?;
        let mut this = Self {
            socket,
            tls,
            incoming: Vec::new(),
            plain: Leftover::default(),
            outgoing: Leftover::default(),
            reading: Reading::Open,
            is_write_closed: false,
        };
        poll_fn(|cx| this.poll_handshake(cx)).await?;
        Ok(this)
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// What was agreed on to talk (RFC 7301).
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.tls.alpn_protocol()
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_drain(cx))?;
            if !self.tls.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_records(cx, &mut ReadBuf::new(&mut [])))?;
            if self.reading == Reading::Ended {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Reads once from the socket and decrypts what is whole: into `room`, and what has no room there
    /// into `plain`.
    fn poll_records(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        with_records(|records| {
            let kept = self.incoming.len();
            if kept >= records.len() {
                // No message of a handshake that we take part in is that long.
                self.reading = Reading::Broken;
                return Poll::Ready(Err(invalid(rustls::Error::HandshakeNotComplete)));
            }
            records[..kept].copy_from_slice(&self.incoming);
            // Not much more than there is room for: what is left over has to be copied.
            let most = (kept + room.remaining().max(SMALL) + RECORD_EXTRA).min(records.len());
            let mut fresh = ReadBuf::new(&mut records[kept..most]);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut fresh))?;
            let count = fresh.filled().len();
            if count == 0 {
                // What came may have been cut short by somebody else.
                self.reading = Reading::Cut;
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let records = &mut records[..kept + count];
            let outcome = self.process(records, room);
            let used = *outcome.as_ref().unwrap_or(&records.len());
            self.incoming = match records.get(used..) {
                // Behind a close_notify nothing counts.
                Some(rest) if self.reading == Reading::Open => rest.to_vec(),
                _ => Vec::new(),
            };
            if let Err(error) = outcome {
                // The client is told why, if its socket takes it.
                let _ = self.poll_drain(cx);
                return Poll::Ready(Err(error));
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Takes all whole records at the front of `records`; answers how many bytes that was.
    fn process(&mut self, records: &mut [u8], room: &mut ReadBuf<'_>) -> io::Result<usize> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { discard, state } =
                self.tls.process_tls_records(&mut records[used..]);
            let mut discard = discard;
            let is_last = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        discard += record.discard;
                        deliver(record.payload, room, &mut self.plain);
                    }
                    false
                }
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    self.outgoing.append(|room| message.encode(room))?;
                    false
                }
                // It is in `outgoing`, and stays in order.
                Ok(ConnectionState::TransmitTlsData(message)) => {
                    message.done();
                    false
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.reading = Reading::Ended;
                    false
                }
                Ok(ConnectionState::Closed) => {
                    self.reading = Reading::Ended;
                    true
                }
                Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => true,
                // Early data is not offered.
                Ok(_) => {
                    self.reading = Reading::Broken;
                    return Err(invalid(rustls::Error::HandshakeNotComplete));
                }
                Err(error) => return Err(self.broken(error, &mut records[used + discard..])),
            };
            used += discard;
            if is_last {
                return Ok(used);
            }
        }
    }

    /// Nothing can be read or written any more. The alert that says why is put into `outgoing`; `rest`
    /// is what has not been discarded.
    fn broken(&mut self, error: rustls::Error, rest: &mut [u8]) -> io::Error {
        self.reading = Reading::Broken;
        // Once: what is not said by then is read from `rest`, which is wrong already.
        let UnbufferedStatus { state, .. } = self.tls.process_tls_records(rest);
        if let Ok(ConnectionState::EncodeTlsData(mut alert)) = state {
            // Where it cannot be said, the end of the stream says it.
            let _ = self.outgoing.append(|room| alert.encode(room));
        }
        invalid(error)
    }

    /// Encrypts `bytes` into `outgoing`, behind what the connection itself has to say; nothing when
    /// the connection does not take any more.
    fn encrypt(&mut self, bytes: Option<&[u8]>, records: &mut Records) -> io::Result<()> {
        loop {
            // What is kept belongs to a message whose beginning is noted in `tls`: it has to be there.
            let UnbufferedStatus { discard, state } =
                self.tls.process_tls_records(&mut self.incoming);
            let is_last = match state {
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    records.append(|room| message.encode(room))?;
                    false
                }
                Ok(ConnectionState::TransmitTlsData(message)) => {
                    message.done();
                    false
                }
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    match bytes {
                        Some(bytes) => records.append(|room| traffic.encrypt(bytes, room))?,
                        None => records.append(|room| traffic.queue_close_notify(room))?,
                    }
                    true
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        self.plain.bytes.extend_from_slice(record.payload);
                    }
                    false
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.reading = Reading::Ended;
                    false
                }
                Ok(_) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(error) => return Err(invalid(error)),
            };
            if discard > 0 {
                self.incoming.drain(..discard);
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// As many of the bytes as are encrypted at once; answers how many that is.
    fn encrypt_all(&mut self, pieces: &[IoSlice<'_>], records: &mut Records) -> io::Result<usize> {
        let all: usize = pieces.iter().map(|piece| piece.len()).sum();
        let mut filled = pieces.iter().filter(|piece| !piece.is_empty());
        let (first, second) = (filled.next(), filled.next());
        if second.is_some() && all <= RECORD_BYTES {
            // Copied, so that they share a record.
            let mut whole = Vec::with_capacity(all);
            for piece in pieces {
                whole.extend_from_slice(piece);
            }
            self.encrypt(Some(&whole), records)?;
            return Ok(all);
        }
        let mut taken = 0;
        for piece in first.into_iter().chain(second).chain(filled) {
            let some = &piece[..piece.len().min(MOST_AT_ONCE - taken)];
            if some.is_empty() {
                break;
            }
            self.encrypt(Some(some), records)?;
            taken += some.len();
        }
        Ok(taken)
    }

    /// Sends `outgoing`.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let sent = Pin::new(&mut self.socket).poll_write(cx, self.outgoing.rest());
            match ready!(sent)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.outgoing.take(sent),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Secure {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.plain.is_empty() {
            let rest = this.plain.rest();
            let count = rest.len().min(room.remaining());
            room.put_slice(&rest[..count]);
            this.plain.take(count);
            return Poll::Ready(Ok(()));
        }
        let before = room.filled().len();
        loop {
            match this.reading {
                Reading::Open => {}
                Reading::Ended => return Poll::Ready(Ok(())),
                Reading::Cut | Reading::Broken => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
            }
            // An answer to the client's own messages (RFC 8446 section 4.6.3) waits for nobody.
            let _ = this.poll_drain(cx)?;
            ready!(this.poll_records(cx, room))?;
            if room.filled().len() > before || room.remaining() == 0 {
                let _ = this.poll_drain(cx)?;
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Secure {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    /// Takes all of what it takes at once, so that there are few records and few system calls.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        if this.is_write_closed || this.reading == Reading::Broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        with_outgoing(|records| {
            let taken = this.encrypt_all(pieces, records)?;
            let records = records.filled();
            let mut sent = 0;
            while sent < records.len() {
                match Pin::new(&mut this.socket).poll_write(cx, &records[sent..]) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => sent += count,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            // They are encrypted, so they are sent: now, or at the next flush.
            this.outgoing.bytes.extend_from_slice(&records[sent..]);
            Poll::Ready(Ok(taken))
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let is_said = mem::replace(&mut this.is_write_closed, true);
        if !is_said && this.reading != Reading::Broken {
            let mut last = Records::default();
            // Where it cannot be said any more, the end of the stream says it.
            let _ = this.encrypt(None, &mut last);
            this.outgoing.bytes.extend_from_slice(last.filled());
        }
        ready!(this.poll_drain(cx))?;
        match ready!(Pin::new(&mut this.socket).poll_shutdown(cx)) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            outcome => Poll::Ready(outcome),
        }
    }
}

impl fmt::Debug for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secure")
            .field("socket", &self.socket)
            .field("reading", &self.reading)
            .finish_non_exhaustive()
    }
}

fn deliver(payload: &[u8], room: &mut ReadBuf<'_>, plain: &mut Leftover) {
    let fits = match plain.is_empty() {
        true => payload.len().min(room.remaining()),
        false => 0,
    };
    let (now, later) = payload.split_at(fits);
    room.put_slice(now);
    plain.bytes.extend_from_slice(later);
}

/// Records one behind the other, in a buffer that may be longer.
#[derive(Debug, Default)]
struct Records {
    bytes: Vec<u8>,
    filled: usize,
}

impl Records {
    fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Gives `write` as much room as it needs; it says how much it has used.
    fn append<E: Into<Full>>(
        &mut self,
        mut write: impl FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> io::Result<()> {
        loop {
            let room = self.bytes.len() - self.filled;
            match write(&mut self.bytes[self.filled..]) {
                Ok(count) => {
                    self.filled += count;
                    return Ok(());
                }
                Err(error) => match error.into() {
                    Full::Needs(count) if count > room => {
                        self.bytes.resize(self.filled + count, 0);
                    }
                    Full::Needs(_) | Full::Never => {
                        return Err(io::Error::other("TLS takes no more bytes"));
                    }
                },
            }
        }
    }
}

/// Why nothing was written.
enum Full {
    Needs(usize),
    Never,
}

impl From<EncodeError> for Full {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => {
                Self::Needs(required_size)
            }
            EncodeError::AlreadyEncoded => Self::Never,
        }
    }
}

impl From<EncryptError> for Full {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(InsufficientSizeError { required_size }) => {
                Self::Needs(required_size)
            }
            EncryptError::EncryptExhausted => Self::Never,
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Runs `work` with a buffer of this thread for records that come.
fn with_records<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    thread_local! {
        static RECORDS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    RECORDS.with(|records| match records.try_borrow_mut() {
        Ok(mut records) => {
            records.resize(RECORDS_BYTES, 0);
            work(&mut records)
        }
        // No call is inside of another; if one were, it would cost an allocation.
        Err(_) => work(&mut vec![0; RECORDS_BYTES]),
    })
}

/// Runs `work` with a buffer of this thread for records that go; nothing is in it.
fn with_outgoing<R>(work: impl FnOnce(&mut Records) -> R) -> R {
    thread_local! {
        static RECORDS: RefCell<Records> = const {
            RefCell::new(Records { bytes: Vec::new(), filled: 0 })
        };
    }
    RECORDS.with(|records| match records.try_borrow_mut() {
        Ok(mut records) => {
            records.filled = 0;
            // Written once, since each byte of it must have been.
            records.bytes.resize(MOST_AT_ONCE + 8 * RECORD_EXTRA, 0);
            work(&mut records)
        }
        Err(_) => work(&mut Records::default()),
    })
}

/// Of ciphertext that is read at once. Holds three records of the largest size.
const RECORDS_BYTES: usize = 64 * 1024;
/// Of plaintext that is encrypted at once: four records.
const MOST_AT_ONCE: usize = 64 * 1024;
/// Content of the largest record.
const RECORD_BYTES: usize = 16 * 1024;
/// More than a record has beside its content: header, type, tag, and what TLS 1.2 adds.
const RECORD_EXTRA: usize = 64;
/// Is read even where there is less room, for the records of a handshake.
const SMALL: usize = 4096;

#[cfg(test)]
mod tests;
