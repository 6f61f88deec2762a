//! A way to a server on which, for a while, nothing gets through and nothing is closed.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) address: SocketAddr,
    passes: watch::Sender<bool>,
    to: watch::Sender<Option<u16>>,
    task: JoinHandle<()>,
}

impl Cut {
    pub(crate) async fn start(port: u16) -> Self {
        let cut = Self::to_be_led().await;
        cut.lead_to(port);
        cut
    }

    /// To a server that does not run yet: until it is led to one, it hangs up on everybody.
    pub(crate) async fn to_be_led() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (passes, seen) = watch::channel(true);
        let (to, port) = watch::channel(None::<u16>);
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let port = *port.borrow();
                let Some(port) = port else {
                    continue;
                };
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else {
                    continue;
                };
                let ((near_in, near_out), (far_in, far_out)) =
                    (near.into_split(), far.into_split());
                tokio::spawn(pump(near_in, far_out, seen.clone()));
                tokio::spawn(pump(far_in, near_out, seen.clone()));
            }
        });
        Self {
            address,
            passes,
            to,
            task,
        }
    }

    pub(crate) fn lead_to(&self, port: u16) {
        self.to.send_replace(Some(port));
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    pub(crate) fn hold(&self) {
        self.passes.send_replace(false);
    }

    /// What was said meanwhile comes late.
    pub(crate) fn release(&self) {
        self.passes.send_replace(true);
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut passes: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length) = from.read(&mut buffer).await
        && length > 0
        && passes.wait_for(|passes| *passes).await.is_ok()
        && to.write_all(&buffer[..length]).await.is_ok()
    {}
}
