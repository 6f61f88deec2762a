//! Handles to the metrics of logins.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::LoginOutcome;
use crate::{base::id::StreamerId, telemetry::names};

#[derive(Debug)]
pub(super) struct LoginMeters {
    pub(super) limit: Gauge,
    pub(super) rate_limit: Gauge,
    pub(super) queue_full: Counter,
    pub(super) passed_over: Counter,
    pub(super) timed_out: Counter,
    pub(super) gone: Counter,
    waited: Histogram,
    seconds: Histogram,
    done: Counter,
    refused: Counter,
    failed: Counter,
}

impl LoginMeters {
    pub(super) fn new() -> Self {
        let outcome = |outcome| names::LOGINS.counter(&[outcome]);
        Self {
            limit: names::LOGINS_LIMIT.gauge(&[]),
            rate_limit: names::LOGINS_RATE_LIMIT.gauge(&[]),
            queue_full: names::LOGINS_QUEUE_FULL.counter(&[]),
            passed_over: names::LOGINS_PASSED_OVER.counter(&[]),
            timed_out: outcome("timed_out"),
            gone: outcome("gone"),
            waited: names::LOGIN_WAIT_SECONDS.histogram(&[]),
            seconds: names::LOGIN_SECONDS.histogram(&[]),
            done: outcome("done"),
            refused: outcome("refused"),
            failed: outcome("failed"),
        }
    }

    pub(super) fn waited(&self, time: Duration) {
        self.waited.record(time);
    }

    pub(super) fn answered(&self, outcome: LoginOutcome, took: Duration) {
        self.seconds.record(took);
        let counter = match outcome {
            LoginOutcome::Done => &self.done,
            LoginOutcome::Refused => &self.refused,
            LoginOutcome::Failed => &self.failed,
        };
        counter.increment(1);
    }
}

/// Of one streamer; zero again when dropped.
#[derive(Debug)]
pub(super) struct LaneMeters {
    pub(super) waiting: Gauge,
    pub(super) in_flight: Gauge,
    pub(super) limit: Gauge,
}

impl LaneMeters {
    pub(super) fn new(streamer: &StreamerId) -> Self {
        let labels = [streamer.as_str()];
        Self {
            waiting: names::STREAMER_LOGINS_WAITING.gauge(&labels),
            in_flight: names::STREAMER_LOGINS_IN_FLIGHT.gauge(&labels),
            limit: names::STREAMER_LOGINS_LIMIT.gauge(&labels),
        }
    }
}

impl Drop for LaneMeters {
    fn drop(&mut self) {
        for gauge in [&self.waiting, &self.in_flight, &self.limit] {
            gauge.set(0.0);
        }
    }
}
