//! The log lines of the pool: what happened, to whom, what to do.

use crate::base::id::PoolName;

use super::{
    health::{Back, Cause, Health, ProbeKind},
    machine::Transition,
    streamer::Streamer,
};

/// One line for a change of health. `left`: streamers of the pool that still take sessions.
pub(super) fn transition(
    pool: &PoolName,
    streamer: &Streamer,
    transition: Transition,
    left: usize,
) {
    let Transition { from, to } = transition;
    let sessions = streamer.sessions();
    let (id, addr) = (&streamer.id, streamer.addr);
    match to {
        Health::Up { ramp, .. } => tracing::info!(
            %pool, streamer = %id, %addr, from = from.label(), in_rotation = left, ?ramp,
            "streamer {id} is up and takes sessions"
        ),
        Health::Degraded { cause, .. } => tracing::warn!(
            %pool, streamer = %id, %addr, %cause, sessions,
            "streamer {id} fails clients ({cause}) but stays in rotation, because taking it out \
             would leave too few (max_ejected); look at its log"
        ),
        Health::Down { cause, back, .. } => {
            let advice = advice(cause);
            if matches!(from, Health::Unknown { .. }) {
                tracing::warn!(
                    %pool, streamer = %id, %addr, %cause, in_rotation = left,
                    "streamer {id} is not usable yet ({cause}); {advice}; it is used as soon as it answers \
                     a DDP probe"
                );
                return;
            }
            let returns = match back {
                Back::Proof => "as soon as it answers a DDP probe",
                Back::After(_) => "after a pause, if it answers a DDP probe then",
            };
            if left == 0 {
                tracing::error!(
                    %pool, streamer = %id, %addr, %cause, sessions, in_rotation = left,
                    "streamer {id} is out of rotation ({cause}) and was the last one: new clients \
                     of this pool wait; {advice}; it returns {returns}"
                );
            } else {
                tracing::warn!(
                    %pool, streamer = %id, %addr, %cause, sessions, in_rotation = left,
                    "streamer {id} is out of rotation ({cause}); {advice}; it returns {returns}"
                );
            }
        }
        Health::Unknown { .. } => {}
    }
}

fn advice(cause: Cause) -> &'static str {
    match cause {
        Cause::Probe(ProbeKind::Health, _) => "check that its process runs and is reachable",
        Cause::Probe(ProbeKind::Ddp, _) => {
            "it answers HTTP but does not speak DDP: check its message bus and database"
        }
        Cause::Traffic(_) => "it answers probes but fails clients: look at its log",
    }
}
