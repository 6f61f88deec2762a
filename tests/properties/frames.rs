//! Where a stream is cut makes no difference: neither to sound frames nor to faults.

use ddp_gateway::ws::{FrameHeader, MAX_HEADER, OpCode, ProtocolError, Sender};
use proptest::{collection::vec, prelude::*};
use tokio_tungstenite::tungstenite::{
    error::{Error, ProtocolError as PeerError},
    protocol::frame::{
        FrameHeader as PeerHeader,
        coding::{Control, Data, OpCode as PeerOpCode},
    },
};

use crate::{
    peer,
    stream::{Frame, LIMIT, Walk, chunks, cuts, script, sender, walk},
};

/// A frame that must be refused, with the reason.
#[derive(Clone, Debug)]
struct Fault {
    /// Both bytes without the mask bit.
    start: [u8; 2],
    /// What follows the second byte of the header.
    extended: Vec<u8>,
    payload: usize,
    /// Within a fragmented message, or outside.
    inside: bool,
    wrong_mask: bool,
    error: ProtocolError,
}

impl Fault {
    fn new(first: u8, error: ProtocolError) -> Self {
        Self {
            start: [first, 2],
            extended: Vec::new(),
            payload: 2,
            inside: false,
            wrong_mask: false,
            error,
        }
    }

    fn with_length(short: u8, extended: Vec<u8>, error: ProtocolError) -> Self {
        Self {
            start: [0x82, short],
            extended,
            ..Self::new(0x82, error)
        }
    }

