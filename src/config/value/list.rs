//! Arrays, and values that stand for an array of one.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{Value, quote};
use crate::config::{
    diagnostic::Diagnostic,
    node::{Data, Node},
    table::{Input, Setting},
};

/// An array; each element keeps its place.
#[derive(Clone, Debug)]
pub(in crate::config) struct Many<T>(pub(in crate::config) Elements<T>);

/// A value that stands alone, or an array of such.
#[derive(Clone, Debug)]
pub(in crate::config) struct OneOrMany<T>(pub(in crate::config) Elements<T>);

#[derive(Clone, Debug)]
pub(in crate::config) struct Elements<T> {
    pub(in crate::config) all: Vec<Setting<T>>,
    /// Some could not be read, so that nothing can be said about their number.
    faulty: bool,
}

impl<T: Value> Elements<T> {
    fn read(nodes: &[Node], path: &Arc<str>, faults: &mut Vec<Diagnostic>) -> Self {
        let read = |node: &Node| {
            if matches!(node.data, Data::Unknown) {
                return None;
            }
            let value = T::read(node, path, faults)?;
            Some(Setting {
                value,
                place: node.place.clone(),
                path: Arc::clone(path),
                stand_in: false,
            })
        };
        let all: Vec<Setting<T>> = nodes.iter().filter_map(read).collect();
        Self {
            faulty: all.len() < nodes.len(),
            all,
        }
    }

    pub(in crate::config) fn is_empty(&self) -> bool {
        self.all.is_empty() && !self.faulty
    }
}

fn print_elements<T: Value>(elements: &[Setting<T>]) -> String {
    let printed: Vec<String> = elements
        .iter()
        .map(|element| element.value.print())
        .collect();
    format!("[{}]", printed.join(", "))
}

impl<T: Value> Value for Many<T> {
    const INPUT: Input = Input::List;

    fn read(node: &Node, path: &Arc<str>, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        if let Data::List(nodes) = &node.data {
            return Some(Self(Elements::read(nodes, path, faults)));
        }
        let mut fault = Diagnostic::error(&node.place, format!("`{path}` must be an array"))
            .label(format!("this is {}", node.noun()));
        if let Data::Text(text) = &node.data {
            fault = fault.help(format!("write [{}]", quote(text)));
        }
        faults.push(fault);
        None
    }

    fn schema() -> Json {
        json!({ "type": "array", "items": T::schema() })
    }

    fn print(&self) -> String {
        print_elements(&self.0.all)
    }

    fn hidden(&self) -> bool {
        self.0.all.iter().any(|element| element.value.hidden())
    }
}

impl<T: Value> Value for OneOrMany<T> {
    const INPUT: Input = Input::OneOrList;

    fn read(node: &Node, path: &Arc<str>, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        match &node.data {
            Data::List(nodes) => Some(Self(Elements::read(nodes, path, faults))),
            _ => {
                let one = Elements::read(std::slice::from_ref(node), path, faults);
                (!one.faulty).then_some(Self(one))
            }
        }
    }

    fn schema() -> Json {
        json!({ "anyOf": [T::schema(), { "type": "array", "items": T::schema() }] })
    }

    fn print(&self) -> String {
        match self.0.all.as_slice() {
            [one] => one.value.print(),
            many => print_elements(many),
        }
    }

    fn hidden(&self) -> bool {
        self.0.all.iter().any(|element| element.value.hidden())
    }
}
