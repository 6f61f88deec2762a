//! Who the users are, and what each of them says.

use std::{fs, path::Path, time::Duration};

use crate::{
    scenario::{Calls, Chat, FanOut, Load, Scenario},
    users::{Echo, Person, Talk},
};

/// Who a user may log in as.
pub(crate) struct Account {
    name: String,
    user: String,
    token: String,
}

/// Accounts for as many users as there may be.
pub(crate) enum Accounts {
    /// Those that the simulated servers know.
    Demo,
    Named(Vec<Account>),
}

impl Accounts {
    /// # Errors
    /// Why the file is of no use, with its line. Tokens are not shown.
    pub(crate) fn read(file: &Path) -> Result<Self, String> {
        let shown = file.display();
        let text = fs::read_to_string(file)
            .map_err(|error| format!("the accounts {shown} cannot be read: {error}"))?;
        let mut accounts = Vec::new();
        for (line, number) in text.lines().zip(1..) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [] => {}
                [first, ..] if first.starts_with('#') => {}
                [name, user, token] => accounts.push(Account {
                    name: name.to_owned(),
                    user: user.to_owned(),
                    token: token.to_owned(),
                }),
                _ => {
                    return Err(format!(
                        "{shown}:{number}: a line has three words: user name, user id, login token"
                    ));
                }
            }
        }
        if accounts.is_empty() {
            return Err(format!("{shown} has no account"));
        }
        Ok(Self::Named(accounts))
    }

    fn of(&self, n: u32) -> Account {
        match self {
            Self::Demo => Account {
                name: format!("load{n}"),
                user: format!("uid-load{n}"),
                token: format!("demo-load{n}"),
            },
            // Several users may have one account, as a person has several clients.
            Self::Named(accounts) => {
                let Account { name, user, token } = &accounts[n as usize % accounts.len()];
                Account {
                    name: name.clone(),
                    user: user.clone(),
                    token: token.clone(),
                }
            }
        }
    }
}

/// User number `n` of a scenario, who says nothing.
pub(crate) fn person(scenario: &Scenario, accounts: &Accounts, n: u32) -> Person {
    let Account { user, token, .. } = accounts.of(n);
    let kind = scenario.clients.of(n);
    let person = Person::new(n, kind, &token, &user, scenario.subscriptions);
    match scenario.login {
        true => person,
        false => person.without_login(),
    }
}

/// All of them.
pub(crate) fn people(
    scenario: &Scenario,
    load: &Load,
    accounts: &Accounts,
    run: u64,
) -> Vec<Person> {
    let users = scenario.users;
    let quiet = |n| person(scenario, accounts, n);
    let name = |n| accounts.of(n).name.into();
    match load {
        Load::Chat(chat) => {
            let rooms: Vec<Vec<u32>> = (0..users).map(|n| rooms_of(chat, n)).collect();
            let mut hearers = vec![0; chat.rooms as usize];
            for room in rooms.iter().flatten() {
                hearers[*room as usize] += 1;
            }
            let talk = |n: u32, rooms: &[u32]| Talk {
                run,
                rooms: rooms.iter().map(|room| room_id(chat, *room)).collect(),
                name: name(n),
                hearers: rooms.first().map_or(0, |room| hearers[*room as usize]),
                message: Some(pause(chat.messages.0, users)),
                length: chat.length,
                typing: chat.typing.map(|rate| pause(rate.0, users)),
                switch: chat.switches.map(|rate| pause(rate.0, users)),
                others: others(chat, rooms),
                echo: None,
            };
            let all = rooms.iter().zip(0..);
            all.map(|(rooms, n)| quiet(n).with_talk(talk(n, rooms)))
                .collect()
        }
        Load::FanOut(FanOut {
            room_id,
            speakers,
            messages,
            length,
        }) => (0..users)
            .map(|n| {
                quiet(n).with_talk(Talk {
                    run,
                    rooms: Box::new([room_id.as_str().into()]),
                    name: name(n),
                    hearers: users,
                    message: (n < *speakers).then(|| pause(messages.0, *speakers)),
                    length: *length,
                    typing: None,
                    switch: None,
                    others: Box::default(),
                    echo: None,
                })
            })
            .collect(),
        Load::Calls(Calls {
            rate,
            method,
            length,
        }) => (0..users)
            .map(|n| {
                quiet(n).with_talk(Talk {
                    run,
                    rooms: Box::default(),
                    name: name(n),
                    hearers: 0,
                    message: None,
                    length: *length,
                    typing: None,
                    switch: None,
                    others: Box::default(),
                    echo: Some(Echo {
                        method: method.as_str().into(),
                        pause: pause(rate.0, users),
                    }),
                })
            })
            .collect(),
        _ => (0..users).map(quiet).collect(),
    }
}

/// The first one is that in which a user talks. As many talk in each.
fn rooms_of(chat: &Chat, n: u32) -> Vec<u32> {
    let first = u64::from(n);
    let room = |k: u32| (first + u64::from(k)) % u64::from(chat.rooms.max(1));
    let rooms = (0..chat.rooms_per_user).map(room);
    rooms.filter_map(|room| u32::try_from(room).ok()).collect()
}

/// Some that it is not in, each user beginning with another one.
fn others(chat: &Chat, own: &[u32]) -> Box<[Box<str>]> {
    let start = own.last().map_or(0, |last| last + 1);
    let all = (start..chat.rooms).chain(0..start.min(chat.rooms));
    let foreign = all.filter(|room| !own.contains(room));
    let named = foreign.take(OTHERS).map(|room| room_id(chat, room));
    named.collect()
}

fn room_id(chat: &Chat, room: u32) -> Box<str> {
    match chat.room_ids.get(room as usize) {
        Some(id) => id.as_str().into(),
        None => format!("load-{room}").into(),
    }
}

/// Between two of one user, when all together are to make a rate.
fn pause(rate: f64, users: u32) -> Duration {
    Duration::from_secs_f64(f64::from(users) / rate.max(1e-3))
}

/// Rooms that a user goes through.
const OTHERS: usize = 20;

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_wrong_line_of_accounts_is_named_without_its_words() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "# name id token\n\nmira u1 secret1\njonas secret2\n").unwrap();
        let fault = Accounts::read(file.path()).err().unwrap();
        assert!(
            fault.contains(":4: ") && !fault.contains("secret"),
            "{fault}"
        );
    }

    #[test]
    fn each_room_has_its_hearers() {
        let chat: Chat =
            toml::from_str("rooms = 4\nrooms_per_user = 3\nmessages = \"1/s\"").unwrap();
        assert_eq!(rooms_of(&chat, 3), [3, 0, 1]);
        let mut hearers = [0; 4];
        for n in 0..8 {
            for room in rooms_of(&chat, n) {
                hearers[room as usize] += 1;
            }
        }
        assert_eq!(hearers, [6; 4]);
    }
}
