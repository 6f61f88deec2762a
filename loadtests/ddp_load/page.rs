//! A report as one page of HTML that needs nothing else.
//!
//! It is written so that a reader of XML takes it as well.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use crate::{
    record::{Measure, Point},
    report::{Report, shown},
    trend::{Figure, Trend},
};

/// The page of a report.
pub(crate) fn page(report: &Report) -> String {
    let mut page = String::new();
    // A String takes all that is written to it.
    let _ = write(&mut page, report);
    page
}

fn write(out: &mut String, report: &Report) -> fmt::Result {
    let name = escaped(&report.scenario.name);
    write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <title>ddp-load: {name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>{name}</h1>\n<p>{}</p>\n<pre>{}</pre>\n",
        escaped(&report.scenario.about),
        escaped(&report.to_string())
    )?;
    let measures: Vec<Measure> = report.measures().map(|(measure, _)| measure).collect();
    if !measures.is_empty() {
        quantiles(report).write(out)?;
        over_time(report, "a second", Scale::Plain, |point, measure| {
            let count = point.measures.get(&measure).map_or(0, |(count, ..)| *count);
            #[expect(clippy::cast_precision_loss, reason = "drawn")]
            let rate = count as f64 / point.took.as_secs_f64().max(1e-3);
            Some(rate)
        })
        .write(out)?;
        over_time(report, "99th percentile", Scale::Time, |point, measure| {
            let (_, _, p99) = point.measures.get(&measure)?;
            Some(p99.as_secs_f64() * 1e6)
        })
        .write(out)?;
        writeln!(out, "<dl>")?;
        for measure in measures {
            let (name, meaning) = (measure.name(), measure.meaning());
            writeln!(out, "<dt>{name}</dt><dd>{meaning}</dd>")?;
        }
        writeln!(out, "</dl>")?;
    }
    for (figure, trend) in report.trends() {
        course(figure, trend).write(out)?;
    }
    let mut about = report.json();
    if let Some(about) = about.as_object_mut() {
        about.retain(|key, _| matches!(key.as_str(), "program" | "machine" | "began" | "scenario"));
    }
    let about = serde_json::to_string_pretty(&about).unwrap_or_default();
    writeln!(out, "<pre>{}</pre>\n</body>\n</html>", escaped(&about))
}

/// Time by the part of all that took longer: the tail gets as much room as the rest.
fn quantiles(report: &Report) -> Plot {
    let lines = report
        .measures()
        .map(|(measure, spread)| {
            // Of a hundred nobody knows the slowest of a thousand.
            #[expect(clippy::cast_precision_loss, reason = "drawn")]
            let known = (spread.count() as f64).log10();
            let points = (0_u32..=80)
                .map(|step| f64::from(step) / 20.0)
                .take_while(|nines| *nines <= known + 0.05)
                .map(|nines| {
                    let time = spread.at(1.0 - 10_f64.powf(-nines));
                    (nines, time.as_secs_f64() * 1e6)
                })
                .collect();
            Line {
                name: measure.name(),
                colour: colour(measure),
                points,
            }
        })
        .collect();
    Plot {
        title: "latency by percentile".to_owned(),
        lines,
        scale: Scale::Time,
        across: [
            (0.0, "0"),
            (1.0, "90"),
            (2.0, "99"),
            (3.0, "99.9"),
            (4.0, "99.99"),
        ]
        .map(|(at, name)| (at, name.to_owned()))
        .to_vec(),
    }
}

fn over_time(
    report: &Report,
    title: &'static str,
    scale: Scale,
    value: impl Fn(&Point, Measure) -> Option<f64>,
) -> Plot {
    let points = &report.record.points;
    // A line needs no more of them than a screen has dots.
    let every = points.len().div_ceil(1000).max(1);
    let lines = report
        .measures()
        .map(|(measure, _)| Line {
            name: measure.name(),
            colour: colour(measure),
            points: points
                .iter()
                .step_by(every)
                .filter_map(|point| Some((point.at.as_secs_f64(), value(point, measure)?)))
                .collect(),
        })
        .collect();
    let end = points.last().map_or(1.0, |last| last.at.as_secs_f64());
    Plot {
        title: title.to_owned(),
        lines,
        scale,
        across: times(end),
    }
}

/// Looks at a figure, and the line through those that count.
fn course(figure: Figure, trend: &Trend) -> Plot {
    let (unit, size) = figure.unit();
    let end = trend.looks.last().map_or(1.0, |(at, _)| at.as_secs_f64());
    let every = trend.looks.len().div_ceil(1000).max(1);
    let looks = trend.looks.iter().step_by(every);
    let mut lines = vec![Line {
        name: "seen",
        colour: "#1f77b4",
        points: looks
            .map(|(at, value)| (at.as_secs_f64(), value / size))
            .collect(),
    }];
    if let Some(line) = trend.line() {
        let half = line.growth / 2.0;
        lines.push(Line {
            name: "line",
            colour: "#d62728",
            points: vec![
                (line.from.as_secs_f64(), (line.mean - half) / size),
                (end, (line.mean + half) / size),
            ],
        });
    }
    Plot {
        title: match unit {
            "" => figure.name().to_owned(),
            unit => format!("{}, {unit}", figure.name()),
        },
        lines,
        scale: Scale::Plain,
        across: times(end),
    }
}

