//! Chance that a seed repeats.

use std::time::Duration;

/// A generator of eight bytes (SplitMix64), so that thousands of users can have one each.
#[derive(Clone, Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.next().to_le_bytes()[..part.len()]);
        }
        bytes
    }

    /// Uniform between the two.
    pub(super) fn between(&mut self, low: f64, high: f64) -> f64 {
        // 53 bits are what a float holds.
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        low + unit * (high - low)
    }

    /// `time` times something between 1 - `part` and 1 + `part`.
    pub(super) fn around(&mut self, time: Duration, part: f64) -> Duration {
        time.mul_f64(self.between(1.0 - part, 1.0 + part))
    }

    /// Letters and digits, as Meteor's `Random.id` writes them.
    pub(super) fn letters(&mut self, count: usize) -> String {
        const LETTERS: &[u8] = b"23456789ABCDEFGHJKLMNPQRSTWXYZabcdefghijkmnopqrstuvwxyz";
        (0..count)
            .map(|_| {
                let at = self.next() % LETTERS.len() as u64;
                char::from(LETTERS[usize::try_from(at).unwrap_or(0)])
            })
            .collect()
    }
}
