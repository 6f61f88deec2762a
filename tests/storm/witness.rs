//! A browser outside of the crowd.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::users::Spread;

/// Opens a socket every few milliseconds, in a thread that does nothing else, and notes how long
/// each has waited for SockJS's `o` since it began to connect.
///
/// The crowd's own figure holds the time in which an answer lay in the crowd's process, behind what
/// its other users had to do. A browser in another machine waits for the gateway only; so does this
/// thread, but for the moments until the kernel lets it run.
#[derive(Debug)]
pub(crate) struct Witness {
    /// Dropped to end it.
    stop: Sender<()>,
    thread: JoinHandle<Seen>,
}

#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) opened: Spread,
    /// Why others got no `o`.
    pub(crate) failed: Vec<String>,
}

impl Seen {
    /// One that took long stands also for those that would have begun meanwhile.
    fn note(&mut self, took: Duration) {
        let mut took = took;
        self.opened.record(took);
        while took > EVERY {
            took -= EVERY;
            self.opened.record(took);
        }
    }
}

impl Witness {
    pub(crate) fn start(gateway: SocketAddr) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut seen = Seen {
                opened: Spread::new(),
                failed: Vec::new(),
            };
            loop {
                let began = Instant::now();
                match open(gateway) {
                    Ok(()) => seen.note(began.elapsed()),
                    Err(error) => seen.failed.push(error.to_string()),
                }
                match stopped.recv_timeout(EVERY.saturating_sub(began.elapsed())) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return seen,
                }
            }
        });
        Self { stop, thread }
    }

    pub(crate) fn end(self) -> Seen {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

fn open(gateway: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&gateway, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(
        format!(
            "GET /sockjs/000/witness0/websocket HTTP/1.1\r\nHost: {gateway}\r\n\
             Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .as_bytes(),
    )?;
    let mut answer = Vec::new();
    let mut buffer = [0; 2048];
    // A text frame of one byte.
    while !answer.ends_with(b"\r\n\r\n\x81\x01o") {
        let read = stream.read(&mut buffer)?;
        answer.extend_from_slice(&buffer[..read]);
        if read == 0 || answer.len() > buffer.len() {
            let answer = String::from_utf8_lossy(&answer).into_owned();
            return Err(std::io::Error::new(ErrorKind::InvalidData, answer));
        }
    }
    Ok(())
}

const EVERY: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(10);
