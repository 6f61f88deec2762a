//! Text in fewer bytes: known words, ids, numbers.
//!
//! Equal texts have equal packed forms and different texts different ones, so ids are compared as they lie in the arena.
//! A packed text is a sequence of
//! - characters as they are, except control characters;
//! - words of one byte, see [`super::words`];
//! - one of the marks below and what belongs to it.

use std::borrow::Cow;

use super::{LONGEST_ID, words};

/// At the start: all that follows is the text as it is.
const PLAIN: u8 = 0x00;
/// The id of the user who is logged in.
const OWN_USER: u8 = 0x01;
/// An id as Meteor makes them: 17 letters of the base64url alphabet in 13 bytes.
const ID: u8 = 0x02;
/// A count, then as many letters of that alphabet at 6 bits each.
const LETTERS: u8 = 0x03;
/// A count, then as many bytes, written as two lower-case hexadecimal digits each.
const HEX: u8 = 0x04;
/// 16 bytes, written in lower case with four dashes.
const UUID: u8 = 0x05;
/// A varint, written in decimal without leading zeros.
const NUMBER: u8 = 0x06;
/// A control character.
const CONTROL: u8 = 0x07;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const ID_LEN: usize = 17;
/// Below it, letters at 6 bits and their count need as much space as the text.
const SHORTEST_RUN: usize = 12;
/// The count is one byte.
const LONGEST_RUN: usize = 255;
/// Fewer digits take no less space as a number.
const SHORTEST_NUMBER: usize = 4;
/// What a shorter user id would save is not worth looking for.
const SHORTEST_OWN: usize = 4;
/// Bytes of a UUID with a dash before them.
const UUID_GROUPS: [usize; 4] = [4, 6, 8, 10];

/// Appends the packed form of `text` to `out`; it is at most one byte longer than the text. `own_user` may be empty.
pub(super) fn pack(text: &str, own_user: &str, out: &mut impl Out) {
    // What is below would do the same, digit by digit.
    if text.len() < SHORTEST_NUMBER && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return out.put(text.as_bytes());
    }
    let start = out.len();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = if own_user.len() >= SHORTEST_OWN && rest.starts_with(own_user) {
            out.push(OWN_USER);
            own_user.len()
        } else if let Some((code, word)) = words::at_start_of(rest) {
            out.push(code);
            word.len()
        } else if let Some(taken) = pack_run(rest, out) {
            taken
        } else {
            let taken = first.len_utf8();
            if u32::from(first) < 0x20 {
                out.push(CONTROL);
            }
            out.put(&rest.as_bytes()[..taken]);
            taken
        };
        rest = &rest[taken..];
    }
    if out.len() - start > text.len() + 1 {
        out.truncate(start);
        out.push(PLAIN);
        out.put(text.as_bytes());
    }
}

/// The text whose packed form this is. Stops at what [`pack`] never writes.
pub(super) fn unpack<'a>(packed: &'a [u8], own_user: &str) -> Cow<'a, str> {
    let plain = match packed.split_first() {
        Some((&PLAIN, rest)) => str::from_utf8(rest).ok(),
        _ if packed.iter().all(|byte| (0x20..0x80).contains(byte)) => str::from_utf8(packed).ok(),
        _ => None,
    };
    if let Some(text) = plain {
        return Cow::Borrowed(text);
    }
    // An id takes a little less than half of its length.
    let mut text = String::with_capacity(packed.len() * 5 / 2);
    let mut rest = packed;
    while unpack_one(&mut rest, own_user, &mut text).is_some() {}
    Cow::Owned(text)
}

/// Where packed text goes.
pub(super) trait Out {
    fn len(&self) -> usize;
    fn put(&mut self, bytes: &[u8]);
    fn truncate(&mut self, len: usize);

    fn push(&mut self, byte: u8) {
        self.put(&[byte]);
    }
}

impl Out for Vec<u8> {
    fn len(&self) -> usize {
        self.len()
    }

    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn truncate(&mut self, len: usize) {
        self.truncate(len);
    }
}

/// A few bytes for the moment, of which those that do not fit are only counted.
#[derive(Clone, Copy)]
pub(super) struct Short<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Short<N> {
    pub(super) fn new() -> Self {
        Self {
            bytes: [0; N],
            len: 0,
        }
    }

