//! Log lines about something that may happen ten thousand times a second.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lets one line pass per period and counts the others.
#[derive(Debug)]
pub struct Seldom {
    period: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: Option<Instant>,
    withheld: u64,
}

impl Seldom {
    pub fn new(period: Duration) -> Self {
        Self {
            period,
            state: Mutex::new(State {
                last: None,
                withheld: 0,
            }),
        }
    }

    /// When a line is due, how many there would have been since the one before.
    pub fn due(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let early = state
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < self.period);
        if early {
            state.withheld += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.withheld))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Seldom;

    #[test]
    fn one_line_per_period_tells_of_the_others() {
        let seldom = Seldom::new(Duration::from_secs(10));
        let start = Instant::now();
        assert_eq!(seldom.due(start), Some(0));
        for n in 1..=5 {
            assert_eq!(seldom.due(start + Duration::from_secs(n)), None);
        }
        assert_eq!(seldom.due(start + Duration::from_secs(10)), Some(5));
        assert_eq!(seldom.due(start + Duration::from_secs(30)), Some(0));
    }
}
