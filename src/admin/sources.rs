//! The part of `ddp-gateway streamers` that says where the streamers are known from.

use serde::Deserialize;

use super::table::table;

/// One source, as [`crate::discovery::SourceReport`] is read.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Source {
    kind: String,
    source: String,
    status: String,
    error: Option<String>,
    heard_seconds_ago: Option<f64>,
    streamers: Vec<Listed>,
}

#[derive(Clone, Debug, Deserialize)]
struct Listed {
    address: Option<String>,
    leaving: bool,
}

/// The kinds of sources that know this address.
pub(super) fn known_by(sources: &[Source], address: &str) -> String {
    let knows = |source: &&Source| {
        let mut addresses = source.streamers.iter();
        addresses.any(|one| one.address.as_deref() == Some(address))
    };
    let kinds: Vec<_> = sources
        .iter()
        .filter(knows)
        .map(|source| &*source.kind)
        .collect();
    match kinds.is_empty() {
        true => "nobody".to_owned(),
        false => kinds.join(", "),
    }
}

/// A table of all sources, by pool.
pub(super) fn overview<'a>(pools: impl Iterator<Item = (&'a str, &'a [Source])>) -> String {
    let mut rows = vec![["POOL", "SOURCE", "", "SAYS", "HEARD", ""].map(str::to_owned)];
    for (pool, sources) in pools {
        rows.extend(sources.iter().map(|source| source.row(pool)));
    }
    match rows.len() {
        1 => String::new(),
        _ => table(&rows),
    }
}

impl Source {
    fn row(&self, pool: &str) -> [String; 6] {
        let leaving = self.streamers.iter().filter(|one| one.leaving).count();
        let mut says = format!("{} streamers", self.streamers.len() - leaving);
        if leaving > 0 {
            says.push_str(&format!(", {leaving} more about to end"));
        }
        let heard = match self.heard_seconds_ago {
            Some(seconds) => format!("{seconds:.0} s ago"),
            None if self.status == "pending" => "not yet".to_owned(),
            None => String::new(),
        };
        let error = self.error.as_ref();
        [
            pool.to_owned(),
            self.kind.clone(),
            self.source.clone(),
            says,
            heard,
            error.map_or_else(String::new, |error| format!("{}: {error}", self.status)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::{Source, known_by, overview};

    #[test]
    fn the_table_says_what_each_source_says() {
        let sources: Vec<Source> = serde_json::from_str(
            r#"[{"kind": "nats", "source": "nats:4222", "status": "fresh", "error": null,
                 "heard_seconds_ago": 2.4, "streamers": [
                     {"address": "10.0.0.1:3000", "host": "a", "leaving": false},
                     {"address": "10.0.0.2:3000", "host": "b", "leaving": true}]},
                {"kind": "dns", "source": "streamers.local", "status": "stale", "error": "no answer",
                 "heard_seconds_ago": null, "streamers": [
                     {"address": "10.0.0.2:3000", "host": null, "leaving": false}]}]"#,
        )
        .unwrap();
        assert_eq!(
            overview([("default", sources.as_slice())].into_iter()),
            "POOL     SOURCE                   SAYS                              HEARD\n\
             default  nats    nats:4222        1 streamers, 1 more about to end  2 s ago\n\
             default  dns     streamers.local  1 streamers                                stale: no \
             answer\n"
        );
        assert_eq!(known_by(&sources, "10.0.0.2:3000"), "nats, dns");
        assert_eq!(known_by(&sources, "10.0.0.3:3000"), "nobody");
    }
}