fn times(end: f64) -> Vec<(f64, String)> {
    [0.0, 0.25, 0.5, 0.75, 1.0]
        .map(|part| (part * end, format!("{:.1} s", part * end)))
        .to_vec()
}

#[derive(Clone, Copy, PartialEq)]
enum Scale {
    /// From nothing.
    Plain,
    /// Microseconds, by powers of ten.
    Time,
}

struct Plot {
    title: String,
    lines: Vec<Line>,
    scale: Scale,
    /// Where there is a mark below, and what it says.
    across: Vec<(f64, String)>,
}

struct Line {
    name: &'static str,
    colour: &'static str,
    points: Vec<(f64, f64)>,
}

impl Plot {
    fn write(&self, out: &mut String) -> fmt::Result {
        let all = || self.lines.iter().flat_map(|line| &line.points);
        let height = |y: f64| match self.scale {
            Scale::Plain => y,
            Scale::Time => y.max(1.0).log10(),
        };
        let right = self.across.last().map_or(1.0, |(at, _)| *at).max(1e-9);
        let top = all().map(|(_, y)| height(*y)).fold(1e-9, f64::max);
        let (low, top) = match self.scale {
            Scale::Plain => (0.0, top),
            Scale::Time => {
                let low = all().map(|(_, y)| height(*y)).fold(top, f64::min).floor();
                (low, top.ceil().max(low + 1.0))
            }
        };
        let x = |at: f64| LEFT + WIDTH * at / right;
        let y = |value: f64| TOP + HEIGHT * (1.0 - (height(value) - low) / (top - low));
        writeln!(
            out,
            "<h2>{}</h2>\n<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 900 320\" \
             role=\"img\" aria-label=\"{}\">",
            self.title, self.title
        )?;
        for (at, name) in &self.across {
            let at = x(*at);
            writeln!(
                out,
                "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
                TOP + HEIGHT,
                TOP + HEIGHT + 18.0
            )?;
        }
        for (value, name) in self.marks(low, top) {
            let at = y(value);
            writeln!(
                out,
                "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
                LEFT + WIDTH,
                LEFT - 6.0,
                at + 4.0
            )?;
        }
        for (line, row) in self.lines.iter().zip(0_u32..) {
            let points: Vec<String> = line
                .points
                .iter()
                .map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value)))
                .collect();
            let Line { name, colour, .. } = line;
            let below = TOP + 14.0 + 16.0 * f64::from(row);
            writeln!(
                out,
                "<polyline stroke=\"{colour}\" points=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{below:.1}\" fill=\"{colour}\">{name}</text>",
                points.join(" "),
                LEFT + WIDTH + 8.0
            )?;
        }
        writeln!(out, "</svg>")
    }

    fn marks(&self, low: f64, top: f64) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Plain => [0.25, 0.5, 0.75, 1.0]
                .map(|part| (top * part, format!("{:.1}", top * part)))
                .to_vec(),
            Scale::Time => {
                let mut marks = Vec::new();
                let mut power = low;
                while power <= top {
                    let value = 10_f64.powf(power);
                    marks.push((value, shown(Duration::from_secs_f64(value / 1e6))));
                    power += 1.0;
                }
                marks
            }
        }
    }
}

fn colour(measure: Measure) -> &'static str {
    match measure {
        Measure::RoundTrip => "#1f77b4",
        Measure::Delivery => "#d62728",
        Measure::Request => "#2ca02c",
        Measure::Upgrade => "#7f7f7f",
        Measure::Connect => "#9467bd",
        Measure::Login => "#ff7f0e",
        Measure::Subscribe => "#17a2b8",
        Measure::Visit => "#8c564b",
        Measure::Back => "#e377c2",
        Measure::Drain => "#bcbd22",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

const LEFT: f64 = 80.0;
const TOP: f64 = 10.0;
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 270.0;

const STYLE: &str = "body{font:15px/1.5 sans-serif;margin:2em auto;max-width:62em;padding:0 1em}\
    pre{background:#f4f4f4;padding:1em;white-space:pre-wrap}svg{width:100%}\
    svg line{stroke:#ddd}svg text{font:12px sans-serif}\
    svg polyline{fill:none;stroke-width:1.5}dt{font-weight:bold}";

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn nothing_that_is_shown_becomes_markup() {
        assert_eq!(
            escaped("<a href=\"x\">&amp;</a>"),
            "&lt;a href=&quot;x&quot;&gt;&amp;amp;&lt;/a&gt;"
        );
    }
}
