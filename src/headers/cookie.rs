//! The affinity cookie: which streamer a client was on and which client that was, sealed so that
//! only a gateway can read or make it.
//!
//! The value is `base64url(tag || expiry || client || streamer xor pad)`: `tag` is a keyed BLAKE3 hash
//! of pool, expiry, client and streamer, and at the same time the nonce of the pad (the SIV
//! construction), so that the address of a streamer is not shown to the client.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header};

use crate::base::{
    id::{PoolName, StreamerId},
    secret::Secret,
};

/// Seals and opens affinity cookies.
#[derive(Clone, Debug)]
pub struct Seal {
    tag_key: Secret<[u8; 32]>,
    pad_key: Secret<[u8; 32]>,
}

/// What a cookie says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    pub streamer: StreamerId,
    /// A random number that tells this client from others behind the same address.
    pub client: u64,
}

/// How a cookie is set.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub name: &'a str,
    /// The route's path.
    pub path: &'a str,
    /// How long the client keeps it, in seconds.
    pub max_age: u64,
    /// Whether the client's connection is encrypted.
    pub secure: bool,
}

impl Seal {
    /// Derives the keys from a secret of any length. Gateways with the same secret read each other's
    /// cookies.
    pub fn new(secret: &[u8]) -> Self {
        Self {
            tag_key: Secret::new(blake3::derive_key(
                "ddp-gateway affinity cookie tag v1",
                secret,
            )),
            pad_key: Secret::new(blake3::derive_key(
                "ddp-gateway affinity cookie pad v1",
                secret,
            )),
        }
    }

    /// A cookie value that says this until `expires` (seconds since 1970).
    pub fn close(&self, pool: &PoolName, affinity: &Affinity, expires: u64) -> String {
        let mut name = affinity.streamer.as_str().as_bytes().to_vec();
        let tag = self.tag(pool, &name, affinity.client, expires);
        self.pad(&tag, &mut name);
        let mut sealed = tag.as_bytes().to_vec();
        sealed.extend_from_slice(&expires.to_be_bytes());
        sealed.extend_from_slice(&affinity.client.to_be_bytes());
        sealed.extend_from_slice(&name);
        URL_SAFE_NO_PAD.encode(sealed)
    }

    /// What a value says, if a gateway with this secret made it for `pool` and it has not
    /// expired at `now` (seconds since 1970).
    pub fn open(&self, pool: &PoolName, value: &str, now: u64) -> Option<Affinity> {
        if value.len() > MAX_VALUE {
            return None;
        }
        let sealed = URL_SAFE_NO_PAD.decode(value).ok()?;
        let (tag, rest) = sealed.split_first_chunk::<32>()?;
        let (expires, rest) = rest.split_first_chunk::<8>()?;
        let (client, name) = rest.split_first_chunk::<8>()?;
        let client = u64::from_be_bytes(*client);
        let expires = u64::from_be_bytes(*expires);
        let tag = blake3::Hash::from_bytes(*tag);
        let mut name = name.to_vec();
        self.pad(&tag, &mut name);
        // `Hash` compares in constant time.
        if tag != self.tag(pool, &name, client, expires) || expires <= now {
            return None;
        }
        let streamer = StreamerId::new(String::from_utf8(name).ok()?);
        Some(Affinity { streamer, client })
    }

    /// What the first valid cookie called `name` says.
    pub fn find(
        &self,
        headers: &HeaderMap,
        name: &str,
        pool: &PoolName,
        now: u64,
    ) -> Option<Affinity> {
        values(headers, name)
            .take(MAX_TRIES)
            .find_map(|value| self.open(pool, value, now))
    }

    /// A `Set-Cookie` value; `None` when a name or path from the configuration does not fit in one.
    pub fn set(
        &self,
        attributes: Attributes<'_>,
        pool: &PoolName,
        affinity: &Affinity,
        now: u64,
    ) -> Option<HeaderValue> {
        let Attributes {
            name,
            path,
            max_age,
            secure,
        } = attributes;
        let value = self.close(pool, affinity, now.saturating_add(max_age));
        if value.len() > MAX_VALUE || path.contains([';', ',']) {
            return None;
        }
        let secure = if secure { "; Secure" } else { "" };
        HeaderValue::from_str(&format!(
            "{name}={value}; Path={path}; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}"
        ))
        .ok()
    }

    fn tag(&self, pool: &PoolName, streamer: &[u8], client: u64, expires: u64) -> blake3::Hash {
        let pool = pool.as_str().as_bytes();
        let mut hasher = blake3::Hasher::new_keyed(self.tag_key.expose());
        // Lengths in front: no two different tuples give the same input.
        hasher.update(&(pool.len() as u64).to_be_bytes());
        hasher.update(pool);
        hasher.update(&expires.to_be_bytes());
        hasher.update(&client.to_be_bytes());
        hasher.update(streamer);
        hasher.finalize()
    }

