//! A fault in the configuration: where it stands, why it is one, and what was probably meant.

use std::{cmp::Ordering, fmt, ops::Range, sync::Arc};

use annotate_snippets::{self as snippet, AnnotationKind, Level, Renderer, Snippet};

/// One thing that is wrong (or doubtful) in the configuration.
///
/// `Display` shows it without colour; [`Diagnostic::render`] can do both.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    pub severity: Severity,
    /// What is wrong, in one line and without the place.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    place: Option<Place>,
    /// Name of the file, for what has no place in it.
    file: Option<String>,
    label: String,
    /// A second place that has to do with it, such as the first of two equal listeners.
    related: Option<(Place, String)>,
    /// Something is not there. Not to be trusted when parts of the file could not be read.
    absence: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but it will probably not do what was meant.
    Warning,
}

/// A stretch of a text that configuration came from.
#[derive(Clone, Debug)]
pub struct Place {
    source: Arc<Source>,
    span: Range<usize>,
}

/// A file, an environment variable, a flag, or the built-in defaults.
#[derive(Debug)]
pub(super) struct Source {
    origin: Kind,
    /// What may be shown: values of secrets are overwritten, byte for byte.
    shown: String,
}

#[derive(Debug)]
enum Kind {
    Default,
    File(String),
    Environment(String),
    Flag(String),
}

/// Where a value came from. Shows as `default`, `proxy.toml:12`, `environment NAME`, `--set key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// Name of the file and line, from 1.
    File(String, usize),
    /// Name of the variable.
    Environment(String),
    /// Key that the flag sets.
    Flag(String),
}

