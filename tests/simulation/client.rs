//! What the client says.

use ddp_gateway::{ddp::Framing, session::Disconnect, ws::ProtocolError};
use serde_json::json;

use crate::{dice::Dice, ledger::Ledger, plan::Plan};

/// One WebSocket message of the client.
#[derive(Default)]
pub(crate) struct Text {
    pub(crate) bytes: Vec<u8>,
    pub(crate) binary: bool,
    /// The messages in it, in their order.
    pub(crate) asks: Vec<Ask>,
    /// What the session has to end with because of it.
    pub(crate) fault: Option<Disconnect>,
}

/// One message of the client. Each carries its number as `tag`, by which it is known at the streamer.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) tag: u64,
    pub(crate) what: What,
    pub(crate) id: String,
    /// Of a method or subscription.
    pub(crate) name: &'static str,
    pub(crate) json: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Method,
    Login,
    Logout,
    Sub,
    Unsub,
    Ping,
    Pong,
    Connect,
    Other,
}

/// The habits of all known clients together, and some that none of them has.
pub(crate) struct Client {
    tags: u64,
    calls: u64,
    ids: Ids,
}

/// Which ids of earlier methods are used again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ids {
    None,
    /// Of methods that are over.
    Finished,
    /// Of those that are not, too.
    InFlight,
}

impl Client {
    pub(crate) fn new(ids: Ids) -> Self {
        Self {
            tags: 0,
            calls: 0,
            ids,
        }
    }

    /// The first message: `connect`, perhaps with others behind it in one batch.
    pub(crate) fn greeting(&mut self, plan: &mut Plan, ledger: &Ledger) -> Text {
        let mut asks = vec![self.ask(What::Connect, &mut plan.dice, ledger)];
        if plan.framing == Framing::Raw {
            return text(plan.framing, asks, &mut plan.dice);
        }
        if plan.dice.chance(30) {
            asks.push(self.ask(What::Login, &mut plan.dice, ledger));
            asks.push(self.ask(What::Sub, &mut plan.dice, ledger));
        }
        text(plan.framing, asks, &mut plan.dice)
    }

    /// Something else as the first message.
    pub(crate) fn no_greeting(&mut self, plan: &mut Plan, ledger: &Ledger) -> Text {
        let what = *plan
            .dice
            .pick(&[What::Ping, What::Pong, What::Sub, What::Method]);
        let ask = self.ask(what, &mut plan.dice, ledger);
        Text {
            bytes: framed(plan.framing, &ask.json),
            fault: Some(Disconnect::NotConnect),
            ..Text::default()
        }
    }

    pub(crate) fn next(&mut self, plan: &mut Plan, ledger: &Ledger) -> Text {
        let sockjs = plan.framing == Framing::SockJs;
        let one_in = |is: bool, weight: usize| if is { weight } else { 0 };
        let weights = [
            70,
            8,
            one_in(plan.oversized, 4),
            one_in(sockjs, 12),
            one_in(sockjs, 4),
            one_in(plan.malformed, 2),
        ];
        match plan.dice.weighed(&weights) {
            0 => {
                let ask = self.any(plan, ledger);
                text(plan.framing, vec![ask], &mut plan.dice)
            }
            1 => self.large(plan, ledger),
            2 => self.oversized(plan, ledger),
            3 => {
                let count = 2 + plan.dice.below(4);
                let asks = (0..count).map(|_| self.any(plan, ledger)).collect();
                text(plan.framing, asks, &mut plan.dice)
            }
            4 => Text {
                bytes: plan.dice.pick(&["", "[]", " [ ] "]).as_bytes().to_vec(),
                ..Text::default()
            },
            _ => malformed(plan),
        }
    }

    fn any(&mut self, plan: &mut Plan, ledger: &Ledger) -> Ask {
        let kinds = [
            What::Method,
            What::Login,
            What::Logout,
            What::Sub,
            What::Unsub,
            What::Ping,
            What::Pong,
            What::Connect,
            What::Other,
        ];
        let logout = if plan.logs_out { 2 } else { 0 };
        let (methods, subs) = if plan.floods { (200, 40) } else { (30, 28) };
        let kind = plan
            .dice
            .weighed(&[methods, 8, logout, subs, 14, 12, 4, 3, 2]);
        self.ask(kinds[kind], &mut plan.dice, ledger)
    }

    fn new_id(&mut self) -> String {
        self.calls += 1;
        self.calls.to_string()
    }

