//! A process that holds a streamer's sockets, so that it can be killed.
//!
//! It passes bytes between its port and a streamer in the test's process. What the gateway sees when
//! it is killed is what a killed streamer leaves: all sockets end at once without a goodbye, and the
//! port refuses. The streamer behind it sees its clients gone, as the others are told by the bus.

use std::{
    env,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::support::soon;

/// The running process; killed when dropped.
pub(crate) struct Gate {
    child: Child,
    address: SocketAddr,
    /// Keeps the port from others when nobody listens on it any more.
    _reserved: TcpSocket,
}

impl Gate {
    /// In front of this address.
    pub(crate) fn start(streamer: SocketAddr) -> Self {
        let reserved = bind(([127, 0, 0, 1], 0).into());
        let address = reserved.local_addr().unwrap();
        // This test binary once more, as the test below, which then is the gate.
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", SELF, "--nocapture"])
            .env(ORDER, format!("{address} {streamer}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut lines = output.lines().map_while(Result::ok);
        assert!(lines.any(|line| line == READY), "the gate did not open");
        Self {
            child,
            address,
            _reserved: reserved,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// With SIGKILL; returns when the process is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bind(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    // Two may have a port as long as only one listens.
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

async fn pass(order: &str) {
    let (address, streamer) = order.split_once(' ').unwrap();
    let streamer: SocketAddr = streamer.parse().unwrap();
    let listener = bind(address.parse().unwrap()).listen(4096).unwrap();
    println!("\n{READY}");
    let mut connections = JoinSet::new();
    loop {
        let Ok((mut client, _)) = listener.accept().await else {
            continue;
        };
        connections.spawn(async move {
            let _ = client.set_nodelay(true);
            if let Ok(mut server) = TcpStream::connect(streamer).await {
                let _ = server.set_nodelay(true);
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

const ORDER: &str = "MIGRATION_GATE";
const SELF: &str = "gate::passes_bytes_until_it_is_killed";
const READY: &str = "the gate is open";

#[tokio::test]
async fn passes_bytes_until_it_is_killed() {
    if let Ok(order) = env::var(ORDER) {
        return pass(&order).await;
    }
    let socket = bind(([127, 0, 0, 1], 0).into());
    let streamer = socket.local_addr().unwrap();
    let listener = socket.listen(1).unwrap();
    let mut gate = Gate::start(streamer);
    let mut client = TcpStream::connect(gate.address()).await.unwrap();
    let (mut server, _) = soon("a connection", listener.accept()).await.unwrap();
    let mut bytes = [0; 4];
    client.write_all(b"ping").await.unwrap();
    soon("bytes", server.read_exact(&mut bytes)).await.unwrap();
    server.write_all(b"pong").await.unwrap();
    soon("bytes", client.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"pong");
    gate.kill();
    // An end or a reset.
    let end = soon("the end", client.read(&mut bytes)).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    let end = soon("the end", server.read(&mut bytes)).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    let refused = TcpStream::connect(gate.address()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}