    fn pad(&self, tag: &blake3::Hash, bytes: &mut [u8]) {
        let mut stream = blake3::Hasher::new_keyed(self.pad_key.expose())
            .update(tag.as_bytes())
            .finalize_xof();
        let mut pad = vec![0; bytes.len()];
        stream.fill(&mut pad);
        for (byte, pad) in bytes.iter_mut().zip(pad) {
            *byte ^= pad;
        }
    }
}

/// The values of all cookies with this name, in the order sent.
fn values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.split_once('='))
        .filter(move |(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim().trim_matches('"'))
}

/// Longest value that is looked at; ours are about 90 characters.
const MAX_VALUE: usize = 512;
/// Cookies of our name that are tried; a browser sends one per matching path.
const MAX_TRIES: usize = 4;

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::{Affinity, Attributes, Seal};
    use crate::base::id::{PoolName, StreamerId};

    const NOW: u64 = 1_800_000_000;

    fn pool() -> PoolName {
        PoolName::from("default")
    }

    fn affinity() -> Affinity {
        Affinity {
            streamer: StreamerId::from("10.0.3.4:3000"),
            client: 0x0123_4567_89ab_cdef,
        }
    }

    #[test]
    fn opens_what_it_closed_until_it_expires() {
        let seal = Seal::new(b"secret");
        let value = seal.close(&pool(), &affinity(), NOW + 10);
        assert_eq!(seal.open(&pool(), &value, NOW), Some(affinity()));
        assert_eq!(seal.open(&pool(), &value, NOW + 9), Some(affinity()));
        assert_eq!(seal.open(&pool(), &value, NOW + 10), None);
    }

    #[test]
    fn another_secret_or_pool_opens_nothing() {
        let value = Seal::new(b"secret").close(&pool(), &affinity(), NOW + 10);
        assert_eq!(Seal::new(b"Secret").open(&pool(), &value, NOW), None);
        assert_eq!(
            Seal::new(b"secret").open(&PoolName::from("other"), &value, NOW),
            None
        );
    }

    #[test]
    fn the_streamer_is_not_shown() {
        let value = Seal::new(b"secret").close(&pool(), &affinity(), NOW + 10);
        let bytes =
            base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, &value)
                .unwrap();
        assert!(!bytes.windows(4).any(|window| window == b"10.0"));
    }

    #[test]
    fn is_found_between_other_cookies() {
        let seal = Seal::new(b"secret");
        let good = seal.close(&pool(), &affinity(), NOW + 10);
        let mut headers = HeaderMap::new();
        headers.append(
            header::COOKIE,
            HeaderValue::from_str(&format!("rc_token=abc; gw=garbage; xgw={good}")).unwrap(),
        );
        headers.append(
            header::COOKIE,
            HeaderValue::from_bytes(b"\xff=\xfe").unwrap(),
        );
        assert_eq!(seal.find(&headers, "gw", &pool(), NOW), None);
        headers.append(
            header::COOKIE,
            HeaderValue::from_str(&format!("a=b;gw=\"{good}\"")).unwrap(),
        );
        assert_eq!(seal.find(&headers, "gw", &pool(), NOW), Some(affinity()));
    }

    #[test]
    fn is_set_with_all_attributes() {
        let seal = Seal::new(b"secret");
        let attributes = Attributes {
            name: "gw",
            path: "/",
            max_age: 3600,
            secure: true,
        };
        let set = seal.set(attributes, &pool(), &affinity(), NOW).unwrap();
        let set = set.to_str().unwrap();
        assert!(
            set.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax; Secure"),
            "{set}"
        );
        let parsed = cookie::Cookie::parse(set).unwrap();
        assert_eq!(
            seal.open(&pool(), parsed.value(), NOW + 3599),
            Some(affinity())
        );
        let broken = Attributes {
            path: "/;x",
            ..attributes
        };
        assert_eq!(seal.set(broken, &pool(), &affinity(), NOW), None);
    }

    proptest! {
        #[test]
        fn garbage_opens_nothing(value in "[ -~]{0,600}") {
            prop_assert_eq!(Seal::new(b"secret").open(&pool(), &value, NOW), None);
        }

        #[test]
        fn one_flipped_bit_opens_nothing(bit in 0_usize..488) {
            let seal = Seal::new(b"secret");
            let engine = &base64::engine::general_purpose::URL_SAFE_NO_PAD;
            let value = seal.close(&pool(), &affinity(), NOW + 10);
            let mut bytes = base64::Engine::decode(engine, value).unwrap();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let value = base64::Engine::encode(engine, bytes);
            prop_assert_eq!(seal.open(&pool(), &value, NOW), None);
        }

        #[test]
        fn any_name_survives(
            name in any::<String>(), client in any::<u64>(), expires in any::<u64>(),
        ) {
            let seal = Seal::new(b"secret");
            let said = Affinity { streamer: StreamerId::new(name), client };
            let value = seal.close(&pool(), &said, expires);
            let expected = (expires > NOW && value.len() <= super::MAX_VALUE).then_some(said);
            prop_assert_eq!(seal.open(&pool(), &value, NOW), expected);
        }
    }
}
