//! Reads the sources and compares them with the floors that the crate docs describe.
//!
//! Comments, text in quotes and test modules are taken out first: a test may use a clock, a runtime
//! and anything else.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// The floors from the ground up. An arrow of imports goes down, never sideways or up.
const FLOORS: &[&[&str]] = &[
    &["base", "telemetry"],
    &["ws", "ddp", "sockjs", "headers"],
    &["session", "pool", "replicas", "config"],
    &["net", "bus", "discovery"],
    &["proxy"],
    &["control", "admin"],
    &["demo", "cli", "main"],
];

/// The only arrows within a floor.
const SIDEWAYS: &[(&str, &str)] = &[
    ("telemetry", "base"),
    ("discovery", "net"),
    ("discovery", "bus"),
    ("admin", "control"),
    ("main", "cli"),
    ("main", "demo"),
];

/// Arrows that would go down and are not wanted all the same.
const ABSENT: &[(&str, &str)] = &[
    ("config", "telemetry"),
    ("config", "ws"),
    ("config", "ddp"),
    ("config", "sockjs"),
    ("config", "headers"),
];

/// What must not be named, and the places (folders or files below `src`) that may.
const CONFINED: &[Confined] = &[
    Confined {
        names: &[
            "tokio",
            "tokio_util",
            "Instant::now",
            "SystemTime::now",
            "rand",
            "std::net::TcpStream",
            "std::net::TcpListener",
        ],
        places: &[
            "net",
            "bus",
            "discovery",
            "proxy",
            "control",
            "admin",
            "demo",
            "cli/check.rs",
            "cli.rs",
            "main.rs",
        ],
        why: "floors 0 to 2 decide and compute: they get the time and a seed as arguments",
    },
    Confined {
        names: &[
            "rustls",
            "rustls_pki_types",
            "tokio_rustls",
            "tokio::net",
            "hickory_resolver",
            "socket2",
            "x509_parser",
            "proxy_header",
        ],
        places: &["net", "bus", "discovery", "demo", "main.rs"],
        why: "sockets, TLS and name servers are reached through `net`, `bus` and `discovery`",
    },
    Confined {
        names: &["async_nats"],
        places: &["bus"],
        why: "who uses the message bus knows subjects and messages; the rest works without it",
    },
    Confined {
        names: &["hyper", "hyper_util"],
        places: &[
            "net/https.rs",
            "net/incoming.rs",
            "net/monolith.rs",
            "net/origin.rs",
            "net/stream.rs",
            "proxy",
            "admin",
            "demo",
        ],
        why: "only those who serve or send HTTP name hyper",
    },
    Confined {
        names: &["h2"],
        places: &[
            "net/http2/exchange.rs",
            "net/http2/mod.rs",
            "net/http2/multiplexed.rs",
            "net/http2/received.rs",
            "net/incoming.rs",
        ],
        why: "the rest of the gateway does not know which version of HTTP a request came by",
    },
    Confined {
        names: &[
            "metrics::counter!",
            "metrics::gauge!",
            "metrics::histogram!",
        ],
        places: &["telemetry/meters.rs"],
        why: "a handle is made once, by a method of `telemetry::names::Metric`",
    },
    Confined {
        names: &["anyhow"],
        places: &["main.rs"],
        why: "a module has its own error type",
    },
];

struct Confined {
    names: &'static [&'static str],
    places: &'static [&'static str],
    why: &'static str,
}

/// A test that sleeps hopes that something has happened meanwhile. Waiting for a condition is what
/// `tests/support/mod.rs` is for.
#[test]
fn no_test_sleeps() {
    let mut faults = String::new();
    for file in rust_files("tests") {
        let text = fs::read_to_string(&file).expect("a source file is readable");
        let code = code_and_tests(&text, Keep::Code);
        for (line, text) in code.lines().enumerate() {
            if text.contains("sleep(") {
                let _ = writeln!(faults, "{}:{}", file.display(), line + 1);
            }
        }
    }
    assert!(faults.is_empty(), "these wait for time to pass:\n{faults}");
}

