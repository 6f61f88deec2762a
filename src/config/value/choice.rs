//! Values that a word may stand for, such as `"off"`.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{Value, quote};
use crate::config::{
    diagnostic::Diagnostic,
    node::{Data, Node},
    suggest::nearest,
    table::Input,
};

/// A value, or a word instead of it, such as "off".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Or<T, W> {
    Value(T),
    Word(W),
}

impl<T, W> Or<T, W> {
    pub(in crate::config) fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Word(_) => None,
        }
    }
}

/// A fixed word.
pub(in crate::config) trait Literal: Copy {
    const TEXT: &str;
    const SELF: Self;
}

/// `"off"`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct Off;

impl Literal for Off {
    const TEXT: &str = "off";
    const SELF: Self = Self;
}

/// `"auto"`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct Auto;

impl Literal for Auto {
    const TEXT: &str = "auto";
    const SELF: Self = Self;
}

impl<T: Value, W: Literal> Value for Or<T, W> {
    const INPUT: Input = T::INPUT;

    fn read(node: &Node, path: &Arc<str>, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        if let Data::Text(text) = &node.data {
            if text == W::TEXT {
                return Some(Self::Word(W::SELF));
            }
            if T::INPUT == Input::Plain && nearest(text, [W::TEXT].into_iter()).is_some() {
                let message = format!("`{path}` must be a number or \"{}\"", W::TEXT);
                let fault = Diagnostic::error(&node.place, message)
                    .label("this is neither")
                    .help(format!("did you mean \"{}\"?", W::TEXT));
                faults.push(fault);
                return None;
            }
        }
        if matches!(node.data, Data::Bool(_)) {
            let message = format!("`{path}` cannot be a boolean");
            let fault = Diagnostic::error(&node.place, message)
                .label("this is a boolean")
                .help(format!("the word is \"{}\"", W::TEXT));
            faults.push(fault);
            return None;
        }
        let before = faults.len();
        let value = T::read(node, path, faults);
        for fault in &mut faults[before..] {
            fault.message.push_str(&format!(" or \"{}\"", W::TEXT));
        }
        value.map(Self::Value)
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "const": W::TEXT }, T::schema()] })
    }

    fn print(&self) -> String {
        match self {
            Self::Value(value) => value.print(),
            Self::Word(_) => quote(W::TEXT),
        }
    }
}
