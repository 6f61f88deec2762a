//! Frames from server to client, as the text of one WebSocket message.

use crate::base::quote::push_quoted;

/// The session is open; the first frame of each.
pub const OPEN: &str = "o";

/// A sign of life.
pub const HEARTBEAT: &str = "h";

/// The session is over. As the very first frame it makes a client give up without trying another transport.
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    let mut out = format!("c[{code},").into_bytes();
    push_quoted(&mut out, reason);
    out.push(b']');
    out
}

/// Messages in order.
pub fn messages<'a>(messages: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let mut out = b"a[".to_vec();
    for (index, message) in messages.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_quoted(&mut out, message);
    }
    out.push(b']');
    out
}

#[cfg(test)]
mod tests {
    use super::{close, messages};

    #[test]
    fn close_frames_carry_code_and_quoted_reason() {
        assert_eq!(close(3000, "Go away!"), br#"c[3000,"Go away!"]"#);
        assert_eq!(close(1012, "a \"b\""), br#"c[1012,"a \"b\""]"#);
    }

    #[test]
    fn messages_keep_their_order() {
        assert_eq!(messages([]), b"a[]");
        assert_eq!(messages(["x", "\u{2028}"]), br#"a["x","\u2028"]"#);
    }
}
