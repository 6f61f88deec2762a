//! The JSON schema of `proxy.toml`, for editors and for checks in a pipeline.

use serde_json::{Map, Value as Json, json};

use super::{
    file::FileConfig,
    node::Node,
    source::Environment,
    table::{Key, Shape, Table as _},
};
use crate::config::diagnostic::Source;

/// JSON schema (draft 2020-12) of the file.
///
/// It knows keys, types and the form of each value. What depends on more than one value is for
/// [`super::load`] to say.
pub fn schema() -> Json {
    let mut schema = table(&FileConfig::keys());
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("proxy.toml of ddp-gateway");
    schema
}

fn table(keys: &[Key]) -> Json {
    let properties: Map<String, Json> = keys
        .iter()
        .map(|key| (key.name.to_owned(), property(key)))
        .collect();
    let required: Vec<&str> = keys
        .iter()
        .filter(|key| matches!(key.shape, Shape::Value { required: true, .. }))
        .map(|key| key.name)
        .collect();
    let mut schema = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn property(key: &Key) -> Json {
    let mut schema = match &key.shape {
        Shape::Value { schema, .. } => schema(),
        Shape::Table(keys) => table(&keys()),
        Shape::List(keys) => json!({ "type": "array", "items": table(&keys()) }),
        Shape::Map(keys) => json!({ "type": "object", "additionalProperties": table(&keys()) }),
    };
    schema["description"] = json!(key.text());
    if let Some(default) = key.default.and_then(literal) {
        schema["default"] = default;
    }
    if let Some(example) = key.example.and_then(literal) {
        schema["examples"] = json!([example]);
    }
    schema
}

/// A TOML literal of the declaration as JSON.
fn literal(text: &str) -> Option<Json> {
    let node = Node::fragment(text, &Source::default(), 0, &Environment::literal()).ok()?;
    Some(node.json())
}