#[test]
fn imports_go_down() {
    let mut faults = String::new();
    for source in sources() {
        if source.path == "lib.rs" {
            continue;
        }
        let folder = source.folder();
        let Some(own) = floor(folder) else {
            let _ = writeln!(
                faults,
                "src/{}: `{folder}` stands on no floor: add it",
                source.path
            );
            continue;
        };
        for (line, target) in source.crate_paths() {
            if target == folder {
                continue;
            }
            let allowed = match floor(&target) {
                Some(other) if other < own => !ABSENT.contains(&(folder, target.as_str())),
                Some(_) => SIDEWAYS.contains(&(folder, target.as_str())),
                None => continue,
            };
            if !allowed {
                let _ = writeln!(
                    faults,
                    "src/{}:{line}: `{folder}` (floor {own}) must not use `{target}`",
                    source.path
                );
            }
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn crates_and_clocks_stay_in_their_places() {
    let mut faults = String::new();
    for source in sources() {
        for rule in CONFINED {
            if rule
                .places
                .iter()
                .any(|place| source.path == *place || source.folder() == *place)
            {
                continue;
            }
            for name in rule.names {
                for line in source.lines_naming(name) {
                    let _ = writeln!(
                        faults,
                        "src/{}:{line}: `{name}` has no business here: {}",
                        source.path, rule.why
                    );
                }
            }
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn metric_names_stand_in_one_file() {
    let mut faults = String::new();
    for path in rust_files("src") {
        if path.ends_with("telemetry/names.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source file is readable");
        for (index, line) in code_and_tests(&text, Keep::Text).lines().enumerate() {
            if line.contains("\"ddp_gateway_") {
                let _ = writeln!(
                    faults,
                    "{}:{}: a metric's name belongs into src/telemetry/names.rs",
                    path.display(),
                    index + 1
                );
            }
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn the_reader_of_sources_sees_what_it_should() {
    let text = "//! crate::no\nuse crate::{\n    base::id, // crate::no\n    net::{a, b},\n};\n\
                const S: &str = \"crate::no\";\nfn f() { let c = '\"'; crate::pool::x(); }\n\
                #[cfg(test)]\nmod tests {\n    use crate::demo;\n}\nuse super::super::ws::x;\n";
    let source = Source {
        path: "pool/pick.rs".into(),
        code: without_tests(&code_and_tests(text, Keep::Code)),
    };
    let found: Vec<_> = source.crate_paths();
    let expected = [(3, "base"), (4, "net"), (7, "pool"), (12, "ws")];
    assert_eq!(found, expected.map(|(line, name)| (line, name.to_owned())));
    let clock = Source {
        path: "x.rs".into(),
        code: "let a = Instant::now();\nmy_rand::x(); tokio::spawn\n".into(),
    };
    assert_eq!(clock.lines_naming("Instant::now"), [1]);
    assert_eq!(clock.lines_naming("rand"), [0_usize; 0]);
    assert_eq!(clock.lines_naming("tokio"), [2]);
}

/// One file without comments, quoted text and test modules; line breaks are kept.
struct Source {
    /// Below `src`, with `/`.
    path: String,
    code: String,
}

impl Source {
    /// First part of the path, without `.rs`.
    fn folder(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The crate's modules that are named, each with its line.
    fn crate_paths(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for root in ["crate::", "ddp_gateway::", "super::super::"] {
            for (at, _) in self.code.match_indices(root) {
                if self.code[..at].ends_with(is_word) {
                    continue;
                }
                let rest = &self.code[at + root.len()..];
                if let Some(group) = rest.strip_prefix('{') {
                    let mut depth = 0_i32;
                    let mut fresh = true;
                    for (offset, c) in group.char_indices() {
                        match c {
                            '{' => depth += 1,
                            '}' if depth == 0 => break,
                            '}' => depth -= 1,
                            ',' if depth == 0 => fresh = true,
                            c if fresh && is_word(c) => {
                                fresh = false;
                                let line = self.line(at + root.len() + 1 + offset);
                                found.push((line, word(&group[offset..])));
                            }
                            _ => {}
                        }
                    }
                } else if rest.starts_with(|c: char| c.is_ascii_lowercase()) {
                    found.push((self.line(at), word(rest)));
                }
            }
        }
        found.sort();
        found
    }

    fn lines_naming(&self, name: &str) -> Vec<usize> {
        // A crate is named at the root of a path; other needles are taken as they stand.
        let is_crate = name.chars().all(is_word);
        self.code
            .match_indices(name)
            .filter(|(at, _)| {
                let before = &self.code[..*at];
                let after = &self.code[at + name.len()..];
                !before.ends_with(is_word)
                    && !after.starts_with(is_word)
                    && (!is_crate || (after.starts_with("::") && !before.ends_with("::")))
            })
            .map(|(at, _)| self.line(at))
            .collect()
    }

    fn line(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| is_word(*c)).collect()
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    rust_files("src")
        .into_iter()
        // A module that is `#[cfg(test)] mod tests;` in its parent.
        .filter(|file| !file.ends_with("tests.rs"))
        .map(|file| {
            let text = fs::read_to_string(&file).expect("a source file is readable");
            let path = file.strip_prefix(&root).expect("the file is below src");
            Source {
                path: path.to_string_lossy().replace('\\', "/"),
                code: without_tests(&code_and_tests(&text, Keep::Code)),
            }
        })
        .collect()
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the folder is readable") {
            let path = entry.expect("the folder is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    assert!(files.len() > 10, "{folder} was not found");
    files
}

#[derive(Clone, Copy, PartialEq)]
enum Keep {
    /// Quoted text becomes `""`.
    Code,
    /// Quoted text stays.
    Text,
}

/// Takes comments out, and quoted text too unless it shall stay.
fn code_and_tests(text: &str, keep: Keep) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let ahead = |at: usize| bytes.get(at).copied().unwrap_or('\0');
    while at < bytes.len() {
        match bytes[at] {
            '/' if ahead(at + 1) == '/' => {
                while at < bytes.len() && bytes[at] != '\n' {
                    at += 1;
                }
            }
            '/' if ahead(at + 1) == '*' => {
                while at < bytes.len() && !(bytes[at] == '*' && ahead(at + 1) == '/') {
                    if bytes[at] == '\n' {
                        out.push('\n');
                    }
                    at += 1;
                }
                at += 2;
            }
            'r' if !out.ends_with(is_word) && (ahead(at + 1) == '"' || ahead(at + 1) == '#') => {
                let hashes = (at + 1..).take_while(|i| ahead(*i) == '#').count();
                if ahead(at + 1 + hashes) != '"' {
                    out.push('r');
                    at += 1;
                    continue;
                }
                let start = at;
                at += hashes + 2;
                let closes =
                    |at: usize| ahead(at) == '"' && (1..=hashes).all(|i| ahead(at + i) == '#');
                while at < bytes.len() && !closes(at) {
                    at += 1;
                }
                at = (at + 1 + hashes).min(bytes.len());
                quoted(&bytes[start..at], keep, &mut out);
            }
            '"' => {
                let start = at;
                at += 1;
                while at < bytes.len() && bytes[at] != '"' {
                    at += if bytes[at] == '\\' { 2 } else { 1 };
                }
                at = (at + 1).min(bytes.len());
                quoted(&bytes[start..at], keep, &mut out);
            }
            // A character literal, as against a lifetime.
            '\'' if ahead(at + 1) == '\\' || ahead(at + 2) == '\'' => {
                at += if ahead(at + 1) == '\\' { 3 } else { 2 };
                while at < bytes.len() && bytes[at] != '\'' {
                    at += 1;
                }
                at += 1;
                out.push_str("' '");
            }
            c => {
                out.push(c);
                at += 1;
            }
        }
    }
    out
}

fn quoted(text: &[char], keep: Keep, out: &mut String) {
    match keep {
        Keep::Text => out.extend(text),
        Keep::Code => {
            out.push_str("\"\"");
            out.extend(text.iter().filter(|c| **c == '\n'));
        }
    }
}

/// Blanks each item behind `#[cfg(test)]`, line breaks excepted.
fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..at]);
        let item = &rest[at..];
        let mut depth = 0_i32;
        let mut end = item.len();
        for (offset, c) in item.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 && (c == '}' || c == ';') {
                end = offset + c.len_utf8();
                break;
            }
        }
        out.extend(item[..end].chars().filter(|c| *c == '\n'));
        rest = &item[end..];
    }
    out.push_str(rest);
    out
}
