//! Carries one WebSocket of a simulated streamer: frames, timers, close codes.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    time::{sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, Utf8Bytes,
        protocol::{CloseFrame, WebSocketConfig},
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    dialogue::{Dialogue, Effects, Framing},
    endpoint::Traffic,
    hub::Frame,
    streamer::Mode,
};

/// The first timer is a thousand times shorter than meant; clients see its ping before `connected`.
const FIRST_IDLE: Duration = Duration::from_millis(30);
/// A peer that takes nothing for this long is cut off.
const WRITE_LIMIT: Duration = Duration::from_secs(60);
/// Wait for the peer's part of a close.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Small buffers: thousands of these sockets live in one test process.
pub(super) fn websocket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4 << 10)
        .write_buffer_size(4 << 10)
        .max_write_buffer_size(256 << 20)
        .max_message_size(Some(100 << 20))
        .max_frame_size(Some(100 << 20))
}

/// One socket and everything that acts on it.
pub(super) struct Socket {
    pub(super) stream: WebSocketStream<TcpStream>,
    pub(super) framing: Framing,
    pub(super) dialogue: Dialogue,
    pub(super) events: mpsc::Receiver<Frame>,
    pub(super) mode: watch::Receiver<Mode>,
    pub(super) terminate: CancellationToken,
    /// Silence after which the client is pinged, and after as much again closed.
    pub(super) idle: Duration,
    pub(super) traffic: Traffic,
}

/// Why a socket's loop ended.
enum End {
    /// Nothing more can be said to the peer, or it is the peer that said goodbye.
    Gone,
    Close(u16, &'static str),
}

impl Socket {
    /// Serves the client until one of both sides ends it.
    pub(super) async fn run(mut self) {
        let terminate = self.terminate.clone();
        // Termination drops the TCP connection without a close frame: clients see 1006.
        let end = tokio::select! {
            biased;
            () = terminate.cancelled() => return,
            Err(end) = self.talk() => end,
        };
        let Self {
            mut stream,
            dialogue,
            ..
        } = self;
        drop(dialogue);
        let goodbye = async {
            if let End::Close(code, reason) = end {
                let frame = CloseFrame {
                    code: code.into(),
                    reason: Utf8Bytes::from_static(reason),
                };
                stream.close(Some(frame)).await?;
            }
            while let Some(message) = stream.next().await {
                message?;
            }
            Ok::<_, Error>(())
        };
        tokio::select! {
            () = terminate.cancelled() => {}
            _ = timeout(CLOSE_LIMIT, goodbye) => {}
        }
    }

    async fn talk(&mut self) -> Result<(), End> {
        self.awake().await;
        if self.framing == Framing::SockJs {
            self.send(Message::Text(Utf8Bytes::from_static("o")))
                .await?;
        }
        self.send_json(json!({ "msg": "server_id", "server_id": "0" }))
            .await?;
        let mut deadline = Instant::now() + FIRST_IDLE;
        let mut pinged = false;
        loop {
            self.awake().await;
            let step = self.dialogue.next_step();
            tokio::select! {
                biased;
                _ = self.mode.changed() => {}
                // Reading comes before the chain: an unsub that was sent right after its sub
                // overtakes it, as with the real streamer.
                message = self.stream.next(), if !self.dialogue.is_full() => {
                    match message {
                        Some(Ok(Message::Text(text))) => {
                            self.traffic.received();
                            deadline = Instant::now() + self.idle;
                            pinged = false;
                            let effects = self.dialogue.receive(&text, Instant::now());
                            // The real streamer writes an event when it is published: a pong or a
                            // nosub stands behind all that was published before it.
                            self.send_waiting().await?;
                            self.apply(effects).await?;
                        }
                        Some(Ok(Message::Binary(_))) => return Err(End::Close(1007, "")),
                        // Answered by the library, and no sign of life to the idle timer.
                        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                        Some(Ok(Message::Close(_))) | None => return Err(End::Gone),
                        Some(Err(Error::Utf8(_))) => return Err(End::Close(1007, "")),
                        Some(Err(Error::Capacity(_))) => return Err(End::Close(1009, "")),
                        Some(Err(Error::Protocol(_))) => return Err(End::Close(1002, "")),
                        Some(Err(_)) => return Err(End::Gone),
                    }
                }
                Some(event) = self.events.recv() => self.send_events(event).await?,
                () = until(step) => {
                    // Before the step and not behind it: events of a sub come after its `ready`.
                    self.send_waiting().await?;
                    let effects = self.dialogue.step(Instant::now());
                    let session = self.dialogue.session();
                    self.traffic.set_user(self.dialogue.user(), session);
                    self.apply(effects).await?;
                }
                () = until(Some(deadline)) => {
                    if pinged {
                        return Err(End::Close(4000, "TIMEOUT"));
                    }
                    pinged = true;
                    deadline = Instant::now() + self.idle;
                    self.send_json(json!({ "msg": "ping" })).await?;
                }
            }
        }
    }

    /// Waits while the streamer plays dead.
    async fn awake(&mut self) {
        let awake = |mode: &Mode| !matches!(mode, Mode::Hang | Mode::HalfDead);
        // Fails only when the streamer is gone, and then this socket is about to be.
        let delay = match self.mode.wait_for(awake).await.as_deref() {
            Ok(Mode::Slow(delay)) => *delay,
            _ => Duration::ZERO,
        };
        self.dialogue.set_delay(delay);
    }

    async fn apply(&mut self, effects: Effects) -> Result<(), End> {
        for message in effects.send {
            self.feed(&message).await?;
        }
        self.flush().await?;
        match effects.close {
            Some(code) => Err(End::Close(code, "")),
            None => Ok(()),
        }
    }

    async fn send_events(&mut self, first: Frame) -> Result<(), End> {
        self.put_event(first).await?;
        // Some at a time, so that a flood of events does not keep the client from being heard.
        for _ in 0..64 {
            let Ok(frame) = self.events.try_recv() else {
                break;
            };
            self.put_event(frame).await?;
        }
        self.flush().await
    }

    /// Puts those events before what comes next that have been published by now, and no later ones.
    async fn send_waiting(&mut self) -> Result<(), End> {
        for _ in 0..self.events.len() {
            let Ok(frame) = self.events.try_recv() else {
                break;
            };
            self.put_event(frame).await?;
        }
        Ok(())
    }

    async fn put_event(&mut self, frame: Frame) -> Result<(), End> {
        self.put(Message::Text(match self.framing {
            Framing::Raw => frame.raw,
            Framing::SockJs => frame.sockjs,
        }))
        .await
    }

    async fn send_json(&mut self, message: Value) -> Result<(), End> {
        self.feed(&message).await?;
        self.flush().await
    }

    async fn send(&mut self, message: Message) -> Result<(), End> {
        self.put(message).await?;
        self.flush().await
    }

    async fn feed(&mut self, message: &Value) -> Result<(), End> {
        let text = message.to_string();
        let text = match self.framing {
            Framing::Raw => text,
            Framing::SockJs => format!("a{}", json!([text])),
        };
        self.put(Message::text(text)).await
    }

    async fn put(&mut self, message: Message) -> Result<(), End> {
        self.traffic.sent();
        limited(self.stream.feed(message)).await
    }

    async fn flush(&mut self) -> Result<(), End> {
        limited(self.stream.flush()).await
    }
}

async fn limited(write: impl Future<Output = Result<(), Error>>) -> Result<(), End> {
    match timeout(WRITE_LIMIT, write).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(End::Gone),
    }
}

/// Ends at once for a moment that has passed (a timer would round it up), never for none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) if moment <= Instant::now() => {}
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
