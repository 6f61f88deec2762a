use std::collections::HashSet;

use super::{
    Answered, Begun, Bounds, Journal, LONGEST_ID, Name, Presence, SubView, Updated, Waited,
};

const USER: &str = "aobEdbYhXfu5hkeqG";
const TOKEN: &str = "RScctEHSmLGZGywfIhWyRpyofhKOiMoUIpimhvheU3f";
const SESSION: &str = "9f1b7c10-5f0e-11ef-9a53-0242ac120002";
const DEFAULT_TAIL: &str = r#",{"useCollection":false,"args":[]}]"#;

/// What the web client of a user with two open rooms subscribes to.
fn web_client() -> Vec<(String, String)> {
    let rooms = ["ByehQjC44FwMeiLbX", "hmSnbKrtiXJdHsEHu"];
    let direct = format!("{USER}SGbFYd2SWuQnZkQ5b");
    let mut subs = vec![
        (
            "meteor.loginServiceConfiguration".to_owned(),
            "[]".to_owned(),
        ),
        (
            "meteor_autoupdate_clientVersions".to_owned(),
            r#"["autoupdate"]"#.to_owned(),
        ),
        (
            "stream-user-presence".to_owned(),
            format!(r#"["",{{"added":["{USER}","SGbFYd2SWuQnZkQ5b","rocket.cat"]}}]"#),
        ),
        (
            "stream-room-messages".to_owned(),
            format!(r#"["__my_messages__"{DEFAULT_TAIL}"#),
        ),
    ];
    let mut stream = |name: &str, event: &str| {
        subs.push((
            format!("stream-{name}"),
            format!(r#"["{event}"{DEFAULT_TAIL}"#),
        ));
    };
    for event in [
        "notification",
        "rooms-changed",
        "subscriptions-changed",
        "message",
        "uiInteraction",
        "userData",
        "force_logout",
        "webrtc",
        "otr",
        "video-conference",
        "calendar",
        "banners",
    ] {
        stream("notify-user", &format!("{USER}/{event}"));
    }
    for event in [
        "user-status",
        "Users:NameChanged",
        "updateAvatar",
        "roles-change",
        "permissions-changed",
        "private-settings-changed",
    ] {
        stream("notify-logged", event);
    }
    for event in ["public-settings-changed", "updateEmojiCustom"] {
        stream("notify-all", event);
    }
    for room in rooms {
        stream("room-messages", room);
        stream("notify-room", &format!("{room}/user-activity"));
    }
    stream("notify-room", &format!("{direct}/deleteMessage"));
    stream("notify-room-users", &format!("{direct}/videoconf"));
    assert_eq!(subs.len(), 30);
    subs
}

/// An id as Meteor makes them.
fn meteor_id(number: usize) -> String {
    const LETTERS: &[u8] = b"23456789ABCDEFGHJKLMNPQRSTWXYZabcdefghijkmnopqrstuvwxyz";
    (0..17)
        .map(|place| {
            char::from(LETTERS[(number * 31 + place * 17 + number * place) % LETTERS.len()])
        })
        .collect()
}

fn new() -> Journal {
    Journal::new(Bounds::default())
}

fn first(name: &str, since: u32) -> Answered {
    Answered::First(Waited {
        name: Name::of(name),
        since,
        owes_updated: false,
    })
}

fn params<'a>(sub: &'a SubView<'_>) -> &'a str {
    &sub.request.as_ref().unwrap().params
}

/// Budgets in bytes of heap. Every session pays them for as long as it lives.
#[test]
fn thirty_subscriptions_of_a_web_client_fit_into_the_budget() {
    let mut journal = new();
    journal.set_session(SESSION);
    assert_eq!(journal.begin_method("1", "login", 5), Begun::New);
    for (number, (name, params)) in web_client().iter().enumerate() {
        assert_eq!(
            journal.begin_sub(&meteor_id(number), name, params, 6),
            Begun::New
        );
    }
    assert!(
        journal.bytes() <= 1_280,
        "before the answers: {}",
        journal.bytes()
    );
    journal.log_in(USER, Some(TOKEN));
    assert_eq!(journal.method_result("1"), first("login", 5));
    assert_eq!(journal.method_updated("1"), Updated::Forward);
    for number in 0..30 {
        assert!(matches!(
            journal.sub_ready(&meteor_id(number)),
            Answered::First(_)
        ));
    }
    assert!(journal.bytes() <= 1_024, "settled: {}", journal.bytes());
    assert_eq!(
        (
            journal.sub_count(),
            journal.pending_subs(),
            journal.unanswered_methods()
        ),
        (30, 0, 0)
    );
    for (sub, (name, params)) in journal.subs().zip(web_client()) {
        let request = sub.request.unwrap();
        assert_eq!((&*request.name, &*request.params), (&*name, &*params));
    }
}

#[test]
fn an_idle_session_pays_for_what_it_has() {
    let mut journal = new();
    assert_eq!(journal.bytes(), 0);
    journal.set_session(SESSION);
    assert!(journal.bytes() <= 32, "session: {}", journal.bytes());
    journal.log_in(USER, Some(TOKEN));
    assert!(
        journal.bytes() <= 80,
        "and user and token: {}",
        journal.bytes()
    );
    let params = format!(r#"["{USER}/notification"{DEFAULT_TAIL}"#);
    assert_eq!(
        journal.begin_sub(&meteor_id(0), "stream-notify-user", &params, 1),
        Begun::New
    );
    assert!(journal.bytes() <= 112, "and a sub: {}", journal.bytes());
    journal.log_out();
    journal.end_sub(&meteor_id(0));
    assert!(journal.bytes() <= 64, "less again: {}", journal.bytes());
}

#[test]
fn a_subscription_is_answered_once() {
    let mut journal = new();
    assert_eq!(
        journal.begin_sub("a", "stream-roles", r#"["roles"]"#, 7),
        Begun::New
    );
    assert_eq!(journal.begin_sub("a", "login", "", 8), Begun::Duplicate);
    assert_eq!(journal.pending_subs(), 1);
    assert_eq!(journal.sub_ready("b"), Answered::Unknown);
    assert_eq!(journal.sub_ready("a"), first("stream-roles", 7));
    assert_eq!(journal.sub_ready("a"), Answered::Again);
    assert!(!journal.wants_end("b"));
    assert!(journal.wants_end("a"));
    assert!(journal.subs().all(|sub| sub.ending && sub.ready));
    assert_eq!(journal.end_sub("a"), Answered::Again);
    assert_eq!(journal.end_sub("a"), Answered::Unknown);
    assert_eq!(journal.begin_sub("a", "no such", "", 9), Begun::New);
    assert_eq!(journal.end_sub("a"), first("no such", 9));
    assert_eq!(
        (journal.sub_count(), journal.pending_subs(), journal.bytes()),
        (0, 0, 0)
    );
}

#[test]
fn methods_that_share_an_id_are_answered_in_their_order() {
    let mut journal = new();
    for (name, at) in [("sendMessage", 3), ("login", 4), ("rooms/get", 5)] {
        assert_eq!(journal.begin_method("1", name, at), Begun::New);
    }
    assert_eq!(journal.unanswered_methods(), 3);
    assert_eq!(journal.method_result("1"), first("sendMessage", 3));
    assert_eq!(journal.method_result("1"), first("login", 4));
    assert_eq!(journal.method_updated("1"), Updated::Forward);
    assert_eq!(journal.method_updated("1"), Updated::Forward);
    assert_eq!(journal.method_updated("1"), Updated::Early);
    assert_eq!(journal.method_updated("1"), Updated::Early);
    assert!(matches!(journal.method_result("1"), Answered::First(last) if last.owes_updated));
    assert_eq!(journal.method_result("1"), Answered::Unknown);
    assert_eq!((journal.unanswered_methods(), journal.bytes()), (0, 0));
}

#[test]
fn a_method_ends_when_both_answers_came() {
    let mut journal = new();
    for id in ["1", "2"] {
        assert_eq!(journal.begin_method(id, "sendMessage", 3), Begun::New);
    }
    assert_eq!(journal.method_result("1"), first("sendMessage", 3));
    assert_eq!(journal.method_result("1"), Answered::Again);
    assert_eq!(journal.unanswered_methods(), 2);
    assert_eq!(journal.method_updated("1"), Updated::Forward);
    assert_eq!(journal.method_updated("1"), Updated::Unknown);
    assert_eq!(journal.method_updated("2"), Updated::Early);
    assert_eq!(journal.unanswered_methods(), 1);
    let owing = Waited {
        name: Name::of("sendMessage"),
        since: 3,
        owes_updated: true,
    };
    assert_eq!(journal.method_result("2"), Answered::First(owing));
    assert_eq!(journal.method_result("2"), Answered::Unknown);
    assert_eq!((journal.unanswered_methods(), journal.bytes()), (0, 0));
    journal.begin_unseen();
    assert_eq!(journal.unseen(), 1);
    journal.end_unseen();
    journal.end_unseen();
    assert_eq!(journal.unseen(), 0);
}

#[test]
fn a_subscription_and_a_method_may_have_the_same_id() {
    let mut journal = new();
    assert_eq!(journal.begin_sub("1", "stream-roles", "", 1), Begun::New);
    assert_eq!(journal.begin_method("1", "login", 2), Begun::New);
    assert_eq!(journal.end_sub("1"), first("stream-roles", 1));
    assert_eq!(journal.method_result("1"), first("login", 2));
}

#[test]
fn parameters_survive_another_login() {
    let mut journal = new();
    let other = "SGbFYd2SWuQnZkQ5b";
    let text = format!(r#"["{USER}/x {other}/y"]"#);
    let _ = journal.begin_sub("a", "my/own", &text, 0);
    for user in [USER, other, USER, "rocket.cat"] {
        journal.log_in(user, None);
        assert_eq!(journal.user().as_deref(), Some(user));
        assert!(journal.token().is_none());
        assert!(journal.subs().all(|sub| params(&sub) == text));
    }
    journal.log_in(other, Some(TOKEN));
    assert_eq!(journal.token().unwrap().expose(), TOKEN);
    journal.set_presence(Presence::Away);
    journal.log_out();
    assert!(journal.user().is_none() && journal.token().is_none() && journal.presence().is_none());
    assert!(
        journal
            .subs()
            .all(|sub| params(&sub) == text && sub.request.as_ref().unwrap().name == "my/own")
    );
}

#[test]
fn later_presence_subscriptions_change_the_first_one() {
    let mut journal = new();
    let stream = "stream-user-presence";
    let main = format!(r#"["", {{"added": ["{USER}"]}}]"#);
    let _ = journal.begin_sub("main", stream, &main, 0);
    let _ = journal.begin_sub("2", stream, r#"["",{"added":["b","c"]}]"#, 0);
    journal.sub_ready("main");
    assert_eq!(
        params(&journal.subs().next().unwrap()),
        main,
        "as it came while nothing was changed"
    );
    assert_eq!(journal.end_sub("2"), first(stream, 0));
    let _ = journal.begin_sub("3", stream, r#"["",{"removed":["b"],"added":["d"]}]"#, 0);
    journal.end_sub("3");
    let subs: Vec<_> = journal.subs().collect();
    assert_eq!(subs.len(), 1);
    assert_eq!(
        (&*subs[0].id, params(&subs[0])),
        ("main", &*format!(r#"["",{{"added":["{USER}","c","d"]}}]"#))
    );
    journal.end_sub("main");
    let _ = journal.begin_sub("4", stream, r#"["",{"added":["e"]}]"#, 0);
    journal.sub_ready("4");
    assert_eq!(
        params(&journal.subs().next().unwrap()),
        r#"["",{"added":["e"]}]"#
    );
}

#[test]
fn counts_are_bounded() {
    let mut journal = Journal::new(Bounds {
        subs: 2,
        methods: 1,
        ..Bounds::default()
    });
    let begun: Vec<_> = ["a", "b", "a", "c"]
        .map(|id| journal.begin_sub(id, "x", "", 0))
        .into();
    assert_eq!(
        begun,
        [Begun::New, Begun::New, Begun::Duplicate, Begun::Full]
    );
    let begun: Vec<_> = ["a", "a", "c"]
        .map(|id| journal.begin_method(id, "x", 0))
        .into();
    assert_eq!(begun, [Begun::New, Begun::Full, Begun::Full]);
    journal.end_sub("a");
    assert_eq!(journal.begin_sub("c", "x", "", 0), Begun::New);
}

#[test]
fn without_room_parameters_are_dropped_and_ids_are_kept() {
    let bounds = Bounds::default();
    let mut journal = new();
    journal.log_in(USER, Some(TOKEN));
    for number in 0..1_000 {
        let params = format!(r#"["{}","{}"]"#, "x y".repeat(50), meteor_id(number + 7));
        assert_eq!(
            journal.begin_sub(
                &format!("{}{number}", meteor_id(number)),
                "something new",
                &params,
                1
            ),
            Begun::New
        );
        assert!(journal.bytes() <= bounds.bytes);
    }
    for number in 0..256 {
        assert_eq!(
            journal.begin_method(&number.to_string(), "login", 1),
            Begun::New
        );
    }
    assert!(journal.overflowed());
    assert_eq!(journal.user().as_deref(), Some(USER));
    let ids: HashSet<_> = journal.subs().map(|sub| sub.id.into_owned()).collect();
    assert_eq!(ids.len(), 1_000);
    assert!(journal.subs().all(|sub| sub.request.is_none()));
    for id in &ids {
        assert!(matches!(journal.end_sub(id), Answered::First(_)));
    }
    assert!(!journal.overflowed());
    let _ = journal.begin_sub("a", "b", "[1]", 0);
    assert_eq!(params(&journal.subs().next().unwrap()), "[1]");
}

#[test]
fn absurd_texts_of_a_client_cost_nothing() {
    let huge = "x y".repeat(30_000);
    let mut journal = new();
    assert_eq!(journal.begin_sub(&huge, "a", "", 0), Begun::Full);
    assert_eq!(journal.begin_method(&huge, "a", 0), Begun::Full);
    assert_eq!(
        journal.begin_sub(&"x".repeat(LONGEST_ID + 1), "a", "", 0),
        Begun::Full
    );
    assert_eq!(journal.begin_method("m", &huge, 0), Begun::New);
    assert_eq!(journal.method_result(&huge), Answered::Unknown);
    journal.set_session(&huge);
    journal.log_in(&huge, Some(&huge));
    assert!(journal.session().is_none() && journal.user().is_none() && journal.token().is_none());
    assert!(journal.bytes() <= 32);
    assert_eq!(journal.begin_sub("a", &huge, "[]", 0), Begun::New);
    assert!(journal.overflowed() && journal.bytes() <= 64);
    assert_eq!(journal.end_sub("a"), first(&huge, 0));
    assert_eq!(journal.begin_sub("a", "b", &huge, 0), Begun::New);
    assert!(journal.overflowed() && journal.bytes() <= 64);

    let none = Bounds {
        bytes: 0,
        subs: 9,
        methods: 9,
    };
    let mut journal = Journal::new(none);
    journal.log_in(USER, Some(TOKEN));
    assert_eq!(journal.begin_sub("a", "b", "", 0), Begun::Full);
    assert_eq!(journal.begin_method("a", "b", 0), Begun::Full);
    assert!(!journal.overflowed() && journal.user().is_none() && journal.bytes() == 0);
}