impl Diagnostic {
    pub(super) fn error(place: &Place, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            help: None,
            place: Some(place.clone()),
            file: None,
            label: String::new(),
            related: None,
            absence: false,
        }
    }

    /// A fault that has no place, such as a file that cannot be read.
    pub(super) fn placeless(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            help: None,
            place: None,
            file: None,
            label: String::new(),
            related: None,
            absence: false,
        }
    }

    pub(super) fn warning(place: &Place, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(place, message)
        }
    }

    /// Text next to the underlined part.
    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn related(mut self, place: &Place, label: impl Into<String>) -> Self {
        self.related = Some((place.clone(), label.into()));
        self
    }

    /// Names the file of what has no place in it.
    pub(super) fn in_file(&mut self, name: &str) {
        if self.place.is_none() {
            self.file = Some(name.to_owned());
        }
    }

    pub(super) fn absence(mut self) -> Self {
        self.absence = true;
        self
    }

    pub(super) fn is_absence(&self) -> bool {
        self.absence
    }

    /// Where it stands; `None` when there is no such place, as for a file that does not exist.
    pub fn origin(&self) -> Option<Origin> {
        self.place.as_ref().map(Place::origin)
    }

    /// Several lines: message, place, the underlined text, help. No newline at the end.
    pub fn render(&self, colour: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(self.message.as_str());
        let excerpt = |place: &Place| {
            Snippet::source(place.source.shown.clone()).path(place.source.to_string())
        };
        let mut elements = Vec::new();
        if let Some(place) = &self.place {
            let main = AnnotationKind::Primary
                .span(place.visible_span())
                .label(self.label.as_str());
            match &self.related {
                Some((other, label)) if Arc::ptr_eq(&other.source, &place.source) => {
                    let other = AnnotationKind::Context
                        .span(other.visible_span())
                        .label(label.as_str());
                    elements.push(excerpt(place).annotation(main).annotation(other));
                }
                Some((other, label)) => {
                    let context = AnnotationKind::Context
                        .span(other.visible_span())
                        .label(label.as_str());
                    elements.push(excerpt(place).annotation(main));
                    elements.push(excerpt(other).annotation(context));
                }
                None => elements.push(excerpt(place).annotation(main)),
            }
        }
        let mut group = title.elements(elements);
        if let Some(file) = &self.file {
            group = group.element(snippet::Origin::path(file.as_str()));
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        renderer.render(&[group])
    }

    /// By file and position; what has no place comes last.
    pub(super) fn in_order(&self, other: &Self) -> Ordering {
        let key = |diagnostic: &Self| match &diagnostic.place {
            Some(place) => (place.source.rank(), place.span.start),
            None => (u8::MAX, 0),
        };
        key(self).cmp(&key(other))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl Place {
    pub(super) fn new(source: &Arc<Source>, span: Range<usize>) -> Self {
        Self {
            source: Arc::clone(source),
            span,
        }
    }

    pub fn origin(&self) -> Origin {
        match &self.source.origin {
            Kind::Default => Origin::Default,
            Kind::File(name) => Origin::File(name.clone(), self.line()),
            Kind::Environment(name) => Origin::Environment(name.clone()),
            Kind::Flag(key) => Origin::Flag(key.clone()),
        }
    }

    pub(super) fn is_default(&self) -> bool {
        matches!(self.source.origin, Kind::Default)
    }

    /// Same line of the same text.
    pub(super) fn shares_line(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.source, &other.source) && self.line() == other.line()
    }

    pub(super) fn line(&self) -> usize {
        let end = self.span.start.min(self.source.shown.len());
        self.source.shown.as_bytes()[..end]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1
    }

    /// The span, cut to its first line so that a table of fifty lines is not underlined as a
    /// whole, and never empty unless the text is.
    fn visible_span(&self) -> Range<usize> {
        let text = &self.source.shown;
        let start = floor(text, self.span.start);
        let end = floor(text, self.span.end).max(start);
        let first_line = text[start..end].find('\n').map_or(end, |at| start + at);
        if first_line > start {
            return start..first_line;
        }
        let step = text[start..].chars().next().map_or(0, |c| match c {
            '\n' => 0,
            c => c.len_utf8(),
        });
        start..start + step
    }
}

/// The last character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

impl Source {
    pub(super) fn default() -> Arc<Self> {
        Arc::new(Self {
            origin: Kind::Default,
            shown: String::new(),
        })
    }

    pub(super) fn file(name: &str, text: &str) -> Arc<Self> {
        Arc::new(Self {
            origin: Kind::File(name.to_owned()),
            shown: mask_logins(&mask_secrets(text)),
        })
    }

    /// The text is `name=value`; give `value` masked when it is a secret.
    pub(super) fn environment(name: &str, shown: &str) -> Arc<Self> {
        Arc::new(Self {
            origin: Kind::Environment(name.to_owned()),
            shown: mask_logins(&format!("{name}={shown}")),
        })
    }

    /// The text is `key=value`; give `value` masked when it is a secret.
    pub(super) fn flag(key: &str, shown: &str) -> Arc<Self> {
        Arc::new(Self {
            origin: Kind::Flag(key.to_owned()),
            shown: mask_logins(&format!("{key}={shown}")),
        })
    }

    fn rank(&self) -> u8 {
        match self.origin {
            Kind::File(_) => 0,
            Kind::Environment(_) => 1,
            Kind::Flag(_) => 2,
            Kind::Default => 3,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Kind::Default => f.write_str("default"),
            Kind::File(name) => f.write_str(name),
            Kind::Environment(_) => f.write_str("environment"),
            Kind::Flag(_) => f.write_str("--set"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(name, line) => write!(f, "{name}:{line}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(key) => write!(f, "--set {key}"),
        }
    }
}

/// Overwrites what follows `secret =`, even in a line that is not valid TOML, with as many bytes.
///
/// A `"""` string that goes on over more lines is overwritten up to its end.
fn mask_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut open: Option<&str> = None;
    for line in text.split_inclusive('\n') {
        let (body, end) = match line.strip_suffix('\n') {
            Some(body) => (body, "\n"),
            None => (line, ""),
        };
        let hidden_from = match open {
            Some(_) => Some(0),
            None => secret_value(body),
        };
        match hidden_from {
            Some(at) => {
                shown.push_str(&body[..at]);
                shown.extend(std::iter::repeat_n('*', body.len() - at));
                for quote in ["\"\"\"", "'''"] {
                    let closes = open == Some(quote) && body.contains(quote);
                    let opens = open.is_none() && body[at..].matches(quote).count() == 1;
                    if closes {
                        open = None;
                    } else if opens {
                        open = Some(quote);
                    }
                }
            }
            None => shown.push_str(body),
        }
        shown.push_str(end);
    }
    shown
}

/// Overwrites credentials in URLs, what is between `://` and the last `@`, with as many bytes.
fn mask_logins(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        shown.push_str(before);
        let end = after.find(['"', '\'', ' ', '\t', '\n', ',']);
        let url = &after[..end.unwrap_or(after.len())];
        let login = url.rfind('@').unwrap_or(0);
        shown.extend(std::iter::repeat_n('*', login));
        rest = &after[login..];
    }
    shown + rest
}

/// Where the value of a key `secret` begins in this line.
fn secret_value(line: &str) -> Option<usize> {
    let mut from = 0;
    while let Some(found) = line[from..].find("secret") {
        let after = from + found + "secret".len();
        let rest = line[after..].trim_start_matches(['"', '\'', ' ', '\t']);
        if let Some(value) = rest.strip_prefix('=') {
            let value = value.trim_start();
            return Some(line.len() - value.len());
        }
        from = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{mask_logins, mask_secrets};

    #[test]
    fn logins_in_urls_are_overwritten() {
        for (text, shown) in [
            (
                "url = \"nats://me:a@b@nats:4222,nats://two\" # x@y",
                "url = \"nats://******@nats:4222,nats://two\" # x@y",
            ),
            (
                "monolith = 'http://a'\nb = 'me@b'",
                "monolith = 'http://a'\nb = 'me@b'",
            ),
        ] {
            assert_eq!(mask_logins(text), shown);
        }
    }

    #[test]
    fn secrets_are_overwritten_and_nothing_moves() {
        let cases = [
            ("secret = \"abc\"\nx = 1\n", "secret = *****\nx = 1\n"),
            ("a = { secret=\"ä\" }", "a = { secret=******"),
            ("\"secret\" = 'q", "\"secret\" = **"),
            ("secret_file = \"/x\"", "secret_file = \"/x\""),
            (
                "secret = \"\"\"\nabc\nd\"\"\"\nb = 2",
                "secret = ***\n***\n****\nb = 2",
            ),
        ];
        for (text, shown) in cases {
            assert_eq!(mask_secrets(text), shown);
            assert_eq!(mask_secrets(text).len(), text.len());
        }
    }
}
