//! Text as a JSON string that every SockJS client reads the way it was meant.

/// Appends `text` as a JSON string, quotes included.
///
/// Besides what JSON demands this escapes the characters that old script engines drop or take for a line end when
/// the string is evaluated as a script (`sockjs/sockjs-protocol:sockjs-protocol.py`, "Escaping").
pub fn push_quoted(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + text.len() / 8 + 2);
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut written = 0;
    for (at, char) in text.char_indices() {
        if !needs_escape(char) {
            continue;
        }
        out.extend_from_slice(&bytes[written..at]);
        written = at + char.len_utf8();
        match char {
            '"' => out.extend_from_slice(br#"\""#),
            '\\' => out.extend_from_slice(br"\\"),
            '\u{8}' => out.extend_from_slice(br"\b"),
            '\t' => out.extend_from_slice(br"\t"),
            '\n' => out.extend_from_slice(br"\n"),
            '\u{c}' => out.extend_from_slice(br"\f"),
            '\r' => out.extend_from_slice(br"\r"),
            // Everything that needs an escape lies in the basic plane: one code unit of four digits.
            _ => {
                let code = u32::from(char);
                out.extend_from_slice(br"\u");
                for shift in [12, 8, 4, 0] {
                    out.push(HEX[(code >> shift & 0xf) as usize]);
                }
            }
        }
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}

/// Reads the JSON string that `text` begins with, opening quote included, into `out`.
///
/// Gives the string and the bytes of `text` it took; `None` when it is broken, not UTF-8, cut, or longer than `out`.
pub fn read_quoted<'o>(text: &[u8], out: &'o mut [u8]) -> Option<(&'o str, usize)> {
    if text.first() != Some(&b'"') {
        return None;
    }
    let (mut at, mut len) = (1, 0);
    loop {
        let byte = *text.get(at)?;
        at += 1;
        match byte {
            b'"' => break,
            b'\\' => match *text.get(at)? {
                // Nearly all escapes are these two.
                byte @ (b'"' | b'\\') => {
                    *out.get_mut(len)? = byte;
                    at += 1;
                    len += 1;
                }
                _ => {
                    let (char, behind) = read_escape(text.get(at..)?)?;
                    let mut utf8 = [0; 4];
                    let char = char.encode_utf8(&mut utf8).as_bytes();
                    out.get_mut(len..len + char.len())?.copy_from_slice(char);
                    at = text.len() - behind.len();
                    len += char.len();
                }
            },
            0..0x20 => return None,
            byte => {
                *out.get_mut(len)? = byte;
                len += 1;
                // Whole words are copied, up to the first byte that is special.
                while let (Some(word), Some(room)) = (
                    text.get(at..).and_then(|rest| rest.first_chunk()),
                    out.get_mut(len..).and_then(|room| room.first_chunk_mut()),
                ) {
                    *room = *word;
                    let run = plain_in(*word);
                    at += run;
                    len += run;
                    if run < 8 {
                        break;
                    }
                }
            }
        }
    }
    let string = str::from_utf8(out.get(..len)?).ok()?;
    Some((string, at))
}

/// How many bytes stand before the first that means something in a JSON string: a quote, a backslash or a control
/// character; all of them when there is none.
#[inline]
pub fn plain_len(text: &[u8]) -> usize {
    let (words, tail) = text.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let run = plain_in(*word);
        if run < 8 {
            return at * 8 + run;
        }
    }
    let run = tail.iter().position(|&byte| is_special(byte));
    text.len() - tail.len() + run.unwrap_or(tail.len())
}

/// As [`plain_len`], for eight bytes at once: the borrow of a subtraction below zero marks a byte in its highest bit.
/// It may mark bytes behind one that is meant, too, and never one before it.
#[inline]
fn plain_in(word: [u8; 8]) -> usize {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let word = u64::from_le_bytes(word);
    let zero_in = |word: u64| word.wrapping_sub(EACH) & !word;
    let quotes = zero_in(word ^ (EACH * b'"' as u64));
    let escapes = zero_in(word ^ (EACH * b'\\' as u64));
    let controls = word.wrapping_sub(EACH * 0x20) & !word;
    let marks = (quotes | escapes | controls) & (EACH * 0x80);
    (marks.trailing_zeros() / 8) as usize
}

