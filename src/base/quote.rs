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
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{needs_escape, push_quoted};

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
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}
