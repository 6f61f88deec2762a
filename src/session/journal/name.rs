//! Names of publications and methods, as one byte.

use std::fmt;

/// The name of a subscription or method: one of a fixed list or [`Name::OTHER`], so that clients cannot invent metric
/// labels.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(u8);

impl Name {
    /// How many there are, `OTHER` included.
    pub const COUNT: usize = KNOWN.len() + 1;

    /// Whatever is not on the list.
    pub const OTHER: Self = Self::at(KNOWN.len());

    /// All of them; `ALL[name.index()] == name`. `OTHER` is the last.
    pub const ALL: [Self; Self::COUNT] = {
        let mut all = [Self::OTHER; Self::COUNT];
        let mut index = 0;
        while index < Self::COUNT {
            all[index] = Self::at(index);
            index += 1;
        }
        all
    };

    pub fn of(text: &str) -> Self {
        let mut slot = slot(text);
        loop {
            let index = usize::from(SLOTS[slot]);
            match KNOWN.get(index) {
                Some(&(known, _)) if known == text => return Self::at(index),
                Some(_) => slot = (slot + 1) % SLOTS.len(),
                None => return Self::OTHER,
            }
        }
    }

    /// The name, or `other`.
    pub fn label(self) -> &'static str {
        KNOWN.get(self.index()).map_or("other", |&(known, _)| known)
    }

    /// Place in [`Name::ALL`], below [`Name::COUNT`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Where `sub` may carry this name. `OTHER` may be anything.
    pub fn is_stream(self) -> bool {
        !matches!(self.sort(), Some(Sort::Method))
    }

    /// Whether `method` may carry this name: a stream's name is also the method that writes to it.
    pub fn is_method(self) -> bool {
        !matches!(self.sort(), Some(Sort::Publication))
    }

    /// What clients subscribe to, `OTHER` included.
    pub fn streams() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|name| name.is_stream())
    }

    /// What clients call, `OTHER` included.
    pub fn methods() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|name| name.is_method())
    }

    pub(super) fn code(self) -> u8 {
        self.0
    }

    pub(super) fn from_code(code: u8) -> Self {
        Self::ALL
            .get(usize::from(code))
            .copied()
            .unwrap_or(Self::OTHER)
    }

    fn sort(self) -> Option<Sort> {
        KNOWN.get(self.index()).map(|&(_, sort)| sort)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the list is shorter than 255, see below"
    )]
    const fn at(index: usize) -> Self {
        Self(index as u8)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// A sub; as a method it writes to the stream.
    Stream,
    /// A sub that publishes documents.
    Publication,
    Method,
}

const _: () = assert!(KNOWN.len() < 255);

/// A name's first place in [`SLOTS`].
const fn slot(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut hash = 0x811c_9dc5_u32;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    ((hash >> 16) ^ hash) as usize % SLOT_COUNT
}

/// The list by hash, with room so that most names stand at their first place; [`NO_NAME`] ends a search.
static SLOTS: [u8; SLOT_COUNT] = {
    let mut slots = [NO_NAME; SLOT_COUNT];
    let mut index = 0;
    while index < KNOWN.len() {
        let mut at = slot(KNOWN[index].0);
        while slots[at] != NO_NAME {
            at = (at + 1) % SLOT_COUNT;
        }
        slots[at] = Name::at(index).0;
        index += 1;
    }
    slots
};

const SLOT_COUNT: usize = 512;
const NO_NAME: u8 = u8::MAX;

