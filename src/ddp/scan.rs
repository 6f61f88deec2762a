//! Reads JSON text byte by byte, be it plain or inside the string of a SockJS frame, without unpacking it.

use memchr::memchr2;

/// Why a scan ended before the text did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The bytes at hand ended; more may follow that nobody has seen.
    Cut,
    /// No continuation makes this JSON.
    Broken,
    /// Of this message nothing more is wanted.
    Enough,
}

/// A position in bytes that may end anywhere.
///
/// It checks only as much grammar as it needs to keep its place: numbers, literals and the kinds of closing brackets
/// are not looked at.
pub(super) struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Inside a SockJS string: every byte of the text may be written as an escape, a bare quote ends the text.
    quoted: bool,
}

/// A string of the text.
pub(super) struct Text<'a> {
    /// The bytes between the quotes, unless some of them are written as an escape.
    pub(super) plain: Option<&'a [u8]>,
    /// What the string says, escapes resolved, as far as it is short.
    pub(super) word: Word,
}

/// A short string with its escapes resolved; longer ones equal nothing.
pub(super) struct Word {
    bytes: [u8; Self::MAX],
    len: usize,
}

/// Stands for any character beyond ASCII that was written as an escape; occurs in no UTF-8 text.
const BEYOND_ASCII: u8 = 0xff;

impl<'a> Scan<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            quoted: false,
        }
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// From here on the text is the inside of a string whose opening quote was just read.
    pub(super) fn enter_quotes(&mut self) {
        self.quoted = true;
    }

    /// Reads to the closing quote of the SockJS string; only blanks may be left before it.
    pub(super) fn leave_quotes(&mut self) -> Result<(), Stop> {
        loop {
            if *self.bytes.get(self.at).ok_or(Stop::Cut)? == b'"' {
                self.at += 1;
                self.quoted = false;
                return Ok(());
            }
            if !blank(self.next()?) {
                return Err(Stop::Broken);
            }
        }
    }

    /// The next byte of the text.
    #[inline]
    pub(super) fn next(&mut self) -> Result<u8, Stop> {
        let byte = *self.bytes.get(self.at).ok_or(Stop::Cut)?;
        self.at += 1;
        if self.quoted && matches!(byte, b'"' | b'\\') {
            return self.next_escaped(byte);
        }
        Ok(byte)
    }

    /// Goes on behind a quote or a backslash of the SockJS string.
    fn next_escaped(&mut self, byte: u8) -> Result<u8, Stop> {
        if byte == b'"' {
            self.at -= 1;
            return Err(Stop::Broken);
        }
        // Nearly all escapes are these two.
        if let Some(&byte @ (b'"' | b'\\')) = self.bytes.get(self.at) {
            self.at += 1;
            return Ok(byte);
        }
        escape(|| self.next_raw())
    }

    /// Passes over bytes that are not `wanted`; the bytes must not end before one that is.
    #[inline]
    fn pass_to(&mut self, wanted: &Set) -> Result<(), Stop> {
        let rest = self.rest();
        let run = rest.iter().position(|byte| wanted[usize::from(*byte)]);
        self.at += run.ok_or(Stop::Cut)?;
        Ok(())
    }

    /// The next byte that is not blank.
    pub(super) fn solid(&mut self) -> Result<u8, Stop> {
        loop {
            let byte = self.next()?;
            if !blank(byte) {
                return Ok(byte);
            }
        }
    }

    /// The string whose opening quote was just read, to its closing quote.
    pub(super) fn string(&mut self) -> Result<Text<'a>, Stop> {
        let start = self.at;
        let mut plain = true;
        let mut word = Word::EMPTY;
        loop {
            let rest = self.rest();
            let run = memchr2(b'"', b'\\', rest).ok_or(Stop::Cut)?;
            word.extend(&rest[..run]);
            let end = self.at + run;
            self.at = end;
            match self.next()? {
                b'"' => {
                    let plain = if plain {
                        self.bytes.get(start..end)
                    } else {
                        None
                    };
                    return Ok(Text { plain, word });
                }
                b'\\' => word.extend(&[escape(|| self.next())?]),
                // Written as an escape of the SockJS string, and no special character to the JSON in it.
                byte => word.extend(&[byte]),
            }
            plain = false;
        }
    }

    /// Reads to the end of the object or array whose opening bracket was just read.
    pub(super) fn skip_nested(&mut self) -> Result<(), Stop> {
        let mut depth = 1_usize;
        while depth > 0 {
            self.pass_to(&STRUCTURE)?;
            match self.next()? {
                b'"' => self.skip_string()?,
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads to the closing quote of the string whose opening quote was just read.
    fn skip_string(&mut self) -> Result<(), Stop> {
        loop {
            self.pass_to(&QUOTE_OR_ESCAPE)?;
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => {
                    escape(|| self.next())?;
                }
                _ => {}
            }
        }
    }

    /// Reads a number or literal and gives back the first byte after it that is not blank.
    pub(super) fn skip_scalar(&mut self) -> Result<u8, Stop> {
        loop {
            match self.next()? {
                byte @ (b',' | b'}' | b']') => return Ok(byte),
                b'"' | b'{' | b'[' | b':' => return Err(Stop::Broken),
                byte if blank(byte) => return self.solid(),
                _ => {}
            }
        }
    }

    fn next_raw(&mut self) -> Result<u8, Stop> {
        let byte = *self.bytes.get(self.at).ok_or(Stop::Cut)?;
        self.at += 1;
        Ok(byte)
    }
}

/// For each byte whether it is of interest.
type Set = [bool; 256];

/// What keeps the place among nested values, be it written as an escape or not.
const STRUCTURE: Set = set(br#""\{}[]"#);
const QUOTE_OR_ESCAPE: Set = set(br#""\"#);

const fn set(bytes: &[u8]) -> Set {
    let mut set = [false; 256];
    let mut n = 0;
    while n < bytes.len() {
        set[bytes[n] as usize] = true;
        n += 1;
    }
    set
}

/// Resolves an escape after its backslash.
fn escape(mut next: impl FnMut() -> Result<u8, Stop>) -> Result<u8, Stop> {
    Ok(match next()? {
        byte @ (b'"' | b'\\' | b'/') => byte,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'u' => {
            let mut unit = 0_u32;
            for _ in 0..4 {
                let digit = char::from(next()?).to_digit(16).ok_or(Stop::Broken)?;
                unit = unit << 4 | digit;
            }
            match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() => byte,
                _ => BEYOND_ASCII,
            }
        }
        _ => return Err(Stop::Broken),
    })
}

fn blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

impl Word {
    /// Longer than every name that is looked for.
    const MAX: usize = 16;
    const EMPTY: Self = Self {
        bytes: [0; Self::MAX],
        len: 0,
    };

    /// The string, or nothing when it is too long to be one that is looked for.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn extend(&mut self, more: &[u8]) {
        let end = self.len.saturating_add(more.len());
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(more);
        }
        self.len = end;
    }
}
