//! Why a client's socket ends, and what the client is told: one table.
//!
//! The codes follow what the clients do with them (`RocketChat/Rocket.Chat.ReactNative`,
//! `meteor/meteor:packages/socket-stream-client`, `RocketChat/Rocket.Chat:packages/ddp-client`): a
//! close with 4000 is React Native's own goodbye, after which it stays away, so that code must not
//! reach a client whatever the streamer sends.

use crate::ws::ProtocolError;

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// The client sent a close frame, with this code if it had one.
    ClientClosed(Option<u16>),
    /// The client's connection ended without a close frame.
    ClientGone,
    /// Nothing came from the client for the idle timeout, not even the answer to a ping.
    ClientSilent,
    /// The client broke the WebSocket protocol.
    ClientProtocol(ProtocolError),
    /// The first message was not `connect` (`ee/apps/ddp-streamer`: close 1002).
    NotConnect,
    /// A method or subscription without id or name (`ee/apps/ddp-streamer`: 1002).
    Malformed,
    /// A message that is not DDP: binary, broken JSON or empty (`ee/apps/ddp-streamer`: 1007).
    Unreadable,
    /// No `connect` came within its time.
    NoConnect,
    /// The client kept sending above its limits although it was held back.
    RateAbuse,
    /// The client does not take what is sent to it.
    SlowConsumer,
    /// Slow peers hold more memory than the process may spend on them.
    Overload,
    /// No streamer had room until the client's waiting time was over.
    NoCapacity,
    /// The streamer sent a close frame, with this code if it had one.
    StreamerClosed(Option<u16>),
    /// The streamer's connection ended without a close frame, or it fell silent.
    StreamerLost,
    /// The streamer broke the WebSocket protocol.
    StreamerProtocol(ProtocolError),
    /// The gateway is shutting down.
    Drain,
    /// The operator has the session's streamer emptied.
    StreamerDrain,
    /// The user's token is refused on another streamer: the client's own login has to find out.
    LoggedOut,
    /// The user, or this session, was logged out by force: the client's own login has to find out.
    ForcedLogout,
    /// The client came back on another socket.
    Resumed,
    /// An operator ended the session.
    Operator,
}

/// Who ended a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Streamer,
    Gateway,
}

impl Side {
    pub fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Streamer => "streamer",
            Self::Gateway => "gateway",
        }
    }
}

impl Disconnect {
    /// The code of the close frame that the client gets.
    pub fn close_code(self) -> u16 {
        match self {
            Self::ClientClosed(Some(code)) if echoed(code) => code,
            Self::ClientClosed(_) => 1000,
            Self::ClientGone
            | Self::Resumed
            | Self::ClientSilent
            | Self::NoConnect
            | Self::LoggedOut
            | Self::ForcedLogout => 1001,
            Self::ClientProtocol(error) => error.close_code().0,
            Self::NotConnect | Self::Malformed => 1002,
            Self::Unreadable => 1007,
            Self::RateAbuse => 1008,
            Self::SlowConsumer | Self::Overload | Self::NoCapacity => 1013,
            Self::StreamerClosed(code) => match code {
                // The streamer's idle timeout, and a force logout without a code.
                Some(4000) | None => 1001,
                Some(code) if forwarded(code) => code,
                Some(_) => 1011,
            },
            Self::StreamerLost
            | Self::StreamerProtocol(_)
            | Self::Drain
            | Self::StreamerDrain
            | Self::Operator => 1012,
        }
    }

