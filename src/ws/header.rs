//! Frame headers (RFC 6455 section 5.2).

use super::ProtocolError;

/// Bytes of the longest header: two fixed ones, eight of length, four of mask.
pub const MAX_HEADER: usize = 14;

/// The bit that a 64-bit length must leave clear (section 5.2).
const TOP_BIT: u64 = 1 << 63;

/// What a frame carries (section 5.2); the reserved opcodes do not exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpCode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl OpCode {
    /// Whether this is a control frame (section 5.5).
    pub fn control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    fn from_bits(bits: u8) -> Result<Self, ProtocolError> {
        match bits {
            0x0 => Ok(Self::Continuation),
            0x1 => Ok(Self::Text),
            0x2 => Ok(Self::Binary),
            0x8 => Ok(Self::Close),
            0x9 => Ok(Self::Ping),
            0xA => Ok(Self::Pong),
            reserved => Err(ProtocolError::ReservedOpCode(reserved)),
        }
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }
}

/// One frame header; the reserved bits are not in it because they are never set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Whether this is the last fragment of its message.
    pub fin: bool,
    pub opcode: OpCode,
    /// The masking key of the payload, as written.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload; below 2^63.
    pub len: u64,
}

impl FrameHeader {
    /// Writes the header in its one shortest form; returns how many bytes of `out` it takes.
    pub fn encode(&self, out: &mut [u8; MAX_HEADER]) -> usize {
        debug_assert!(self.len < TOP_BIT, "a payload length below 2^63");
        let mask_bit = if self.mask.is_some() { 0x80 } else { 0 };
        out[0] = self.opcode.bits() | if self.fin { 0x80 } else { 0 };
        let mut used = if let Ok(short @ 0..=125) = u8::try_from(self.len) {
            out[1] = mask_bit | short;
            2
        } else if let Ok(medium) = u16::try_from(self.len) {
            out[1] = mask_bit | 126;
            out[2..4].copy_from_slice(&medium.to_be_bytes());
            4
        } else {
            out[1] = mask_bit | 127;
            out[2..10].copy_from_slice(&self.len.to_be_bytes());
            10
        };
        if let Some(key) = self.mask {
            out[used..used + 4].copy_from_slice(&key);
            used += 4;
        }
        used
    }

    /// Reads a header off the front of `bytes` and says how many bytes it took; `None` while it is
    /// incomplete.
    ///
    /// Checks what a frame alone can violate: reserved bits and opcodes, control frames fragmented
    /// or too long, lengths not minimal or with the top bit set. The earliest byte at fault
    /// decides, so the answer does not depend on how many bytes follow it.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, ProtocolError> {
        Self::parse_under(&NoRules, bytes)
    }

    /// As [`FrameHeader::parse`], with the rules of a stream asked at the byte they speak of.
    pub(super) fn parse_under(
        rules: &impl StreamRules,
        bytes: &[u8],
    ) -> Result<Option<(Self, usize)>, ProtocolError> {
        let Some((&first, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err(ProtocolError::ReservedBits);
        }
        let fin = first & 0x80 != 0;
        let opcode = OpCode::from_bits(first & 0x0F)?;
        if opcode.control() && !fin {
            return Err(ProtocolError::FragmentedControl);
        }
        rules.order(opcode)?;

        let Some((&second, rest)) = rest.split_first() else {
            return Ok(None);
        };
        let masked = second & 0x80 != 0;
        rules.masking(masked)?;
        let short = second & 0x7F;
        if opcode.control() && short > 125 {
            return Err(ProtocolError::LongControl);
        }

        let Some((len, rest)) = read_len(short, rest)? else {
            return Ok(None);
        };
        rules.size(opcode, len)?;

        let (mask, rest) = if masked {
            let Some((key, rest)) = rest.split_first_chunk::<4>() else {
                return Ok(None);
            };
            (Some(*key), rest)
        } else {
            (None, rest)
        };
        let header = Self {
            fin,
            opcode,
            mask,
            len,
        };
        Ok(Some((header, bytes.len() - rest.len())))
    }
}

/// What the frames before, and the side that writes, say about the next header.
pub(super) trait StreamRules {
    /// Whether such a frame may come now (section 5.4).
    fn order(&self, opcode: OpCode) -> Result<(), ProtocolError>;
    /// Whether this side masks (section 5.1).
    fn masking(&self, masked: bool) -> Result<(), ProtocolError>;
    /// Whether the message stays within its bound.
    fn size(&self, opcode: OpCode, len: u64) -> Result<(), ProtocolError>;
}

struct NoRules;

impl StreamRules for NoRules {
    fn order(&self, _: OpCode) -> Result<(), ProtocolError> {
        Ok(())
    }

    fn masking(&self, _: bool) -> Result<(), ProtocolError> {
        Ok(())
    }

    fn size(&self, _: OpCode, _: u64) -> Result<(), ProtocolError> {
        Ok(())
    }
}

