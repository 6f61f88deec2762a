//! A listener that can be closed, opened again on its port, and cut off with all its connections.

use std::{
    io,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::port::Port;

/// Where a simulated server lets clients in. Dropping it closes the listener and cuts connections.
#[derive(Debug)]
pub(super) struct Door {
    port: Port,
    accepting: tokio::sync::Mutex<Option<Accepting>>,
    /// Cancelled to cut every connection that came in since it was made.
    connections: Mutex<CancellationToken>,
}

#[derive(Debug)]
struct Accepting {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Door {
    /// Takes the port; nobody is let in yet.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            port: Port::bind(address)?,
            accepting: tokio::sync::Mutex::new(None),
            connections: Mutex::new(CancellationToken::new()),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(super) fn is_open(&self) -> bool {
        // Somebody who changes it right now holds the lock: then it is about to be what it was not.
        let accepting = self.accepting.try_lock();
        accepting.is_ok_and(|accepting| accepting.is_some())
    }

    /// Listens and runs `accept`, which ends each connection when its token is cancelled. Does
    /// nothing when it is open already.
    pub(super) async fn open<Accept>(
        &self,
        accept: impl FnOnce(TcpListener, CancellationToken) -> Accept + Send,
    ) -> io::Result<()>
    where
        Accept: Future<Output = ()> + Send + 'static,
    {
        let mut accepting = self.accepting.lock().await;
        if accepting.is_some() {
            return Ok(());
        }
        let listener = self.port.listen()?;
        let connections = {
            let mut connections = self.connections();
            if connections.is_cancelled() {
                *connections = CancellationToken::new();
            }
            connections.clone()
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let accept = accept(listener, connections);
        let task = tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = accept => {}
            }
        });
        *accepting = Some(Accepting { stop, task });
        Ok(())
    }

    /// Closes the listener; when this returns, connections are refused. Open ones live on.
    pub(super) async fn close(&self) {
        if let Some(accepting) = self.accepting.lock().await.take() {
            accepting.stop.cancel();
            // Only then is the listening socket closed.
            let _ = accepting.task.await;
        }
    }

    /// Cuts every connection.
    pub(super) fn cut(&self) {
        self.connections().cancel();
    }

    fn connections(&self) -> MutexGuard<'_, CancellationToken> {
        // A token is replaced in one step, so a poisoned one is still whole.
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.get_mut() {
            accepting.stop.cancel();
        }
        self.cut();
    }
}
