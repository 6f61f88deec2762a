//! Looks at what happens until something has happened, and shows it.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use tokio::time::timeout_at;

use crate::{
    record::{Measure, Record, Sample},
    requests::Requests,
    stop::Stop,
    users::{Board, Standing},
};

/// Who is being looked at.
#[derive(Clone, Copy)]
pub(crate) enum Seen<'a> {
    Users(&'a Board),
    Requests(&'a Requests),
}

impl Seen<'_> {
    fn take(self) -> Sample {
        match self {
            Self::Users(board) => board.take().into(),
            Self::Requests(requests) => requests.take(),
        }
    }

    /// Users who are in, or connections that are open.
    pub(crate) fn settled(self) -> usize {
        match self {
            Self::Users(board) => board.count(Standing::Settled),
            Self::Requests(requests) => requests.connections(),
        }
    }

    fn standing(self) -> String {
        match self {
            Self::Users(board) => board.to_string(),
            Self::Requests(requests) => format!("{} open", requests.connections()),
        }
    }
}

/// How looking ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    Done,
    Late,
    /// Somebody has pressed Ctrl-C, or sent SIGTERM.
    Interrupted,
}

pub(crate) struct Watch {
    pub(crate) record: Record,
    stop: Stop,
    /// Between two points of the record.
    step: Duration,
    is_terminal: bool,
    is_quiet: bool,
    shown: Option<Instant>,
}

impl Watch {
    pub(crate) fn start(duration: Duration, is_quiet: bool) -> io::Result<Self> {
        let is_short = duration <= Duration::from_secs(20);
        Ok(Self {
            record: Record::new(),
            stop: Stop::listen()?,
            step: Duration::from_millis(if is_short { 200 } else { 1000 }),
            is_terminal: io::stderr().is_terminal(),
            is_quiet,
            shown: None,
        })
    }

    /// Returns when `done` says so, after `deadline`, or on Ctrl-C and SIGTERM.
    pub(crate) async fn until(
        &mut self,
        seen: Seen<'_>,
        phase: &'static str,
        deadline: Instant,
        mut done: impl FnMut(&Record) -> bool,
    ) -> Until {
        let mut step = Instant::now() + self.step;
        let outcome = loop {
            let look = (Instant::now() + LOOK).min(deadline);
            if timeout_at(look.into(), self.stop.asked()).await.is_ok() {
                break Until::Interrupted;
            }
            let now = Instant::now();
            if now >= step {
                step = now + self.step;
                self.record.add(seen.take(), phase, seen.settled());
                self.show(seen, phase, now);
            }
            if done(&self.record) {
                break Until::Done;
            }
            if now >= deadline {
                break Until::Late;
            }
        };
        self.record.add(seen.take(), phase, seen.settled());
        self.record
            .phases
            .push((phase, self.record.began.elapsed()));
        outcome
    }

    fn show(&mut self, seen: Seen<'_>, phase: &str, now: Instant) {
        let pause = if self.is_terminal { REDRAW } else { LINE };
        if self.is_quiet || self.shown.is_some_and(|shown| now - shown < pause) {
            return;
        }
        self.shown = Some(now);
        let line = self.line(seen, phase);
        let mut err = io::stderr();
        // Who has closed the other end does not want to read it.
        let _ = match self.is_terminal {
            true => write!(err, "\r\x1b[K{line}"),
            false => writeln!(err, "{line}"),
        };
    }

    fn line(&self, seen: Seen<'_>, phase: &str) -> String {
        let elapsed = self.record.began.elapsed().as_secs();
        let mut line = format!("{elapsed:>4} s  {phase:<6} {}", seen.standing());
        if let Some(point) = self.record.points.last() {
            for measure in SHOWN {
                if let Some((count, p50, p99)) = point.measures.get(&measure) {
                    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
                    let rate = *count as f64 / point.took.as_secs_f64().max(1e-3);
                    line += &format!(
                        "  {} {rate:.1}/s p50 {p50:.1?} p99 {p99:.1?}",
                        measure.name()
                    );
                }
            }
        }
        let errors = self.record.all_errors();
        line + &format!("  {errors} errors")
    }

    /// Before anything else is printed.
    pub(crate) fn end_line(&self) {
        if self.is_terminal && self.shown.is_some() {
            let _ = writeln!(io::stderr());
        }
    }
}

/// Those that say how it goes while it goes.
const SHOWN: [Measure; 5] = [
    Measure::RoundTrip,
    Measure::Delivery,
    Measure::Request,
    Measure::Visit,
    Measure::Back,
];
const LOOK: Duration = Duration::from_millis(20);
const REDRAW: Duration = Duration::from_millis(200);
const LINE: Duration = Duration::from_secs(5);