    fn ask(&mut self, what: What, dice: &mut Dice, ledger: &Ledger) -> Ask {
        self.tags += 1;
        let tag = self.tags;
        let name = match what {
            What::Method => *dice.pick(METHODS),
            What::Login => "login",
            What::Logout => "logout",
            What::Sub => *dice.pick(SUBS),
            _ => "",
        };
        let id = match what {
            What::Method | What::Login | What::Logout => self.call_id(dice, ledger),
            What::Sub | What::Unsub => dice.pick(SUB_IDS).to_string(),
            What::Ping => format!("p{tag}"),
            _ => String::new(),
        };
        let json = match what {
            What::Method | What::Login | What::Logout => {
                let params = match what {
                    What::Login => json!([{"resume": dice.pick(TOKENS)}]),
                    _ => json!([tag, 1.5, "}\\\""]),
                };
                method(&id, name, &params.to_string(), tag)
            }
            What::Sub => {
                let params = match name {
                    "stream-user-presence" => {
                        let user = format!("u{}", dice.below(5));
                        json!(["", {"added": [user, "u7"], "removed": ["u8"]}])
                    }
                    _ => json!(["GENERAL", {"useCollection": false, "args": [tag]}]),
                };
                sub(&id, name, &params.to_string(), tag)
            }
            What::Unsub => format!(r#"{{"msg":"unsub","id":{},"tag":{tag}}}"#, quoted(&id)),
            What::Ping => format!(r#"{{"msg":"ping","id":"{id}","tag":{tag}}}"#),
            What::Pong => format!(r#"{{"msg":"pong","tag":{tag}}}"#),
            What::Connect => {
                format!(r#"{{"msg":"connect","version":"1","support":["1"],"tag":{tag}}}"#)
            }
            What::Other => format!(r#"{{"msg":"disconnect","tag":{tag}}}"#),
        };
        Ask {
            tag,
            what,
            id,
            name,
            json,
        }
    }

    fn call_id(&mut self, dice: &mut Dice, ledger: &Ledger) -> String {
        let old = match dice.below(100) {
            0..10 if self.ids != Ids::None => ledger.finished_call(dice),
            10..22 if self.ids == Ids::InFlight => ledger.open_call(dice),
            _ => None,
        };
        let escaped = dice.chance(5);
        old.unwrap_or_else(|| match (self.new_id(), escaped) {
            (id, true) => format!("m\"{id}\u{e9}"),
            (id, false) => id,
        })
    }

    /// More than what a message is judged by.
    fn large(&mut self, plan: &mut Plan, ledger: &Ledger) -> Text {
        let most = *plan.dice.pick(&[800, 3_000, 25_000]);
        let size = 500 + plan.dice.below(most);
        let what = *plan.dice.pick(&[What::Method, What::Sub, What::Login]);
        let id_last = plan.dice.chance(50);
        let ask = self.padded(what, size, id_last, plan, ledger);
        Text {
            bytes: framed(plan.framing, &ask.json),
            asks: vec![ask],
            ..Text::default()
        }
    }

    /// More than what is put together.
    fn oversized(&mut self, plan: &mut Plan, ledger: &Ledger) -> Text {
        let size = 66_000 + plan.dice.below(30_000);
        let login = plan.breaks && plan.dice.chance(20);
        let what = match plan.dice.chance(70) {
            _ if login => What::Login,
            true => What::Method,
            false => What::Sub,
        };
        let id_last = plan.dice.chance(50);
        let ask = self.padded(what, size, id_last, plan, ledger);
        let fault = login.then_some(TOO_BIG);
        Text {
            bytes: framed(plan.framing, &ask.json),
            asks: vec![ask],
            fault,
            ..Text::default()
        }
    }

    /// A request with long parameters, its id behind them or before.
    fn padded(
        &mut self,
        what: What,
        size: usize,
        id_last: bool,
        plan: &mut Plan,
        ledger: &Ledger,
    ) -> Ask {
        let mut ask = self.ask(what, &mut plan.dice, ledger);
        if size > 65_536 {
            // Never one that the session knows by its id.
            ask.id = format!("big{}", ask.tag);
        }
        let pad = "x".repeat(size);
        let params = match what {
            What::Login => json!([{"resume": plan.dice.pick(TOKENS), "pad": pad}]),
            _ => json!(["GENERAL", {"args": [pad]}]),
        };
        let (id, key) = match what {
            What::Sub => (quoted(&ask.id), "name"),
            _ => (quoted(&ask.id), "method"),
        };
        let msg = if what == What::Sub { "sub" } else { "method" };
        let (before, behind) = match id_last {
            true => (String::new(), format!(r#","id":{id}"#)),
            false => (format!(r#","id":{id}"#), String::new()),
        };
        let (name, tag) = (quoted(ask.name), ask.tag);
        ask.json = format!(
            r#"{{"msg":"{msg}","{key}":{name}{before},"params":{params},"tag":{tag}{behind}}}"#
        );
        ask
    }
}

/// These messages in one text.
fn text(framing: Framing, asks: Vec<Ask>, dice: &mut Dice) -> Text {
    let bytes = match (framing, asks.as_slice()) {
        (Framing::SockJs, [ask]) if dice.chance(10) => quoted(&ask.json).into_bytes(),
        (_, [ask]) => framed(framing, &ask.json),
        (_, asks) => {
            let quoted: Vec<String> = asks.iter().map(|ask| quoted(&ask.json)).collect();
            format!("[{}]", quoted.join(",")).into_bytes()
        }
    };
    Text {
        bytes,
        asks,
        ..Text::default()
    }
}

/// What the streamer closes on, and with which reason the session has to.
fn malformed(plan: &mut Plan) -> Text {
    let sockjs = plan.framing == Framing::SockJs;
    let binary = plan.dice.chance(10);
    let (message, fault) = *plan.dice.pick(&[
        (r#"{"msg":"method","id":"1"}"#, Disconnect::Malformed),
        (r#"{"msg":"method","method":"m"}"#, Disconnect::Malformed),
        (r#"{"msg":"sub","name":"x","id":7}"#, Disconnect::Malformed),
        (r#"{"msg":"unsub"}"#, Disconnect::Malformed),
        ("no JSON", Disconnect::Unreadable),
        (r#"{"msg":"ping""#, Disconnect::Unreadable),
        ("[]", Disconnect::Unreadable),
        ("", Disconnect::Unreadable),
    ]);
    let fine = quoted(r#"{"msg":"pong","tag":0}"#);
    let (bytes, fault) = match plan.dice.below(4) {
        _ if binary => (b"{}".to_vec(), Disconnect::Unreadable),
        0 if sockjs => (b"{}".to_vec(), Disconnect::Unreadable),
        1 if sockjs => (
            format!("[{fine},{},{fine}]", quoted(message)).into_bytes(),
            fault,
        ),
        2 if sockjs => (b"[\"{}\"".to_vec(), Disconnect::Unreadable),
        _ => (framed(plan.framing, message), fault),
    };
    Text {
        bytes,
        binary,
        asks: Vec::new(),
        fault: Some(fault),
    }
}

fn framed(framing: Framing, json: &str) -> Vec<u8> {
    match framing {
        Framing::Raw => json.as_bytes().to_vec(),
        Framing::SockJs => format!("[{}]", quoted(json)).into_bytes(),
    }
}

fn method(id: &str, name: &str, params: &str, tag: u64) -> String {
    let (id, name) = (quoted(id), quoted(name));
    format!(r#"{{"msg":"method","id":{id},"method":{name},"params":{params},"tag":{tag}}}"#)
}

fn sub(id: &str, name: &str, params: &str, tag: u64) -> String {
    let (id, name) = (quoted(id), quoted(name));
    format!(r#"{{"msg":"sub","id":{id},"name":{name},"params":{params},"tag":{tag}}}"#)
}

pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string can always be written")
}

pub(crate) const TOO_BIG: Disconnect = Disconnect::ClientProtocol(ProtocolError::MessageTooBig);

const METHODS: &[&str] = &[
    "sendMessage",
    "loadHistory",
    "stream-notify-room",
    "UserPresence:online",
    "UserPresence:away",
    "some.app:method",
    "rooms/get",
];

const SUBS: &[&str] = &[
    "stream-notify-user",
    "stream-room-messages",
    "stream-notify-room",
    "stream-user-presence",
    "meteor.loginServiceConfiguration",
    "no.such.publication",
];

const SUB_IDS: &[&str] = &[
    "s0",
    "s1",
    "s2",
    "s3",
    "kX3fS9bQ7Zt2LmNaP",
    "9f1b7c10-5f0e-11ef-9a53-0242ac120002",
    "with \"quotes\"",
    "mit Umläuten",
    "back\\slash",
];

/// What the streamer says to them is in their first word.
const TOKENS: &[&str] = &[
    "good-u1",
    "good-u2",
    "good-u3",
    "bare-u4",
    "refused-x",
    "failed-x",
];
