//! Lines of a stream that comes in pieces.

use super::trouble::Trouble;

/// Cuts a stream into lines, none longer than a bound.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Begins with what no line has been made of yet.
    held: Vec<u8>,
    /// Up to here there is no line end.
    searched: usize,
}

impl Lines {
    /// Takes a piece of the stream in; lines come out of [`Self::next`].
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.held.extend_from_slice(piece);
    }

    /// The next whole line, without its end; empty ones are passed over.
    ///
    /// # Errors
    /// When it is longer than the bound.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, Trouble> {
        loop {
            let rest = &self.held[self.searched..];
            let Some(at) = memchr::memchr(b'\n', rest).map(|at| self.searched + at) else {
                self.searched = self.held.len();
                return match self.searched > LONGEST {
                    true => Err(Trouble::TooMuch),
                    false => Ok(None),
                };
            };
            let mut line: Vec<u8> = self.held.drain(..=at).collect();
            self.searched = 0;
            if line.len() > LONGEST {
                return Err(Trouble::TooMuch);
            }
            line.truncate(line.trim_ascii_end().len());
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }
}

/// In bytes. An object in etcd has at most 1.5 MiB, and a slice with a thousand endpoints less.
const LONGEST: usize = 2 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::{LONGEST, Lines};
    use crate::discovery::kubernetes::trouble::Trouble;

    proptest! {
        #[test]
        fn cut_anywhere_the_lines_are_the_same(
            bytes in prop::collection::vec(prop::sample::select(b"ab \r\n".to_vec()), 0..60),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut cuts: Vec<_> = cuts.iter().map(|at| at.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for pair in cuts.windows(2) {
                lines.push(&bytes[pair[0]..pair[1]]);
                while let Some(line) = lines.next().unwrap() {
                    found.push(line);
                }
            }
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let expected = bytes[..whole].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
            let expected: Vec<_> = expected.filter(|line| !line.is_empty()).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_kept_for_ever() {
        let mut lines = Lines::default();
        let piece = vec![b'x'; 64 * 1024];
        let mut pushed = 0;
        let error = loop {
            lines.push(&piece);
            pushed += piece.len();
            match lines.next() {
                Ok(None) => {}
                Ok(Some(line)) => panic!("{} bytes", line.len()),
                Err(error) => break error,
            }
        };
        assert_eq!(error, Trouble::TooMuch);
        assert!(pushed <= LONGEST + piece.len());
    }
}