/// Sorted by bytes.
///
/// Subscriptions: everything that `RocketChat/Rocket.Chat:ee/apps/ddp-streamer` publishes. Methods: what the streamer
/// handles itself and what the apps and bots call over the socket
/// (`RocketChat/Rocket.Chat:apps/meteor/{app,server}/**/methods`).
const KNOWN: &[(&str, Sort)] = {
    use Sort::{Method, Publication, Stream};
    &[
        ("UserPresence:away", Method),
        ("UserPresence:connect", Method),
        ("UserPresence:online", Method),
        ("UserPresence:setDefaultStatus", Method),
        ("addUsersToRoom", Method),
        ("archiveRoom", Method),
        ("autoTranslate.getSupportedLanguages", Method),
        ("blockUser", Method),
        ("browseChannels", Method),
        ("channelsList", Method),
        ("createChannel", Method),
        ("createDirectMessage", Method),
        ("createPrivateGroup", Method),
        ("deleteMessage", Method),
        ("e2e.fetchMyKeys", Method),
        ("e2e.getUsersOfRoomWithoutKey", Method),
        ("e2e.requestSubscriptionKeys", Method),
        ("e2e.updateGroupKey", Method),
        ("eraseRoom", Method),
        ("executeSlashCommandPreview", Method),
        ("followMessage", Method),
        ("getChannelHistory", Method),
        ("getReadReceipts", Method),
        ("getRoomByTypeAndName", Method),
        ("getRoomIdByNameOrId", Method),
        ("getRoomNameById", Method),
        ("getRoomRoles", Method),
        ("getSingleMessage", Method),
        ("getSlashCommandPreviews", Method),
        ("getThreadMessages", Method),
        ("getThreadsList", Method),
        ("getUserMentionsByChannel", Method),
        ("getUserRoles", Method),
        ("getUsersOfRoom", Method),
        ("hideRoom", Method),
        ("ignoreUser", Method),
        ("jitsi:updateTimeout", Method),
        ("joinDefaultChannels", Method),
        ("joinRoom", Method),
        ("leaveRoom", Method),
        ("license:getModules", Method),
        ("license:isEnterprise", Method),
        ("listCustomSounds", Method),
        ("listCustomUserStatus", Method),
        ("listEmojiCustom", Method),
        ("livechat:setUpConnection", Method),
        ("loadHistory", Method),
        ("loadLocale", Method),
        ("loadMissedMessages", Method),
        ("loadNextMessages", Method),
        ("loadSurroundingMessages", Method),
        ("login", Method),
        ("logout", Method),
        ("messageSearch", Method),
        ("messages/get", Method),
        ("meteor.loginServiceConfiguration", Publication),
        ("meteor_autoupdate_clientVersions", Publication),
        ("muteUserInRoom", Method),
        ("openRoom", Method),
        ("permissions/get", Method),
        ("pinMessage", Method),
        ("private-settings/get", Method),
        ("public-settings/get", Method),
        ("raix:push-update", Method),
        ("readMessages", Method),
        ("readThreads", Method),
        ("registerUser", Method),
        ("reportMessage", Method),
        ("rocketchatSearch.search", Method),
        ("roomNameExists", Method),
        ("rooms/get", Method),
        ("saveNotificationSettings", Method),
        ("saveRoomSettings", Method),
        ("saveUserPreferences", Method),
        ("saveUserProfile", Method),
        ("sendFileMessage", Method),
        ("sendForgotPasswordEmail", Method),
        ("sendMessage", Method),
        ("setReaction", Method),
        ("setUserActiveStatus", Method),
        ("setUserStatus", Method),
        ("slashCommand", Method),
        ("spotlight", Method),
        ("starMessage", Method),
        ("stream-apps", Stream),
        ("stream-apps-engine", Stream),
        ("stream-canned-responses", Stream),
        ("stream-importers", Stream),
        ("stream-integrationHistory", Stream),
        ("stream-livechat-inquiry-queue-observer", Stream),
        ("stream-livechat-room", Stream),
        ("stream-local", Stream),
        ("stream-notify-all", Stream),
        ("stream-notify-logged", Stream),
        ("stream-notify-room", Stream),
        ("stream-notify-room-users", Stream),
        ("stream-notify-user", Stream),
        ("stream-roles", Stream),
        ("stream-room-data", Stream),
        ("stream-room-messages", Stream),
        ("stream-user-presence", Stream),
        ("stream-video-conference", Stream),
        ("subscriptions/get", Method),
        ("toggleFavorite", Method),
        ("ufsCreate", Method),
        ("unarchiveRoom", Method),
        ("unblockUser", Method),
        ("unfollowMessage", Method),
        ("unmuteUserInRoom", Method),
        ("unpinMessage", Method),
        ("unreadMessages", Method),
        ("updateMessage", Method),
        ("userSetUtcOffset", Method),
    ]
};

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{KNOWN, Name};

    #[test]
    fn the_list_is_sorted_and_every_name_is_found() {
        assert!(KNOWN.is_sorted_by(|a, b| a.0 < b.0));
        for (index, &(text, _)) in KNOWN.iter().enumerate() {
            assert_eq!(Name::of(text).index(), index);
            assert_eq!(Name::of(text).label(), text);
        }
        for unknown in ["", "other", "Login", "login ", "stream-", "zzz", "\0"] {
            assert_eq!(Name::of(unknown), Name::OTHER);
        }
    }

    #[test]
    fn labels_are_unique_and_tell_streams_from_methods() {
        let labels: HashSet<_> = Name::ALL.iter().map(|name| name.label()).collect();
        assert_eq!(labels.len(), Name::COUNT);
        for (index, name) in Name::ALL.into_iter().enumerate() {
            assert_eq!(name.index(), index);
        }
        let write = Name::of("stream-notify-room");
        assert!(write.is_stream() && write.is_method());
        assert!(!Name::of("login").is_stream());
        assert!(!Name::of("meteor.loginServiceConfiguration").is_method());
        assert!(Name::streams().any(|name| name == Name::OTHER));
        assert!(Name::methods().any(|name| name == Name::OTHER));
        assert_eq!(format!("{:?}", Name::of("no such")), "other");
    }
}
