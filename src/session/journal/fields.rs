//! The names of a document's fields: one bit each for those that are known, their text for others.

use std::collections::BTreeSet;

use super::{
    Collection,
    packed::{put_varint, take, take_byte, take_varint},
};

/// Appends the names; false when one of them, or all together, are longer than what is kept.
pub(super) fn put(collection: Collection, names: &BTreeSet<String>, out: &mut Vec<u8>) -> bool {
    let known = known(collection);
    let mut bits = 0_u64;
    let mut others = Vec::new();
    for name in names {
        match known.iter().position(|known| known == name) {
            Some(place) => bits |= 1 << place,
            None => {
                let Ok(length) = u8::try_from(name.len()) else {
                    return false;
                };
                others.push(length);
                others.extend_from_slice(name.as_bytes());
            }
        }
    }
    if others.len() > MOST_BYTES {
        return false;
    }
    put_varint(bits, out);
    out.extend_from_slice(&others);
    true
}

/// The names at the end of a record.
pub(super) fn read(collection: Collection, body: &[u8]) -> Option<BTreeSet<String>> {
    let mut body = body;
    let bits = take_varint(&mut body)?;
    let known = known(collection).iter().enumerate();
    let mut names: BTreeSet<String> = known
        .filter(|(place, _)| bits & 1 << place != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect();
    while let Some(length) = take_byte(&mut body) {
        let name = take(&mut body, length.into())?;
        names.insert(str::from_utf8(name).ok()?.to_owned());
    }
    Some(names)
}

/// At most 64, the usual ones first: these take the fewest bytes.
fn known(collection: Collection) -> &'static [&'static str] {
    match collection {
        Collection::Users => USERS,
        Collection::LoginServices => LOGIN_SERVICES,
        Collection::ClientVersions => CLIENT_VERSIONS,
    }
}

/// `RocketChat/Rocket.Chat:apps/meteor/app/utils/server/functions/getBaseUserFields.ts`.
const USERS: &[&str] = &[
    "username",
    "name",
    "active",
    "emails",
    "roles",
    "settings",
    "status",
    "statusConnection",
    "statusDefault",
    "statusText",
    "utcOffset",
    "_updatedAt",
    "type",
    "services",
    "language",
    "avatarETag",
    "avatarOrigin",
    "bio",
    "nickname",
    "customFields",
    "requirePasswordChange",
    "requirePasswordChangeReason",
    "statusLivechat",
    "openBusinessHours",
    "banners",
    "defaultRoom",
    "enabled",
    "oauth",
    "extension",
    "freeSwitchExtension",
    "statusExpiresAt",
    "statusEmoji",
    "_id",
    "createdAt",
    "lastLogin",
    "federated",
    "federation",
    "e2e",
    "ldap",
    "phone",
    "profile",
    "reason",
    "inviteToken",
    "canViewAllInfo",
];

/// `RocketChat/Rocket.Chat:packages/core-typings/src/ILoginServiceConfiguration.ts`.
const LOGIN_SERVICES: &[&str] = &[
    "_id",
    "service",
    "showButton",
    "clientId",
    "loginStyle",
    "appId",
    "consumerKey",
    "clientConfig",
    "buttonLabelText",
    "buttonLabelColor",
    "buttonColor",
    "custom",
    "serverURL",
    "authorizePath",
    "tokenPath",
    "identityPath",
    "scope",
    "tokenSentVia",
    "identityTokenSentVia",
    "accessTokenParam",
    "usernameField",
    "emailField",
    "nameField",
    "avatarField",
    "keyField",
    "rolesClaim",
    "groupsClaim",
    "rolesToSync",
    "mapChannels",
    "mergeUsers",
    "mergeUsersDistinctServices",
    "mergeRoles",
    "responseType",
    "enabled",
    "entryPoint",
    "idpSLORedirectURL",
    "base_url",
    "login_url",
    "autoclose",
    "domain",
    "linkedin_api_version",
];

/// `RocketChat/Rocket.Chat:ee/apps/ddp-streamer/src/lib/Autoupdate.ts`.
const CLIENT_VERSIONS: &[&str] = &[
    "version",
    "versionHmr",
    "versionNonRefreshable",
    "versionRefreshable",
    "versionReplaceable",
    "assets",
    "_id",
    "outdated",
    "arch",
    "refreshable",
];

const _: () =
    assert!(USERS.len() <= 64 && LOGIN_SERVICES.len() <= 64 && CLIENT_VERSIONS.len() <= 64);

/// Of names that are not known.
const MOST_BYTES: usize = 1_024;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{CLIENT_VERSIONS, LOGIN_SERVICES, USERS, put, read};
    use crate::session::journal::Collection;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn names_come_back() {
        for collection in Collection::ALL {
            for names in [
                USERS,
                LOGIN_SERVICES,
                CLIENT_VERSIONS,
                &[],
                &[""],
                &["username", "", "Ünüsual", "x"],
            ] {
                let names = set(names);
                let mut packed = Vec::new();
                assert!(put(collection, &names, &mut packed));
                assert_eq!(read(collection, &packed), Some(names));
            }
        }
    }

    #[test]
    fn the_usual_ones_take_a_byte_or_few() {
        let mut packed = Vec::new();
        put(
            Collection::Users,
            &set(&["username", "name", "active"]),
            &mut packed,
        );
        assert_eq!(packed.len(), 1);
        put(Collection::Users, &set(&USERS[..28]), &mut packed);
        assert_eq!(packed.len(), 1 + 4);
    }

    #[test]
    fn bounds_hold() {
        let mut packed = Vec::new();
        let long = set(&[&"x".repeat(256)]);
        assert!(!put(Collection::Users, &long, &mut packed));
        let many = (0..1_000).map(|number| format!("f{number}")).collect();
        assert!(!put(Collection::Users, &many, &mut packed));
        assert!(packed.is_empty());
    }
}
