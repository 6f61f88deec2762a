//! What happened in a part of a test, and what nobody may notice of it.

use std::time::{Duration, Instant};

use ddp_gateway::demo::{streamer::Streamer, workspace::Statuses};

use crate::{
    scene::{LIMIT, STREAMER_LIMIT, Scene},
    users::{Faults, Spread, Tally},
};

#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) called: u64,
    pub(crate) answered: u64,
    counted: u64,
    pub(crate) abandoned: u64,
}

/// What happened in some part of a test.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) took: Duration,
    pub(crate) tally: Tally,
    late: Spread,
    /// Processor time of the gateway.
    cpu: Duration,
}

impl Scene {
    /// Ends a part of a test: what happened since the last one ended.
    pub(crate) fn stage(&mut self, name: &str) -> Stage {
        let now = Instant::now();
        let cpu = self.gateway.processor_time();
        let stage = Stage {
            took: now - self.began,
            tally: self.crowd.board().take(),
            late: self.pulse.take(),
            cpu: cpu.saturating_sub(self.cpu),
        };
        (self.began, self.cpu) = (now, cpu);
        let traffic = &stage.tally.traffic;
        self.total.called += traffic.called;
        self.total.answered += traffic.answered;
        self.total.counted += traffic.counted;
        self.total.abandoned += traffic.faults.abandoned;
        let sockets: Vec<usize> = self.streamers.iter().map(Streamer::sessions).collect();
        println!(
            "{name}: {:.1?}, gateway's processor {:.1?}, sockets {sockets:?}\n\
             \x20   machine     late by {}\n{traffic}",
            stage.took, stage.cpu, stage.late,
        );
        for (how, count) in &stage.tally.ended {
            println!("    {count} sockets ended: {how:?}");
        }
        for breach in &stage.tally.first_breaches {
            println!("    {breach}");
        }
        stage
    }

    /// Changes of somebody's status since the users are busy, as the streamers see it.
    pub(crate) fn flaps(&self) -> Statuses {
        let now = self.workspace.presence_changes();
        Statuses {
            offline: now.offline - self.changes.offline,
            online: now.online - self.changes.online,
            away: now.away - self.changes.away,
            busy: now.busy - self.changes.busy,
        }
    }

    /// What nobody may notice of a planned move, in the whole test.
    pub(crate) fn nobody_noticed(&self) {
        let Totals {
            called,
            answered,
            counted,
            ..
        } = self.total;
        assert_eq!(called, answered, "calls and answers");
        let executed = self.workspace.counted();
        assert_eq!(
            (executed.calls, executed.keys, executed.most),
            (counted, counted, 1),
            "executed once each"
        );
        assert_eq!(self.workspace.presence(), self.presence);
        let flaps = self.flaps();
        // Who is away is online for a moment when it logs in at its new streamer.
        assert_eq!((flaps.offline, flaps.busy), (0, 0), "{flaps:?}");
        assert_eq!(flaps.online, flaps.away, "{flaps:?}");
        self.logins_were_paced();
    }

    pub(crate) fn logins_were_paced(&self) {
        let all = self.workspace.logins();
        assert!(all.most_in_flight <= LIMIT, "{all:?}");
        for streamer in &self.streamers {
            let one = streamer.counters().logins;
            assert!(one.most_in_flight <= STREAMER_LIMIT, "{one:?}");
        }
    }
}

impl Stage {
    /// What nobody may notice of a planned move.
    pub(crate) fn is_calm(&self) {
        let Tally {
            ended,
            errors,
            breaches,
            first_breaches,
            logins,
            traffic,
            ..
        } = &self.tally;
        assert!(ended.is_empty(), "sockets ended: {ended:?}");
        assert_eq!(traffic.faults, Faults::default(), "{first_breaches:?}");
        assert_eq!(*breaches, 0, "{first_breaches:?}");
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(*logins, 0);
    }
}
