//! A strict look at the framing of HTTP/1.1 requests before hyper reads them.
//!
//! hyper follows RFC 9112 section 6.1 in reading a request with both `Content-Length` and
//! `Transfer-Encoding` by the latter, and hides the former. The standard calls such a request an
//! attempt at smuggling and allows to refuse it; that is done here. The screen follows the messages
//! of a connection closely enough to know which bytes are heads, and keeps 64 bytes of the current
//! line, nothing else.

use memchr::memchr;

/// Follows the requests of one connection.
#[derive(Debug)]
pub struct Screen {
    place: Place,
    line: Line,
    head: Head,
    heads: u64,
}

/// What the bytes that come next are.
#[derive(Debug)]
enum Place {
    Head,
    /// A body of known length.
    Body {
        left: u64,
    },
    ChunkSize,
    /// The data of a chunk with the line end after it.
    Chunk {
        left: u64,
    },
    Trailers,
}

/// The beginning of the current line.
#[derive(Debug)]
struct Line {
    start: [u8; LINE],
    /// The whole line's length so far.
    length: usize,
}

/// What is known of the current head.
#[derive(Debug, Default)]
struct Head {
    begun: bool,
    length: Option<u64>,
    chunked: bool,
}

impl Screen {
    pub fn new() -> Self {
        Self {
            place: Place::Head,
            line: Line {
                start: [0; LINE],
                length: 0,
            },
            head: Head::default(),
            heads: 0,
        }
    }

    /// Heads that have ended.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether a head has begun and not ended.
    pub fn in_head(&self) -> bool {
        matches!(self.place, Place::Head) && (self.head.begun || self.line.length > 0)
    }

    /// Looks at the next bytes. If a head in them is ambiguous, the rest of `bytes`, which holds the
    /// end of that head's line, is overwritten with NUL, which no HTTP parser accepts.
    ///
    /// Returns whether that happened. The connection ends then, so nothing may be pushed after it.
    pub fn push(&mut self, bytes: &mut [u8]) -> bool {
        let mut at = 0;
        while at < bytes.len() {
            if let Place::Body { left } | Place::Chunk { left } = &mut self.place {
                let rest = (bytes.len() - at) as u64;
                let step = rest.min(*left);
                *left -= step;
                if *left == 0 {
                    self.place = match self.place {
                        Place::Chunk { .. } => Place::ChunkSize,
                        _ => Place::Head,
                    };
                }
                // No more than the length of `bytes`.
                at += usize::try_from(step).unwrap_or(usize::MAX);
                continue;
            }
            let rest = &bytes[at..];
            let end = memchr(b'\n', rest);
            let line = &rest[..end.unwrap_or(rest.len())];
            self.line.extend(line);
            at += line.len();
            if end.is_some() {
                if !self.end_line() {
                    bytes[at..].fill(0);
                    return true;
                }
                at += 1;
            }
        }
        false
    }

    /// Takes the line in; false when it makes the head ambiguous.
    fn end_line(&mut self) -> bool {
        let empty = self.line.is_empty();
        let fine = match self.place {
            Place::Head if empty => {
                if self.head.begun {
                    self.place = match self.head {
                        Head { chunked: true, .. } => Place::ChunkSize,
                        Head {
                            length: Some(left @ 1..),
                            ..
                        } => Place::Body { left },
                        Head { .. } => Place::Head,
                    };
                    self.head = Head::default();
                    self.heads += 1;
                }
                true
            }
            Place::Head => self.head.take(&self.line),
            Place::ChunkSize => {
                self.place = match self.line.chunk_size() {
                    0 => Place::Trailers,
                    size => Place::Chunk {
                        left: size.saturating_add(2),
                    },
                };
                true
            }
            Place::Trailers => {
                if empty {
                    self.place = Place::Head;
                }
                true
            }
            Place::Body { .. } | Place::Chunk { .. } => true,
        };
        self.line.length = 0;
        fine
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

impl Head {
    fn take(&mut self, line: &Line) -> bool {
        if !self.begun {
            // The request line.
            self.begun = true;
            return true;
        }
        if line.is_named(b"transfer-encoding") {
            self.chunked = true;
        } else if line.is_named(b"content-length") {
            let Some(length) = line.number(b"content-length".len() + 1) else {
                return false;
            };
            if self.length.is_some_and(|other| other != length) {
                return false;
            }
            self.length = Some(length);
        }
        !(self.chunked && self.length.is_some())
    }
}

impl Line {
    fn extend(&mut self, bytes: &[u8]) {
        if let Some(room) = self.start.get_mut(self.length..) {
            let kept = room.len().min(bytes.len());
            room[..kept].copy_from_slice(&bytes[..kept]);
        }
        self.length = self.length.saturating_add(bytes.len());
    }

    fn is_empty(&self) -> bool {
        self.length == 0 || (self.length == 1 && self.start[0] == b'\r')
    }

    fn start(&self) -> &[u8] {
        &self.start[..self.length.min(LINE)]
    }

    /// Whether the line is a field of this name, with or without white space before the colon: what
    /// hyper refuses does no harm here.
    fn is_named(&self, name: &[u8]) -> bool {
        self.start()
            .split_at_checked(name.len())
            .is_some_and(|(start, rest)| {
                start.eq_ignore_ascii_case(name) && rest.trim_ascii_start().first() == Some(&b':')
            })
    }

    /// The decimal number that fills the line from `at` on.
    fn number(&self, at: usize) -> Option<u64> {
        if self.length > LINE {
            return None;
        }
        let digits = self.start().get(at..)?.trim_ascii();
        let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        plain
            .then(|| std::str::from_utf8(digits).ok()?.parse().ok())
            .flatten()
    }

    /// What is not a chunk's size ends the connection in hyper, so any number will do for it.
    fn chunk_size(&self) -> u64 {
        let digits = self
            .start()
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit());
        digits.fold(0_u64, |size, &byte| {
            let digit = char::from(byte).to_digit(16).unwrap_or(0);
            size.saturating_mul(16).saturating_add(u64::from(digit))
        })
    }
}

/// Enough for the longest line that matters; a longer one of the kind is refused.
const LINE: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::Screen;

