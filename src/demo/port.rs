//! A TCP port on the loopback interface that stays ours while nobody listens on it.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// A bound port. While it is held, connections are refused unless a listener made by
/// [`Port::listen`] is open, and no other process is given the same number.
///
/// A server that goes away and comes back on its old address would otherwise lose the port to
/// whoever binds port 0 in between.
#[derive(Debug)]
pub(super) struct Port {
    address: SocketAddr,
    _reservation: TcpSocket,
}

impl Port {
    /// Binds `address`; port 0 takes a free one.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = socket(address)?;
        Ok(Self {
            address: socket.local_addr()?,
            _reservation: socket,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts to accept. A second listener at the same time fails with `AddrInUse`.
    pub(super) fn listen(&self) -> io::Result<TcpListener> {
        socket(self.address)?.listen(4096)
    }
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // Two sockets may share a port as long as neither listens; the second one then may start to.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn refuses_while_nobody_listens_and_can_be_opened_again() {
        let port = Port::bind(([127, 0, 0, 1], 0).into()).unwrap();
        for _ in 0..3 {
            let refused = TcpStream::connect(port.address()).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            let listener = port.listen().unwrap();
            let (client, served) =
                tokio::join!(TcpStream::connect(port.address()), listener.accept());
            client.unwrap();
            served.unwrap();
        }
    }
}
