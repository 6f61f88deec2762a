//! The certificate that all proxies show.

use std::{fs, io, path::Path};

/// ECDSA on P-256, for `localhost`.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) certificate: String,
    key: String,
}

impl Certificate {
    /// # Errors
    /// What the library says.
    pub(super) fn make() -> Result<Self, String> {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names);
        let made = made.map_err(|error| format!("no certificate can be made: {error}"))?;
        Ok(Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        })
    }

    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let Self { certificate, key } = self;
        fs::write(folder.join("tls.crt"), certificate)?;
        fs::write(folder.join("tls.key"), key)?;
        fs::write(folder.join("both.pem"), format!("{certificate}{key}"))
    }
}
