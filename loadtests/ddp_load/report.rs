//! What came of a run, as a table and as JSON.

use std::{
    fmt::{self, Write as _},
    time::{Duration, SystemTime},
};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    machine::{Machine, Program},
    record::{Measure, Point, Record},
    scenario::Scenario,
    trend::{Figure, Trend, Verdict},
    users::Spread,
};

/// Raised when a reader of an earlier version would misunderstand the JSON.
const SCHEMA: u32 = 1;

pub(crate) struct Report {
    pub(crate) program: Program,
    pub(crate) machine: Machine,
    pub(crate) scenario: Scenario,
    pub(crate) target: String,
    pub(crate) is_embedded: bool,
    /// Full ones and resumed ones; `None` without TLS.
    pub(crate) handshakes: Option<(u64, u64)>,
    pub(crate) began: SystemTime,
    pub(crate) is_interrupted: bool,
    /// How late this process was for what it wanted to do.
    pub(crate) late: Spread,
    pub(crate) cost: Cost,
    pub(crate) record: Record,
}

/// Time of processors in seconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cost {
    /// Of the users.
    pub(crate) load: Option<f64>,
    /// Of the embedded deployment: gateway and simulated servers together.
    pub(crate) embedded: Option<f64>,
}

/// Shown of each measure.
pub(crate) const QUANTILES: [(&str, f64); 4] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)];

impl Report {
    pub(crate) fn passed(&self) -> bool {
        !self.is_interrupted
            && self.record.all_errors() <= self.scenario.max_errors
            && self.is_level()
    }

    /// Whether nothing grows that must not. Who has looked too seldom to tell has not passed.
    fn is_level(&self) -> bool {
        let trends = &self.record.trends;
        let is_level = |figure| {
            let trend = trends.get(&figure);
            trend.is_some_and(|trend| trend.verdict(figure) == Verdict::Level)
        };
        self.scenario.churn.is_none() || Figure::ALL.into_iter().all(is_level)
    }

    /// Of each figure that must not grow.
    pub(crate) fn trends(&self) -> impl Iterator<Item = (Figure, &Trend)> {
        let trends = &self.record.trends;
        trends.iter().map(|(figure, trend)| (*figure, trend))
    }

    /// Of each measure that there is.
    pub(crate) fn measures(&self) -> impl Iterator<Item = (Measure, &Spread)> {
        let totals = &self.record.totals;
        let known = |measure| totals.get(&measure).map(|spread| (measure, spread));
        Measure::ALL.into_iter().filter_map(known)
    }

