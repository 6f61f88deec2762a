//! From `proxy.toml` to a [`Config`] in which everything has been checked.
//!
//! `file` declares every key once, `node` holds what was written, `source` lays the environment and
//! the flags over it, `table`, `field` and `value` read it, `build`, `listeners`, `pools` and
//! `routing` judge it. Each fault is a [`Diagnostic`] with its place; all of them are found in one
//! run. From the same declaration `schema`, `template` and `writer` make the JSON schema, the
//! commented default and the effective output.
//!
//! Reads files, and nothing else of the outside world: no socket, no clock, no name is looked up.

mod build;
mod bus;
mod diagnostic;
mod diff;
mod field;
mod file;
mod kubernetes;
mod listeners;
pub mod model;
mod node;
mod pools;
mod routing;
mod schema;
mod source;
mod suggest;
mod table;
mod template;
mod units;
mod value;
mod writer;

use std::{
    fs,
    path::{Path, PathBuf},
};

use self::{
    build::{Builder, NamedFile},
    file::FileConfig,
    node::Document,
    table::{Reader, Table as _},
    writer::Writer,
};
pub use self::{
    diagnostic::{Diagnostic, Origin, Place, Severity},
    diff::{Change, diff},
    model::Config,
    pools::DEFAULT_POOL,
    schema::schema,
    source::{Environment, PREFIX},
    template::template,
};
use crate::base::id::PoolName;

/// A configuration that can be used, and what else is known about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Diagnostic>,
    /// Every file that it was made from or names: itself, certificates, keys, secrets.
    pub files: Vec<PathBuf>,
    named: Vec<NamedFile>,
    written: FileConfig,
}

/// The commented default, as it lies at the top of the repository.
pub const DEFAULT_FILE: &str = include_str!("../../proxy.toml");

/// Reads a file. Relative paths in it begin at its directory.
///
/// # Errors
/// Every fault that there is, in the order of the file.
pub fn load(path: &Path, environment: &Environment) -> Result<Loaded, Vec<Diagnostic>> {
    let name = path.display().to_string();
    let unreadable = |reason: &str| {
        vec![Diagnostic::placeless(format!(
            "{name} cannot be read: {reason}"
        ))]
    };
    let text = fs::read(path).map_err(|error| unreadable(&build::reason(&error)))?;
    let text = String::from_utf8(text).map_err(|_| unreadable("it is not UTF-8"))?;
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    let mut loaded = read(&name, &text, base, environment)?;
    loaded.files.insert(0, path.to_owned());
    Ok(loaded)
}

/// Reads a text that `name` stands for in diagnostics. Relative paths in it begin at the current
/// directory.
///
/// # Errors
/// Every fault that there is, in the order of the text.
pub fn from_str(
    name: &str,
    text: &str,
    environment: &Environment,
) -> Result<Loaded, Vec<Diagnostic>> {
    read(name, text, Path::new(""), environment)
}

fn read(
    name: &str,
    text: &str,
    base: &Path,
    environment: &Environment,
) -> Result<Loaded, Vec<Diagnostic>> {
    let Document {
        mut root,
        mut faults,
    } = Document::parse(name, text, environment);
    let incomplete = !faults.is_empty();
    faults.extend(environment.overlay(&mut root, &FileConfig::keys()));
    let mut written: FileConfig = Reader::root(&root, &mut faults);
    written.fill_in();
    let mut builder = Builder::new(&written, base);
    let config = builder.config();
    let Builder {
        faults: judged,
        files: named,
        ..
    } = builder;
    faults.extend(judged);
    if incomplete {
        faults.retain(|fault| !fault.is_absence());
    }
    for fault in &mut faults {
        fault.in_file(name);
    }
    faults.sort_by(Diagnostic::in_order);
    if faults.iter().any(|fault| fault.severity == Severity::Error) {
        return Err(faults);
    }
    Ok(Loaded {
        config,
        warnings: faults,
        files: named.iter().map(|file| file.path.clone()).collect(),
        named,
        written,
    })
}

impl Loaded {
    /// All values as TOML, each with a comment that says where it came from. Secrets are masked and
    /// commented out; apart from them the text loads to the same configuration, from the same
    /// directory.
    pub fn effective(&self) -> String {
        let mut writer = Writer::default();
        self.written.write(&mut writer);
        writer.finish()
    }

    /// Says something about the message bus of a pool, at the place that names its servers.
    pub fn about_bus(&self, pool: &PoolName, severity: Severity, reason: &str) -> Diagnostic {
        let discovery = match self.written.pools.get(pool.as_str()) {
            Some(pool) => &pool.discovery,
            None => &self.written.discovery,
        };
        let url = discovery.nats.as_ref().and_then(|nats| nats.url.0.as_ref());
        let mut about = match url {
            Some(url) => Diagnostic::error(&url.place, reason),
            None => Diagnostic::placeless(reason.to_owned()),
        };
        about.severity = severity;
        about
    }

    /// Says something about the message bus of the replicas, at the place that names its servers.
    pub fn about_replicas(&self, severity: Severity, reason: &str) -> Diagnostic {
        let own = self.written.replicas.url.as_ref();
        let shared = self.written.discovery.nats.as_ref();
        let url = own.or_else(|| shared.and_then(|nats| nats.url.0.as_ref()));
        let mut about = match url {
            Some(url) => Diagnostic::error(&url.place, reason),
            None => Diagnostic::placeless(reason.to_owned()),
        };
        about.severity = severity;
        about
    }

    /// Says something about a file that the configuration names, at the place where it does.
    ///
    /// Certificates and keys are not read here: whether they can be used is for TLS to find out.
    pub fn about_file(&self, path: &Path, severity: Severity, reason: &str) -> Diagnostic {
        match self.named.iter().find(|file| file.path == path) {
            Some(file) => file.diagnostic(severity, reason),
            None => {
                let mut about = Diagnostic::placeless(format!("{}: {reason}", path.display()));
                about.severity = severity;
                about
            }
        }
    }
}
