//! What clients are told that may not come in.

use std::{
    io::{self, Read as _},
    net::{Shutdown, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::SockRef;
use tokio::{io::AsyncReadExt as _, net::TcpStream, sync::Semaphore, time::timeout};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::{
    gate::{Gate, Turned},
    spare::Room,
};
use crate::telemetry::seldom::Seldom;

/// The refusals of one listener.
#[derive(Debug)]
pub(super) struct Farewells {
    listener: SocketAddr,
    gate: Arc<Gate>,
    places: Arc<Semaphore>,
    full: Seldom,
    exhausted: Seldom,
    too_fast: Seldom,
}

/// A connection that may not come in.
#[derive(Debug)]
pub(super) struct Uninvited {
    pub(super) stream: TcpStream,
    pub(super) client: SocketAddr,
    /// Without TLS: something can be said.
    pub(super) is_plain: bool,
    /// What it was accepted by when there was no descriptor left.
    pub(super) room: Option<Room>,
}

impl Farewells {
    pub(super) fn new(listener: SocketAddr, gate: Arc<Gate>) -> Self {
        Self {
            listener,
            gate,
            places: Arc::new(Semaphore::new(PLACES)),
            full: Seldom::new(REMINDER),
            exhausted: Seldom::new(REMINDER),
            too_fast: Seldom::new(REMINDER),
        }
    }

    /// Closes a connection that may not come in; in plain text with a word of why.
    pub(super) fn turn_away(&self, uninvited: Uninvited, turned: Turned, tasks: &TaskTracker) {
        let Uninvited {
            mut stream,
            client,
            is_plain,
            room,
        } = uninvited;
        self.note(client, turned);
        let is_over = !is_plain || say(&stream, answer(turned)).is_err() || has_asked(&stream);
        let place = match is_over {
            true => None,
            false => self.places.clone().try_acquire_owned().ok(),
        };
        let Some(place) = place else {
            // The room is free when the connection is closed, not before.
            drop(stream);
            drop(room);
            return;
        };
        tasks.spawn(async move {
            let rest = async {
                let mut sink = [0; 1024];
                while stream.read(&mut sink).await? > 0 {}
                Ok::<_, io::Error>(())
            };
            let _ = timeout(FAREWELL, rest).await;
            drop(stream);
            drop((room, place));
        });
    }

    /// Says that clients are refused, and what would help; the first of many.
    pub(super) fn note(&self, client: SocketAddr, turned: Turned) {
        let listener = self.listener;
        debug!(%client, %listener, %turned, "connection refused");
        let now = Instant::now();
        match turned {
            Turned::Full => {
                if let Some(others) = self.full.due(now) {
                    warn!(
                        %client, %listener, others, limit = self.gate.max_connections(),
                        "clients are refused: {turned}; raise the limit of open files \
                         (LimitNOFILE, ulimit -n) or limits.max_connections, or add a gateway"
                    );
                }
            }
            Turned::Exhausted => {
                if let Some(others) = self.exhausted.due(now) {
                    warn!(
                        %client, %listener, others,
                        connections = self.gate.open(), limit = self.gate.max_connections(),
                        "clients are refused: {turned}; raise the limit of open files \
                         (LimitNOFILE, ulimit -n; of the machine: fs.file-max). There should be \
                         enough for `limit` connections: if that is not so, report it"
                    );
                }
            }
            Turned::TooFast => {
                if let Some(others) = self.too_fast.due(now) {
                    warn!(
                        %client, %listener, others,
                        "clients are refused: {turned}; if it is a proxy, put it into \
                         trusted_proxies, if it is a large office, raise limits.connections"
                    );
                }
            }
            Turned::Handshakes => {}
        }
    }
}

/// Says this, and that nothing will follow. A new connection has room for it.
fn say(stream: &TcpStream, answer: &[u8]) -> io::Result<()> {
    let socket = SockRef::from(stream);
    if socket.send(answer)? < answer.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    socket.shutdown(Shutdown::Write)
}

/// Whether the whole request was there already, and has been read. Closing while it is unread, or yet
/// to come, would reset the connection, and the answer with it.
fn has_asked(stream: &TcpStream) -> bool {
    let socket = SockRef::from(stream);
    let mut request = [0; 4096];
    match (&*socket).read(&mut request) {
        Ok(count) => {
            let request = &request[..count];
            // Nothing follows the head of a GET.
            request.is_empty() || request.starts_with(b"GET ") && request.ends_with(b"\r\n\r\n")
        }
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

fn answer(turned: Turned) -> &'static [u8] {
    match turned {
        Turned::TooFast => TOO_FAST,
        Turned::Full | Turned::Exhausted | Turned::Handshakes => FULL,
    }
}

/// Pause between two lines of the log that say the same of other clients.
const REMINDER: Duration = Duration::from_secs(10);

/// Refused clients per listener whose requests are waited for at the same time.
const PLACES: usize = 64;
const FAREWELL: Duration = Duration::from_secs(1);

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Connection: close\r\nRetry-After: 5\r\nContent-Type: text/plain\r\nContent-Length: 34\r\n\r\n\
    The server is full. Try again soon";

const TOO_FAST: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\n\
    Connection: close\r\nRetry-After: 5\r\nContent-Type: text/plain\r\nContent-Length: 44\r\n\r\n\
    Too many new connections from this address.\n";

#[cfg(test)]
mod tests {
    use super::{FULL, TOO_FAST};

    #[test]
    fn canned_answers_are_whole() {
        for answer in [FULL, TOO_FAST] {
            let mut headers = [httparse::EMPTY_HEADER; 8];
            let mut response = httparse::Response::new(&mut headers);
            let head = response.parse(answer).unwrap().unwrap();
            let length = response
                .headers
                .iter()
                .find(|header| header.name == "Content-Length")
                .map(|header| std::str::from_utf8(header.value).unwrap().parse().unwrap());
            assert_eq!(length, Some(answer.len() - head));
        }
    }
}
