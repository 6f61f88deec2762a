//! What a peer can do wrong once the handshake is over.

use super::CloseCode;

/// A violation of RFC 6455, or of the bound on messages. The connection cannot go on after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Section 5.2: RSV1-3 must be 0 unless an extension was negotiated, and none ever is.
    #[error("reserved bits are set, but no extension was negotiated")]
    ReservedBits,
    /// Section 5.2: 3-7 and 11-15 are reserved.
    #[error("opcode {0} is reserved")]
    ReservedOpCode(u8),
    /// Sections 5.4 and 5.5.
    #[error("a control frame is fragmented")]
    FragmentedControl,
    /// Section 5.5: at most 125 bytes.
    #[error("a control frame is longer than 125 bytes")]
    LongControl,
    /// Section 5.4.
    #[error("a continuation frame without a message to continue")]
    StrayContinuation,
    /// Section 5.4: fragments of two messages must not be interleaved.
    #[error("a new message begins before the fragmented one has ended")]
    InterleavedMessage,
    /// Section 5.1: a client masks every frame.
    #[error("a frame of a client is not masked")]
    MaskMissing,
    /// Section 5.1: a server masks no frame.
    #[error("a frame of a server is masked")]
    MaskForbidden,
    /// Section 5.2: the most significant bit of a 64-bit length must be 0.
    #[error("a payload length has its top bit set")]
    LengthOverflow,
    /// Section 5.2: the minimal number of bytes must be used.
    #[error("a payload length is not written in its shortest form")]
    LengthNotMinimal,
    /// Section 10.4: our own bound, over all fragments of a message.
    #[error("a message is longer than the limit")]
    MessageTooBig,
    /// Section 5.5.1: a close payload, if any, starts with two bytes of code.
    #[error("a close frame carries half a code")]
    CloseTooShort,
    /// Section 7.4.
    #[error("close code {0} must not appear in a close frame")]
    CloseCode(u16),
    /// Section 8.1: text messages and close reasons are UTF-8.
    #[error("text is not UTF-8")]
    Utf8,
}

impl ProtocolError {
    /// The code that tells the peer (section 7.4.1): 1002, 1007 or 1009.
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::Utf8 => CloseCode::INVALID_PAYLOAD,
            Self::MessageTooBig => CloseCode::TOO_BIG,
            Self::ReservedBits
            | Self::ReservedOpCode(_)
            | Self::FragmentedControl
            | Self::LongControl
            | Self::StrayContinuation
            | Self::InterleavedMessage
            | Self::MaskMissing
            | Self::MaskForbidden
            | Self::LengthOverflow
            | Self::LengthNotMinimal
            | Self::CloseTooShort
            | Self::CloseCode(_) => CloseCode::PROTOCOL,
        }
    }
}
