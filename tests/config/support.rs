//! Comparison with files that are committed.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// From the top of the repository.
pub(crate) fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// The file must have exactly this text. With `UPDATE_EXPECTED=1` it gets it instead.
pub(crate) fn expect_file(relative: &str, text: &str) {
    let file = path(relative);
    if env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&file, text).expect("the checkout can be written to");
        return;
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    let different = expected
        .lines()
        .zip(text.lines())
        .position(|(expected, found)| expected != found)
        .unwrap_or_else(|| expected.lines().count().min(text.lines().count()));
    assert!(
        expected == text,
        "{relative} differs from line {}; UPDATE_EXPECTED=1 writes this:\n\n{text}",
        different + 1
    );
}
