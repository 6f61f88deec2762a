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

#[cfg(test)]
mod tests {
    use std::{panic, thread};

    use super::install;
    use crate::telemetry::export;

    #[test]
    fn a_panic_is_counted_and_ends_only_its_thread() {
        let recorder = export::recorder();
        install();
        for n in 0..2 {
            let ended = thread::spawn(move || assert_eq!(n, 7, "made by a test")).join();
            assert!(ended.is_err());
        }
        let _ = panic::take_hook();
        let page = recorder.render();
        let line = page
            .lines()
            .find(|line| line.contains("panics_total") && !line.starts_with('#'));
        assert!(line.is_some_and(|line| line.ends_with(" 2")), "{line:?}");
    }
}