    fn refused(text: &str) -> bool {
        Screen::new().push(&mut text.as_bytes().to_vec())
    }

    #[test]
    fn both_lengths_are_refused() {
        for (text, expected) in [
            (
                "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                true,
            ),
            (
                "POST / HTTP/1.1\r\ntransfer-ENCODING:chunked\r\ncontent-length:5\r\n\r\n",
                true,
            ),
            (
                "POST / HTTP/1.1\nContent-Length: 5\nTransfer-Encoding: chunked\n\n",
                true,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
                true,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
                false,
            ),
            ("POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nContent-Length: 0x5\r\n\r\n", true),
            (
                "POST / HTTP/1.1\r\nContent-Length: 5\r\nX-Transfer-Encoding: chunked\r\n\r\n",
                false,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length-X: a\r\nTransfer-Encoding: chunked\r\n\r\n",
                false,
            ),
            (
                "GET /?Content-Length: 5 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                false,
            ),
        ] {
            assert_eq!(refused(text), expected, "{text:?}");
        }
    }

    #[test]
    fn bodies_are_not_heads() {
        let fields = "a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
        let length = fields.len();
        assert!(!refused(&format!(
            "POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{fields}GET / HTTP/1.1\r\n\r\n"
        )));
        assert!(!refused(&format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{fields}\r\n0\r\n\r\n"
        )));
        // The head after a body is one again.
        for body in [
            "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nx: y\r\n\r\n",
        ] {
            assert!(refused(&format!(
                "{body}POST / HTTP/1.1\r\n{}",
                &fields[3..]
            )));
        }
    }

    #[test]
    fn knows_when_a_head_is_open() {
        let mut screen = Screen::new();
        assert!(!screen.in_head());
        screen.push(&mut b"POST / HT".to_vec());
        assert!(screen.in_head());
        screen.push(&mut b"TP/1.1\r\nContent-Length: 2\r\n\r".to_vec());
        assert!(screen.in_head());
        screen.push(&mut b"\na".to_vec());
        assert!(!screen.in_head());
        screen.push(&mut b"b".to_vec());
        assert!(!screen.in_head());
        screen.push(&mut b"G".to_vec());
        assert!(screen.in_head());
    }

    proptest! {
        /// However the bytes are cut, and a poisoned head has no end any more.
        #[test]
        fn cuts_change_nothing(cut in 1_usize..90, ambiguous in any::<bool>()) {
            let field = if ambiguous { "Content-Length: 5" } else { "X-Length: 5" };
            let text = format!("POST / HTTP/1.1\r\n{field}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
            let mut screen = Screen::new();
            let mut through = Vec::new();
            let mut refused = false;
            for piece in text.as_bytes().chunks(cut) {
                let mut piece = piece.to_vec();
                refused = screen.push(&mut piece);
                through.extend_from_slice(&piece);
                if refused {
                    break;
                }
            }
            prop_assert_eq!(refused, ambiguous);
            let whole = through.windows(4).any(|window| window == b"\r\n\r\n");
            prop_assert_eq!(whole, !ambiguous);
            if ambiguous {
                let mut headers = [httparse::EMPTY_HEADER; 8];
                prop_assert!(httparse::Request::new(&mut headers).parse(&through).is_err());
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut screen = Screen::new();
            for piece in bytes.chunks(7) {
                if screen.push(&mut piece.to_vec()) {
                    break;
                }
            }
        }
    }
}
