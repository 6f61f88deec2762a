//! A gateway that ends lets its clients go, and keeps their sessions for the moment in which they come
//! back by way of another one.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tracing::info;

use super::{State, is_closing};
use crate::{
    base::chunk::Backlog,
    net::stream::Downstream,
    session::{Disconnect, Phase},
};

impl State {
    /// Says goodbye to the client and keeps all else, as when the network takes the client away.
    /// False: nobody would ask for it, or it cannot be kept now.
    pub(super) fn park(&mut self, now: Instant) -> bool {
        if !self.registration.shared().handover.is_open() || is_closing(&self.session) {
            return false;
        }
        if self.session.phase() != Phase::Detached && !self.let_client_go(now) {
            return false;
        }
        self.session.park(now + PARKED_FOR);
        true
    }

    fn let_client_go(&mut self, now: Instant) -> bool {
        // The goodbye stands behind a whole message.
        if !self.down_pump.at_message_boundary() || self.ends.client_told {
            return false;
        }
        if !self.may_detach(now) {
            return false;
        }
        self.push_close(Disconnect::Drain);
        let backlog = self.down_backlog.sibling();
        let told = std::mem::replace(&mut self.down_backlog, backlog);
        let down = std::mem::replace(&mut self.down, Downstream::Gone);
        self.detach(now);
        let entry = self.registration.entry();
        info!(
            target: "access",
            event = "socket_parked",
            session = %entry.id,
            client = %entry.client,
            "this gateway ends and sends the client away; its session waits to be asked for by another"
        );
        let goodbye = see_off(down, told);
        self.registration.shared().tasks.spawn(goodbye);
        true
    }
}

/// Sends what the client has not taken yet, the goodbye last, and waits for its own.
async fn see_off(mut down: Downstream, mut waiting: Backlog) {
    let goodbye = async {
        while !waiting.is_empty() {
            match down.write(waiting.front()).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => waiting.advance(written),
            }
        }
        down.shutdown().await?;
        let mut rest = [0; 512];
        while down.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // A client that does not take it finds out by itself.
    let _ = timeout(GOODBYE, goodbye).await;
}

/// Meteor's client tries twice within 20 ms, and for the third time 3.6 to 6 s later; others do not
/// ask for a session, and theirs end after this time.
const PARKED_FOR: Duration = Duration::from_secs(7);

const GOODBYE: Duration = Duration::from_secs(2);
