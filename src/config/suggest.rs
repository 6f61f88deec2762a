//! What was probably meant.

use super::{
    diagnostic::Diagnostic,
    file,
    node::Entry,
    table::{Key, join},
};

pub(super) fn unknown_key(name: &str, entry: &Entry, path: &str, keys: &[Key]) -> Diagnostic {
    let fault = Diagnostic::error(&entry.key, format!("unknown key `{}`", join(path, name)));
    let meant = nearest(name, keys.iter().map(|key| key.name));
    // A slip of the fingers is more likely than the wrong table, and that more than a word that is
    // only alike.
    let slip = meant.filter(|meant| strsim::damerau_levenshtein(name, meant) <= 2);
    let homes = file::homes(name);
    if let Some(meant) = slip {
        return fault
            .label("no such key")
            .help(format!("did you mean `{meant}`?"));
    }
    let fault = fault.label(match path {
        "" => "no such key at the top level".to_owned(),
        path => format!("no such key in `{path}`"),
    });
    match (homes.as_slice(), meant) {
        ([], Some(meant)) => fault.help(format!("did you mean `{meant}`?")),
        ([], None) => {
            let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
            fault.help(format!("the keys here are {}", names.join(", ")))
        }
        (homes, _) => fault.help(format!("`{name}` is a key of {}", homes.join(", "))),
    }
}

/// The candidate that a typing mistake would turn into `name`, if there is one.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    candidates
        .map(|candidate| {
            let edits = strsim::damerau_levenshtein(&name, candidate);
            let likeness = strsim::jaro_winkler(&name, candidate);
            (candidate, edits, likeness)
        })
        .filter(|(candidate, edits, likeness)| {
            *edits <= (candidate.len() / 4).clamp(1, 3) || *likeness >= 0.88
        })
        .min_by(|a, b| a.1.cmp(&b.1).then(b.2.total_cmp(&a.2)))
        .map(|(candidate, ..)| candidate)
}