    fn write(&self, sender: Sender, out: &mut Vec<u8>) {
        let key = [5, 6, 7, 8];
        if self.inside {
            let mask = (sender == Sender::Client).then_some(key);
            for (opcode, clear) in [(OpCode::Text, "op"), (OpCode::Continuation, "en")] {
                let fragment = Frame {
                    fin: false,
                    opcode,
                    clear: clear.into(),
                };
                fragment.write(mask, out);
            }
        }
        let masked = (sender == Sender::Client) != self.wrong_mask;
        let [first, second] = self.start;
        out.extend([first, second | if masked { 0x80 } else { 0 }]);
        out.extend_from_slice(&self.extended);
        if masked {
            out.extend_from_slice(&key);
        }
        out.extend(std::iter::repeat_n(0, self.payload));
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    let bits = (1..8_u8, any::<u8>()).prop_map(|(bits, first)| {
        Fault::new(first & 0x8F | bits << 4, ProtocolError::ReservedBits)
    });
    let opcode = prop_oneof![3..=7_u8, 11..=15_u8];
    let opcode = (opcode, any::<bool>()).prop_map(|(opcode, fin)| {
        let first = opcode | if fin { 0x80 } else { 0 };
        Fault::new(first, ProtocolError::ReservedOpCode(opcode))
    });
    let fragmented =
        (8..=10_u8).prop_map(|opcode| Fault::new(opcode, ProtocolError::FragmentedControl));
    let long = (8..=10_u8, 126..=1000_u16).prop_map(|(opcode, len)| Fault {
        start: [0x80 | opcode, 126],
        extended: len.to_be_bytes().to_vec(),
        payload: len.into(),
        ..Fault::new(0, ProtocolError::LongControl)
    });
    let stray = any::<bool>().prop_map(|fin| {
        let first = if fin { 0x80 } else { 0 };
        Fault::new(first, ProtocolError::StrayContinuation)
    });
    let interleaved = (1..=2_u8, any::<bool>()).prop_map(|(opcode, fin)| Fault {
        inside: true,
        ..Fault::new(
            opcode | if fin { 0x80 } else { 0 },
            ProtocolError::InterleavedMessage,
        )
    });
    let medium = prop_oneof![0..126_u16, Just(125)].prop_map(|len| {
        let extended = len.to_be_bytes().to_vec();
        Fault::with_length(126, extended, ProtocolError::LengthNotMinimal)
    });
    let large = prop_oneof![0..=65_535_u64, Just(65_535)].prop_map(|len| {
        let extended = len.to_be_bytes().to_vec();
        Fault::with_length(127, extended, ProtocolError::LengthNotMinimal)
    });
    let overflow = any::<u64>().prop_map(|len| {
        let extended = (len | 1 << 63).to_be_bytes().to_vec();
        Fault::with_length(127, extended, ProtocolError::LengthOverflow)
    });
    let big = (LIMIT + 1..1 << 63).prop_map(|len| {
        let extended = len.to_be_bytes().to_vec();
        Fault::with_length(127, extended, ProtocolError::MessageTooBig)
    });
    // Alone it would fit, but not behind the fragments before it.
    let big_together = (LIMIT - 3..=LIMIT).prop_map(|len| Fault {
        start: [0x80, 127],
        payload: usize::try_from(len).expect("a limit below 4 GiB"),
        inside: true,
        ..Fault::with_length(
            127,
            len.to_be_bytes().to_vec(),
            ProtocolError::MessageTooBig,
        )
    });
    let mask = any::<bool>().prop_map(|inside| Fault {
        inside,
        wrong_mask: true,
        // The direction decides which of the two it is.
        ..Fault::new(if inside { 0x80 } else { 0x81 }, ProtocolError::MaskMissing)
    });
    prop_oneof![
        3 => bits,
        3 => opcode,
        2 => fragmented,
        3 => long,
        1 => stray,
        2 => interleaved,
        2 => medium,
        2 => large,
        2 => overflow,
        2 => big,
        1 => big_together,
        2 => mask,
    ]
}

fn peer_agrees(error: ProtocolError, peer: &Error) -> bool {
    match error {
        ProtocolError::ReservedBits => {
            // It looks at the opcode first.
            matches!(
                peer,
                Error::Protocol(PeerError::NonZeroReservedBits | PeerError::InvalidOpcode(_))
            )
        }
        ProtocolError::ReservedOpCode(ours) => {
            matches!(peer, Error::Protocol(PeerError::InvalidOpcode(theirs)) if ours == *theirs)
        }
        ProtocolError::FragmentedControl => {
            matches!(peer, Error::Protocol(PeerError::FragmentedControlFrame))
        }
        ProtocolError::LongControl => {
            matches!(peer, Error::Protocol(PeerError::ControlFrameTooBig))
        }
        ProtocolError::StrayContinuation => {
            matches!(peer, Error::Protocol(PeerError::UnexpectedContinueFrame))
        }
        ProtocolError::InterleavedMessage => {
            matches!(peer, Error::Protocol(PeerError::ExpectedFragment(_)))
        }
        ProtocolError::MaskMissing => {
            matches!(peer, Error::Protocol(PeerError::UnmaskedFrameFromClient))
        }
        ProtocolError::MaskForbidden => {
            matches!(peer, Error::Protocol(PeerError::MaskedFrameFromServer))
        }
        ProtocolError::MessageTooBig | ProtocolError::LengthOverflow => {
            matches!(peer, Error::Capacity(_))
        }
        // The peer is lenient here, or asked at another level.
        ProtocolError::LengthNotMinimal
        | ProtocolError::CloseTooShort
        | ProtocolError::CloseCode(_)
        | ProtocolError::Utf8 => true,
    }
}

fn peer_opcode(opcode: OpCode) -> PeerOpCode {
    match opcode {
        OpCode::Continuation => PeerOpCode::Data(Data::Continue),
        OpCode::Text => PeerOpCode::Data(Data::Text),
        OpCode::Binary => PeerOpCode::Data(Data::Binary),
        OpCode::Close => PeerOpCode::Control(Control::Close),
        OpCode::Ping => PeerOpCode::Control(Control::Ping),
        OpCode::Pong => PeerOpCode::Control(Control::Pong),
    }
}

fn header() -> impl Strategy<Value = FrameHeader> {
    let opcode = prop_oneof![
        Just(OpCode::Continuation),
        Just(OpCode::Text),
        Just(OpCode::Binary),
        Just(OpCode::Close),
        Just(OpCode::Ping),
        Just(OpCode::Pong),
    ];
    let len = prop_oneof![0..300_u64, 65_000..66_000_u64, 0..1_u64 << 63];
    (opcode, any::<bool>(), any::<Option<[u8; 4]>>(), len).prop_map(|(opcode, fin, mask, len)| {
        FrameHeader {
            fin: fin || opcode.control(),
            opcode,
            mask,
            len: if opcode.control() { len % 126 } else { len },
        }
    })
}

/// Sixteen bytes that look like the start of a frame more often than chance would have it.
fn likely_header() -> impl Strategy<Value = [u8; 16]> {
    let short = prop_oneof![any::<u8>(), Just(126), Just(127), Just(254), Just(255)];
    let high = prop_oneof![any::<[u8; 2]>(), Just([0, 0])];
    (any::<[u8; 16]>(), 0..2_u8, short, high, any::<bool>()).prop_map(
        |(mut bytes, reserved, short, high, zeros)| {
            if reserved == 0 {
                bytes[0] &= 0x8F;
            }
            bytes[1] = short;
            bytes[2..4].copy_from_slice(&high);
            if zeros {
                bytes[4..8].fill(0);
            }
            bytes
        },
    )
}

fn parse_by_peer(bytes: &[u8]) -> Result<Option<(PeerHeader, u64, usize)>, Error> {
    let mut cursor = std::io::Cursor::new(bytes);
    let parsed = PeerHeader::parse(&mut cursor)?;
    let used = usize::try_from(cursor.position()).expect("at most 16");
    Ok(parsed.map(|(header, len)| (header, len, used)))
}

fn walked(sender: Sender, bytes: &[u8], sizes: &[usize]) -> (Walk, Walk) {
    (walk(sender, &[bytes]), walk(sender, &chunks(bytes, sizes)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn sound_streams_are_told_alike_wherever_they_are_cut(
        script in script(),
        sender in sender(),
        sizes in cuts(),
    ) {
        let bytes = script.bytes(sender);
        let (whole, cut) = walked(sender, &bytes, &sizes);
        prop_assert_eq!(&whole, &cut);
        prop_assert_eq!(&cut.forwarded, &bytes);
        prop_assert_eq!(cut.end, Ok((true, true)));
        prop_assert_eq!(cut.messages(), script.messages());
        prop_assert_eq!(cut.frames.len(), script.frames.len());
        let mut running = None;
        for (at, (seen, frame)) in cut.frames.iter().zip(&script.frames).enumerate() {
            prop_assert_eq!(seen.header, frame.header(script.mask(sender, at)));
            prop_assert_eq!(&seen.clear, &frame.clear);
            let begins = matches!(frame.opcode, OpCode::Text | OpCode::Binary);
            prop_assert_eq!(seen.starts_message, begins);
            prop_assert!(seen.frame_end);
            prop_assert_eq!(seen.message_end, frame.fin && !frame.opcode.control());
            let opcode = match frame.opcode {
                OpCode::Continuation => running,
                opcode => Some(opcode),
            };
            prop_assert_eq!(seen.opcode, opcode);
            if !frame.opcode.control() {
                running = opcode;
            }
        }
    }

    #[test]
    fn a_stream_that_stops_is_at_a_boundary_only_between_frames(
        script in script(),
        sender in sender(),
        sizes in cuts(),
        end in any::<prop::sample::Index>(),
    ) {
        let bytes = script.bytes(sender);
        let end = end.index(bytes.len() + 1);
        let (whole, cut) = walked(sender, &bytes[..end], &sizes);
        prop_assert_eq!(&whole, &cut);

        let mut at = 0;
        let mut open = false;
        let mut boundary = (at == end, at == end);
        for seen in walk(sender, &[&bytes]).frames {
            at += seen.raw_header.len() + seen.clear.len();
            if !seen.header.opcode.control() {
                open = !seen.header.fin;
            }
            if at == end {
                boundary = (true, !open);
            }
        }
        prop_assert_eq!(cut.end, Ok(boundary));
    }

    #[test]
    fn a_fault_is_the_same_wherever_the_stream_is_cut(
        script in script(),
        fault in fault(),
        sender in sender(),
        sizes in cuts(),
        behind in vec(any::<u8>(), 0..50),
    ) {
        let mut bytes = script.bytes(sender);
        fault.write(sender, &mut bytes);
        bytes.extend(behind);
        let (whole, cut) = walked(sender, &bytes, &sizes);
        let expected = match fault.error {
            ProtocolError::MaskMissing if sender == Sender::Server => ProtocolError::MaskForbidden,
            error => error,
        };
        prop_assert_eq!(cut.end, Err(expected));
        prop_assert_eq!(&whole, &cut);
        let sound = script.frames.len() + 2 * usize::from(fault.inside);
        prop_assert_eq!(cut.frames.len(), sound);

        let theirs = peer::first_error(sender, bytes);
        prop_assert!(peer_agrees(expected, &theirs), "{:?} but {:?}", expected, theirs);
    }

    #[test]
    fn noise_is_told_alike_wherever_it_is_cut(
        sender in sender(),
        sizes in cuts(),
        starts in vec(likely_header(), 1..6),
    ) {
        let bytes = starts.concat();
        let (whole, cut) = walked(sender, &bytes, &sizes);
        prop_assert_eq!(&whole, &cut);
        prop_assert!(bytes.starts_with(&cut.forwarded));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn headers_are_written_and_read_as_tungstenite_does(header in header()) {
        let mut out = [0; MAX_HEADER];
        let len = header.encode(&mut out);
        let theirs = PeerHeader {
            is_final: header.fin,
            opcode: peer_opcode(header.opcode),
            mask: header.mask,
            ..PeerHeader::default()
        };
        let mut written = Vec::new();
        theirs.format(header.len, &mut written).unwrap();
        prop_assert_eq!(&out[..len], &written[..]);
        prop_assert_eq!(FrameHeader::parse(&written), Ok(Some((header, len))));
        for end in 0..len {
            prop_assert_eq!(FrameHeader::parse(&written[..end]), Ok(None));
        }
    }

    #[test]
    fn any_bytes_are_read_as_tungstenite_does(bytes in likely_header()) {
        let theirs = parse_by_peer(&bytes);
        match FrameHeader::parse(&bytes) {
            Ok(Some((ours, used))) => {
                let (header, len, their_used) = theirs.unwrap().unwrap();
                prop_assert_eq!(peer_opcode(ours.opcode), header.opcode);
                prop_assert_eq!((ours.fin, ours.mask), (header.is_final, header.mask));
                prop_assert_eq!((ours.len, used), (len, their_used));
                prop_assert!(!(header.rsv1 || header.rsv2 || header.rsv3));
                prop_assert_eq!(header.len(len), used);
                // What follows does not matter, and a part is never taken for the whole.
                prop_assert_eq!(FrameHeader::parse(&bytes[..used]), Ok(Some((ours, used))));
                prop_assert_eq!(FrameHeader::parse(&bytes[..used - 1]), Ok(None));
            }
            Ok(None) => prop_assert!(false, "16 bytes hold any header"),
            Err(error) => match (error, theirs) {
                (ProtocolError::ReservedBits, _) => prop_assert!(bytes[0] & 0x70 != 0),
                (ProtocolError::ReservedOpCode(opcode), theirs) => prop_assert!(
                    matches!(
                        theirs,
                        Err(Error::Protocol(PeerError::InvalidOpcode(theirs))) if theirs == opcode
                    )
                ),
                (error, theirs) => {
                    let (header, len, used) = theirs.unwrap().unwrap();
                    let control = matches!(header.opcode, PeerOpCode::Control(_));
                    let broken = match error {
                        ProtocolError::FragmentedControl => control && !header.is_final,
                        ProtocolError::LongControl => control && bytes[1] & 0x7F > 125,
                        ProtocolError::LengthOverflow => len >> 63 == 1,
                        ProtocolError::LengthNotMinimal => header.len(len) < used,
                        _ => false,
                    };
                    prop_assert!(broken, "{:?} for {:?}", error, header);
                }
            },
        }
    }
}
