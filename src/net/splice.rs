//! Bytes that go from one socket to another without coming up from the kernel (`splice(2)`).

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use metrics::Counter;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::{io::Interest, net::TcpStream};

use crate::telemetry::names;

/// The pipes of a process, which are bounded in number: each has two descriptors and up to 1 MiB of
/// the kernel's memory.
#[derive(Clone, Debug)]
pub struct Pipes {
    open: Arc<AtomicUsize>,
    most: usize,
    moved: Arc<AtomicU64>,
    bytes: Counter,
}

/// What lies between the two sockets.
#[derive(Debug)]
pub struct Pipe {
    entry: OwnedFd,
    exit: OwnedFd,
    /// Bytes within.
    held: usize,
    pipes: Pipes,
}

impl Pipes {
    /// Of a process that may have so many files open.
    pub fn new(descriptors: u64) -> Self {
        Self {
            open: Arc::default(),
            most: most_pipes(descriptors),
            moved: Arc::default(),
            bytes: names::SPLICED_BYTES.counter(&[]),
        }
    }

    /// Bytes that went through all of them so far.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// `None` when there are enough, or when the system gives no more: then the bytes are copied.
    pub fn open(&self) -> Option<Pipe> {
        let others = self.open.fetch_add(1, Ordering::Relaxed);
        let opened = if others < self.most {
            open().ok()
        } else {
            None
        };
        let Some((exit, entry)) = opened else {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        };
        Some(Pipe {
            entry,
            exit,
            held: 0,
            pipes: self.clone(),
        })
    }
}

/// Pipes of a process that may have so many files open: a part of them that leaves the others enough.
pub fn most_pipes(descriptors: u64) -> usize {
    usize::try_from(descriptors / 64).map_or(MAX_PIPES, |most| most.min(MAX_PIPES))
}

fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    let (exit, entry) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // A user who has many pipes gets no large ones.
    fcntl_setpipe_size(&entry, PIPE_BYTES)?;
    Ok((exit, entry))
}

impl Pipe {
    /// Takes up to `most` bytes from a socket; 0 is the end of its stream. To be called when the pipe
    /// is empty: one that is full could not be told from a socket that has nothing.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        most: u64,
    ) -> Poll<io::Result<usize>> {
        debug_assert_eq!(self.held, 0, "filled when it is empty");
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(PIPE_BYTES);
        let moved = ready!(poll_move(
            |cx| from.poll_read_ready(cx),
            |work| from.try_io(Interest::READABLE, work),
            || splice(from, None, &self.entry, None, most, FLAGS),
            cx,
        ))?;
        self.held = moved;
        Poll::Ready(Ok(moved))
    }

    /// Gives what it holds to a socket, or the part that this takes at once.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        if self.held == 0 {
            return Poll::Ready(Ok(0));
        }
        let moved = ready!(poll_move(
            |cx| to.poll_write_ready(cx),
            |work| to.try_io(Interest::WRITABLE, work),
            || splice(&self.exit, None, to, None, self.held, FLAGS),
            cx,
        ))?;
        if moved == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.pipes.bytes.increment(moved as u64);
        self.pipes.moved.fetch_add(moved as u64, Ordering::Relaxed);
        self.held = self.held.saturating_sub(moved);
        Poll::Ready(Ok(moved))
    }

    pub fn is_empty(&self) -> bool {
        self.held == 0
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.pipes.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tries whenever the socket is ready, until it is not.
fn poll_move(
    is_ready: impl Fn(&mut Context<'_>) -> Poll<io::Result<()>>,
    attempt: impl Fn(&mut dyn FnMut() -> io::Result<usize>) -> io::Result<usize>,
    work: impl Fn() -> rustix::io::Result<usize>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(is_ready(cx))?;
        match attempt(&mut || Ok(work()?)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            moved => return Poll::Ready(moved),
        }
    }
}

const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);
/// With as many pipes a process has 64 MiB in them at most, which is also what the system gives a user
/// by default.
const MAX_PIPES: usize = 64;
/// What the system allows by default; with a quarter of it a GB took a third more of the processor.
const PIPE_BYTES: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::{MAX_PIPES, Pipes};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(near, listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_arrive_whole_and_in_order() {
        let (mut source, from) = pair().await;
        let (to, mut sink) = pair().await;
        let text: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut pipe = Pipes::new(16_384).open().unwrap();
        let sent = text.clone();
        let write = async {
            source.write_all(&sent).await.unwrap();
            source
        };
        let relay = async {
            let mut left = sent.len() as u64;
            while left > 0 {
                let came = poll_fn(|cx| pipe.poll_fill(cx, &from, left)).await.unwrap();
                assert!(came > 0);
                left -= came as u64;
                while !pipe.is_empty() {
                    poll_fn(|cx| pipe.poll_drain(cx, &to)).await.unwrap();
                }
            }
        };
        let mut got = vec![0; text.len()];
        let (source, (), read) = tokio::join!(write, relay, sink.read_exact(&mut got));
        read.unwrap();
        assert_eq!(got, text);
        drop(source);
        let end = poll_fn(|cx| pipe.poll_fill(cx, &from, 1)).await.unwrap();
        assert_eq!(end, 0);
    }

    #[test]
    fn pipes_have_a_bound_and_come_back() {
        let pipes = Pipes::new(16_384);
        let open: Vec<_> = std::iter::from_fn(|| pipes.open())
            .take(MAX_PIPES + 1)
            .collect();
        // A user with many pipes may get fewer of this size.
        assert!((1..=MAX_PIPES).contains(&open.len()));
        drop(open);
        assert!(pipes.open().is_some());
    }
}
