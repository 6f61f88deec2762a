//! Edge proxy for Rocket.Chat microservices that owns the DDP session.
//!
//! *The session belongs to the gateway; both of its ends can be replaced.* A client holds one
//! WebSocket to the gateway; behind it the gateway holds a leg to a streamer. Because the gateway
//! reads DDP it can let a client wait, choose its streamer by what its first message says, pace its
//! login, refuse a single call in its own language, and end it with a code that it understands. A
//! proxy that copies bytes after the 101 cannot.
//!
//! # Words
//!
//! *Listener*: where clients connect. *Downstream*: towards the client. *Upstream*: towards a
//! streamer or the monolith. *Streamer*: a `ddp-streamer`, the server of sockets. *Pool*: streamers
//! that may stand in for each other. *Session*: one client's socket as the gateway sees it. *Leg*:
//! the connection of a session to its streamer. *Permit*: a session's place on a streamer.
//! *Snapshot*, *generation*: one configuration as new requests see it, and its number. *Drain*: the
//! orderly end.
//!
//! # Floors
//!
//! ```text
//! F6  demo   cli   main          what a person starts
//! F5  control   admin            the process: start, reload, drain, admin pages
//! F4  proxy                      the data path: requests, upgrades, relays
//! F3  net   bus   discovery      sockets, TLS, dialling, NATS, DNS, Kubernetes
//! F2  session  pool  replicas  config   decisions, without I/O
//! F1  ws   ddp   sockjs   headers    meaning of bytes, without I/O
//! F0  base   telemetry           ids, bounded queues, metrics, log
//! ```
//!
//! Imports go down. Sideways there are only `admin -> control`, `discovery -> net`,
//! `discovery -> bus` and `telemetry -> base`. `tests/architecture.rs` reads the sources and fails when an arrow points up.
//!
//! What is absent matters as much:
//! - Floors 0 to 2 know no socket, no runtime, no clock and no random source: time and seeds are
//!   arguments. So what decides can be tested with a clock that the test turns.
//! - `ws`, `ddp`, `sockjs` and `headers` do not know each other. `session` does not know `pool`; they
//!   meet in `proxy`. `config` knows nobody but `base`.
//! - rustls is named in `net` only, hyper in `proxy`, `admin`, `demo` and five files of `net`, h2 where
//!   HTTP/2 is served.
//! - No metric is looked up by name outside of start-up: names stand in `telemetry/names.rs`, the
//!   components hold handles.
//!
//! # Code map
//!
//! - [`ws`]: [`ws::FrameCursor`] walks a stream of frames without holding it; handshakes, closes.
//! - [`ddp`]: [`ddp::peek`] says what a message is about by at most 512 bytes of it.
//! - [`sockjs`]: URLs, frames, `/info`, greeting and iframe pages.
//! - [`headers`]: hop-by-hop, forwarding, the sealed affinity cookie.
//! - [`config`]: `proxy.toml`, read from one table of keys that also yields its commented default and
//!   its JSON schema; all faults at once.
//! - [`pool`]: who the streamers are, how they are, who gets a place, who waits.
//! - [`pool::Emptying`], [`pool::balance`]: which sessions leave a streamer, in what order and when, to
//!   empty it or to level the pool.
//! - [`pool::logins`]: who may log in, and when; how many at a time is learned from their latency.
//! - [`replicas`]: several gateways that act as one: who there is, who may have how many sessions of
//!   each streamer, who logs in how fast. Without the bus each gateway goes on by itself.
//! - [`session`]: [`session::Session`], the phases of one client; [`session::Disconnect`], the one
//!   table from reasons to close codes; [`session::Limiter`] holds a client back, [`session::Quotas`]
//!   refuse single methods and subscriptions.
//! - [`net`]: [`net::stream::Downstream`] is what a client's bytes come through, whatever it is.
//! - [`bus`]: connections to NATS: [`bus::Link`] for the task that keeps one, [`bus::Post`] for those
//!   who only want to say, ask or hear something.
//! - [`discovery`]: complete sets of streamers from a list, the DNS, a Service of Kubernetes or the
//!   message bus; on the bus
//!   the gateway only listens and asks who is there. [`discovery::News`] is what is heard besides:
//!   heartbeats weigh on the choice of a streamer, forced logouts are known as such, and so are new
//!   versions of the web client, which [`proxy::reloads`] tells one client after the other.
//! - [`proxy`]: [`proxy::Gateway`] takes a request through its phases; `relay` and `pump` carry a
//!   session; [`proxy::registry`] knows the open ones.
//! - [`proxy::handover`]: sessions that go on at another gateway.
//! - [`control`], [`admin`]: the process and the pages that show and steer it.
//! - [`demo`]: streamers and a monolith with the real ones' quirks, in this process.
//!
//! # The life of a request
//!
//! 1. [`net::wire::Wire`] stands between the socket and hyper. It refuses requests with two lengths
//!    before hyper reads them, times the heads, and sends informational responses.
//! 2. [`proxy::target::Target`] reads the target once, in every way that a reader behind us might; if
//!    these do not lead to one destination, the answer is 400.
//! 3. [`proxy::route::RouteTable`] names the destination. SockJS pages are answered here, sockets go
//!    the way below, the rest is forwarded or, when it asks for another protocol, tunnelled.
//! 4. [`net::monolith`] chooses the server with the fewest requests in flight among those that answer
//!    their probes. A second one is tried if nothing was sent, or if the request is idempotent and
//!    has no body.
//! 5. Bodies stream both ways. Each direction has a pace: only time spent waiting for the sender
//!    counts against it. A client that stops taking its answer loses the connection, over HTTP/2 the
//!    stream. An answer that is cut ends in a reset. A large one whose length is known goes from
//!    socket to socket within the kernel where both are plain (`proxy::bypass`, [`net::splice`]).
//! 6. What was decided and moved is written down when the last byte is out: one line, one histogram.
//!
//! `103 Early Hints` and other informational responses of the monolith reach clients of both versions
//! of HTTP. hyper has no way to send one over HTTP/2, so [`net::http2`] serves that on h2.
//!
//! # The life of a socket
//!
//! 1. `proxy::upgrade` checks the handshake and answers 101 (SockJS: and `o`) at once, whatever the
//!    streamers do. A browser that waits longer than 0.6 s for `o` falls back to polling.
//! 2. The session is `Greeting` until the client's `connect` is here. The cookie, the SockJS session
//!    id or the session id in `connect` name the streamer that is preferred.
//! 3. `proxy::attach` gets a permit, or waits in the pool's queue, dials, sends `connect` and nothing
//!    else, and swallows the streamer's greeting. What the client sends meanwhile is kept, 64 KiB of
//!    it. A leg that fails is replaced by one to another streamer; nothing was sent twice.
//! 4. `Live`: each direction reads into the thread's scratch buffer, the cursor follows the frames,
//!    the start of each message is judged, and the bytes are written on as they came. Only what the
//!    other side does not take is kept, within a bound per client and a budget for the process.
//! 5. Each request of the client is read whole and noted in the session's journal, up to 64 KiB of it;
//!    of the streamer's messages only answers are read, events pass on a look at their beginning.
//!    What is over a quota is answered here, what breaks the protocol is closed here with the
//!    streamer's code. Batches are split, answers to several ids too, a subscription with an id in
//!    use is swallowed, and so is an answer that nobody asked for.
//! 6. A `login`, and everything behind it, waits for its turn ([`pool::logins`]) beside the bytes that
//!    pass: pings go on, and the client hears one of ours every 12 s. One permit covers all logins
//!    that a client has sent without waiting, since a streamer runs them one after the other.
//! 7. Control frames end at the gateway. Pings are answered here, closes are translated.
//! 8. A client that ends without a goodbye leaves its leg behind for a grace period: `Detached`. One
//!    that comes back shows the user's token, and the relay that has the session hands all of it to
//!    the newcomer's ([`session::resume`], `proxy::detached`).
//! 9. The end: close frames on both sides at frame boundaries, two seconds at most, one log line.
//!
//! # The life of a session that changes gateways
//!
//! 1. A client's `connect` names a session that is not here. Who has it is asked on the bus, by a hash
//!    of the name, while the client shows its token. The owner answers with its address and a ticket.
//! 2. This gateway shows ticket and token at the owner's peer listener. There it is a claim like one
//!    of the owner's own: the relay lets go of client and session, which is packed
//!    ([`session::portable`]) and sent, sealed.
//! 3. The taker says that it can read it, the owner says that it is the taker's. Up to that byte the
//!    owner would keep it, and behind it the taker has it: never both.
//! 4. The owner is now a pipe between the leg and the taker, and still counts the leg. To the taker's
//!    relay the pipe is the leg: it greets the client as one that has come back.
//! 5. The session is ordered to move, to any streamer, as below. With its old leg the pipe ends.
//!
//! A gateway that drains begins at 2, with sessions whose clients are away: these move without them.
//! The others' clients are sent away, which leaves their sessions detached (`proxy::relay::parked`): they
//! begin at 1.
//!
//! # The life of a session that moves
//!
//! The order comes through the session's mailbox: a streamer is drained, has left discovery, or is
//! fuller than another one.
//!
//! 1. [`session::Session::begin_move`] says whether all that the session has is known well enough to
//!    be set up elsewhere. The relay gets a second permit and a turn to log in, and dials
//!    (`proxy::transfer`). The client is told nothing, and goes on with the old leg.
//! 2. The new leg is asked for what the journal knows. Its answers are swallowed, its events compared
//!    with those of the old leg by what is in them. What the client subscribes to goes to both.
//! 3. When no event from before the new subscriptions can come any more (times are counted in
//!    generations, which both legs end by answering a ping of ours), what the client sends is held
//!    until the old leg owes it no answer and no pong: one round trip, two seconds at most.
//! 4. Between two messages in both directions, the new leg takes over: events that the old one has
//!    not brought go to the client, documents that differ too, and what was held goes to the new leg.
//!    The old one is closed, after the new one has the user online.
//! 5. Until then, giving up is to close the new leg. One switch for the whole session, rather than a
//!    hand-over for each subscription, keeps the order in and among them, and leaves nothing to undo.
//!
//! A streamer that ends before its sessions have moved takes events with it that nobody can bring
//! back. Their clients are therefore told (1012), each at a moment of its own, and fetch what they
//! missed when they are back.
//!
//! # Threads
//!
//! Clients' connections are carried by [`net::workers`]: a thread and a runtime for each core, each
//! with a listening socket of its own for every listener. A connection stays where it was accepted,
//! with its leg and its requests to the monolith, whose connections hyper moves on while the request
//! is polled that uses them. Against one runtime with as many threads that saves a quarter of the CPU
//! time of a relayed message: no task is taken over by another thread, and none is woken by one. Each
//! thread stays on its core where there are as many of both, which saves another tenth.
//! Everything else (discovery, probes, logins, admin pages) is on the runtime of `main`. The sockets of
//! further gateways may be on the same address (`reuse_port`); the kernel spreads over all of them.
//!
//! # Invariants
//!
//! - An idle session owns no buffer. The size of its future is asserted where it is defined; a test
//!   holds the heap per session to 2 KiB (plain) and 7 KiB (TLS).
//! - Every queue, map and wait has a bound, and what is over it has an answer.
//! - Counted things are guards: a permit, a registration, a place among the connections is given
//!   back by `Drop` and nowhere else.
//! - A reload replaces one [`proxy::snapshot::Snapshot`] and touches no connection whose listener
//!   still exists.
//! - Discovery reports complete sets. An empty or failed answer never empties a pool.
//! - The streamer's close code 4000 never reaches a client: React Native takes it for its own goodbye
//!   and stays away.
//! - `updated` reaches a client after its `result`, once, and never unasked: Meteor's client throws.
//! - Quotas are charged with a lock of one of many shards, once per request of a client; what comes
//!   from a streamer takes none. A penalty is on a user, or on a client that is nobody, never on an
//!   address: clients without a login are told apart by a number in the affinity cookie, programs
//!   that keep no cookies by address and user agent.
//! - A token is kept in the journal only, in memory only, and shown nowhere.
//! - A second `connected` never reaches a client, and nothing a client sent reaches a streamer twice.

// F0
pub mod base;
pub mod telemetry;
// F1
pub mod ddp;
pub mod headers;
pub mod sockjs;
pub mod ws;
// F2
pub mod config;
pub mod pool;
pub mod replicas;
pub mod session;
// F3
pub mod bus;
pub mod discovery;
pub mod net;
// F4
pub mod proxy;
// F5
pub mod admin;
pub mod control;
// F6
pub mod cli;
pub mod demo;
