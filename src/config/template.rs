//! The commented default: `proxy.toml` of this repository, made from the declaration of the keys.

use super::{
    file::FileConfig,
    table::{Key, Shape, Table as _},
};

const HEAD: &str = r##"# ddp-gateway in front of Rocket.Chat: every key with its default and unit.
#
# `#key = value` shows a default; `#key = value  # not set` is an example. To change a key, remove
# the `#` and write your value. Only the keys without `#` are set.
#
# Durations are in d, h, m, s and ms ("90s", "1h30m"), sizes in B, KiB, MiB and GiB, rates are
# "20/s", "600/min" or "128KiB/s".
#
# ${NAME} and ${NAME:-value} are filled in from the environment; $${ stands for ${ itself.
# Every key outside of [[...]] and [pools.NAME] can be set from outside as well: body_limit of
# [http] by the environment variable DDP_GATEWAY__HTTP__BODY_LIMIT=1GiB, which wins over this file,
# and by --set http.body_limit=1GiB, which wins over both.
#
# `ddp-gateway check` says what is wrong with a file, `ddp-gateway config effective` what is in
# force and where it comes from.
#
# As it stands, this file serves a release of Rocket.Chat's Helm chart with microservices.enabled.
# Give the name of the release in the environment variable RELEASE. The chart's own Service has one
# address for all streamers, so add one that has an address per pod:
#
#   apiVersion: v1
#   kind: Service
#   metadata: { name: rocketchat-ddp-streamer-headless }
#   spec:
#     clusterIP: None
#     selector: { app.kubernetes.io/name: rocketchat-ddp-streamer }
#     ports: [{ name: http, port: 3000 }]
#
# Then let the ingress send everything to the gateway, and set HTTP_FORWARDED_COUNT of Rocket.Chat
# to the number of proxies in front of it, this one included.
"##;

/// What is set, because nothing works without; for the Helm chart.
const SET: &[(&str, &str)] = &[
    (
        "monolith",
        r#""http://${RELEASE:-rocketchat}-rocketchat:80""#,
    ),
    (
        "discovery.dns.name",
        r#""${RELEASE:-rocketchat}-ddp-streamer-headless""#,
    ),
    ("discovery.dns.port", "3000"),
];

/// Examples that are defaults all the same, because what is not set is taken to be that.
const IMPLIED: &[&str] = &["listen", "listener.http2"];

/// The text that `proxy.toml` of this repository has; a test compares the two.
pub fn template() -> String {
    let mut template = Template {
        out: HEAD.to_owned(),
    };
    template.keys(&FileConfig::keys(), "", false);
    template.out
}

struct Template {
    out: String,
}

impl Template {
    /// `off`: within a table whose header is a comment.
    fn keys(&mut self, keys: &[Key], path: &str, off: bool) {
        let below = |name: &str| match path {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        for key in keys {
            if matches!(key.shape, Shape::Value { .. }) {
                self.out.push('\n');
                self.explain(key);
                self.value(key, &below(key.name), off);
            }
        }
        for key in keys {
            let path = below(key.name);
            match &key.shape {
                Shape::Value { .. } => {}
                // A small table within a commented one is shown in one line, like a value.
                Shape::List(_) | Shape::Table(_) if off => {
                    self.out.push('\n');
                    self.explain(key);
                    self.value(key, &path, off);
                }
                Shape::Table(inner) => {
                    let inner = inner();
                    // One that needs what only the operator knows is off until it is wanted.
                    let required = |key: &Key| match key.shape {
                        Shape::Value { required, .. } => required,
                        Shape::Table(_) | Shape::List(_) | Shape::Map(_) => false,
                    };
                    let is_set = |key: &Key| {
                        let path = format!("{path}.{}", key.name);
                        SET.iter().any(|(set, _)| *set == path)
                    };
                    let off = inner.iter().any(|key| required(key) && !is_set(key));
                    // A table that has only tables needs no header of its own.
                    if inner
                        .iter()
                        .any(|key| matches!(key.shape, Shape::Value { .. }))
                    {
                        self.out.push_str("\n\n");
                        self.explain(key);
                        let mark = if off { "#" } else { "" };
                        self.out.push_str(&format!("{mark}[{path}]\n"));
                    }
                    self.keys(&inner, &path, off);
                }
                Shape::List(inner) => {
                    self.out.push_str("\n\n");
                    self.explain(key);
                    self.out.push_str(&format!("#[[{path}]]\n"));
                    self.keys(&inner(), &path, true);
                }
                Shape::Map(inner) => {
                    self.out.push_str("\n\n");
                    self.explain(key);
                    self.out.push_str(&format!("#[{path}.NAME]\n"));
                    self.keys(&inner(), &format!("{path}.NAME"), true);
                }
            }
        }
    }

    fn explain(&mut self, key: &Key) {
        for line in key.doc {
            self.out.push_str(format!("#{line}").trim_end());
            self.out.push('\n');
        }
    }

    fn value(&mut self, key: &Key, path: &str, off: bool) {
        let set = SET.iter().find(|(set, _)| *set == path);
        let line = match (set, key.default, key.example) {
            (Some((_, value)), ..) if !off => format!("{} = {value}\n", key.name),
            (_, Some(default), _) => format!("#{} = {default}\n", key.name),
            (_, None, Some(example)) if IMPLIED.contains(&path) => {
                format!("#{} = {example}\n", key.name)
            }
            (_, None, Some(example)) => format!("#{} = {example}  # not set\n", key.name),
            (_, None, None) => String::new(),
        };
        self.out.push_str(&line);
    }
}