    pub(crate) fn json(&self) -> Value {
        let measures: serde_json::Map<String, Value> = self
            .measures()
            .map(|(measure, spread)| (measure.name().to_owned(), figures(measure, spread)))
            .collect();
        let record = &self.record;
        let phases: Vec<Value> = record
            .phases
            .iter()
            .map(|(name, end)| json!({ "name": name, "end_s": end.as_secs_f64() }))
            .collect();
        let points: Vec<Value> = record.points.iter().map(point).collect();
        let trends: serde_json::Map<String, Value> = self
            .trends()
            .map(|(figure, trend)| (figure.name().to_owned(), trend.json(figure)))
            .collect();
        let handshakes = self.handshakes;
        json!({
            "schema": SCHEMA,
            "program": self.program,
            "machine": self.machine,
            "began": httpdate::fmt_http_date(self.began),
            "scenario": { "name": self.scenario.name, "settings": self.scenario },
            "target": { "url": self.target, "embedded": self.is_embedded },
            "tls_handshakes": handshakes.map(|(full, resumed)| json!({ "full": full, "resumed": resumed })),
            "passed": self.passed(),
            "interrupted": self.is_interrupted,
            "unit": "us",
            "measures": measures,
            "counts": record.counts,
            "errors": record.errors,
            "error_count": record.all_errors(),
            "max_errors": self.scenario.max_errors,
            "examples": record.examples,
            "late": quantiles(&self.late),
            "processor_s": self.cost,
            "trends": trends,
            "phases": phases,
            "series": points,
        })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn quantiles(spread: &Spread) -> Value {
    let mut figures = json!({
        "count": spread.count(),
        "mean": micros(spread.mean()),
        "max": micros(spread.max()),
    });
    for (name, quantile) in QUANTILES {
        figures[name] = micros(spread.at(quantile)).into();
    }
    figures
}

fn figures(measure: Measure, spread: &Spread) -> Value {
    let mut figures = quantiles(spread);
    figures["meaning"] = measure.meaning().into();
    figures
}

fn point(point: &Point) -> Value {
    let measures: serde_json::Map<String, Value> = point
        .measures
        .iter()
        .map(|(measure, (count, p50, p99))| {
            let shown = json!({ "count": count, "p50": micros(*p50), "p99": micros(*p99) });
            (measure.name().to_owned(), shown)
        })
        .collect();
    json!({
        "at_s": point.at.as_secs_f64(),
        "took_s": point.took.as_secs_f64(),
        "phase": point.phase,
        "settled": point.settled,
        "errors": point.errors,
        "measures": measures,
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = &self.record;
        let Scenario {
            name, users, http, ..
        } = &self.scenario;
        let load = match http {
            Some(http) => format!("{} connections", http.connections),
            None => format!("{users} users"),
        };
        writeln!(f, "{name}: {load}, {}", self.target)?;
        writeln!(f, "{}", phases(&record.phases))?;
        writeln!(
            f,
            "\n{:<11}{:>9}{:>11}{:>11}{:>11}{:>11}{:>11}",
            "", "count", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for (measure, spread) in self.measures() {
            write!(f, "{:<11}{:>9}", measure.name(), spread.count())?;
            for (_, quantile) in QUANTILES {
                write!(f, "{:>11}", shown(spread.at(quantile)))?;
            }
            writeln!(f, "{:>11}", shown(spread.max()))?;
        }
        let counts = record.counts.iter().filter(|(_, count)| **count > 0);
        let counts: Vec<String> = counts.map(|(name, n)| format!("{n} {name}")).collect();
        writeln!(f, "\n{}", counts.join(", "))?;
        if let Some((full, resumed)) = self.handshakes {
            writeln!(f, "TLS handshakes: {full} full, {resumed} resumed")?;
        }
        let mut cost = format!(
            "this process was late by p50 {}, p99 {}: below that the figures say nothing",
            shown(self.late.at(0.5)),
            shown(self.late.at(0.99))
        );
        if let Some(load) = self.cost.load {
            let _ = write!(cost, "; it used {load:.2} s of processors");
        }
        if let Some(embedded) = self.cost.embedded {
            let _ = write!(cost, ", gateway and simulated servers {embedded:.2} s");
        }
        writeln!(f, "{cost}")?;
        if !self.program.optimized {
            writeln!(
                f,
                "built without optimization: take no figure of this for good"
            )?;
        }
        for (figure, trend) in self.trends() {
            writeln!(f, "{}", course(figure, trend, record.count("attempts")))?;
        }
        for (what, count) in &record.errors {
            writeln!(f, "error {count:>8}  {what}")?;
        }
        for example in &record.examples {
            writeln!(f, "                {example}")?;
        }
        let errors = record.all_errors();
        let verdict = match (self.is_interrupted, self.passed()) {
            (true, _) => "interrupted".to_owned(),
            (false, true) => format!("passed: {errors} errors"),
            (false, false) if errors <= self.scenario.max_errors => {
                format!("failed: {errors} errors, and not everything stays as it was")
            }
            (false, false) => format!(
                "failed: {errors} errors, and {} are allowed",
                self.scenario.max_errors
            ),
        };
        write!(f, "{verdict}")
    }
}

/// Those of one name together.
fn phases(phases: &[(&'static str, Duration)]) -> String {
    let mut sums: Vec<(&str, Duration)> = Vec::new();
    let mut end = Duration::ZERO;
    for (name, until) in phases {
        let took = *until - end;
        end = *until;
        match sums.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += took,
            None => sums.push((name, took)),
        }
    }
    let shown = sums.iter().map(|(name, took)| format!("{name} {took:.1?}"));
    shown.collect::<Vec<_>>().join(", ")
}

/// What a figure does with time, in a line; `sessions` have come in all.
fn course(figure: Figure, trend: &Trend, sessions: u64) -> String {
    let (unit, size) = figure.unit();
    let name = figure.name();
    let looks = trend.looks.len();
    let Some(line) = trend.line() else {
        return format!("{name:<15} {looks} looks: too few to tell whether it grows");
    };
    let verdict = match trend.verdict(figure) {
        Verdict::Grows => "GROWS",
        Verdict::Level if line.slope.abs() <= line.noise => "level, zero within its noise",
        Verdict::Level | Verdict::Unknown => "level",
    };
    let shown = |value: f64| format!("{:.1}", value / size);
    let mut text = format!(
        "{name:<15} {} {unit}, {:+.1} in an hour with a noise of {} ({looks} looks): {verdict}",
        shown(line.mean),
        line.slope / size,
        shown(line.noise),
    );
    if let (Some((last, _)), true) = (trend.looks.last(), sessions > 0) {
        #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
        let each = sessions as f64 / last.as_secs_f64().max(1e-3) * 3600.0;
        let most = (line.slope + line.noise).max(0.0) / each;
        let unit = if unit.is_empty() { "" } else { " bytes" };
        text += &format!(", at most {most:.2}{unit} for a session");
    }
    text
}

/// With three digits.
pub(crate) fn shown(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    let (number, unit) = match micros {
        n if n < 1000.0 => (n, "us"),
        n if n < 1e6 => (n / 1e3, "ms"),
        n => (n / 1e6, "s"),
    };
    let digits = if number < 10.0 {
        2
    } else {
        usize::from(number < 100.0)
    };
    format!("{number:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits() {
        for (micros, text) in [
            (0, "0.00 us"),
            (999, "999 us"),
            (1_500, "1.50 ms"),
            (12_340, "12.3 ms"),
            (1_234_000, "1.23 s"),
        ] {
            assert_eq!(shown(Duration::from_micros(micros)), text);
        }
    }
}
