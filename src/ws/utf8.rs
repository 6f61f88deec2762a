//! UTF-8 over text that comes in pieces (RFC 6455 section 8.1).

use super::ProtocolError;

/// Checks a text message as it passes by; keeps at most the three bytes of a cut character.
#[derive(Clone, Debug, Default)]
pub struct Utf8Check {
    cut: [u8; 3],
    cut_len: u8,
}

// One per direction lives in every relay.
const _: () = assert!(size_of::<Utf8Check>() <= 8);

impl Utf8Check {
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks the next un-masked bytes of the message.
    ///
    /// # Errors
    /// [`ProtocolError::Utf8`] with the first byte that no valid text can have there. The check is
    /// then of no use for the rest of this message.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        let rest = self.complete(bytes)?;
        match simdutf8::compat::from_utf8(rest) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_none() => {
                self.keep(&rest[error.valid_up_to()..]);
                Ok(())
            }
            Err(_) => Err(ProtocolError::Utf8),
        }
    }

    /// The message ends here; the check is ready for the next one.
    ///
    /// # Errors
    /// [`ProtocolError::Utf8`] when a character was cut off.
    pub fn finish(&mut self) -> Result<(), ProtocolError> {
        if std::mem::take(&mut self.cut_len) == 0 {
            Ok(())
        } else {
            Err(ProtocolError::Utf8)
        }
    }

    /// Feeds a cut character, if there is one, byte by byte; returns the input behind it.
    fn complete<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], ProtocolError> {
        let start = usize::from(self.cut_len);
        if start == 0 {
            return Ok(bytes);
        }
        let mut character = [0; 4];
        character[..start].copy_from_slice(&self.cut[..start]);
        for (at, &byte) in bytes.iter().enumerate() {
            // A character of four bytes is complete or wrong, so `at` never leads beyond it.
            let len = start + at + 1;
            character[len - 1] = byte;
            match str::from_utf8(&character[..len]) {
                Ok(_) => {
                    self.cut_len = 0;
                    return Ok(&bytes[at + 1..]);
                }
                Err(error) if error.error_len().is_some() => return Err(ProtocolError::Utf8),
                Err(_) => self.keep(&character[..len]),
            }
        }
        Ok(&[])
    }

    /// `cut` is the valid start of a character, so one to three bytes.
    fn keep(&mut self, cut: &[u8]) {
        self.cut[..cut.len()].copy_from_slice(cut);
        self.cut_len = u8::try_from(cut.len()).expect("a cut character has at most 3 bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&[u8]]) -> Result<(), ProtocolError> {
        let mut check = Utf8Check::new();
        for piece in pieces {
            check.push(piece)?;
        }
        check.finish()
    }

    #[test]
    fn characters_may_be_cut_anywhere() {
        let text = "a\u{e9}\u{20ac}\u{1f600}z".as_bytes();
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(check(&pieces), Ok(()));
            }
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(check(&bytes), Ok(()));
    }

    #[test]
    fn what_is_not_text_is_refused_with_its_first_wrong_byte() {
        // Overlong, surrogate, beyond U+10FFFF, stray continuation, never in UTF-8.
        for wrong in [
            &b"\xC0\xAF"[..],
            b"\xE0\x80",
            b"\xED\xA0",
            b"\xF4\x90",
            b"\x80",
            b"\xFF",
            b"\xC3\x28",
        ] {
            let mut check = Utf8Check::new();
            let (last, before) = wrong.split_last().unwrap();
            let verdict = check.push(before).and_then(|()| check.push(&[*last]));
            assert_eq!(verdict, Err(ProtocolError::Utf8), "{wrong:x?}");
            assert_eq!(Utf8Check::new().push(wrong), Err(ProtocolError::Utf8));
        }
    }

    #[test]
    fn a_message_does_not_end_within_a_character() {
        let mut check = Utf8Check::new();
        check.push(b"\xE2\x82").unwrap();
        assert_eq!(check.finish(), Err(ProtocolError::Utf8));
        check.push(b"next message").unwrap();
        assert_eq!(check.finish(), Ok(()));
    }
}
