//! Close codes and the payload of close frames (RFC 6455 sections 5.5.1 and 7.4).

use std::fmt;

use super::{ProtocolError, control::MAX_CONTROL_PAYLOAD};

/// Bytes of reason that fit beside the code into a control frame.
pub const MAX_CLOSE_REASON: usize = MAX_CONTROL_PAYLOAD - 2;

/// Why a connection ends (section 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(pub u16);

impl CloseCode {
    pub const NORMAL: Self = Self(1000);
    /// The server goes down or the page is left.
    pub const GOING_AWAY: Self = Self(1001);
    pub const PROTOCOL: Self = Self(1002);
    /// A kind of data that the endpoint cannot take.
    pub const UNSUPPORTED: Self = Self(1003);
    /// Never on the wire: a close frame came without a code.
    pub const NO_STATUS: Self = Self(1005);
    /// Never on the wire: the connection ended without a close frame.
    pub const ABNORMAL: Self = Self(1006);
    /// The payload contradicts its type, such as text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    pub const POLICY: Self = Self(1008);
    pub const TOO_BIG: Self = Self(1009);
    /// A client misses an extension that it needs.
    pub const EXTENSION_MISSING: Self = Self(1010);
    pub const INTERNAL: Self = Self(1011);
    /// Registered with IANA after the RFC: come back later, somewhat spread.
    pub const SERVICE_RESTART: Self = Self(1012);
    /// Registered with IANA: overloaded.
    pub const TRY_AGAIN_LATER: Self = Self(1013);
    /// Registered with IANA: what a gateway got from behind it was unusable.
    pub const BAD_GATEWAY: Self = Self(1014);
    /// Never on the wire: TLS failed.
    pub const TLS: Self = Self(1015);

    /// Whether the code may stand in a close frame, ours or a peer's (section 7.4.2): the codes
    /// registered for use on the wire, and 3000-4999 for libraries and applications.
    pub fn sendable(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }

    /// Whether the code means the same to the peer behind a gateway.
    ///
    /// 1002 and 1010 speak of one connection's frames and handshake (section 7.4.1), so the peer on
    /// the other connection would be blamed for what it has not done.
    pub fn forwardable(self) -> bool {
        self.sendable() && self != Self::PROTOCOL && self != Self::EXTENSION_MISSING
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text beside a close code: UTF-8, at most [`MAX_CLOSE_REASON`] bytes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CloseReason(Box<str>);

impl CloseReason {
    /// Keeps as many whole characters as fit.
    pub fn new(text: &str) -> Self {
        let mut end = text.len().min(MAX_CLOSE_REASON);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self(text[..end].into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for CloseReason {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl fmt::Debug for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The payload of a close frame that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseFrame {
    pub code: CloseCode,
    pub reason: CloseReason,
}

impl CloseFrame {
    /// The reason is cut to the characters that fit.
    pub fn new(code: CloseCode, reason: &str) -> Self {
        Self {
            code,
            reason: CloseReason::new(reason),
        }
    }

    /// Reads an un-masked payload; `None` when it is empty, which is a close without a code.
    ///
    /// # Errors
    /// A payload of one byte, a code that must not be sent (both 1002), a reason that is not UTF-8
    /// (1007) or does not fit into a control frame.
    pub fn parse(payload: &[u8]) -> Result<Option<Self>, ProtocolError> {
        if payload.len() > MAX_CONTROL_PAYLOAD {
            return Err(ProtocolError::LongControl);
        }
        let Some((code, reason)) = payload.split_first_chunk::<2>() else {
            return if payload.is_empty() {
                Ok(None)
            } else {
                Err(ProtocolError::CloseTooShort)
            };
        };
        let code = CloseCode(u16::from_be_bytes(*code));
        if !code.sendable() {
            return Err(ProtocolError::CloseCode(code.0));
        }
        let reason = str::from_utf8(reason).map_err(|_| ProtocolError::Utf8)?;
        Ok(Some(Self::new(code, reason)))
    }

    /// Writes the payload, un-masked; returns how many bytes of `out` it takes. A code that must
    /// not be sent gives an empty payload, which is what says "no code" on the wire.
    pub fn encode(&self, out: &mut [u8; MAX_CONTROL_PAYLOAD]) -> usize {
        if !self.code.sendable() {
            return 0;
        }
        let reason = self.reason.as_str().as_bytes();
        out[..2].copy_from_slice(&self.code.0.to_be_bytes());
        out[2..2 + reason.len()].copy_from_slice(reason);
        2 + reason.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_registered_and_application_codes_are_sent() {
        let sendable: Vec<u16> = (0..=u16::MAX)
            .filter(|&code| CloseCode(code).sendable())
            .collect();
        let expected: Vec<u16> = (1000..=1003)
            .chain(1007..=1014)
            .chain(3000..=4999)
            .collect();
        assert_eq!(sendable, expected);
        for never in [
            CloseCode::NO_STATUS,
            CloseCode::ABNORMAL,
            CloseCode::TLS,
            CloseCode(1004),
        ] {
            assert!(!never.sendable());
        }
    }

    #[test]
    fn what_speaks_of_one_connection_is_not_forwarded() {
        assert!(!CloseCode::PROTOCOL.forwardable());
        assert!(!CloseCode::EXTENSION_MISSING.forwardable());
        assert!(!CloseCode::NO_STATUS.forwardable());
        assert!(CloseCode::NORMAL.forwardable() && CloseCode(4001).forwardable());
    }

    #[test]
    fn payloads_are_read_as_section_5_5_1_says() {
        assert_eq!(CloseFrame::parse(b""), Ok(None));
        let error = CloseFrame::parse(b"\x03").unwrap_err();
        assert_eq!(error, ProtocolError::CloseTooShort);
        assert_eq!(error.close_code(), CloseCode::PROTOCOL);
        assert_eq!(
            CloseFrame::parse(b"\x03\xE8bye"),
            Ok(Some(CloseFrame::new(CloseCode::NORMAL, "bye")))
        );
        assert_eq!(
            CloseFrame::parse(b"\x03\xED"),
            Err(ProtocolError::CloseCode(1005))
        );
        let error = CloseFrame::parse(b"\x03\xE8\xFF").unwrap_err();
        assert_eq!(error.close_code(), CloseCode::INVALID_PAYLOAD);
        assert_eq!(
            CloseFrame::parse(&[0; 126]),
            Err(ProtocolError::LongControl)
        );
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        let fits = "x".repeat(MAX_CLOSE_REASON);
        assert_eq!(CloseReason::new(&fits).as_str(), fits);
        // The euro sign takes three bytes; the one over 121..124 does not fit.
        let long = format!("{}\u{20ac}more", "x".repeat(121));
        assert_eq!(CloseReason::new(&long).as_str(), &long[..121]);
    }

    #[test]
    fn what_is_written_is_read() {
        let mut out = [0; MAX_CONTROL_PAYLOAD];
        for reason in ["", "going down", &"y".repeat(200)] {
            let close = CloseFrame::new(CloseCode::SERVICE_RESTART, reason);
            let len = close.encode(&mut out);
            assert_eq!(CloseFrame::parse(&out[..len]), Ok(Some(close)));
        }
        let silent = CloseFrame::new(CloseCode::ABNORMAL, "never on the wire");
        assert_eq!(silent.encode(&mut out), 0);
    }
}
