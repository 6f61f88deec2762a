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
