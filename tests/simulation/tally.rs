//! What happened in all runs together: a simulation in which it does not happen proves nothing about it.

use crate::plan::Theme;

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident: $($theme:ident)*;)*) => {
        #[derive(Debug, Default)]
        pub(crate) struct Tally { $($(#[$doc])* pub(crate) $name: u64,)* }

        impl Tally {
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Fails when a theme's runs never met what they are about.
            pub(crate) fn expect_all(&self, theme: Theme) {
                $(if matches!(theme, $(Theme::$theme)|*) {
                    assert!(self.$name > 0, "{theme:?}: `{}` never happened", stringify!($name));
                })*
            }
        }
    };
}

tally! {
    /// Runs that came to their end with everything answered.
    settled: Ordinary Nasty Limited Broken;
    methods: Ordinary Nasty Limited Broken;
    subs: Ordinary Nasty Limited Broken;
    /// Logins that were held until their turn.
    turns: Ordinary Nasty Limited Broken;
    /// Requests that waited behind one.
    held_behind: Ordinary Nasty Limited Broken;
    logged_in: Ordinary Nasty Limited Broken;
    login_refused: Ordinary Nasty Broken;
    login_failed: Ordinary Nasty Broken;
    logged_out: Ordinary Broken;
    swallowed_subs: Ordinary Nasty Limited Broken;
    unknown_unsubs: Ordinary Nasty Limited Broken;
    batches: Ordinary Nasty Limited Broken;
    assembled: Ordinary Nasty Limited Broken;
    oversized: Ordinary Broken;
    reused_in_flight: Ordinary;
    presence_quirk: Ordinary Nasty Limited Broken;
    pings_while_held: Ordinary Nasty Limited Broken;
    pings_while_parked: Ordinary Nasty Limited Broken;
    early_updated: Nasty;
    grouped: Nasty;
    ghosts: Nasty;
    repeats: Nasty;
    greeted_again: Nasty;
    unasked: Nasty;
    limited_methods: Ordinary Limited;
    limited_subs: Limited;
    full_journal: Ordinary;
    abuse: Limited;
    held_back: Limited;
    rules_changed: Limited Broken;
    keep_alives: Ordinary Nasty Limited Broken;
    client_pings: Ordinary Nasty Limited Broken;
    streamer_pings: Ordinary Nasty Broken;
    silent: Broken;
    slow: Broken;
    late_clock: Broken;
    malformed: Broken;
    no_connect: Broken;
    lost: Broken;
    drained: Broken;
    streamer_closed: Broken;
    client_gone: Broken;
}