    /// What [`put_counted`] of the packed form of an id appends.
    pub(super) fn counted(id: &str) -> Self {
        let mut short = Self::new();
        short.push(0);
        pack(id, "", &mut short);
        debug_assert!(short.len <= N, "there is room for the longest id");
        short.bytes[0] = u8::try_from(short.len - 1).unwrap_or_default();
        short
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl<const N: usize> Out for Short<N> {
    fn len(&self) -> usize {
        self.len
    }

    fn put(&mut self, bytes: &[u8]) {
        if let Some(room) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            room.copy_from_slice(bytes);
        }
        self.len += bytes.len();
    }

    fn push(&mut self, byte: u8) {
        if let Some(room) = self.bytes.get_mut(self.len) {
            *room = byte;
        }
        self.len += 1;
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

/// Enough for an id of [`LONGEST_ID`], packed, and what stands beside it.
pub(super) const ID_ROOM: usize = LONGEST_ID + 8;

pub(super) fn put_varint(mut value: u64, out: &mut impl Out) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Takes a varint off the start of `bytes`.
pub(super) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = take_byte(bytes)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

pub(super) fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (&first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(first)
}

pub(super) fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

/// Appends a short text that is packed and may stand among others.
pub(super) fn put_counted(packed: &[u8], out: &mut Vec<u8>) {
    debug_assert!(packed.len() <= LONGEST_ID + 1);
    out.extend(u8::try_from(packed.len()));
    out.extend_from_slice(packed);
}

pub(super) fn take_counted<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take_byte(bytes)?;
    take(bytes, usize::from(len))
}

/// Packs an id or number that `text` begins with, if that saves anything. How much of the text it was.
fn pack_run(text: &str, out: &mut impl Out) -> Option<usize> {
    let len = text
        .bytes()
        .take(LONGEST_RUN)
        .take_while(|&byte| sextet(byte).is_some())
        .count();
    let run = &text.as_bytes()[..len];
    if let Some(bytes) = uuid(run) {
        out.push(UUID);
        out.put(&bytes);
    } else if let Some(number) = number(run) {
        out.push(NUMBER);
        put_varint(number, out);
    } else if len >= SHORTEST_RUN && is_hex(run) {
        out.put(&[HEX, u8::try_from(len / 2).ok()?]);
        for byte in run.chunks_exact(2).filter_map(hex_byte) {
            out.push(byte);
        }
    } else if len == ID_LEN || len == 2 * ID_LEN {
        // A direct room is named by its two users.
        out.push(ID);
        pack_letters(&run[..ID_LEN], out);
        return Some(ID_LEN);
    } else if len >= SHORTEST_RUN {
        out.put(&[LETTERS, u8::try_from(len).ok()?]);
        pack_letters(run, out);
    } else {
        return None;
    }
    Some(len)
}

fn unpack_one(rest: &mut &[u8], own_user: &str, text: &mut String) -> Option<()> {
    let packed = *rest;
    let first = take_byte(rest)?;
    if let Some(word) = words::by_code(first) {
        text.push_str(word);
        return Some(());
    }
    match first {
        OWN_USER => text.push_str(own_user),
        ID => unpack_letters(rest, ID_LEN, text)?,
        LETTERS => {
            let count = take_byte(rest)?;
            unpack_letters(rest, usize::from(count), text)?;
        }
        HEX => {
            let count = take_byte(rest)?;
            for &byte in take(rest, usize::from(count))? {
                push_hex(byte, text);
            }
        }
        UUID => {
            for (index, &byte) in take(rest, 16)?.iter().enumerate() {
                if UUID_GROUPS.contains(&index) {
                    text.push('-');
                }
                push_hex(byte, text);
            }
        }
        NUMBER => text.push_str(&take_varint(rest)?.to_string()),
        CONTROL => text.push(char::from(take_byte(rest)?)),
        _ => {
            let len = match first {
                0x00..0x80 => 1,
                0x80..0xe0 => 2,
                0xe0..0xf0 => 3,
                0xf0.. => 4,
            };
            text.push_str(str::from_utf8(packed.get(..len)?).ok()?);
            *rest = packed.get(len..)?;
        }
    }
    Some(())
}

fn pack_letters(letters: &[u8], out: &mut impl Out) {
    for group in letters.chunks(4) {
        let bits = group
            .iter()
            .enumerate()
            .fold(0, |bits, (place, &letter)| {
                bits | u32::from(sextet(letter).unwrap_or(0)) << (18 - 6 * place)
            })
            .to_be_bytes();
        out.put(&bits[1..=packed_letters(group.len())]);
    }
}

fn unpack_letters(rest: &mut &[u8], count: usize, text: &mut String) -> Option<()> {
    let mut left = count;
    for group in take(rest, packed_letters(count))?.chunks(3) {
        let bits = group.iter().enumerate().fold(0, |bits, (place, &byte)| {
            bits | u32::from(byte) << (16 - 8 * place)
        });
        for place in 0..left.min(4) {
            let index = bits >> (18 - 6 * place) & 0x3f;
            text.push(char::from(ALPHABET[index as usize]));
        }
        left = left.saturating_sub(4);
    }
    Some(())
}

/// How many bytes so many letters need.
fn packed_letters(count: usize) -> usize {
    (count * 6).div_ceil(8)
}

fn sextet(byte: u8) -> Option<u8> {
    Some(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    })
}

fn number(run: &[u8]) -> Option<u64> {
    if !(SHORTEST_NUMBER..=19).contains(&run.len()) || run[0] == b'0' {
        return None;
    }
    run.iter().try_fold(0, |number, &byte| {
        byte.is_ascii_digit()
            .then(|| number * 10 + u64::from(byte - b'0'))
    })
}

fn uuid(run: &[u8]) -> Option<[u8; 16]> {
    if run.len() != 36 {
        return None;
    }
    let mut bytes = [0; 16];
    let mut rest = run;
    for (index, byte) in bytes.iter_mut().enumerate() {
        if UUID_GROUPS.contains(&index) && take_byte(&mut rest)? != b'-' {
            return None;
        }
        *byte = hex_byte(take(&mut rest, 2)?)?;
    }
    Some(bytes)
}

fn is_hex(run: &[u8]) -> bool {
    run.len().is_multiple_of(2) && run.iter().all(|&byte| nibble(byte).is_some())
}

fn hex_byte(pair: &[u8]) -> Option<u8> {
    Some(nibble(pair[0])? << 4 | nibble(pair[1])?)
}

fn nibble(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

fn push_hex(byte: u8, text: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for nibble in [byte >> 4, byte & 0x0f] {
        text.push(char::from(DIGITS[usize::from(nibble)]));
    }
}

#[cfg(test)]
mod tests {
    use super::{pack, put_varint, take_varint, unpack};

    fn packed(text: &str, own: &str) -> Vec<u8> {
        let mut out = Vec::new();
        pack(text, own, &mut out);
        assert_eq!(unpack(&out, own), text, "{out:x?}");
        assert!(out.len() <= text.len() + 1);
        out
    }

    #[test]
    fn what_clients_send_takes_little_space() {
        let user = "aobEdbYhXfu5hkeqG";
        for (text, bytes) in [
            ("", 0),
            ("1", 1),
            ("4711", 3),
            ("1767225600000", 7),
            ("kX3fS9bQ7Zt2LmNaP", 14),
            ("rc-ddp-client-12", 3),
            ("ddp-2048", 4),
            ("9f1b7c10-5f0e-11ef-9a53-0242ac120002", 17),
            ("507f1f77bcf86cd799439011", 14),
            ("RScctEHSmLGZGywfIhWyRpyofhKOiMoUIpimhvheU3f", 35),
            (r#"["GENERAL",{"useCollection":false,"args":[]}]"#, 3),
            (
                r#"["aobEdbYhXfu5hkeqG/rooms-changed",{"useCollection":false,"args":[]}]"#,
                4,
            ),
            (r#"["kX3fS9bQ7Zt2LmNaP/deleteMessageBulk",false]"#, 17),
            (
                r#"["aobEdbYhXfu5hkeqGkX3fS9bQ7Zt2LmNaP/user-activity",{"useCollection":false,"args":[]}]"#,
                18,
            ),
            (r#"["kX3fS9bQ7Zt2LmNaPaobEdbYhXfu5hkeqG"]"#, 17),
        ] {
            assert_eq!(packed(text, user).len(), bytes, "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_an_id_comes_back_as_it_was() {
        for text in [
            "0001",
            "00",
            "9f1b7c10-5f0e-11ef-9a53-0242AC120002",
            "9f1b7c10-5f0e-11ef-9a53-0242ac12000",
            "99999999999999999999",
            "9999999999999999999",
            "18446744073709551616",
            "507F1F77BCF86CD799439011",
            "507f1f77bcf86cd79943901",
            "------------------------------------",
            "rc-ddp-client-",
            "rc-ddp-client-007",
            "ddp--1",
            "\0",
            "\u{1}\u{2}\u{10}\u{1f}\u{7f}\u{80}\u{bf}",
            "é",
            "日本語のid",
            "😀a😀",
            "a\tb\r\nc",
            "kX3fS9bQ7Zt2LmNa",
            "kX3fS9bQ7Zt2LmNaPP",
            "\u{fffd}\u{feff}",
        ] {
            packed(text, "");
            packed(text, text);
            packed(&format!("{text}{text}x{text}"), text);
            packed(&text.repeat(300), "");
        }
    }

    #[test]
    fn every_character_comes_back() {
        for first in (0..0x1000)
            .chain(0xfff0..0x1_0010)
            .filter_map(char::from_u32)
        {
            packed(&first.to_string(), "");
            packed(&format!("kX3fS9bQ7Zt2LmNaP{first}{first}/message"), "");
        }
    }

    #[test]
    fn own_user_is_told_apart_from_its_neighbours() {
        assert_eq!(packed("rocket.cat", "rocket.cat"), [1]);
        assert_eq!(packed("rocket.cats", "rocket.cat").len(), 2);
        assert_eq!(packed("abc", "abc"), b"abc");
    }

    #[test]
    fn rubbish_in_the_arena_yields_some_text() {
        for first in 0..=u8::MAX {
            for second in [0, 1, 2, 0x7f, 0x80, 0xc3, 0xff] {
                unpack(&[first, second, 0xff, second, first], "user");
                unpack(&[first], "user");
            }
        }
        assert_eq!(unpack(&[0xff, 0xff], ""), "");
    }

    #[test]
    fn varints_come_back() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(value, &mut bytes);
            let mut rest = &bytes[..];
            assert_eq!(take_varint(&mut rest), Some(value));
            assert!(rest.is_empty());
            assert_eq!(take_varint(&mut &bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(take_varint(&mut &[0xff; 11][..]), None);
    }
}
