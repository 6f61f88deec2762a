//! Values one behind the other in one piece of bytes, for another process to read.
//!
//! Reading copies nothing, and never takes the word of a length for it: what is allocated for a list
//! is bounded by the bytes that are there.

use std::fmt;

/// Writes values.
#[derive(Default)]
pub struct Packer {
    bytes: Vec<u8>,
}

/// What is read is not what was to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes end too early or mean nothing")]
pub struct Garbled;

impl Packer {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    pub fn flag(&mut self, flag: bool) {
        self.bytes.push(u8::from(flag));
    }

    /// Small numbers are short.
    pub fn number(&mut self, mut number: u64) {
        loop {
            let low = number.to_le_bytes()[0] & 0x7f;
            number >>= 7;
            if number == 0 {
                return self.bytes.push(low);
            }
            self.bytes.push(low | 0x80);
        }
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// A value that may be absent.
    pub fn option<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            put(self, value);
        }
    }

    /// Any number of values.
    pub fn list<T>(
        &mut self,
        values: impl ExactSizeIterator<Item = T>,
        mut put: impl FnMut(&mut Self, T),
    ) {
        self.number(values.len() as u64);
        for value in values {
            put(self, value);
        }
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Only how many there are: they may be secrets.
impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packer").field("len", &self.len()).finish()
    }
}

/// Reads values in the order in which they were written.
pub struct Unpacker<'a> {
    rest: &'a [u8],
}

impl<'a> Unpacker<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn byte(&mut self) -> Result<u8, Garbled> {
        let (&first, rest) = self.rest.split_first().ok_or(Garbled)?;
        self.rest = rest;
        Ok(first)
    }

    pub fn flag(&mut self) -> Result<bool, Garbled> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Garbled),
        }
    }

    pub fn number(&mut self) -> Result<u64, Garbled> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let low = u64::from(byte & 0x7f);
            if low << shift >> shift != low {
                return Err(Garbled);
            }
            number |= low << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Garbled)
    }

    pub fn number_u32(&mut self) -> Result<u32, Garbled> {
        u32::try_from(self.number()?).map_err(|_| Garbled)
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], Garbled> {
        let length = usize::try_from(self.number()?).map_err(|_| Garbled)?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Garbled)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub fn text(&mut self) -> Result<&'a str, Garbled> {
        str::from_utf8(self.bytes()?).map_err(|_| Garbled)
    }

    pub fn option<T>(
        &mut self,
        take: impl FnOnce(&mut Self) -> Result<T, Garbled>,
    ) -> Result<Option<T>, Garbled> {
        Ok(match self.flag()? {
            true => Some(take(self)?),
            false => None,
        })
    }

    /// At most `most` values, each of one byte at least.
    pub fn list<T>(
        &mut self,
        most: usize,
        mut take: impl FnMut(&mut Self) -> Result<T, Garbled>,
    ) -> Result<Vec<T>, Garbled> {
        let count = usize::try_from(self.number()?).map_err(|_| Garbled)?;
        if count > most.min(self.rest.len()) {
            return Err(Garbled);
        }
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(take(self)?);
        }
        Ok(values)
    }

    /// All that is left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Everything was read.
    pub fn end(&self) -> Result<(), Garbled> {
        match self.rest.is_empty() {
            true => Ok(()),
            false => Err(Garbled),
        }
    }
}

impl fmt::Debug for Unpacker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpacker")
            .field("left", &self.rest.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{Garbled, Packer, Unpacker};

    #[test]
    fn what_was_written_is_read() {
        let numbers = [0, 1, 127, 128, 16_383, 16_384, u64::MAX];
        let mut packer = Packer::new();
        packer.list(numbers.iter(), |packer, &number| packer.number(number));
        packer.text("é\"");
        packer.bytes(&[0xff]);
        packer.option(Some("x"), Packer::text);
        packer.option(None, Packer::text);
        packer.flag(true);
        packer.byte(7);
        let bytes = packer.finish();
        let mut unpacker = Unpacker::new(&bytes);
        assert_eq!(unpacker.list(7, |it| it.number()).unwrap(), numbers);
        assert_eq!(unpacker.text(), Ok("é\""));
        assert_eq!(unpacker.bytes(), Ok(&[0xff][..]));
        assert_eq!(unpacker.option(|it| it.text()), Ok(Some("x")));
        assert_eq!(unpacker.option(|it| it.text()), Ok(None));
        assert_eq!(unpacker.flag(), Ok(true));
        assert_eq!(unpacker.end(), Err(Garbled));
        assert_eq!(unpacker.byte(), Ok(7));
        assert_eq!(unpacker.end(), Ok(()));
        for cut in 0..bytes.len() - 1 {
            let mut unpacker = Unpacker::new(&bytes[..cut]);
            let all = unpacker.list(7, |it| it.number()).and_then(|_| {
                unpacker.text()?;
                unpacker.bytes()?;
                unpacker.option(|it| it.text())?;
                unpacker.option(|it| it.text())?;
                unpacker.flag()
            });
            assert_eq!(all, Err(Garbled), "cut at {cut}");
        }
    }

    #[test]
    fn lengths_that_lie_are_not_believed() {
        let endless = [0xff; 11];
        assert_eq!(Unpacker::new(&endless).number(), Err(Garbled));
        assert_eq!(Unpacker::new(&endless).bytes(), Err(Garbled));
        // Ten bytes hold 70 bits.
        let mut too_large = [0x80; 10];
        too_large[9] = 0x02;
        assert_eq!(Unpacker::new(&too_large).number(), Err(Garbled));
        let many = [0xff, 0xff, 0xff, 0x7f, 1, 1];
        let list = |most| Unpacker::new(&many).list(most, |it| it.byte());
        assert_eq!(list(usize::MAX), Err(Garbled));
        assert_eq!(
            Unpacker::new(&[3, 1, 1, 1]).list(2, |it| it.byte()),
            Err(Garbled)
        );
        assert_eq!(Unpacker::new(&[2]).flag(), Err(Garbled));
        assert_eq!(Unpacker::new(&[1, 0xff]).text(), Err(Garbled));
    }
}
