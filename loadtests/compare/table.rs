//! The outcome as Markdown.

use std::fmt::Write as _;

use super::{
    case::{Case, Way, What},
    outcome::{Middle, Outcome},
    peer::Peer,
};

/// In the order in which they are shown.
const FIGURES: [What; 10] = [
    What::Cost,
    What::Memory,
    What::GivenBack,
    What::Resumed,
    What::Cut,
    What::Back,
    What::Rate,
    What::P50,
    What::P99,
    What::Errors,
];

impl Outcome {
    /// Tables: figures of everybody, and goals.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        self.head(&mut text);
        self.figures(&mut text);
        self.goals_table(&mut text);
        for fault in &self.faults {
            let _ = writeln!(text, "- missing: {fault}");
        }
        text
    }

    fn head(&self, text: &mut String) {
        let _ = write!(
            text,
            "{}, {}; {}; {} rounds, {} workers or threads each",
            self.machine,
            httpdate::fmt_http_date(self.began),
            self.program,
            self.rounds,
            self.threads,
        );
        for candidate in &self.candidates {
            if candidate.peer != Peer::Direct {
                let _ = write!(text, "; {}: {}", candidate.peer.name(), candidate.version);
            }
        }
        text.push_str(".\n\n");
        if self.is_quick || !self.program.optimized {
            text.push_str(
                "A quick run, or one without optimization: take no figure of it for good.\n\n",
            );
        }
        text.push_str(
            "Medians of the rounds, with the median distance from them; in brackets, the gateway's \
             figure as a share of this one, in the same round.\n\n",
        );
    }

    fn figures(&self, text: &mut String) {
        text.push_str("| | |");
        for candidate in &self.candidates {
            let _ = write!(text, " {} |", candidate.peer.name());
        }
        text.push_str("\n|---|---|");
        text.push_str(&"---:|".repeat(self.candidates.len()));
        text.push('\n');
        for case in &self.cases {
            for way in &case.ways {
                for what in FIGURES {
                    self.line(text, case, *way, what);
                }
            }
        }
        text.push('\n');
    }

    fn line(&self, text: &mut String, case: &Case, way: Way, what: What) {
        let peers = || self.candidates.iter().map(|candidate| candidate.peer);
        let values: Vec<Option<Middle>> = peers()
            .map(|peer| self.middle(case, way, what, peer))
            .collect();
        let mut known = values.iter().flatten();
        // Nobody has anything to say, or no errors.
        if known.clone().next().is_none()
            || (what == What::Errors && known.all(|m| m.median == 0.0))
        {
            return;
        }
        let unit = what.unit(case.operation);
        let unit = if unit.is_empty() {
            String::new()
        } else {
            format!(", {unit}")
        };
        let _ = write!(
            text,
            "| {}, {} | {}{unit} |",
            case.about,
            way.name(),
            what.name()
        );
        for (value, peer) in values.iter().zip(peers()) {
            let Some(Middle { median, mad }) = value else {
                text.push_str(" |");
                continue;
            };
            let _ = write!(text, " {} ±{}", digits(*median), digits(*mad));
            let is_share = matches!(
                what,
                What::Cost | What::Memory | What::P50 | What::P99 | What::Rate
            );
            if let (true, Some(ratio)) = (
                is_share && peer != Peer::Gateway,
                self.ratio(case, way, what, peer),
            ) {
                let _ = write!(text, " ({:.2})", ratio.median);
            }
            text.push_str(" |");
        }
        text.push('\n');
    }

    fn goals_table(&self, text: &mut String) {
        let reached: Vec<_> = self
            .goals()
            .filter_map(|(case, goal, found)| Some((case, goal, found?)))
            .collect();
        if reached.is_empty() {
            return;
        }
        text.push_str("| goal | | found | |\n|---|---:|---:|---|\n");
        for (case, goal, (Middle { median, mad }, is_reached)) in reached {
            let sign = if goal.figure.is_more_better() {
                ">="
            } else {
                "<="
            };
            let beside = goal.beside.map_or_else(
                || goal.figure.unit(case.operation).to_owned(),
                |peer| format!("of {}", peer.name()),
            );
            let _ = writeln!(
                text,
                "| {}, {}: {} | {sign} {} {beside} | {} ±{} | {} |",
                case.about,
                goal.way.name(),
                goal.figure.name(),
                goal.most,
                digits(median),
                digits(mad),
                if is_reached { "reached" } else { "missed" },
            );
        }
        text.push('\n');
    }
}

/// Three of them.
fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        n if n >= 100.0 || n == 0.0 => 0,
        n if n >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}
