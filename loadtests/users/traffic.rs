//! What busy users did and heard, in numbers, and what was wrong with it.

use std::fmt;

use super::tally::Spread;

/// Of all users, since the last one was taken.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// From the publication of a room's message until a user has it.
    pub delay: Spread,
    /// From a call until its result.
    pub call: Spread,
    /// What was written while typing and heard by others.
    pub typed: u64,
    /// Calls that were made and calls whose result and `updated` came.
    pub called: u64,
    /// Those among the calls that are counted where they are executed.
    pub counted: u64,
    pub answered: u64,
    /// Events that the messages which were accepted are to be heard as.
    pub owed: u64,
    /// Subscriptions opened for a while and closed again.
    pub visits: u64,
    /// Somebody who is away was shown as online, which a login cannot avoid.
    pub blinks: u64,
    pub faults: Faults,
}

/// None of these may happen to a client whose socket stays open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Events that did not come, and those that came twice or after a later one.
    pub lost: u64,
    pub doubled: u64,
    pub disordered: u64,
    /// Events of a subscription that was not ready yet, or had ended.
    pub strays: u64,
    /// What a user wrote and got back.
    pub echoes: u64,
    /// Somebody who is there was shown as offline or away.
    pub flaps: u64,
    /// Answers to calls that were not asked for, were answered before, or in the wrong order.
    pub answers: u64,
    /// Calls that were executed more than once, by what their result says.
    pub repeated: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Calls without an answer when the socket ended.
    pub abandoned: u64,
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "    event delay {}", self.delay)?;
        writeln!(f, "    calls       {}", self.call)?;
        writeln!(
            f,
            "    {} calls, {} answered; {} writes heard, {} visits, {} blinks",
            self.called, self.answered, self.typed, self.visits, self.blinks
        )?;
        if self.faults == Faults::default() {
            write!(f, "    no fault")
        } else {
            write!(f, "    {:?}", self.faults)
        }
    }
}
