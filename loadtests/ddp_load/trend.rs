//! Whether a figure that is looked at again and again grows.

use std::time::Duration;

use serde_json::{Value, json};

/// Something that must not grow with time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    Heap,
    Resident,
    Descriptors,
}

/// All looks at a figure.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trend {
    /// When since the start of the run, and what was seen.
    pub(crate) looks: Vec<(Duration, f64)>,
}

/// The straight line that is closest to the looks, by least squares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line {
    /// In the middle of the looks that count.
    pub(crate) mean: f64,
    /// In an hour.
    pub(crate) slope: f64,
    /// In an hour: with a probability of 99.9 % the true slope is no farther away than that.
    pub(crate) noise: f64,
    /// From the first look that counts to the last one.
    pub(crate) growth: f64,
    /// When the first look that counts was.
    pub(crate) from: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not more than noise makes, or not more than matters.
    Level,
    Grows,
    /// Too few looks.
    Unknown,
}

impl Figure {
    pub(crate) const ALL: [Self; 3] = [Self::Heap, Self::Resident, Self::Descriptors];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Heap => "heap_bytes",
            Self::Resident => "resident_bytes",
            Self::Descriptors => "descriptors",
        }
    }

    /// What it is shown in, and how much of it that is.
    pub(crate) fn unit(self) -> (&'static str, f64) {
        match self {
            Self::Heap | Self::Resident => ("KiB", 1024.0),
            Self::Descriptors => ("", 1.0),
        }
    }

    /// Growth that has no meaning however exactly it is known: a table that doubles, a page of each
    /// thread, one connection to a server that is kept.
    fn least(self) -> f64 {
        match self {
            Self::Heap => 64.0 * 1024.0,
            Self::Resident => 1024.0 * 1024.0,
            Self::Descriptors => 2.0,
        }
    }
}

impl Trend {
    pub(crate) fn look(&mut self, at: Duration, value: f64) {
        if self.looks.len() < LOOKS {
            self.looks.push((at, value));
        }
    }

    /// Without the first looks: what is made once and kept is made then.
    fn counted(&self) -> &[(Duration, f64)] {
        let first = (self.looks.len() / 10).max(WARM_UP);
        self.looks.get(first..).unwrap_or_default()
    }

    /// `None` for fewer looks than a line can be told from.
    pub(crate) fn line(&self) -> Option<Line> {
        let looks = self.counted();
        let ((first, _), (last, _)) = (looks.first()?, looks.last()?);
        if looks.len() < FEWEST || last <= first {
            return None;
        }
        let n = number(looks.len());
        let seconds = || looks.iter().map(|(at, _)| at.as_secs_f64());
        let (middle, mean) = (
            seconds().sum::<f64>() / n,
            looks.iter().map(|(_, value)| value).sum::<f64>() / n,
        );
        let spread: f64 = seconds().map(|at| (at - middle).powi(2)).sum();
        let product = looks
            .iter()
            .map(|(at, value)| (at.as_secs_f64() - middle) * (value - mean));
        let slope = product.sum::<f64>() / spread;
        let rest: Vec<f64> = looks
            .iter()
            .map(|(at, value)| value - mean - slope * (at.as_secs_f64() - middle))
            .collect();
        let squares: f64 = rest.iter().map(|rest| rest * rest).sum();
        // Looks that follow each other are alike, so they say less than as many independent ones:
        // as many as there would be of those, for a process with memory of one step.
        let together: f64 = rest.windows(2).map(|two| two[0] * two[1]).sum();
        let alike = (together / squares.max(f64::MIN_POSITIVE)).clamp(0.0, 0.9);
        let independent = (n * (1.0 - alike) / (1.0 + alike)).max(3.0);
        let error = (squares / (independent - 2.0) / spread).sqrt();
        Some(Line {
            mean,
            slope: slope * HOUR,
            noise: student(independent - 2.0) * error * HOUR,
            growth: slope * (*last - *first).as_secs_f64(),
            from: *first,
        })
    }

    pub(crate) fn verdict(&self, figure: Figure) -> Verdict {
        match self.line() {
            None => Verdict::Unknown,
            Some(line) if line.slope > line.noise && line.growth > figure.least() => Verdict::Grows,
            Some(_) => Verdict::Level,
        }
    }

