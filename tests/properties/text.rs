//! Text in pieces, masks in pieces, and the payloads of close frames.

use ddp_gateway::ws::{
    CloseCode, CloseFrame, CloseReason, ControlFrame, ControlPayload, FrameHeader,
    MAX_CLOSE_REASON, MAX_CONTROL_PAYLOAD, Mask, OpCode, ProtocolError, Utf8Check,
};
use proptest::{collection::vec, prelude::*, sample::Index};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as PeerCode;

use crate::stream::{chunks, control_payload, cuts};

fn string() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..80).prop_map(String::from_iter)
}

/// Text, text with one byte changed, text cut off, and noise.
fn nearly_text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        string().prop_map(String::into_bytes),
        (string(), any::<Index>(), any::<u8>()).prop_map(|(text, at, byte)| {
            let mut bytes = text.into_bytes();
            bytes.push(b'.');
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        }),
        (string(), any::<Index>()).prop_map(|(text, end)| {
            let mut bytes = text.into_bytes();
            bytes.truncate(end.index(bytes.len() + 1));
            bytes
        }),
        vec(any::<u8>(), 0..20),
    ]
}

fn close_payload() -> impl Strategy<Value = Vec<u8>> {
    let code = prop_oneof![any::<u16>(), 900..1100_u16, 2900..5100_u16];
    prop_oneof![
        4 => (code, nearly_text()).prop_map(|(code, text)| {
            let mut payload = code.to_be_bytes().to_vec();
            payload.extend(text);
            payload.truncate(MAX_CONTROL_PAYLOAD);
            payload
        }),
        1 => vec(any::<u8>(), 0..4),
    ]
}

/// Pushes all and, when that went well, finishes.
fn check<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<(), ProtocolError> {
    let mut check = Utf8Check::new();
    for piece in pieces {
        check.push(piece)?;
    }
    check.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn text_is_text_wherever_it_is_cut(bytes in nearly_text(), sizes in cuts()) {
        let expected = str::from_utf8(&bytes).map(|_| ()).map_err(|_| ProtocolError::Utf8);
        prop_assert_eq!(check([&bytes[..]]), expected);
        prop_assert_eq!(check(chunks(&bytes, &sizes)), expected);
    }

    #[test]
    fn the_first_wrong_byte_is_found_when_it_comes(bytes in nearly_text()) {
        let mut check = Utf8Check::new();
        for end in 1..=bytes.len() {
            let wrong = str::from_utf8(&bytes[..end]).is_err_and(|error| error.error_len().is_some());
            prop_assert_eq!(check.push(&bytes[end - 1..end]).is_err(), wrong);
            if wrong {
                break;
            }
        }
    }

    #[test]
    fn a_mask_is_applied_alike_wherever_it_is_cut(
        key in any::<[u8; 4]>(),
        clear in vec(any::<u8>(), 0..200),
        sizes in cuts(),
    ) {
        let expected: Vec<u8> = clear.iter().zip(key.iter().cycle()).map(|(a, b)| a ^ b).collect();
        let mut masked = Vec::new();
        for chunk in chunks(&clear, &sizes) {
            let mask = Mask::new(key).rotated(masked.len());
            let mut copy = vec![0; chunk.len()];
            mask.apply(chunk, &mut copy);
            let mut in_place = chunk.to_vec();
            mask.apply_in_place(&mut in_place);
            prop_assert_eq!(&copy, &in_place);
            masked.extend(copy);
        }
        prop_assert_eq!(masked, expected);
    }

    #[test]
    fn close_payloads_are_read_as_the_rules_say(payload in close_payload()) {
        let expected = match &payload[..] {
            [] => Ok(None),
            [_] => Err(ProtocolError::CloseTooShort),
            [high, low, reason @ ..] => {
                let code = u16::from_be_bytes([*high, *low]);
                // The peer does not know 1014, which IANA registered later.
                if PeerCode::from(code).is_allowed() || code == 1014 {
                    match str::from_utf8(reason) {
                        Ok(reason) => Ok(Some(CloseFrame::new(CloseCode(code), reason))),
                        Err(_) => Err(ProtocolError::Utf8),
                    }
                } else {
                    Err(ProtocolError::CloseCode(code))
                }
            }
        };
        let parsed = CloseFrame::parse(&payload);
        prop_assert_eq!(&parsed, &expected);
        if let Ok(Some(close)) = parsed {
            let mut out = [0; MAX_CONTROL_PAYLOAD];
            let len = close.encode(&mut out);
            prop_assert_eq!(&out[..len], &payload[..]);
        }
    }

    #[test]
    fn a_reason_keeps_all_whole_characters_that_fit(text in string()) {
        let reason = CloseReason::new(&text);
        let rest = text.strip_prefix(reason.as_str()).unwrap();
        prop_assert!(reason.as_str().len() <= MAX_CLOSE_REASON);
        if let Some(next) = rest.chars().next() {
            prop_assert!(reason.as_str().len() + next.len_utf8() > MAX_CLOSE_REASON);
        }
    }

    #[test]
    fn a_control_frame_gives_its_payload_back_in_pieces(
        payload in control_payload(),
        key in any::<Option<[u8; 4]>>(),
        sizes in cuts(),
    ) {
        let frame = ControlFrame::pong(&payload, key).unwrap();
        let (header, used) = FrameHeader::parse(frame.as_bytes()).unwrap().unwrap();
        prop_assert_eq!((header.fin, header.opcode, header.mask), (true, OpCode::Pong, key));
        let mut collected = ControlPayload::new();
        for piece in chunks(&frame.as_bytes()[used..], &sizes) {
            let mask = key.map(|key| Mask::new(key).rotated(collected.as_bytes().len()));
            collected.push(piece, mask).unwrap();
        }
        prop_assert_eq!(collected.as_bytes(), &payload[..]);
    }
}
