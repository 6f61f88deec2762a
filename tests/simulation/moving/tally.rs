//! What happened in all runs together: a simulation in which it does not happen proves nothing about it.

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        #[derive(Debug, Default)]
        pub(crate) struct Tally { $($(#[$doc])* pub(crate) $name: u64,)* }

        impl Tally {
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Fails when something never happened in all runs.
            pub(crate) fn expect_all(&self) {
                $(assert!(self.$name > 0, "`{}` never happened", stringify!($name));)*
            }
        }
    };
}

tally! {
    settled,
    begun,
    moved,
    /// Back to where it came from.
    returned,
    anonymous,
    methods,
    slow_methods,
    subs_while_moving,
    unsubs_while_moving,
    writes_while_moving,
    echoes_dropped,
    watches_while_moving,
    presence_while_moving,
    away_moved,
    batches,
    large,
    messages_held,
    /// What was held goes on to the old leg.
    released,
    /// Switches at which the old leg had not brought everything that the new one had.
    switched_ahead,
    /// The new leg brought what the old one had.
    switched_owed,
    switched_documents,
    /// Fields that the new streamer's document does not have.
    switched_cleared,
    refused_at_switch,
    pongs_swallowed,
    repeated_typing,
    force_logouts,
    /// Of these, by the name of the leg that is not in charge.
    other_logouts,
    events,
    not_live,
    /// The move before is not quite over.
    settling,
    logging_in,
    no_token,
    livechat,
    unknown_publication,
    journal_full,
    unseen,
    writing,
    unreachable,
    login_failed,
    login_refused,
    sub_refused,
    too_much,
    busy,
    late,
    old_lost,
    old_closed,
    client_gone,
    drained,
    logged_in_while_moving,
    logged_out_while_moving,
}
