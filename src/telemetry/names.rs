//! Every metric the gateway exports: name, unit, meaning, labels.
//!
//! A new metric is added here, in its family, with the closed set of values that each label can
//! take; a label whose values come from the network is not allowed. `tests/architecture.rs` checks
//! that no other file spells a metric name.

use metrics::Unit;

/// What one metric is called and means.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: Unit,
    pub help: &'static str,
    pub labels: &'static [&'static str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

macro_rules! metrics {
    ($($(#[$family:meta])* $id:ident = $kind:ident $unit:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $($(#[$family])* pub const $id: Metric = Metric {
            name: concat!("ddp_gateway_", $name),
            kind: Kind::$kind,
            unit: Unit::$unit,
            help: $help,
            labels: &[$($label),*],
        };)*
        /// All of them, in the order of this file.
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

metrics! {
    BUILD_INFO = Gauge Count "build_info" ["version", "revision"] "Always 1; the labels say what runs.";
    PANICS = Counter Count "panics_total" [] "Connections or tasks that ended by a panic. Anything above 0 is a defect: report it.";
    OPEN_DESCRIPTORS = Gauge Count "open_descriptors" [] "File descriptors in use.";
    LOG_LINES_DROPPED = Counter Count "log_lines_dropped_total" [] "Log lines given up because the reader of the log is too slow.";
    HEAP_BYTES = Gauge Bytes "heap_bytes" [] "Heap memory in use, as the allocator counts it.";
    RESIDENT_BYTES = Gauge Bytes "resident_bytes" [] "Memory of the process that is in use, code and what the allocator keeps for later included.";
    MAX_DESCRIPTORS = Gauge Count "max_descriptors" [] "Limit of file descriptors (RLIMIT_NOFILE) known at start.";

    CONNECTIONS = Gauge Count "connections" ["listener"] "Client connections open now.";
    CONNECTIONS_ACCEPTED = Counter Count "connections_accepted_total" ["listener"] "Client connections accepted.";
    CONNECTIONS_REFUSED = Counter Count "connections_refused_total" ["reason"] "Client connections closed right after accept: descriptors, address_rate, handshakes.";
    ACCEPT_ERRORS = Counter Count "accept_errors_total" ["reason"] "Failed accept calls: descriptors, memory, other.";
    HANDSHAKES = Gauge Count "tls_handshakes" [] "TLS handshakes in flight.";
    HANDSHAKE_FAILURES = Counter Count "tls_handshake_failures_total" ["reason"] "TLS handshakes that failed: garbage, timeout, no_certificate, peer, other.";
    HANDSHAKE_SECONDS = Histogram Seconds "tls_handshake_seconds" [] "Time of successful TLS handshakes.";
    PROXY_HEADER_FAILURES = Counter Count "proxy_header_failures_total" [] "Connections closed because the PROXY header was missing or broken.";
    CERTIFICATE_EXPIRY = Gauge Seconds "certificate_expiry_timestamp_seconds" ["certificate"] "When each served certificate ends, as seconds since 1970.";
    CERTIFICATE_RELOADS = Counter Count "certificate_reloads_total" ["result"] "Certificate files read again: ok, failed (the old one stays in use).";

    REQUESTS = Counter Count "http_requests_total" ["route", "status"] "HTTP requests answered, by kind of route and class of status.";
    REQUEST_SECONDS = Histogram Seconds "http_request_seconds" ["route"] "Time from the request's head to the end of the response.";
    REQUESTS_IN_FLIGHT = Gauge Count "http_requests_in_flight" [] "HTTP requests being served.";
    REQUEST_BYTES = Counter Bytes "http_request_bytes_total" [] "Body bytes received from clients.";
    RESPONSE_BYTES = Counter Bytes "http_response_bytes_total" [] "Body bytes sent to clients.";
    SPLICED_BYTES = Counter Bytes "http_spliced_bytes_total" [] "Of these, the ones that went from the monolith's socket to the client's without being copied.";
    REFUSALS = Counter Count "http_refusals_total" ["reason"] "Requests answered by the gateway with an error of its own, by reason.";
    MONOLITH_RETRIES = Counter Count "monolith_retries_total" [] "Requests sent to a second monolith server after the first failed.";
    MONOLITH_FAILURES = Counter Count "monolith_failures_total" ["reason"] "Failed exchanges with a monolith server: connect, timeout, reset, protocol.";
    MONOLITH_UP = Gauge Count "monolith_up" ["server"] "1 when the monolith server is in rotation.";
    TUNNELS = Gauge Count "tunnels" [] "WebSockets passed through to the monolith, open now.";
    TUNNELS_OPENED = Counter Count "tunnels_opened_total" [] "WebSockets passed through to the monolith.";

    SESSIONS = Gauge Count "sessions" ["phase"] "Client sockets held now: greeting (no connect yet), attaching (parked or being attached), anonymous, logging_in (a login waits for its turn or its answer), logged_in, detached (the client is lost and may come back), closing.";
    SESSIONS_OPENED = Counter Count "sessions_opened_total" ["framing"] "Client sockets accepted: raw, sockjs.";
    SESSIONS_CLOSED = Counter Count "sessions_closed_total" ["reason", "by"] "Client sockets ended, with the reason and the side that ended them.";
    SESSION_MOVES = Counter Count "session_moves_total" ["outcome"] "Sessions that were to go on at another streamer: moved, or why they stay (README, \"Moving sessions\").";
    SESSION_MOVE_SECONDS = Histogram Seconds "session_move_seconds" [] "From the order to move a session until the other streamer is in charge, the wait for its turn to log in included.";
    RESUMES = Counter Count "resumes_total" ["outcome"] "Sessions whose client's connection broke: resumed (it came back and got what it missed), rebound (it came back and got its leg under a new session id), expired (it did not come back in time), overflow (more was missed than is kept), refused (somebody came with the id and another token).";
    RELOADS_HELD = Counter Count "reloads_held_total" [] "Times that a web client was told later that there is a new version of it, which makes it load its page anew.";
    RELOAD_WAVE_SECONDS = Gauge Seconds "reload_wave_seconds" [] "Time over which clients hear of a new version of the web client, each at a moment of its own; 0 when nobody is to hear of one.";
    HANDOVERS = Counter Count "session_handovers_total" ["side", "outcome"] "Sessions that changed from one gateway to another: given (by this one) or taken: done, not_given (there is no such session, or the token is another one), unreachable, lost, late, refused.";
    HANDOVER_SECONDS = Histogram Seconds "session_handover_seconds" [] "From a client's connect until its session, which another gateway had, is here.";
    HANDOVER_PIPES = Gauge Count "session_handover_pipes" [] "Legs here whose sessions are at another gateway, until these have legs of their own.";
    OWNER_LOOKUPS = Counter Count "owner_lookups_total" ["outcome"] "Questions to other gateways who has the session that a client names: found, unknown, crowded (too many at once: not asked).";
    SESSION_MESSAGES = Counter Count "session_messages_total" ["direction"] "WebSocket messages forwarded: up (from clients), down (to clients).";
    SESSION_BYTES = Counter Bytes "session_bytes_total" ["direction"] "WebSocket bytes forwarded, frame headers included.";
    SESSION_SECONDS = Histogram Seconds "session_seconds" [] "Life of client sockets.";
    ACCEPT_SECONDS = Histogram Seconds "accept_seconds" [] "From a client's upgrade request until the answer is out and its session begins, with SockJS's `o`; browsers fall back to polling after 0.6 s.";
    ATTACH_SECONDS = Histogram Seconds "attach_seconds" [] "From a client's DDP connect until a streamer answered connected.";
    BACKLOG_BYTES = Gauge Bytes "backlog_bytes" [] "Bytes that wait for slow peers, whole process.";
    LIMITED = Counter Count "limited_total" ["reason"] "Times a client was slowed down or turned away: messages, bytes, connections.";
    LIMITED_REQUESTS = Counter Count "limited_requests_total" ["rule", "kind"] "Methods and subscriptions (kind: method, sub) answered with too-many-requests, by the rule that refused: connection, user, address, connection_by_method, user_by_method, penalty, in_flight, subscriptions.";
    PENALTIES = Counter Count "penalties_total" [] "Users, or clients without a login, who were refused so often that everything is refused to them for a while.";
    QUOTA_CELLS = Gauge Count "quota_cells" [] "Accounts of those who asked for something lately; at most 917504.";
    UNASKED = Counter Count "unasked_answers_total" [] "Answers of streamers to what no client had asked; swallowed, because Meteor's client throws at them.";
    METHOD_SECONDS = Histogram Seconds "method_seconds" ["name"] "From a client's method to its result, by name (other: every name that is not well known).";
    SUBSCRIPTION_SECONDS = Histogram Seconds "subscription_seconds" ["name"] "From a client's subscription to ready or nosub, by name (other: every name that is not well known).";

    STREAMER_UP = Gauge Count "streamer_up" ["pool", "streamer"] "1 when the streamer takes new sessions.";
    STREAMER_SESSIONS = Gauge Count "streamer_sessions" ["pool", "streamer"] "Sessions on the streamer.";
    STREAMER_LOGGED_IN = Gauge Count "streamer_logged_in" ["pool", "streamer"] "Sessions on the streamer whose user is logged in; counted every few seconds.";
    STREAMER_CAPACITY = Gauge Count "streamer_capacity" ["pool", "streamer"] "Sessions that the streamer may hold now (less than its limit while it starts slowly).";
    STREAMER_DRAINING = Gauge Count "streamer_draining" ["pool", "streamer"] "1 while the operator has the streamer emptied or kept empty.";
    STREAMER_CPU_PERCENT = Gauge Count "streamer_cpu_percent" ["pool", "streamer"] "CPU of the streamer's machine in percent, as its last heartbeat on the message bus says; 0 when none was heard lately.";
    STREAMER_HOT = Gauge Count "streamer_hot" ["pool", "streamer"] "1 while the streamer gets a quarter of its share of newcomers, because the CPU of its machine is far above the others'.";
    STREAMER_PROBES = Counter Count "streamer_probes_total" ["probe", "result"] "Probes sent: health or ddp; ok or failed.";
    STREAMER_FAILURES = Counter Count "streamer_failures_total" ["reason"] "Failures of real traffic: connect, handshake, timeout, reset.";
    STREAMER_TRANSITIONS = Counter Count "streamer_transitions_total" ["to"] "Changes of health: up, down, degraded.";
    POOL_STREAMERS = Gauge Count "pool_streamers" ["pool", "state"] "Streamers of the pool by state: up, degraded, down, unknown, draining (or in maintenance).";
    POOL_WAITING = Gauge Count "pool_waiting" ["pool"] "Clients parked because no streamer has room.";
    STREAMERS_WANTED = Gauge Count "streamers_wanted" ["pool"] "Streamers that this gateway's sessions and waiting clients ask for, at sessions_per_streamer each; at least 1, or this gateway's part of what all replicas ask for together. For an autoscaler: add up all gateways.";
    POOL_REFUSED = Counter Count "pool_refused_total" ["pool", "reason"] "Clients turned away: queue_full, wait_timeout, no_streamer.";
    POOL_SKEW = Gauge Count "pool_skew" ["pool"] "Sessions of the fullest streamer in rotation in relation to the mean; 1 is even.";
    REBALANCING = Gauge Count "rebalancing" ["pool"] "1 while sessions are moved to level the streamers of the pool.";
    REBALANCES = Counter Count "rebalances_total" ["pool", "outcome"] "Times that the streamers of the pool were levelled, by the end: balanced, stuck (who is left cannot be moved, or nobody has room), stopped.";
    LOGINS = Counter Count "logins_total" ["outcome"] "Logins sent to streamers, by their end: done, refused (unknown token), failed, timed_out (no answer), gone (the client or the streamer).";
    LOGINS_LIMIT = Gauge Count "logins_limit" [] "Logins that may be in flight at all streamers together, as learned from their latency.";
    LOGINS_RATE_LIMIT = Gauge Count "logins_rate_limit" [] "Logins that may begin in a second at all streamers together.";
    LOGINS_QUEUE_FULL = Counter Count "logins_queue_full_total" [] "Logins turned away because too many wait.";
    LOGINS_PASSED_OVER = Counter Count "logins_passed_over_total" [] "Logins whose turn came while their client was not there for it; they queue anew.";
    LOGIN_WAIT_SECONDS = Histogram Seconds "login_wait_seconds" [] "Time that logins waited in the gateway.";
    LOGIN_SECONDS = Histogram Seconds "login_seconds" [] "From sending a login to a streamer until its answer.";
    STREAMER_LOGINS_WAITING = Gauge Count "streamer_logins_waiting" ["streamer"] "Logins that wait in the gateway for the streamer.";
    STREAMER_LOGINS_IN_FLIGHT = Gauge Count "streamer_logins_in_flight" ["streamer"] "Logins sent to the streamer and not answered.";
    STREAMER_LOGINS_LIMIT = Gauge Count "streamer_logins_limit" ["streamer"] "Logins that may be in flight at the streamer, as learned from their latency; 0 while it has none.";
    DISCOVERY_UPDATES = Counter Count "discovery_updates_total" ["source", "result"] "Answers of discovery sources: ok, empty, failed.";
    DISCOVERY_STALE = Gauge Count "discovery_stale" ["source"] "1 while a source's last answer failed and the last good one is held.";
    NATS_CONNECTED = Gauge Count "nats_connected" ["source"] "1 while there is a connection to the message bus.";
    NATS_EVENTS = Counter Count "nats_events_total" ["source", "event"] "What happened to the connection to the message bus: connected, disconnected, failed (an attempt to connect), refused (credentials or permissions), lame_duck (its server is about to end), slow_consumer (messages were dropped).";
    NATS_DROPPED = Counter Count "nats_dropped_total" ["source", "why"] "Messages from the message bus that nobody was given: too_large (over 1 MiB), no_room (32 MiB or 256 of a subject wait already; counted as slow_consumer too).";
    NATS_PACKETS = Counter Count "nats_packets_total" ["source", "result"] "Packets from the message bus: ok, or why they were passed over: serialiser (neither JSON nor EJSON), version (of another protocol), malformed, sender (without a valid id), too_large.";
    NATS_HEARD = Counter Count "nats_heard_total" ["source", "event"] "Events of Rocket.Chat's services that were heard on the message bus: forced_logout, client_version, socket (opened or logged in), other (of no interest: only their beginning was looked at), unusable (they cannot be read), dropped (too many at once).";
    CLIENT_ADDRESSES = Counter Count "client_addresses_total" ["result"] "Sockets of which the message bus told where Rocket.Chat believes the client to be: right, wrong (set HTTP_FORWARDED_COUNT).";
    REPLICAS = Gauge Count "replicas" [] "Gateways that act as one, this one included; 1 while it is alone or the bus is away.";
    REPLICA_PACKETS = Counter Count "replica_packets_total" ["result"] "Packets of the gateways that act as one: sent, ok (heard), or why they were passed over: too_large, version (of another protocol), malformed, stale (overtaken by a newer one), too_many (there are 64 replicas already).";
    REPLICA_CHARGES = Counter Count "replica_charges_total" ["direction"] "Uses of quotas by users and addresses that gateways told each other: sent, heard.";
    AFFINITY = Counter Count "affinity_total" ["result"] "Where sessions went: kept (preferred streamer), moved (it had no room or health), new.";

    CONFIG_RELOADS = Counter Count "config_reloads_total" ["result"] "Configuration loads: ok, failed, unchanged.";
    CONFIG_LAST_RELOAD_SUCCESSFUL = Gauge Count "config_last_reload_successful" [] "1 when the last configuration load was applied.";
    CONFIG_LAST_RELOAD_SUCCESS_SECONDS = Gauge Seconds "config_last_reload_success_timestamp_seconds" [] "When the configuration in use was loaded, as seconds since 1970.";
    CONFIG_GENERATION = Gauge Count "config_generation" [] "Number of the configuration in use; rises with each reload.";
    CONFIG_SNAPSHOTS = Gauge Count "config_snapshots" [] "Configurations still referenced by something; above 2 for long means a leak.";
    DRAINING = Gauge Count "draining" [] "1 while the gateway drains.";
}

/// Tells the exporter the unit and the help text of each metric.
pub fn describe() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.unit, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.unit, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.unit, metric.help),
        }
    }
}
