//! Why a session stays where it is: the words for pages, logs and metrics.

use std::fmt;

macro_rules! reasons {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// Every one, in the order in which they are shown.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The lower-case word for it on pages and metrics; told apart from all others.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.label())
            }
        }
    };
}

reasons! {
    /// Why a session cannot be moved, now or ever. Nothing was begun.
    Unmovable {
        /// It has no streamer yet, or it is ending.
        NotLive = "not_live",
        /// A login waits for its turn or its answer.
        LoggingIn = "logging_in",
        /// It is logged in by a login that brought no token, so that nobody can log it in again.
        NoToken = "no_token",
        /// A visitor of the livechat: the streamer would mark it offline when the old leg closes,
        /// whatever the new one did.
        Livechat = "livechat",
        /// It subscribed to something whose meaning is not known.
        UnknownPublication = "unknown_publication",
        /// It asked for more than is kept, so not all of it can be asked for again.
        JournalFull = "journal_full",
        /// What it or its streamer sent does not fit to what is known of it.
        Odd = "odd",
        /// Requests are unanswered that could not be read.
        Unseen = "unseen",
        /// It has written to a stream and has no answer yet: another streamer would send that back.
        Writing = "writing",
        /// Its client has just come back, and not all of it is settled yet.
        Resuming = "resuming",
    }
}

reasons! {
    /// Why the move of a session was given up. The session is as if it had not been begun.
    Aborted {
        /// The client or its streamer had something unfinished all the time.
        Busy = "busy",
        /// No other streamer had room or answered, or the new leg was lost.
        Unreachable = "unreachable",
        /// The new streamer did not log the user in, for a reason other than the token.
        LoginFailed = "login_failed",
        /// The new streamer failed at a subscription that the old one serves.
        SubRefused = "sub_refused",
        /// More happened in the overlap than is kept.
        TooMuch = "too_much",
        /// The new leg took too long.
        Late = "late",
        /// The session ended meanwhile.
        Ended = "ended",
    }
}

impl Unmovable {
    /// Whether the reason goes by itself, so that it is worth while to ask again a moment later.
    pub fn passes(self) -> bool {
        match self {
            Self::NotLive | Self::LoggingIn | Self::Unseen | Self::Writing | Self::Resuming => true,
            Self::NoToken
            | Self::Livechat
            | Self::UnknownPublication
            | Self::JournalFull
            | Self::Odd => false,
        }
    }
}

impl Aborted {
    /// As [`Unmovable::passes`].
    pub fn passes(self) -> bool {
        match self {
            Self::Busy
            | Self::Unreachable
            | Self::LoginFailed
            | Self::SubRefused
            | Self::TooMuch
            | Self::Late => true,
            Self::Ended => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Aborted, Unmovable};

    #[test]
    fn labels_are_told_apart() {
        let unmovable = Unmovable::ALL.iter().map(|reason| reason.label());
        let aborted = Aborted::ALL.iter().map(|reason| reason.label());
        let labels: Vec<_> = unmovable.chain(aborted).chain(["moved"]).collect();
        let distinct: BTreeSet<_> = labels.iter().copied().collect();
        assert_eq!(distinct.len(), labels.len(), "{labels:?}");
        for label in labels {
            assert!(label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_')));
        }
    }
}
