//! How something goes on, on a screen or in a log.

use std::{collections::BTreeMap, io::Write, time::Duration};

use super::table::bar;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screen {
    /// One line that is drawn anew.
    Terminal,
    /// A line per second, for a log.
    Lines,
}

/// Progress on a screen.
pub(super) struct Show<'a, W> {
    /// What goes on, as "streamer a".
    what: &'a str,
    screen: Screen,
    /// All that there ever was to do.
    most: u64,
    out: &'a mut W,
}

impl<'a, W: Write> Show<'a, W> {
    pub(super) fn new(what: &'a str, screen: Screen, out: &'a mut W) -> Self {
        Self {
            what,
            screen,
            most: 0,
            out,
        }
    }

    /// A reader that has gone (`| head`) is no reason to stop.
    pub(super) fn progress(&mut self, done: u64, left: u64, text: &str) {
        self.most = self.most.max(left + done);
        let what = self.what;
        let _ = match self.screen {
            Screen::Lines => writeln!(self.out, "{what}: {text}"),
            Screen::Terminal => {
                let bar = bar(self.most - left, self.most, BAR);
                write!(self.out, "\r\x1b[K{what} {bar} {text}")
            }
        };
        let _ = self.out.flush();
    }

    pub(super) fn end(&mut self, how: &str) {
        let start = match self.screen {
            Screen::Lines => "",
            Screen::Terminal => "\n",
        };
        let _ = writeln!(self.out, "{start}{} {how}", self.what);
    }

    pub(super) fn period(&self) -> Duration {
        match self.screen {
            Screen::Lines => Duration::from_secs(1),
            Screen::Terminal => Duration::from_millis(200),
        }
    }
}

/// ", about 3 s to go", if somebody knows.
pub(super) fn to_go(eta_seconds: Option<u64>) -> String {
    eta_seconds.map_or_else(String::new, |eta| format!(", about {eta} s to go"))
}

/// "; not to be moved: 3 livechat, 1 no_token", if there is anybody.
pub(super) fn stayed(refused: &BTreeMap<String, u64>) -> String {
    let mut reasons: Vec<_> = refused.iter().filter(|(_, count)| **count > 0).collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let reasons: Vec<_> = reasons
        .into_iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    match reasons.is_empty() {
        true => String::new(),
        false => format!("; not to be moved: {}", reasons.join(", ")),
    }
}

/// Timeouts in a row that are taken for a busy gateway.
pub(super) const PATIENCE: u32 = 10;

/// Characters of the bar.
const BAR: usize = 30;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Screen, Show, stayed, to_go};

    #[test]
    fn a_terminal_shows_one_line_that_is_drawn_anew_and_a_log_gets_lines() {
        let shown = |screen| {
            let mut out = Vec::new();
            let mut show = Show::new("streamer a", screen, &mut out);
            show.progress(50, 150, "50 moved");
            show.progress(200, 0, "200 moved");
            show.end("is empty");
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            shown(Screen::Lines),
            "streamer a: 50 moved\nstreamer a: 200 moved\nstreamer a is empty\n"
        );
        assert_eq!(
            shown(Screen::Terminal),
            format!(
                "\r\x1b[Kstreamer a [{}{}] 50 moved\r\x1b[Kstreamer a [{}] 200 moved\n\
                 streamer a is empty\n",
                "#".repeat(7),
                ".".repeat(23),
                "#".repeat(30)
            )
        );
    }

    #[test]
    fn who_stays_is_told_with_the_most_frequent_reason_first() {
        let refused = [("no_token", 1), ("livechat", 3), ("busy", 0)];
        let refused: BTreeMap<String, u64> = refused
            .map(|(reason, count)| (reason.to_owned(), count))
            .into();
        assert_eq!(
            stayed(&refused),
            "; not to be moved: 3 livechat, 1 no_token"
        );
        assert_eq!(stayed(&BTreeMap::new()), "");
        assert_eq!(to_go(Some(4)), ", about 4 s to go");
        assert_eq!(to_go(None), "");
    }
}