    pub(crate) fn json(&self, figure: Figure) -> Value {
        let line = self.line();
        let looks: Vec<Value> = self
            .looks
            .iter()
            .map(|(at, value)| json!([at.as_secs_f64(), value]))
            .collect();
        json!({
            "mean": line.map(|line| line.mean),
            "per_hour": line.map(|line| line.slope),
            "noise_per_hour": line.map(|line| line.noise),
            "growth": line.map(|line| line.growth),
            "counted_from_s": line.map(|line| line.from.as_secs_f64()),
            "grows": match self.verdict(figure) {
                Verdict::Level => Some(false),
                Verdict::Grows => Some(true),
                Verdict::Unknown => None,
            },
            "looks": looks,
        })
    }
}

/// Student's t for 99.9 % on both sides together, by degrees of freedom.
fn student(freedom: f64) -> f64 {
    const KNOWN: [(f64, f64); 16] = [
        (1.0, 636.6),
        (2.0, 31.6),
        (3.0, 12.92),
        (4.0, 8.61),
        (5.0, 6.87),
        (6.0, 5.96),
        (7.0, 5.41),
        (8.0, 5.04),
        (9.0, 4.78),
        (10.0, 4.59),
        (12.0, 4.32),
        (15.0, 4.07),
        (20.0, 3.85),
        (30.0, 3.65),
        (60.0, 3.46),
        (120.0, 3.37),
    ];
    let known = KNOWN.iter().rev().find(|(least, _)| freedom >= *least);
    known.map_or(KNOWN[0].1, |(_, t)| *t)
}

#[expect(clippy::cast_precision_loss, reason = "a number of looks")]
fn number(count: usize) -> f64 {
    count as f64
}

const HOUR: f64 = 3600.0;
const WARM_UP: usize = 3;
const FEWEST: usize = 6;
/// A day of rounds of a second.
const LOOKS: usize = 100_000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Figure, Trend, Verdict};

    /// A look each half minute for an hour, with noise of so many bytes that comes and goes.
    fn hour(noise: f64, leak: f64) -> Trend {
        let mut trend = Trend::default();
        let mut state = 7_u32;
        for n in 0_u32..120 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let random = f64::from(state >> 8) / f64::from(1 << 24) - 0.5;
            let value = 5e6 + 2.0 * noise * random + leak * f64::from(n);
            trend.look(Duration::from_secs(30 * u64::from(n)), value);
        }
        trend
    }

    #[test]
    fn noise_alone_is_level() {
        let trend = hour(100_000.0, 0.0);
        let line = trend.line().unwrap();
        assert!(line.slope.abs() < line.noise, "{line:?}");
        assert_eq!(trend.verdict(Figure::Heap), Verdict::Level);
    }

    #[test]
    fn a_small_leak_is_seen_in_large_noise() {
        // Four bytes for each of 400 sessions in a round.
        let trend = hour(100_000.0, 1600.0);
        let line = trend.line().unwrap();
        assert!((line.slope - 120.0 * 1600.0).abs() < line.noise, "{line:?}");
        assert_eq!(trend.verdict(Figure::Heap), Verdict::Grows);
    }

    #[test]
    fn what_is_made_once_is_no_growth() {
        let mut trend = hour(10_000.0, 0.0);
        for (_, value) in trend.looks.iter_mut().take(5) {
            *value = 1e6;
        }
        assert_eq!(trend.verdict(Figure::Heap), Verdict::Level);
        let mut trend = Trend::default();
        for n in 0..20 {
            trend.look(Duration::from_secs(n), 40.0);
        }
        assert_eq!(trend.verdict(Figure::Descriptors), Verdict::Level);
        assert_eq!(trend.line().unwrap().noise, 0.0);
    }

    #[test]
    fn a_descriptor_that_is_kept_now_and_then_is_seen() {
        let mut trend = Trend::default();
        for n in 0_u32..40 {
            trend.look(Duration::from_secs(n.into()), f64::from(50 + n / 4));
        }
        assert_eq!(trend.verdict(Figure::Descriptors), Verdict::Grows);
    }

    /// Independent noise would be ten times as good a witness.
    #[test]
    fn a_wave_is_no_growth() {
        let mut trend = Trend::default();
        for n in 0_u32..60 {
            let wave = (f64::from(n) / 60.0 * 9.0).sin();
            trend.look(Duration::from_secs(n.into()), 5e6 + 200_000.0 * wave);
        }
        assert_eq!(trend.verdict(Figure::Heap), Verdict::Level);
    }

    #[test]
    fn of_a_few_looks_nothing_is_known() {
        let mut trend = Trend::default();
        for n in 0..8 {
            trend.look(Duration::from_secs(n), 1.0);
        }
        assert_eq!(trend.verdict(Figure::Heap), Verdict::Unknown);
    }
}
