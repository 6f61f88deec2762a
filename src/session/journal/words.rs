//! What clients write over and over in ids and parameters, as one byte each.

/// The longest word that `text` begins with, and its code.
pub(super) fn at_start_of(text: &str) -> Option<(u8, &'static str)> {
    let first = usize::from(*text.as_bytes().first()?);
    let (from, to) = (*STARTS.get(first)?, *STARTS.get(first + 1)?);
    // Of two words that both begin `text`, the longer one is sorted behind the shorter one.
    (from..to)
        .rev()
        .find_map(|index| {
            let word = *WORDS.get(usize::from(index))?;
            text.starts_with(word).then_some((index, word))
        })
        .map(|(index, word)| (code(index), word))
}

pub(super) fn by_code(byte: u8) -> Option<&'static str> {
    let index = match byte {
        0x80..=0xbf => byte - 0x80,
        0x10..=0x1f => byte - 0x10 + 64,
        _ => return None,
    };
    WORDS.get(usize::from(index)).copied()
}

/// Bytes that cannot begin a character: first the continuation bytes of UTF-8, then control characters.
fn code(index: u8) -> u8 {
    if index < 64 {
        0x80 + index
    } else {
        0x10 + (index - 64)
    }
}

/// How many words have a first byte below the index.
const STARTS: [u8; 129] = {
    let mut starts = [0; 129];
    let mut word = 0;
    while word < WORDS.len() {
        let mut above = WORDS[word].as_bytes()[0] as usize + 1;
        while above < starts.len() {
            starts[above] += 1;
            above += 1;
        }
        word += 1;
    }
    starts
};

const _: () = assert!(WORDS.len() <= 64 + 16);

/// Sorted by bytes; none is empty or begins with a character outside of ASCII.
///
/// Events: `RocketChat/Rocket.Chat:apps/meteor/server/modules/notifications`.
const WORDS: &[&str] = &[
    r#"",""#,
    r#"",false]"#,
    r#"",true]"#,
    r#"",{"added":[""#,
    r#"",{"removed":[""#,
    r#"",{"useCollection":false,"args":["#,
    r#"",{"useCollection":false,"args":[]}]"#,
    r#"",{"useCollection":true,"args":["#,
    r#"",{"useCollection":true,"args":[]}]"#,
    r#"":""#,
    r#""]"#,
    r#""],"removed":[""#,
    r#""]}]"#,
    r#""}]}]"#,
    "/banners",
    "/calendar",
    "/deleteMessage",
    "/deleteMessageBulk",
    "/e2e.keyRequest",
    "/e2ekeyRequest",
    "/force_logout",
    "/media-calls",
    "/media-signal",
    "/message",
    "/messagesRead",
    "/notification",
    "/otr",
    "/rooms-changed",
    "/subscriptions-changed",
    "/typing",
    "/uiInteraction",
    "/user-activity",
    "/userData",
    "/video-conference",
    "/videoconf",
    "/webrtc",
    "GENERAL",
    "Users:Deleted",
    "Users:NameChanged",
    r#"[""#,
    r#"["",{"added":[""#,
    "]}]",
    "__my_messages__",
    "actions/changed",
    "app/added",
    "app/removed",
    "app/settingUpdated",
    "app/statusUpdate",
    "app/updated",
    "banner-changed",
    "command/added",
    "command/disabled",
    "command/removed",
    "command/updated",
    "ddp-",
    "deleteCustomSound",
    "deleteCustomUserStatus",
    "deleteEmojiCustom",
    "department/",
    "new-banner",
    "omnichannel.priority-changed",
    "permissions-changed",
    "private-settings-changed",
    "progress",
    "public-settings-changed",
    "rc-ddp-client-",
    "roles-change",
    "updateAvatar",
    "updateCustomSound",
    "updateCustomUserStatus",
    "updateEmojiCustom",
    "user-status",
    "voip.statuschanged",
    r#"{"rid":""#,
    r#"{"token":""#,
    r#"{"visitorToken":""#,
];

#[cfg(test)]
mod tests {
    use super::{WORDS, at_start_of, by_code};

    #[test]
    fn every_word_is_found_by_its_text_and_by_its_code() {
        assert!(WORDS.is_sorted_by(|a, b| a < b));
        for word in WORDS {
            let (code, found) = at_start_of(word).unwrap();
            assert_eq!(&found, word);
            assert_eq!(by_code(code), Some(*word));
        }
        let codes = (0..=u8::MAX).filter(|&byte| by_code(byte).is_some());
        assert_eq!(codes.count(), WORDS.len());
    }

    #[test]
    fn the_longest_word_wins() {
        let found = |text| at_start_of(text).map(|(_, word)| word);
        assert_eq!(found("/deleteMessageBulk\""), Some("/deleteMessageBulk"));
        assert_eq!(found("/deleteMessageBul"), Some("/deleteMessage"));
        assert_eq!(
            found(r#"",{"useCollection":false,"args":[{"#),
            Some(r#"",{"useCollection":false,"args":["#)
        );
        for unknown in ["", "~", "é", "\u{10ffff}", "\0", "/deleteMessag"] {
            assert_eq!(found(unknown), None);
        }
    }
}
