use std::{sync::Arc, time::Instant};

use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};

use super::{FENCE_AFTER, TAIL_BYTES, TAIL_MESSAGES, Tail, Uncovered};
use crate::{
    base::chunk::{Backlog, Budget},
    ddp::Framing,
    session::resume::missed::split,
    ws::{FrameHeader, MAX_HEADER, OpCode},
};

fn frame(fin: bool, opcode: OpCode, text: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        fin,
        opcode,
        mask: None,
        len: text.len() as u64,
    };
    let mut head = [0; MAX_HEADER];
    let length = header.encode(&mut head);
    [&head[..length], text].concat()
}

fn event(number: u32) -> Vec<u8> {
    let text = format!(r#"{{"msg":"changed","collection":"c","id":"{number}"}}"#);
    frame(true, OpCode::Text, text.as_bytes())
}

fn tail(budget: &Arc<Budget>, sent: u32) -> Tail {
    Tail::new(Backlog::new(budget.clone()), sent)
}

/// The frames that a client with `received` of `sent` messages gets.
fn missed(tail: &mut Tail, received: u64, sent: u32) -> Result<Vec<Vec<u8>>, Uncovered> {
    let messages = tail.take(Framing::Raw).ok_or(Uncovered)?;
    let missed = tail.missed_since(received, sent, messages)?;
    Ok(missed.into_iter().map(|missed| missed.frames).collect())
}

#[test]
fn a_pong_says_that_everything_before_its_ping_is_there() {
    let budget = Arc::new(Budget::new(1 << 20));
    let start = Instant::now();
    let mut tail = tail(&budget, 1);
    tail.settle(1, start);
    assert_eq!(tail.next_timeout(), None, "nothing is kept, nothing asked");
    tail.record(&event(2));
    tail.settle(2, start);
    let due = tail.next_timeout().unwrap();
    assert_eq!(due, start + FENCE_AFTER);
    tail.handle_timeout(due);
    assert!(tail.wants_fence());
    let fence = tail.place_fence(2);
    tail.record(&event(3));
    tail.settle(3, due);
    assert_eq!(tail.next_timeout(), None, "one fence at a time");
    tail.handle_pong(b"");
    tail.handle_pong(&[9; 4]);
    assert_eq!(missed_of_copy(&tail, &[event(2), event(3)]), 2);
    tail.handle_pong(&fence);
    assert_eq!(tail.len(), event(3).len());
    tail.settle(3, due);
    tail.handle_timeout(due + FENCE_AFTER);
    let fence = tail.place_fence(3);
    tail.handle_pong(&fence);
    assert!(tail.is_empty());
    assert_eq!(budget.used(), 0, "an idle session holds nothing");
    assert_eq!(missed(&mut tail, 3, 3), Ok(vec![]));
}

fn missed_of_copy(tail: &Tail, expected: &[Vec<u8>]) -> usize {
    assert_eq!(tail.len(), expected.concat().len());
    expected.len()
}

#[test]
fn a_client_that_missed_more_than_is_kept_is_not_deceived() {
    let budget = Arc::new(Budget::new(10 << 20));
    let now = Instant::now();
    for (received, sent) in [(4_u64, 7_u32), (8, 7), (0, 7)] {
        let mut tail = tail(&budget, 5);
        tail.record(&event(6));
        tail.record(&event(7));
        assert_eq!(missed(&mut tail, received, sent), Err(Uncovered));
    }
    // A message within which it ends, or that was not recorded.
    let mut cut = tail(&budget, 5);
    cut.record(&event(6)[..9]);
    assert_eq!(missed(&mut cut, 5, 6), Err(Uncovered));
    let mut short = tail(&budget, 5);
    short.record(&event(6));
    assert_eq!(missed(&mut short, 5, 7), Err(Uncovered));
    // Over the bound of bytes, and of messages.
    let mut full = tail(&budget, 5);
    full.record(&vec![0; TAIL_BYTES + 1]);
    full.record(&event(7));
    assert!(full.is_broken() && full.is_empty());
    full.settle(7, now);
    full.record(&event(8));
    assert_eq!(missed(&mut full, 7, 8), Ok(vec![event(8)]));
    let mut many = tail(&budget, 5);
    let sent = 5 + TAIL_MESSAGES + 1;
    for number in 5..sent {
        many.record(&event(number));
    }
    many.settle(sent, now);
    assert!(many.is_empty());
    assert_eq!(missed(&mut many, 6, sent), Err(Uncovered));
}

#[test]
fn a_process_without_memory_keeps_nothing() {
    let budget = Arc::new(Budget::new(10));
    let mut tail = tail(&budget, 1);
    tail.record(&event(2));
    assert!(tail.is_broken());
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_connected_that_was_lost_too_is_not_sent_again() {
    let budget = Arc::new(Budget::new(1 << 20));
    let mut tail = tail(&budget, 1);
    // Resumed at 40: `connected` is the 41st, one message was sent again.
    tail.reopen(41, true);
    tail.record(&event(42));
    assert_eq!(missed(&mut tail, 40, 42), Ok(vec![event(42)]));
    tail.reopen(41, true);
    tail.record(&event(42));
    assert_eq!(missed(&mut tail, 41, 42), Ok(vec![event(42)]));
    tail.reopen(41, true);
    assert_eq!(missed(&mut tail, 39, 41), Err(Uncovered));
    tail.reopen(1, false);
    assert_eq!(missed(&mut tail, 0, 1), Err(Uncovered));
}

proptest! {
    /// Whatever is sent, fenced and acknowledged: a client gets what it has not, in order, once.
    #[test]
    fn what_is_missed_is_what_was_not_received(
        steps in prop::collection::vec((0..5_u8, 0..3_usize), 1..120),
        lost in 0..40_usize,
    ) {
        let budget = Arc::new(Budget::new(1 << 22));
        let mut now = Instant::now();
        let mut tail = tail(&budget, 1);
        let mut sent: Vec<Vec<u8>> = vec![b"connected".to_vec()];
        let mut acknowledged = 1;
        let mut fence: Option<([u8; 4], usize)> = None;
        for (step, cuts) in steps {
            now += FENCE_AFTER / 2;
            match step {
                0..=2 => {
                    let whole = event(u32::try_from(sent.len()).unwrap());
                    let text = &whole[2..];
                    let mut frames = Vec::new();
                    let at = text.len() / (cuts + 1);
                    for (n, part) in text.chunks(at.max(1)).enumerate() {
                        let opcode = if n == 0 { OpCode::Text } else { OpCode::Continuation };
                        frames.extend(frame((n + 1) * at.max(1) >= text.len(), opcode, part));
                    }
                    for piece in frames.chunks(7) {
                        tail.record(piece);
                    }
                    sent.push(frames);
                }
                3 => tail.record(&frame(true, OpCode::Text, br#"{"msg":"ping","id":"1"}"#)),
                _ => {
                    if let Some((payload, count)) = fence.take() {
                        tail.handle_pong(&payload);
                        acknowledged = count;
                    }
                }
            }
            let count = u32::try_from(sent.len()).unwrap();
            tail.settle(count, now);
            tail.handle_timeout(now);
            if tail.wants_fence() {
                prop_assert!(fence.is_none());
                fence = Some((tail.place_fence(count), sent.len()));
            }
        }
        let received = sent.len().saturating_sub(lost).max(acknowledged);
        let all = missed(&mut tail, received as u64, u32::try_from(sent.len()).unwrap()).unwrap();
        let data: Vec<Vec<u8>> = all
            .into_iter()
            .filter(|frames| split(frames, Framing::Raw).unwrap()[0].counted)
            .collect();
        prop_assert_eq!(data, sent[received..].to_vec());
        prop_assert_eq!(budget.used(), 0);
    }
}