/// The payload length behind the 7-bit field `short`, and what follows it.
fn read_len(short: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, ProtocolError> {
    match short {
        126 => {
            let Some((field, rest)) = rest.split_first_chunk::<2>() else {
                return Ok(None);
            };
            let len = u16::from_be_bytes(*field);
            if len < 126 {
                return Err(ProtocolError::LengthNotMinimal);
            }
            Ok(Some((u64::from(len), rest)))
        }
        127 => {
            let Some((field, rest)) = rest.split_first_chunk::<8>() else {
                return Ok(None);
            };
            let len = u64::from_be_bytes(*field);
            if len & TOP_BIT != 0 {
                return Err(ProtocolError::LengthOverflow);
            }
            if len <= u64::from(u16::MAX) {
                return Err(ProtocolError::LengthNotMinimal);
            }
            Ok(Some((len, rest)))
        }
        short => Ok(Some((u64::from(short), rest))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(header: FrameHeader) -> Vec<u8> {
        let mut out = [0; MAX_HEADER];
        let len = header.encode(&mut out);
        out[..len].to_vec()
    }

    fn text(len: u64, mask: Option<[u8; 4]>) -> FrameHeader {
        FrameHeader {
            fin: true,
            opcode: OpCode::Text,
            mask,
            len,
        }
    }

    #[test]
    fn reads_the_examples_of_section_5_7() {
        assert_eq!(
            FrameHeader::parse(&[0x81, 0x05, b'H']),
            Ok(Some((text(5, None), 2)))
        );
        assert_eq!(
            FrameHeader::parse(&[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f]),
            Ok(Some((text(5, Some([0x37, 0xfa, 0x21, 0x3d])), 6)))
        );
        let binary = |len| FrameHeader {
            opcode: OpCode::Binary,
            ..text(len, None)
        };
        assert_eq!(
            FrameHeader::parse(&[0x82, 0x7e, 0x01, 0x00]),
            Ok(Some((binary(256), 4)))
        );
        assert_eq!(
            FrameHeader::parse(&[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]),
            Ok(Some((binary(65536), 10)))
        );
    }

    #[test]
    fn what_is_written_is_read_and_a_part_of_it_is_incomplete() {
        for opcode in [
            OpCode::Continuation,
            OpCode::Text,
            OpCode::Binary,
            OpCode::Close,
            OpCode::Ping,
            OpCode::Pong,
        ] {
            for mask in [None, Some([1, 2, 3, 4])] {
                for fin in [true, false] {
                    for len in [0, 1, 125, 126, 127, 65535, 65536, TOP_BIT - 1] {
                        if opcode.control() && (!fin || len > 125) {
                            continue;
                        }
                        let header = FrameHeader {
                            fin,
                            opcode,
                            mask,
                            len,
                        };
                        let bytes = encoded(header);
                        assert_eq!(FrameHeader::parse(&bytes), Ok(Some((header, bytes.len()))));
                        for end in 0..bytes.len() {
                            assert_eq!(FrameHeader::parse(&bytes[..end]), Ok(None), "{header:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn reserved_bits_are_refused_one_by_one() {
        for bit in [0x40, 0x20, 0x10] {
            assert_eq!(
                FrameHeader::parse(&[0x81 | bit]),
                Err(ProtocolError::ReservedBits)
            );
        }
    }

    #[test]
    fn reserved_opcodes_are_refused() {
        for bits in (0x3..=0x7).chain(0xB..=0xF) {
            assert_eq!(
                FrameHeader::parse(&[0x80 | bits]),
                Err(ProtocolError::ReservedOpCode(bits))
            );
        }
    }

    #[test]
    fn control_frames_are_whole_and_short() {
        for bits in 0x8..=0xA {
            assert_eq!(
                FrameHeader::parse(&[bits]),
                Err(ProtocolError::FragmentedControl)
            );
            for long in [126, 127] {
                assert_eq!(
                    FrameHeader::parse(&[0x80 | bits, long]),
                    Err(ProtocolError::LongControl)
                );
            }
        }
    }

    #[test]
    fn a_length_is_written_in_its_shortest_form() {
        for len in [0_u16, 125] {
            let [high, low] = len.to_be_bytes();
            assert_eq!(
                FrameHeader::parse(&[0x82, 126, high, low]),
                Err(ProtocolError::LengthNotMinimal)
            );
        }
        for len in [0_u64, 126, 65535] {
            let mut bytes = vec![0x82, 127];
            bytes.extend(len.to_be_bytes());
            assert_eq!(
                FrameHeader::parse(&bytes),
                Err(ProtocolError::LengthNotMinimal)
            );
        }
    }

    #[test]
    fn the_top_bit_of_a_length_stays_clear() {
        for len in [TOP_BIT, u64::MAX] {
            let mut bytes = vec![0x82, 127];
            bytes.extend(len.to_be_bytes());
            assert_eq!(
                FrameHeader::parse(&bytes),
                Err(ProtocolError::LengthOverflow)
            );
        }
    }
}
