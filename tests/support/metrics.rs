//! `/metrics` as numbers.

use std::net::SocketAddr;

use super::http;

/// One scrape.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Metrics {
    pub async fn read(admin: SocketAddr) -> Self {
        let answer = http::get(admin, "/metrics").await;
        assert_eq!(answer.status, 200);
        Self(answer.text())
    }

    /// Sum of all series of this name (without `ddp_gateway_`) that have all these labels; 0 when
    /// there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let name = format!("ddp_gateway_{name}");
        self.0
            .lines()
            .filter_map(|line| line.strip_prefix(&name))
            .filter(|rest| rest.starts_with(['{', ' ']))
            .filter(|rest| {
                labels
                    .iter()
                    .all(|(key, value)| rest.contains(&format!("{key}=\"{value}\"")))
            })
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Whether a series of this name exists.
    pub fn has(&self, name: &str) -> bool {
        let name = format!("ddp_gateway_{name}");
        self.0.lines().any(|line| line.starts_with(&name))
    }

    pub fn text(&self) -> &str {
        &self.0
    }
}