    /// The reason in the close frame that the client gets; at most 123 bytes.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ClientClosed(_) => "",
            Self::Resumed => "came back on another socket",
            Self::ClientGone | Self::ClientSilent => "nothing heard from the client",
            Self::ClientProtocol(ProtocolError::MessageTooBig) => "message too big",
            Self::ClientProtocol(_) => "WebSocket protocol error",
            Self::NotConnect => "the first message must be connect",
            Self::Malformed => "a method or subscription without id or name",
            Self::Unreadable => "not a DDP message",
            Self::NoConnect => "no connect message in time",
            Self::RateAbuse => "rate limit exceeded",
            Self::SlowConsumer => "client reads too slowly",
            Self::Overload => "gateway out of buffer memory",
            Self::NoCapacity => "no streamer has room",
            Self::StreamerClosed(Some(4000)) => "idle",
            Self::StreamerClosed(_) => "closed by the server",
            Self::StreamerLost | Self::StreamerProtocol(_) => "server went away, reconnect",
            Self::Drain => "gateway restarts, reconnect",
            Self::StreamerDrain => "server is being emptied, reconnect",
            Self::LoggedOut => "session ended, log in again",
            Self::ForcedLogout => "logged out by the server, log in again",
            Self::Operator => "closed by the operator, reconnect",
        }
    }

    /// Value of the `reason` label and of the log field.
    pub fn label(self) -> &'static str {
        match self {
            Self::ClientClosed(_) => "client_closed",
            Self::ClientGone => "client_gone",
            Self::Resumed => "resumed",
            Self::ClientSilent => "client_silent",
            Self::ClientProtocol(ProtocolError::MessageTooBig) => "message_too_big",
            Self::ClientProtocol(_) => "client_protocol",
            Self::NotConnect => "not_connect",
            Self::Malformed => "malformed",
            Self::Unreadable => "unreadable",
            Self::NoConnect => "no_connect",
            Self::RateAbuse => "rate_abuse",
            Self::SlowConsumer => "slow_consumer",
            Self::Overload => "overload",
            Self::NoCapacity => "no_capacity",
            Self::StreamerClosed(Some(4000)) => "streamer_timeout",
            Self::StreamerClosed(_) => "streamer_closed",
            Self::StreamerLost => "streamer_lost",
            Self::StreamerProtocol(_) => "streamer_protocol",
            Self::Drain => "drain",
            Self::StreamerDrain => "streamer_drain",
            Self::LoggedOut => "logged_out",
            Self::ForcedLogout => "forced_logout",
            Self::Operator => "operator",
        }
    }

    pub fn by(self) -> Side {
        match self {
            Self::ClientClosed(_) | Self::ClientGone | Self::Resumed => Side::Client,
            Self::StreamerClosed(_)
            | Self::StreamerLost
            | Self::StreamerProtocol(_)
            | Self::ForcedLogout => Side::Streamer,
            Self::ClientSilent
            | Self::ClientProtocol(_)
            | Self::NotConnect
            | Self::Malformed
            | Self::Unreadable
            | Self::NoConnect
            | Self::RateAbuse
            | Self::SlowConsumer
            | Self::Overload
            | Self::NoCapacity
            | Self::Drain
            | Self::StreamerDrain
            | Self::LoggedOut
            | Self::Operator => Side::Gateway,
        }
    }

    /// The code of the close frame that the streamer gets. It only logs it.
    pub fn leg_close_code(self) -> u16 {
        match self {
            Self::ClientClosed(Some(code)) if echoed(code) => code,
            Self::ClientClosed(_) => 1000,
            _ => 1001,
        }
    }
}

/// Codes of a client that may be sent on and back (RFC 6455 section 7.4).
fn echoed(code: u16) -> bool {
    forwarded(code) || code == 4000
}

/// Codes of a streamer that a client may see.
fn forwarded(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=3999 | 4001..=4999)
}

#[cfg(test)]
mod tests {
    use super::{Disconnect, Side};

    #[test]
    fn the_streamers_4000_never_reaches_a_client() {
        for code in 0..=u16::MAX {
            let shown = Disconnect::StreamerClosed(Some(code)).close_code();
            assert_ne!(shown, 4000);
            assert!(
                matches!(shown, 1000..=1003 | 1007..=1014 | 3000..=4999),
                "{code} -> {shown}"
            );
        }
        assert_eq!(Disconnect::StreamerClosed(None).close_code(), 1001);
        assert_eq!(Disconnect::StreamerClosed(Some(1002)).close_code(), 1002);
        assert_eq!(Disconnect::StreamerClosed(Some(1006)).close_code(), 1011);
    }

    #[test]
    fn a_clients_code_comes_back_unless_it_may_not_be_sent() {
        assert_eq!(Disconnect::ClientClosed(Some(4000)).close_code(), 4000);
        assert_eq!(Disconnect::ClientClosed(Some(1005)).close_code(), 1000);
        assert_eq!(Disconnect::ClientClosed(None).close_code(), 1000);
        assert_eq!(Disconnect::ClientClosed(Some(1001)).leg_close_code(), 1001);
        assert_eq!(Disconnect::ClientClosed(None).by(), Side::Client);
    }

    #[test]
    fn reasons_fit_a_control_frame() {
        for reason in [
            Disconnect::StreamerLost,
            Disconnect::Drain,
            Disconnect::StreamerDrain,
            Disconnect::NoCapacity,
            Disconnect::NotConnect,
            Disconnect::Malformed,
        ] {
            assert!(reason.reason().len() <= 123);
        }
    }
}
