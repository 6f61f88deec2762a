//! What a message is about, by its members as they go by.

use super::{Key, is_escape};
use crate::{
    base::quote::plain_len,
    ddp::{Envelope, Framing, Kind, Sender},
};

/// The members of an object, behind what opens the text; `QUOTED` when it stands in the string of a SockJS frame.
pub(super) struct Members<'a, const QUOTED: bool> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a, const QUOTED: bool> Members<'a, QUOTED> {
    pub(super) fn envelope(
        bytes: &'a [u8],
        framing: Framing,
        sender: Sender,
    ) -> Option<Envelope<'a>> {
        let mut members = Self { bytes, at: 0 };
        let mut envelope = Envelope::of(Kind::Other);
        match members.read(&mut envelope, sender) {
            Ok(()) => Some(envelope),
            Err(Odd::Enough) => Some(envelope.before(framing, &bytes[members.at..])),
            Err(Odd::Cut) => Some(Envelope {
                cut: true,
                ..envelope
            }),
            Err(Odd::Form) => None,
        }
    }

    /// Reads all of them, to the end of the text, and notes what they say as they go by.
    fn read(&mut self, envelope: &mut Envelope<'a>, sender: Sender) -> Result<(), Odd> {
        self.expect(b'{')?;
        for member in 1_u32.. {
            self.quote()?;
            let key = Key::of(self.plain()?);
            self.expect(b':')?;
            let mut value = None;
            match self.peek()? {
                b'[' if key == Key::Ids => {
                    self.at += 1;
                    self.read_ids(envelope)?;
                }
                b'{' | b'[' => {
                    self.at += 1;
                    self.skip_nested()?;
                }
                b'"' | b'\\' => {
                    self.quote()?;
                    match key {
                        Key::Other => self.skip_string()?,
                        _ => value = Some(self.plain()?),
                    }
                }
                _ => self.skip_scalar()?,
            }
            match key {
                Key::Msg => envelope.kind = value.map_or(Kind::Other, Kind::named),
                Key::Id => envelope.id = value,
                Key::Method => envelope.method = value,
                Key::Name => envelope.name = value,
                Key::Collection => envelope.collection = value,
                Key::Session => envelope.session = value,
                // It is the kind of a message without `msg`.
                Key::ServerId => return Err(Odd::Form),
                Key::Ids | Key::Params | Key::Other => {}
            }
            if member == 2 && envelope.is_enough(sender) {
                return Err(Odd::Enough);
            }
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => break,
                _ => return Err(Odd::Form),
            }
        }
        self.at += 1;
        if QUOTED {
            self.expect(b'"')?;
            self.expect(b']')?;
        }
        match self.at == self.bytes.len() {
            true => Ok(()),
            false => Err(Odd::Form),
        }
    }

    /// What stands in `subs` or `methods`, behind the opening bracket: one id.
    fn read_ids(&mut self, envelope: &mut Envelope<'a>) -> Result<(), Odd> {
        // Until the end of the list has been seen, it may hold anything.
        envelope.several = true;
        self.quote()?;
        let id = self.plain()?;
        self.expect(b']')?;
        envelope.id = Some(id);
        envelope.several = false;
        Ok(())
    }

    fn peek(&self) -> Result<u8, Odd> {
        self.bytes.get(self.at).copied().ok_or(Odd::Cut)
    }

    fn expect(&mut self, byte: u8) -> Result<(), Odd> {
        if self.peek()? != byte {
            return Err(Odd::Form);
        }
        self.at += 1;
        Ok(())
    }

    /// The next character of the JSON text.
    #[inline]
    fn next(&mut self) -> Result<u8, Odd> {
        let byte = self.peek()?;
        self.at += 1;
        match byte {
            b'\\' if QUOTED => {
                let byte = self.peek()?;
                self.at += 1;
                match byte {
                    b'"' | b'\\' => Ok(byte),
                    _ => Err(Odd::Form),
                }
            }
            b'"' if QUOTED => Err(Odd::Form),
            _ => Ok(byte),
        }
    }

    fn quote(&mut self) -> Result<(), Odd> {
        if QUOTED {
            self.expect(b'\\')?;
        }
        self.expect(b'"')
    }

    /// A string without escapes, to its end; the opening quote was just read.
    fn plain(&mut self) -> Result<&'a [u8], Odd> {
        let rest = &self.bytes[self.at..];
        let text = &rest[..plain_len(rest)];
        self.at += text.len();
        self.quote()?;
        Ok(text)
    }

    /// Reads to the end of the string whose opening quote was just read.
    fn skip_string(&mut self) -> Result<(), Odd> {
        loop {
            self.at += plain_len(&self.bytes[self.at..]);
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' if is_escape(self.next()?) => {}
                _ => return Err(Odd::Form),
            }
        }
    }

    /// Reads to the end of the object or array whose opening bracket was just read. Like the reader
    /// that knows all of JSON, it checks only what it needs to find that.
    fn skip_nested(&mut self) -> Result<(), Odd> {
        let mut depth = 1_usize;
        while depth > 0 {
            match self.next()? {
                b'"' => self.skip_string()?,
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                b'\\' => return Err(Odd::Form),
                _ => {}
            }
        }
        Ok(())
    }

    /// A number or literal, whatever it is.
    fn skip_scalar(&mut self) -> Result<(), Odd> {
        let start = self.at;
        while matches!(self.peek()?, b'0'..=b'9' | b'a'..=b'z' | b'.' | b'-' | b'+' | b'E') {
            self.at += 1;
        }
        match self.at > start {
            true => Ok(()),
            false => Err(Odd::Form),
        }
    }
}

/// Why reading has ended early.
enum Odd {
    /// The bytes at hand have ended.
    Cut,
    /// It is not the usual form.
    Form,
    /// Of this message nothing more is wanted.
    Enough,
}
