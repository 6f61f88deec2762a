//! The mask of client frames (RFC 6455 section 5.3).

/// A masking key, turned so that its first byte belongs to the next byte of payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask([u8; 4]);

impl Mask {
    /// The key as it stands in a header, for the payload's first byte.
    pub fn new(key: [u8; 4]) -> Self {
        Self(key)
    }

    /// The mask for the bytes that follow `by` bytes of payload.
    #[must_use]
    pub fn rotated(mut self, by: usize) -> Self {
        self.0.rotate_left(by % 4);
        self
    }

    /// Masks or un-masks (the operation is its own inverse) `src` into `dst`; stops at the end of
    /// the shorter one.
    pub fn apply(self, src: &[u8], dst: &mut [u8]) {
        let len = src.len().min(dst.len());
        let (src_words, src_rest) = src[..len].as_chunks::<8>();
        let (dst_words, dst_rest) = dst[..len].as_chunks_mut::<8>();
        let word = self.word();
        for (from, to) in src_words.iter().zip(dst_words) {
            *to = (u64::from_ne_bytes(*from) ^ word).to_ne_bytes();
        }
        for ((from, to), key) in src_rest.iter().zip(dst_rest).zip(self.0.iter().cycle()) {
            *to = from ^ key;
        }
    }

    /// As [`Mask::apply`], on the spot.
    pub fn apply_in_place(self, bytes: &mut [u8]) {
        let (words, rest) = bytes.as_chunks_mut::<8>();
        let word = self.word();
        for chunk in words {
            *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
        }
        for (byte, key) in rest.iter_mut().zip(self.0.iter().cycle()) {
            *byte ^= key;
        }
    }

    /// The key twice, in memory order. A word is a multiple of the key, so the rest behind whole
    /// words starts with the key's first byte again.
    fn word(self) -> u64 {
        let [a, b, c, d] = self.0;
        u64::from_ne_bytes([a, b, c, d, a, b, c, d])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    #[test]
    fn masks_hello_as_section_5_7_does() {
        let mut out = [0; 5];
        Mask::new(KEY).apply(b"Hello", &mut out);
        assert_eq!(out, [0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        Mask::new(KEY).apply_in_place(&mut out);
        assert_eq!(&out, b"Hello");
    }

    #[test]
    fn a_rotated_mask_goes_on_where_the_payload_was_cut() {
        let clear: Vec<u8> = (0..=99).collect();
        let expected: Vec<u8> = clear
            .iter()
            .enumerate()
            .map(|(at, byte)| byte ^ KEY[at % 4])
            .collect();
        for cut in 0..=clear.len() {
            let mut out = vec![0; clear.len()];
            let (head, tail) = out.split_at_mut(cut);
            Mask::new(KEY).apply(&clear[..cut], head);
            Mask::new(KEY).rotated(cut).apply(&clear[cut..], tail);
            assert_eq!(out, expected, "cut at {cut}");
        }
    }

    #[test]
    fn apply_stops_at_the_shorter_side() {
        let mut out = [0; 3];
        Mask::new([1; 4]).apply(&[0; 20], &mut out);
        assert_eq!(out, [1; 3]);
        let mut out = [9; 20];
        Mask::new([1; 4]).apply(&[0; 3], &mut out);
        assert_eq!(out[..4], [1, 1, 1, 9]);
    }
}