fn is_special(byte: u8) -> bool {
    matches!(byte, 0..0x20 | b'"' | b'\\')
}

/// The character of an escape, after its backslash, and what follows it.
fn read_escape(text: &[u8]) -> Option<(char, &[u8])> {
    let (&kind, rest) = text.split_first()?;
    let char = match kind {
        b'"' | b'\\' | b'/' => char::from(kind),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let (high, rest) = read_unit(rest)?;
            if !(0xd800..0xdc00).contains(&high) {
                return Some((char::from_u32(high)?, rest));
            }
            let (low, rest) = read_unit(rest.strip_prefix(br"\u")?)?;
            let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
            let char = char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + low)?;
            return Some((char, rest));
        }
        _ => return None,
    };
    Some((char, rest))
}

fn read_unit(text: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = text.split_at_checked(4)?;
    let mut unit = 0;
    for &digit in digits {
        unit = unit << 4 | char::from(digit).to_digit(16)?;
    }
    Some((unit, rest))
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn needs_escape(char: char) -> bool {
    matches!(
        char,
        '\0'..='\u{1f}'
            | '"'
            | '\\'
            | '\u{200c}'..='\u{200f}'
            | '\u{2028}'..='\u{202f}'
            | '\u{2060}'..='\u{206f}'
            | '\u{fff0}'..='\u{ffff}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::{needs_escape, push_quoted, read_quoted};

    fn quoted(text: &str) -> String {
        let mut out = Vec::new();
        push_quoted(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn escapes_what_json_and_sockjs_demand() {
        assert_eq!(quoted(""), r#""""#);
        assert_eq!(quoted(r#"{"msg":"ping"}"#), r#""{\"msg\":\"ping\"}""#);
        assert_eq!(
            quoted("a\\b\u{8}\t\n\u{c}\r\u{1}"),
            r#""a\\b\b\t\n\f\r\u0001""#
        );
        assert_eq!(
            quoted("\u{200b}\u{200c}\u{2028}\u{2029}\u{2060}\u{fff0}\u{ffff}"),
            "\"\u{200b}\\u200c\\u2028\\u2029\\u2060\\ufff0\\uffff\""
        );
        assert_eq!(quoted("é€😀"), "\"é€😀\"");
    }

    proptest! {
        #[test]
        fn any_json_reader_gets_the_text_back(text in any::<String>()) {
            let json = quoted(&text);
            prop_assert!(!json[1..json.len() - 1].chars().any(|char| needs_escape(char) && char != '"' && char != '\\'));
            prop_assert_eq!(&serde_json::from_str::<String>(&json).unwrap(), &text);
            let mut out = vec![0; text.len()];
            let followed = format!("{json}]");
            prop_assert_eq!(read_quoted(followed.as_bytes(), &mut out), Some((text.as_str(), json.len())));
        }

        #[test]
        fn strings_are_read_as_json_readers_do(
            parts in prop::collection::vec(prop::sample::select(vec![
                "a", "é", "\\", "\"", "u00e9", "\\u00e9", "\\ud83d", "\\ude00", "\\n", "\\x", "\n", "\\u12",
            ]), 0..6),
        ) {
            let json = format!("\"{}\"", parts.concat());
            let mut out = [0; 64];
            let read = read_quoted(json.as_bytes(), &mut out)
                .filter(|(_, used)| *used == json.len())
                .map(|(text, _)| text.to_owned());
            prop_assert_eq!(read, serde_json::from_str::<String>(&json).ok());
        }
    }

    #[test]
    fn what_does_not_fit_is_not_read() {
        let mut out = [0; 2];
        assert_eq!(read_quoted(b"\"ab\"", &mut out), Some(("ab", 4)));
        assert_eq!(read_quoted(b"\"abc\"", &mut out), None);
        assert_eq!(read_quoted(b"\"a", &mut out), None);
        assert_eq!(read_quoted(b"", &mut out), None);
    }
}
