//! Durations, sizes, rates, counts and shares.

use std::{sync::Arc, time::Duration};

use serde_json::{Value as Json, json};

use super::{Reason, Value, Word, no_unit};
use crate::config::{
    diagnostic::Diagnostic,
    model::Quota,
    node::{Data, Node},
    table::Input,
    units::{self, UnitError},
};

fn unit_reason(error: UnitError, text: &str, units: &[&str]) -> Reason {
    let text = text.trim();
    match error {
        UnitError::NoUnit if text.bytes().all(|byte| byte.is_ascii_digit()) => no_unit(text, units),
        _ => Reason::new(error.to_string()),
    }
}

impl Word for Duration {
    const EXPECTED: &str = "a duration in d, h, m, s or ms, such as \"10s\"";
    const UNITS: &[&str] = &["s", "ms"];

    fn parse(text: &str) -> Result<Self, Reason> {
        units::duration(text).map_err(|error| unit_reason(error, text, Self::UNITS))
    }

    fn print(&self) -> String {
        units::print_duration(*self)
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!(r"^\s*([0-9_]+\s*(d|h|m|s|ms)\s*)+$|\$\{");
    }
}

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct Size(pub(in crate::config) u64);

impl Word for Size {
    const EXPECTED: &str = "a size in B, KiB, MiB or GiB, such as \"200MiB\"";
    const UNITS: &[&str] = &["MiB", "KiB"];

    fn parse(text: &str) -> Result<Self, Reason> {
        units::size(text)
            .map(Self)
            .map_err(|error| unit_reason(error, text, Self::UNITS))
    }

    fn print(&self) -> String {
        units::print_size(self.0)
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!(r"^\s*[0-9_]+\s*(B|[kK]B|MB|GB|TB|KiB|MiB|GiB|TiB)\s*$|\$\{");
    }
}

/// Events per second, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct PerSecond(pub(in crate::config) u32);

impl Word for PerSecond {
    const EXPECTED: &str = "a rate, such as \"20/s\" or \"600/min\"";
    const UNITS: &[&str] = &["/s", "/min"];

    fn parse(text: &str) -> Result<Self, Reason> {
        units::rate(text)
            .map(Self)
            .map_err(|error| unit_reason(error, text, Self::UNITS))
    }

    fn print(&self) -> String {
        format!("{}/s", self.0)
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!(r"^\s*[0-9_]+\s*/\s*(s|min)\s*$|\$\{");
    }
}

/// Requests within a time; neither is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct PerTime(pub(in crate::config) Quota);

impl Word for PerTime {
    const EXPECTED: &str = "a number of requests and a time, such as \"600/60s\"";
    const UNITS: &[&str] = &["/60s", "/10s"];

    fn parse(text: &str) -> Result<Self, Reason> {
        units::quota(text)
            .map(|(requests, interval)| Self(Quota { requests, interval }))
            .map_err(|error| match error {
                UnitError::TooSlow => Reason::new("must be at least 1 in a time above zero"),
                error => unit_reason(error, text, Self::UNITS),
            })
    }

    fn print(&self) -> String {
        format!(
            "{}/{}",
            self.0.requests,
            units::print_interval(self.0.interval)
        )
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] =
            json!(r"^\s*[0-9_]+\s*/\s*(([0-9_]+\s*(d|h|m|s|ms)\s*)+|s|min)\s*$|\$\{");
    }
}

/// Bytes per second, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct BytesPerSecond(pub(in crate::config) u32);

impl Word for BytesPerSecond {
    const EXPECTED: &str = "a rate of bytes, such as \"128KiB/s\"";
    const UNITS: &[&str] = &["KiB/s", "MiB/s"];

    fn parse(text: &str) -> Result<Self, Reason> {
        units::byte_rate(text).map(Self).map_err(|error| {
            let text = text.trim();
            let (number, time) = text.split_once('/').unwrap_or((text, "s"));
            match error {
                UnitError::NoUnit if units::size(number).is_ok() => {
                    Reason::new("`/s` is missing").help(format!("write \"{number}/s\""))
                }
                UnitError::NoUnit if text.contains('/') => {
                    Reason::new("bytes have a unit").help(format!(
                        "write \"{}B/{time}\" or \"{}KiB/{time}\"",
                        number.trim(),
                        number.trim()
                    ))
                }
                error => unit_reason(error, text, Self::UNITS),
            }
        })
    }

    fn print(&self) -> String {
        format!("{}/s", units::print_size(u64::from(self.0)))
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] =
            json!(r"^\s*[0-9_]+\s*(B|[kK]B|MB|GB|KiB|MiB|GiB)\s*/\s*(s|min)\s*$|\$\{");
    }
}

impl Value for bool {
    const INPUT: Input = Input::Plain;

    fn read(node: &Node, path: &Arc<str>, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        if let Data::Bool(value) = node.data {
            return Some(value);
        }
        let mut fault = Diagnostic::error(&node.place, format!("`{path}` must be true or false"))
            .label(format!("this is {}", node.noun()));
        if let Data::Text(text) = &node.data
            && let "true" | "false" = text.as_str()
        {
            fault = fault.help(format!("write {text} without quotation marks"));
        }
        faults.push(fault);
        None
    }

    fn schema() -> Json {
        json!({ "type": "boolean" })
    }

    fn print(&self) -> String {
        self.to_string()
    }
}

/// A whole number between two bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct Whole<const MIN: u32, const MAX: u32>(pub(in crate::config) u32);

impl<const MIN: u32, const MAX: u32> Value for Whole<MIN, MAX> {
    const INPUT: Input = Input::Plain;

    fn read(node: &Node, path: &Arc<str>, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        let label = match node.data {
            Data::Integer(number) => {
                let number = number.and_then(|number| u32::try_from(number).ok());
                match number.filter(|number| (MIN..=MAX).contains(number)) {
                    Some(number) => return Some(Self(number)),
                    None => "out of range".to_owned(),
                }
            }
            Data::Text(_) => "this is a string".to_owned(),
            _ => format!("this is {}", node.noun()),
        };
        let message = format!("`{path}` must be a whole number from {MIN} to {MAX}");
        faults.push(Diagnostic::error(&node.place, message).label(label));
        None
    }

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }

    fn print(&self) -> String {
        self.0.to_string()
    }
}

/// A share of something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::config) struct Share(pub(in crate::config) f64);

impl Value for Share {
    const INPUT: Input = Input::Plain;

    fn read(node: &Node, path: &Arc<str>, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        let (label, help) = match &node.data {
            Data::Float(share) if (0.0..=1.0).contains(share) => return Some(Self(*share)),
            Data::Integer(Some(0)) => return Some(Self(0.0)),
            Data::Integer(Some(1)) => return Some(Self(1.0)),
            Data::Integer(Some(percent @ 2..=100)) => {
                let percent = u32::try_from(*percent).unwrap_or(100);
                let share = f64::from(percent) / 100.0;
                (
                    "out of range".to_owned(),
                    Some(format!("{percent} % is {share}")),
                )
            }
            Data::Float(_) | Data::Integer(_) => ("out of range".to_owned(), None),
            _ => (format!("this is {}", node.noun()), None),
        };
        let message = format!("`{path}` must be a share from 0.0 to 1.0");
        let mut fault = Diagnostic::error(&node.place, message).label(label);
        fault.help = help;
        faults.push(fault);
        None
    }

    fn schema() -> Json {
        json!({ "type": "number", "minimum": 0, "maximum": 1 })
    }

    fn print(&self) -> String {
        format!("{:?}", self.0)
    }
}
