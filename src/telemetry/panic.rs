//! A panic ends the task it happens in and nothing else; here it is counted and said in one line.

use std::{backtrace::Backtrace, panic};

use super::names;

/// Replaces the hook that prints to standard error.
pub fn install() {
    let panics = names::PANICS.counter(&[]);
    panic::set_hook(Box::new(move |panic| {
        panics.increment(1);
        let place = panic.location().map_or_else(String::new, |place| {
            format!("{}:{}", place.file(), place.line())
        });
        let payload = panic.payload();
        let what = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message")
            .chars()
            .take(LONGEST_MESSAGE)
            .collect::<String>();
        // Empty unless RUST_BACKTRACE asks for it.
        let backtrace = Backtrace::capture();
        tracing::error!(
            place,
            backtrace = matches!(
                backtrace.status(),
                std::backtrace::BacktraceStatus::Captured
            )
            .then(|| backtrace.to_string()),
            "a connection or task ended by a defect of the gateway ({what}); \
             everything else goes on; please report this line"
        );
    }));
}

const LONGEST_MESSAGE: usize = 300;
