//! The manifests of the README: they can be read, and what they name exists.

use std::fs;

use ddp_gateway::{config, telemetry::names};
use serde_json::{Map, Value, json};

use crate::support::path;

#[test]
fn keda_is_given_a_metric_that_exists() {
    let manifest = manifest("ScaledObject");
    assert_eq!(manifest["apiVersion"], "keda.sh/v1alpha1");
    let spec = &manifest["spec"];
    assert_eq!(spec["scaleTargetRef"]["name"], "rocketchat-ddp-streamer");
    assert!(spec["minReplicaCount"].as_u64() < spec["maxReplicaCount"].as_u64());
    let trigger = &spec["triggers"][0];
    assert_eq!(trigger["type"], "prometheus");
    // So many pods as the query says: an average of 1 for each.
    assert_eq!(trigger["metricType"], "AverageValue");
    assert_eq!(trigger["metadata"]["threshold"], "1");
    let query = trigger["metadata"]["query"].as_str().unwrap();
    asks_for_streamers(query, "{pool=\"default\"}");
    let behaviour = &spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"];
    takes_away_one_by_one(behaviour);
}

#[test]
fn an_autoscaler_of_kubernetes_is_given_the_same() {
    let manifest = manifest("HorizontalPodAutoscaler");
    assert_eq!(manifest["apiVersion"], "autoscaling/v2");
    let spec = &manifest["spec"];
    assert_eq!(
        spec["scaleTargetRef"],
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "rocketchat-ddp-streamer"})
    );
    assert!(spec["minReplicas"].as_u64() < spec["maxReplicas"].as_u64());
    let external = &spec["metrics"][0]["external"];
    assert_eq!(external["metric"]["name"], names::STREAMERS_WANTED.name);
    let labels = external["metric"]["selector"]["matchLabels"].as_object();
    for (label, value) in labels.unwrap() {
        assert!(names::STREAMERS_WANTED.labels.contains(&label.as_str()));
        assert_eq!(value, config::DEFAULT_POOL);
    }
    assert_eq!(
        external["target"],
        json!({"type": "AverageValue", "averageValue": "1"})
    );
    takes_away_one_by_one(&spec["behavior"]);

    let rules = manifests()
        .into_iter()
        .find(|manifest| manifest["externalRules"].is_array())
        .unwrap();
    let rule = &rules["externalRules"][0];
    assert_eq!(rule["seriesQuery"], names::STREAMERS_WANTED.name);
    let query = rule["metricsQuery"].as_str().unwrap();
    let query = query.replace("<<.Series>>", names::STREAMERS_WANTED.name);
    asks_for_streamers(&query, "{<<.LabelMatchers>>}");
    assert_eq!(rule["resources"]["namespaced"], false);
}

/// Every metric that the README mentions is one.
#[test]
fn no_metric_is_named_that_is_not_there() {
    let mut seen = 0;
    for rest in readme().split("ddp_gateway_").skip(1) {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
        let name = format!("ddp_gateway_{}", &rest[..end.unwrap_or(rest.len())]);
        assert!(
            names::ALL.iter().any(|metric| metric.name == name),
            "{name}"
        );
        seen += 1;
    }
    assert!(seen >= 4);
}

fn asks_for_streamers(query: &str, selector: &str) {
    let wanted = names::STREAMERS_WANTED.name;
    assert_eq!(query, format!("ceil(1.2 * sum({wanted}{selector}))"));
}

fn takes_away_one_by_one(behaviour: &Value) {
    let down = &behaviour["scaleDown"];
    assert!(down["stabilizationWindowSeconds"].as_u64() >= Some(300));
    let policies = json!([{"type": "Pods", "value": 1, "periodSeconds": 120}]);
    assert_eq!(down["policies"], policies);
}

fn manifest(kind: &str) -> Value {
    let found = manifests()
        .into_iter()
        .find(|manifest| manifest["kind"] == kind);
    found.expect("the README has one")
}

fn manifests() -> Vec<Value> {
    let readme = readme();
    let blocks = readme.split("```yaml\n").skip(1);
    blocks
        .map(|block| {
            let (block, _) = block.split_once("```").expect("the block ends");
            let lines: Vec<Line<'_>> = block.lines().map(Line::new).collect();
            let (value, rest) = read(&lines);
            assert!(
                rest.is_empty(),
                "not indented as what is above it: {rest:?}"
            );
            value
        })
        .collect()
}

fn readme() -> String {
    fs::read_to_string(path("README.md")).expect("the README is there")
}

/// A line of YAML, in so far as manifests need it: maps and lists as blocks, scalars on one line.
#[derive(Clone, Copy, Debug)]
struct Line<'a> {
    indent: usize,
    text: &'a str,
}

impl<'a> Line<'a> {
    fn new(line: &'a str) -> Self {
        let text = line.trim_start_matches(' ');
        assert!(!text.is_empty() && text == text.trim(), "{line:?}");
        Self {
            indent: line.len() - text.len(),
            text,
        }
    }
}

/// Reads the block that begins with the first line; also gives back the lines after it.
fn read<'a, 'l>(lines: &'l [Line<'a>]) -> (Value, &'l [Line<'a>]) {
    let indent = lines.first().expect("a block has lines").indent;
    let len = lines
        .iter()
        .take_while(|line| line.indent >= indent)
        .count();
    let (block, rest) = lines.split_at(len);
    // Each element begins with a line at the block's own indentation.
    let starts = (0..len).filter(|at| block[*at].indent == indent);
    let ends = starts.clone().skip(1).chain([len]);
    let elements = starts.zip(ends).map(|(start, end)| &block[start..end]);
    let value = if block[0].text.starts_with("- ") {
        Value::Array(elements.map(item).collect())
    } else {
        let mut map = Map::new();
        for element in elements {
            let (key, value) = entry(element);
            assert!(map.insert(key.clone(), value).is_none(), "{key} twice");
        }
        Value::Object(map)
    };
    (value, rest)
}

/// `- key: value` with the other keys of the same map below `key`.
fn item(lines: &[Line<'_>]) -> Value {
    let text = lines[0].text.strip_prefix("- ").expect("an item of a list");
    let first = Line {
        indent: lines[0].indent + 2,
        text,
    };
    let all: Vec<Line<'_>> = [first].iter().chain(&lines[1..]).copied().collect();
    let (value, rest) = read(&all);
    assert!(rest.is_empty(), "{rest:?}");
    value
}

fn entry(lines: &[Line<'_>]) -> (String, Value) {
    let [Line { text, .. }, below @ ..] = lines else {
        panic!("an entry has a line");
    };
    if let Some((key, value)) = text.split_once(": ") {
        assert!(below.is_empty(), "below a scalar: {below:?}");
        return (key.to_owned(), scalar(value));
    }
    let key = text.strip_suffix(':').expect("a key ends with a colon");
    let (value, rest) = read(below);
    assert!(rest.is_empty(), "{rest:?}");
    (key.to_owned(), value)
}

/// A number, a boolean, or a string, with double quotes or without.
fn scalar(text: &str) -> Value {
    if let Ok(value) = serde_json::from_str(text) {
        return value;
    }
    // What would not be a plain string, or not all of one.
    let plain = !text.starts_with(|c: char| "!&*-?{}[],#|>@`\"'%".contains(c));
    assert!(
        plain && !text.contains(" #") && !text.contains(": "),
        "{text}"
    );
    Value::from(text)
}
