//! The clients that people use, told apart by what a server sees of them.

use std::time::Duration;

use ddp_gateway::ddp::Framing;

/// One client program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The web client and the desktop app, which loads it: Meteor's own connection over SockJS's
    /// WebSocket transport (`meteor/meteor:packages/ddp-client`, `sockjs/sockjs-client`).
    Web,
    /// The mobile app (`RocketChat/Rocket.Chat.js.SDK:lib/drivers/ddp.ts`, branch `mobile`).
    ReactNative,
    /// `@rocket.chat/ddp-client`. Bots, the livechat widget and the web client's newer transport
    /// differ in how often and how long they try.
    Sdk {
        every: Duration,
        /// Reconnects in the client's whole life; `None`: without end.
        tries: Option<u32>,
    },
}

/// The three of them, without what they are set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    Web,
    ReactNative,
    Sdk,
}

impl Kind {
    /// As the web client uses it (`apps/meteor/client/lib/sdk`): every second, without end.
    pub const SDK: Self = Self::Sdk {
        every: Duration::from_secs(1),
        tries: None,
    };

    pub(super) fn family(self) -> Family {
        match self {
            Self::Web => Family::Web,
            Self::ReactNative => Family::ReactNative,
            Self::Sdk { .. } => Family::Sdk,
        }
    }

    pub(super) fn framing(self) -> Framing {
        match self {
            Self::Web => Framing::SockJs,
            Self::ReactNative | Self::Sdk { .. } => Framing::Raw,
        }
    }

    pub(super) fn user_agent(self) -> &'static str {
        match self {
            Self::Web => {
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                 Chrome/142.0.0.0 Safari/537.36"
            }
            Self::ReactNative => "RC Mobile; ios 17.4; v4.72.0 (12345)",
            Self::Sdk { .. } => "node",
        }
    }

    pub(super) fn rhythm(self) -> Rhythm {
        let seconds = Duration::from_secs;
        match self {
            Self::Web => Rhythm {
                from_connected: true,
                ping: Duration::from_millis(17_500),
                ping_when_silent: true,
                dead: Duration::from_millis(32_500),
                unconnected_dead: Some(seconds(100)),
                close: 1000,
            },
            Self::ReactNative => Rhythm {
                from_connected: false,
                ping: seconds(10),
                ping_when_silent: false,
                dead: seconds(20),
                unconnected_dead: None,
                close: 4000,
            },
            Self::Sdk { .. } => Rhythm {
                from_connected: false,
                ping: seconds(30),
                ping_when_silent: true,
                dead: seconds(60),
                unconnected_dead: None,
                close: 1000,
            },
        }
    }
}

/// When a client pings and when it gives a silent server up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rhythm {
    /// `dead` is watched for only after `connected`; before it `unconnected_dead` counts.
    pub(super) from_connected: bool,
    /// A ping is sent this long after the last message, or else after the last pong.
    pub(super) ping: Duration,
    pub(super) ping_when_silent: bool,
    /// Silence after which the server is given up.
    pub(super) dead: Duration,
    /// SockJS's own timer, armed by the first message or heartbeat.
    pub(super) unconnected_dead: Option<Duration>,
    /// What it then closes with.
    pub(super) close: u16,
}
