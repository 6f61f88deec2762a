//! The JSON schema agrees with the loader about everything that loads, and finds wrong keys and
//! types itself.

use std::fs;

use ddp_gateway::config;
use serde_json::Value;

use crate::support::files;

fn validator() -> jsonschema::Validator {
    jsonschema::validator_for(&config::schema()).expect("a test says so")
}

fn json(text: &str) -> Value {
    let table: toml::Table = toml::from_str(text).expect("the loader says so");
    serde_json::to_value(table).expect("there is no date in it")
}

#[test]
fn is_a_schema() {
    jsonschema::meta::validate(&config::schema()).unwrap();
}

#[test]
fn accepts_what_loads() {
    let validator = validator();
    let mut texts = vec![config::DEFAULT_FILE.to_owned()];
    for file in files("tests/config/valid") {
        texts.push(fs::read_to_string(file).unwrap());
    }
    for text in texts {
        if let Err(error) = validator.validate(&json(&text)) {
            panic!("{error} at {}\n{text}", error.instance_path());
        }
    }
}

#[test]
fn refuses_wrong_keys_and_types() {
    let validator = validator();
    let base = crate::support::BASE;
    assert!(validator.is_valid(&json(base)));
    for wrong in [
        "lisen = \"127.0.0.1:80\"",
        "watch = \"yes\"",
        "trusted_proxies = \"10.0.0.0/8\"",
        "[http]\nbody_limit = 5",
        "[http]\nbody_limit = \"5\"",
        "[http]\nconnect_timeout = \"5 parsecs\"",
        "[limits]\nmessages = \"20\"",
        "[health]\nmax_ejected = 1.5",
        "[health]\nfailures = 0",
        "[log]\nformat = \"yaml\"",
        "[[listener]]\nhttp2 = true",
        "[pools.eu]\nsession_limit = 1",
    ] {
        let text = format!("{base}{wrong}\n");
        assert!(!validator.is_valid(&json(&text)), "{wrong}");
    }
    assert!(!validator.is_valid(&json("streamers = [\"a:1\"]")));
}

/// Whoever reads the schema in an editor finds an explanation for everything.
#[test]
fn explains_every_key() {
    fn look(value: &Value, path: &str) {
        let Some(properties) = value.get("properties").and_then(Value::as_object) else {
            for below in ["items", "additionalProperties"] {
                if let Some(inner) = value.get(below) {
                    look(inner, path);
                }
            }
            return;
        };
        for (name, property) in properties {
            let path = format!("{path}.{name}");
            let text = property["description"].as_str().unwrap_or_default();
            assert!(text.len() > 5, "{path}: {text:?}");
            look(property, &path);
        }
    }
    look(&config::schema(), "");
}
