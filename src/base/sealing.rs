//! Bytes that only a holder of the same secret can read or make.

use std::fmt;

use super::secret::Secret;

/// Seals and opens: `tag || bytes xor pad`. The tag is a keyed BLAKE3 hash of the context and the
/// bytes, and at the same time the nonce of the pad (the SIV construction): who seals the same twice
/// under one context shows that, and nothing else.
#[derive(Clone)]
pub struct Sealer {
    tag_key: Secret<[u8; 32]>,
    pad_key: Secret<[u8; 32]>,
}

impl Sealer {
    /// `purpose` tells its keys from all others that are made of the same secret.
    pub fn new(purpose: &str, secret: &[u8]) -> Self {
        let key = |part| Secret::new(blake3::derive_key(&format!("{purpose} {part}"), secret));
        Self {
            tag_key: key("tag"),
            pad_key: key("pad"),
        }
    }

    /// `context` is what both sides know: only under the same one it can be opened.
    pub fn close(&self, context: &[u8], bytes: &[u8]) -> Vec<u8> {
        let tag = self.tag(context, bytes);
        let mut sealed = Vec::with_capacity(TAG_BYTES + bytes.len());
        sealed.extend_from_slice(tag.as_bytes());
        sealed.extend_from_slice(bytes);
        self.pad(&tag, &mut sealed[TAG_BYTES..]);
        sealed
    }

    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Secret<Vec<u8>>> {
        let (tag, padded) = sealed.split_first_chunk::<TAG_BYTES>()?;
        let tag = blake3::Hash::from_bytes(*tag);
        let mut bytes = padded.to_vec();
        self.pad(&tag, &mut bytes);
        // `Hash` compares in constant time.
        (tag == self.tag(context, &bytes)).then(|| Secret::new(bytes))
    }

    fn tag(&self, context: &[u8], bytes: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(self.tag_key.expose());
        hasher.update(&(context.len() as u64).to_be_bytes());
        hasher.update(context);
        hasher.update(bytes);
        hasher.finalize()
    }

    fn pad(&self, tag: &blake3::Hash, bytes: &mut [u8]) {
        let mut stream = blake3::Hasher::new_keyed(self.pad_key.expose())
            .update(tag.as_bytes())
            .finalize_xof();
        let mut pad = [0; 1024];
        for piece in bytes.chunks_mut(pad.len()) {
            let pad = &mut pad[..piece.len()];
            stream.fill(pad);
            for (byte, pad) in piece.iter_mut().zip(pad) {
                *byte ^= *pad;
            }
        }
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

/// By so much a sealed piece is longer.
pub const TAG_BYTES: usize = blake3::OUT_LEN;

#[cfg(test)]
mod tests {
    use super::{Sealer, TAG_BYTES};

    #[test]
    fn what_is_sealed_is_opened_by_the_same_secret_only() {
        let sealer = Sealer::new("test", b"secret");
        for length in [0, 1, 31, 1_024, 3_000] {
            let bytes = vec![7; length];
            let sealed = sealer.close(b"here", &bytes);
            assert_eq!(sealed.len(), TAG_BYTES + length);
            assert_eq!(*sealer.open(b"here", &sealed).unwrap().expose(), bytes);
            assert!(length < 8 || !sealed.windows(8).any(|part| part == [7; 8]));
            assert_eq!(sealer.open(b"there", &sealed), None);
            assert_eq!(Sealer::new("test", b"other").open(b"here", &sealed), None);
            assert_eq!(Sealer::new("other", b"secret").open(b"here", &sealed), None);
            for place in [0, TAG_BYTES - 1, sealed.len() - 1] {
                let mut changed = sealed.clone();
                changed[place] ^= 1;
                assert_eq!(sealer.open(b"here", &changed), None);
            }
            assert_eq!(sealer.open(b"here", &sealed[..TAG_BYTES - 1]), None);
        }
    }
}
