//! Stands between two gateways, and stops a hand-over where the test wants it to.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use crate::support::soon;

/// How far a hand-over comes before the test has its say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Point {
    /// The taker has a ticket, and comes with it.
    Come,
    /// The owner says that it gives the session.
    Given,
    /// The taker has the session and says that it can go on with it.
    Taken,
    /// The owner says that it is the taker's, who has not heard it.
    Yours,
    /// The taker has heard it, and the owner is the way to the streamer.
    Way,
}

#[derive(Debug)]
pub(crate) struct Between {
    pub(crate) address: SocketAddr,
    owner: watch::Sender<Option<SocketAddr>>,
    goes_on: watch::Sender<bool>,
    reached: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Between {
    pub(crate) async fn start(stop: Point) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (owner, to) = watch::channel(None);
        let (goes_on, going) = watch::channel(false);
        let (reaching, reached) = watch::channel(false);
        let task = tokio::spawn(async move {
            while let Ok((taker, _)) = listener.accept().await {
                let script = Script {
                    stop,
                    reaching: reaching.clone(),
                    going: going.clone(),
                };
                let to = to.clone();
                // What breaks off is told to both by the end of their connections.
                tokio::spawn(async move { script.run(taker, to).await });
            }
        });
        Self {
            address,
            owner,
            goes_on,
            reached,
            task,
        }
    }

    pub(crate) fn lead_to(&self, owner: SocketAddr) {
        self.owner.send_replace(Some(owner));
    }

    /// Waits until a hand-over has come to the point.
    pub(crate) async fn is_reached(&mut self) {
        let reached = self.reached.wait_for(|reached| *reached);
        soon("the hand-over to come so far", reached).await.unwrap();
    }

    pub(crate) fn go_on(&self) {
        self.goes_on.send_replace(true);
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Script {
    stop: Point,
    reaching: watch::Sender<bool>,
    going: watch::Receiver<bool>,
}

impl Script {
    async fn run(
        mut self,
        mut taker: TcpStream,
        mut to: watch::Receiver<Option<SocketAddr>>,
    ) -> io::Result<()> {
        self.passes(Point::Come).await;
        let to = to.wait_for(Option::is_some).await;
        let to = to.map_err(io::Error::other)?.unwrap();
        let mut owner = TcpStream::connect(to).await?;
        pass(&mut owner, &mut taker, 16).await?;
        // What it wants and by which ticket, and the claim.
        pass(&mut taker, &mut owner, 17).await?;
        pass_piece(&mut taker, &mut owner).await?;
        self.pass_byte(Point::Given, &mut owner, &mut taker).await?;
        pass_piece(&mut owner, &mut taker).await?;
        self.pass_byte(Point::Taken, &mut taker, &mut owner).await?;
        self.pass_byte(Point::Yours, &mut owner, &mut taker).await?;
        self.passes(Point::Way).await;
        copy_bidirectional(&mut taker, &mut owner).await?;
        Ok(())
    }

    async fn passes(&mut self, point: Point) {
        if point == self.stop {
            self.reaching.send_replace(true);
            // Fails when the test is over.
            let _ = self.going.wait_for(|going| *going).await;
        }
    }

    async fn pass_byte(
        &mut self,
        point: Point,
        from: &mut TcpStream,
        to: &mut TcpStream,
    ) -> io::Result<()> {
        let byte = from.read_u8().await?;
        self.passes(point).await;
        to.write_u8(byte).await
    }
}

async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    length: usize,
) -> io::Result<()> {
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    to.write_all(&bytes).await
}

/// A length, and as many bytes.
async fn pass_piece(from: &mut TcpStream, to: &mut TcpStream) -> io::Result<()> {
    let length = from.read_u32().await?;
    to.write_u32(length).await?;
    pass(from, to, length as usize).await
}
