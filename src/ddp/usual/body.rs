//! What a client asks for, checked to the end.

use std::borrow::Cow;

use super::{Key, is_escape};
use crate::{base::quote::plain_len, ddp::Request};

/// A whole message of a client. Its grammar is checked to the end, as a JSON reader does it. Parameters that stand in
/// the string of a SockJS frame are not given out: they would have to be unpacked.
pub(super) struct Body<'a, const QUOTED: bool> {
    text: &'a str,
    at: usize,
}

impl<'a, const QUOTED: bool> Body<'a, QUOTED> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn read(mut self) -> Option<Request<'a>> {
        let (mut msg, mut id, mut method, mut name) = (None, None, None, None);
        let mut params = "";
        self.expect(b'{')?;
        loop {
            let key = Key::of(self.string()?.as_bytes());
            self.expect(b':')?;
            match key {
                Key::Msg => msg = Some(self.string()?),
                Key::Id => id = Some(self.string()?),
                Key::Method => method = Some(self.string()?),
                Key::Name => name = Some(self.string()?),
                Key::Params => {
                    let start = self.at;
                    self.skip_value()?;
                    if !QUOTED {
                        params = self.text.get(start..self.at)?;
                    }
                }
                _ => self.skip_value()?,
            }
            match self.next()? {
                b',' => {}
                b'}' => break,
                _ => return None,
            }
        }
        if self.at != self.text.len() {
            return None;
        }
        let needed =
            |text: Option<&'a str>| text.filter(|text| !text.is_empty()).map(Cow::Borrowed);
        Some(match msg? {
            "method" => Request::Method {
                id: needed(id)?,
                method: needed(method)?,
                params,
            },
            "sub" => Request::Sub {
                id: needed(id)?,
                name: needed(name)?,
                params,
            },
            "unsub" => Request::Unsub { id: needed(id)? },
            "ping" => Request::Ping {
                id: id.map(Cow::Borrowed),
            },
            "pong" => Request::Pong,
            "connect" => Request::Connect,
            "disconnect" => Request::Disconnect,
            _ => return None,
        })
    }

    /// The next byte of the message.
    #[inline]
    fn next(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        let byte = *bytes.get(self.at)?;
        self.at += 1;
        match byte {
            b'\\' if QUOTED => {
                let byte = *bytes.get(self.at)?;
                self.at += 1;
                matches!(byte, b'"' | b'\\').then_some(byte)
            }
            b'"' if QUOTED => None,
            _ => Some(byte),
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    fn quote(&mut self) -> Option<()> {
        let quote: &[u8] = match QUOTED {
            true => br#"\""#,
            false => br#"""#,
        };
        let here = self.text.as_bytes().get(self.at..self.at + quote.len())?;
        self.at += quote.len();
        (here == quote).then_some(())
    }

    /// A string without escapes.
    fn string(&mut self) -> Option<&'a str> {
        self.quote()?;
        let start = self.at;
        self.at += plain_len(self.text.as_bytes().get(start..)?);
        let string = self.text.get(start..self.at)?;
        self.quote()?;
        Some(string)
    }

    /// A string behind its opening quote.
    fn skip_string(&mut self) -> Option<()> {
        loop {
            self.at += plain_len(&self.text.as_bytes()[self.at..]);
            match self.next()? {
                b'"' => return Some(()),
                b'\\' if is_escape(self.next()?) => {}
                _ => return None,
            }
        }
    }

    /// Any value, by a loop, with one bit for each bracket that is open: set for those of objects.
    fn skip_value(&mut self) -> Option<()> {
        let mut open = Open::default();
        loop {
            match self.next()? {
                b'"' => self.skip_string()?,
                b'{' if !self.passes(b'}') => {
                    open.push(true)?;
                    self.skip_key()?;
                    continue;
                }
                b'[' if !self.passes(b']') => {
                    open.push(false)?;
                    continue;
                }
                b'{' | b'[' => {}
                b't' => self.skip_rest(b"rue")?,
                b'f' => self.skip_rest(b"alse")?,
                b'n' => self.skip_rest(b"ull")?,
                first @ (b'-' | b'0'..=b'9') => self.skip_number(first)?,
                _ => return None,
            }
            // Behind a value: what encloses it ends, or goes on.
            loop {
                let Some(object) = open.innermost() else {
                    return Some(());
                };
                match (self.next()?, object) {
                    (b',', true) => {
                        self.skip_key()?;
                        break;
                    }
                    (b',', false) => break,
                    (b'}', true) | (b']', false) => open.pop(),
                    _ => return None,
                }
            }
        }
    }

    /// A key and its colon.
    fn skip_key(&mut self) -> Option<()> {
        self.string()?;
        self.expect(b':')
    }

    fn passes(&mut self, byte: u8) -> bool {
        let here = self.text.as_bytes().get(self.at) == Some(&byte);
        self.at += usize::from(here);
        here
    }

    fn skip_rest(&mut self, rest: &[u8]) -> Option<()> {
        let here = self.text.as_bytes()[self.at..].starts_with(rest);
        self.at += rest.len();
        here.then_some(())
    }

    /// A number without an exponent, behind its first byte.
    fn skip_number(&mut self, first: u8) -> Option<()> {
        let first = match first {
            b'-' => self.next()?,
            first => first,
        };
        match first {
            // There is no other digit behind a zero: none is passed, and what follows has to be a mark.
            b'0' => {}
            b'1'..=b'9' => {
                self.pass(u8::is_ascii_digit);
            }
            _ => return None,
        }
        if self.passes(b'.') && self.pass(u8::is_ascii_digit) == 0 {
            return None;
        }
        Some(())
    }

    /// Passes over what is `such`; says how much it was.
    fn pass(&mut self, such: impl Fn(&u8) -> bool) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        let run = rest.iter().take_while(|byte| such(byte)).count();
        self.at += run;
        run
    }
}

/// The brackets that are open, the innermost one in the lowest bit.
#[derive(Default)]
struct Open {
    objects: u64,
    depth: u32,
}

impl Open {
    /// `None` when there is no room for one more.
    fn push(&mut self, object: bool) -> Option<()> {
        if self.depth == u64::BITS {
            return None;
        }
        self.objects = self.objects << 1 | u64::from(object);
        self.depth += 1;
        Some(())
    }

    fn pop(&mut self) {
        self.objects >>= 1;
        self.depth -= 1;
    }

    /// Whether the innermost one is that of an object.
    fn innermost(&self) -> Option<bool> {
        (self.depth > 0).then_some(self.objects & 1 == 1)
    }
}
