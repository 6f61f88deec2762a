//! A client's WebSocket handshake, answered here, and the start of its relay.
//!
//! The answer never waits for a streamer: a browser that does not see `o` within about 0.6 s falls
//! back to polling (`sockjs/sockjs-client:lib/main.js`), and after it has seen `o` it waits
//! patiently.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
    request::Parts,
};
use hyper::body::Body as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tracing::{debug, info};

use super::{
    attach::{Opening, text_frame},
    body::Body,
    client::{Client, Connection},
    pump::Held,
    registry::{Newcomer, Registration, Registry, framing_label},
    relay::Relay,
    shared::{Phase, Shared},
    snapshot::Snapshot,
};
use crate::{
    base::{chunk::SCRATCH_BYTES, id::StreamerId},
    ddp::Framing,
    headers::{
        cookie::{Affinity, Attributes},
        forwarded::{self, address_text},
    },
    net::{
        dial::LegRequest,
        incoming::{self, Incoming, OnUpgrade, UpgradeLost},
        stream::Downstream,
    },
    pool::{Pool, Wish},
    session::quota::Asker,
    sockjs::{Path, Transport, frame},
    ws::{HandshakeError, handshake},
};

/// Why a client gets no WebSocket; becomes an HTTP answer in `refusal`.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("this origin may not open sockets here")]
    Origin,
    #[error("the gateway is shutting down")]
    Draining,
    #[error("no streamer has room")]
    Full,
}

/// A request for a session with a streamer.
pub struct Visit<'a> {
    pub shared: &'a Arc<Shared>,
    pub snapshot: &'a Arc<Snapshot>,
    pub pool: &'a Arc<Pool>,
    pub client: &'a Client,
    pub connection: &'a Arc<Connection>,
    /// Path of the route, for the cookie.
    pub route: &'a str,
    /// Names in the URL of a SockJS session; `None` for a socket without framing.
    pub sockjs: Option<SockJsNames<'a>>,
}

/// The two segments that name a SockJS session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SockJsNames<'a> {
    pub server: &'a str,
    pub session: &'a str,
}

/// Whether a request wants to become a WebSocket.
pub(super) fn is_wanted(parts: &Parts) -> bool {
    parts.headers.contains_key(header::UPGRADE) || incoming::protocol(&parts.extensions).is_some()
}

/// How a SockJS path is upgraded: `None` when it has no socket, inside of that the names of a
/// session with framing.
pub(super) fn websocket(path: Path<'_>) -> Option<Option<SockJsNames<'_>>> {
    match path {
        Path::RawWebSocket => Some(None),
        Path::Session {
            server,
            session,
            transport: Transport::WebSocket,
        } => Some(Some(SockJsNames { server, session })),
        _ => None,
    }
}

impl Visit<'_> {
    /// Answers the handshake; the session begins when the answer is out.
    ///
    /// # Errors
    /// See [`UpgradeError`]. A SockJS client that cannot be served is not refused by status but
    /// gets a SockJS close frame, since a refused upgrade would send it to the polling transports.
    pub fn accept(self, mut request: Request<Incoming>) -> Result<Response<Body>, UpgradeError> {
        let now = Instant::now();
        let response = switching(&request)?;
        self.check_origin(request.headers())?;
        if self.shared.phase() != Phase::Running {
            return self.refuse(request, response, UpgradeError::Draining);
        }
        if !self.shared.accepting(self.pool) {
            return self.refuse(request, response, UpgradeError::Full);
        }
        let stream = match request.version() {
            Version::HTTP_2 => match self.connection.guard.stream() {
                Ok(stream) => Some(stream),
                Err(_) => return self.refuse(request, response, UpgradeError::Full),
            },
            _ => None,
        };

        let named = self.named_streamer(request.headers());
        let number = named
            .as_ref()
            .map_or_else(rand::random, |named| named.client);
        let named_streamer = named.as_ref().map(|named| &named.streamer);
        let preferred = named_streamer
            .cloned()
            .or_else(|| self.shared.recall.find(&sockjs_key(self.sockjs?), now));
        let mut wish = Wish {
            preferred,
            expected: None,
        };
        let expectation = self.pool.expect(&wish, now);
        wish.expected = expectation
            .as_ref()
            .map(|place| place.streamer().id.clone());

        let mut response = response;
        let mut numbered = named.is_some();
        if let Some(expected) = &wish.expected
            && named_streamer != Some(expected)
            && let Some(cookie) = self.cookie(expected, number)
        {
            response.headers_mut().append(header::SET_COOKIE, cookie);
            // A browser will bring it back.
            numbered |= request.headers().contains_key(header::ORIGIN);
        }
        let asker_client = self.client_key(numbered.then_some(number), request.headers());

        let leg_request = self.leg_request(&request);
        let on_upgrade = incoming::on_upgrade(&mut request);
        let newcomer = Newcomer {
            client: self.client.addr,
            connection: Some(self.connection.clone()),
            stream,
            pool: self.pool.clone(),
            framing: self.framing(),
            tls: self.client.tls,
        };
        let registration = Registry::register(self.shared, newcomer, now);
        let asker = Asker {
            connection: self.key(b"connection", &registration.entry().id.0.to_be_bytes()),
            user: None,
            client: asker_client,
            address: self.address_key(),
        };
        let opening = Box::new(Opening {
            shared: self.shared.clone(),
            pool: self.pool.clone(),
            wish,
            expectation,
            request: Box::new(leg_request),
            framing: self.framing(),
            connect: Held::default(),
            former: None,
            entry: registration.entry().clone(),
            leg_timeout: self.leg_timeout(),
            sockjs_session: self.sockjs.map(sockjs_key),
            asker,
            early: Bytes::new(),
        });
        self.shared
            .tasks
            .spawn(begin(on_upgrade, opening, registration, now));
        Ok(response)
    }

    fn framing(&self) -> Framing {
        match self.sockjs {
            None => Framing::Raw,
            Some(_) => Framing::SockJs,
        }
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), UpgradeError> {
        let allowed = &self.snapshot.config.websocket.origins;
        if allowed.is_empty() {
            return Ok(());
        }
        // Programs that are not browsers send none, and could send any.
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Ok(());
        };
        let known = origin.to_str().is_ok_and(|origin| {
            allowed
                .iter()
                .any(|known| known.eq_ignore_ascii_case(origin))
        });
        if known {
            Ok(())
        } else {
            Err(UpgradeError::Origin)
        }
    }

    fn refuse(
        self,
        mut request: Request<Incoming>,
        response: Response<Body>,
        reason: UpgradeError,
    ) -> Result<Response<Body>, UpgradeError> {
        if self.framing() == Framing::Raw {
            return Err(reason);
        }
        let on_upgrade = incoming::on_upgrade(&mut request);
        info!(client = %self.client.addr, %reason, "client turned away with a SockJS close");
        self.shared
            .tasks
            .spawn(turn_away(on_upgrade, reason, self.connection.clone()));
        Ok(response)
    }

    /// What the client's cookie says.
    fn named_streamer(&self, headers: &HeaderMap) -> Option<Affinity> {
        let name = self.snapshot.config.affinity.cookie.as_ref()?;
        self.snapshot
            .seal
            .find(headers, name, self.pool.name(), unix_seconds())
    }

    fn cookie(&self, streamer: &StreamerId, client: u64) -> Option<HeaderValue> {
        let affinity = &self.snapshot.config.affinity;
        let attributes = Attributes {
            name: affinity.cookie.as_ref()?,
            path: self.route,
            max_age: affinity.remember.as_secs(),
            secure: self.client.tls,
        };
        let said = Affinity {
            streamer: streamer.clone(),
            client,
        };
        self.snapshot
            .seal
            .set(attributes, self.pool.name(), &said, unix_seconds())
    }

    /// Who this is, as long as nobody is logged in: the number in its cookie, since the whole office
    /// may have the same address and browser. Programs that keep no cookies are told apart by these.
    fn client_key(&self, number: Option<u64>, headers: &HeaderMap) -> u64 {
        match number {
            Some(number) => self.key(b"client", &number.to_be_bytes()),
            None => {
                let agent = headers
                    .get(header::USER_AGENT)
                    .map_or(&b""[..], HeaderValue::as_bytes);
                let address = address_text(self.client.addr.0);
                self.shared
                    .quotas
                    .key(&[b"agent", address.as_bytes(), agent])
            }
        }
    }

    /// `None` for addresses that stand for many by design.
    fn address_key(&self) -> Option<u64> {
        let address = self.client.addr.0;
        let exempt =
            address.is_loopback() || self.snapshot.config.trusted_proxies.contains(address);
        (!exempt).then(|| self.key(b"address", address_text(address).as_bytes()))
    }

    fn key(&self, kind: &[u8], value: &[u8]) -> u64 {
        self.shared.quotas.key(&[kind, value])
    }

    /// What the streamer is told about the client. It stores all headers and broadcasts them on the
    /// bus, so it gets only those that something reads (`RocketChat/Rocket.Chat`: device
    /// management, session statistics) and never a credential.
    fn leg_request(&self, request: &Request<Incoming>) -> LegRequest {
        let host = request
            .headers()
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .or_else(|| {
                request
                    .uri()
                    .authority()
                    .map(|authority| authority.as_str())
            })
            .unwrap_or("localhost")
            .to_owned();
        let origin = self.client.origin();
        // What the way here adds to, if those before are believed.
        let mut way = HeaderMap::with_capacity(TOLD.len());
        if origin.trusted {
            for name in &TOLD_OF_WAY {
                for value in request.headers().get_all(name) {
                    way.append(name, value.clone());
                }
            }
        }
        forwarded::apply(
            &mut way,
            &origin,
            self.client.peer,
            HeaderValue::from_str(&host).ok().as_ref(),
        );
        let mut told = HeaderMap::with_capacity(TOLD.len() + TOLD_OF_WAY.len());
        let own = TOLD.iter().map(|name| (name, request.headers()));
        for (name, headers) in own.chain(TOLD_OF_WAY.iter().map(|name| (name, &way))) {
            if let Some(value) = headers.get(name)
                && value.len() <= TOLD_BYTES
            {
                told.insert(name, value.clone());
            }
        }
        LegRequest {
            target: self.leg_target(),
            host,
            headers: told,
        }
    }

    /// A streamer speaks without framing only on exactly `/websocket`; every other target makes it
    /// frame (`RocketChat/Rocket.Chat:ee/apps/ddp-streamer/src/Client.ts`).
    fn leg_target(&self) -> String {
        match self.sockjs {
            None => "/websocket".to_owned(),
            Some(SockJsNames { server, session }) => {
                format!("/sockjs/{server}/{session}/websocket")
            }
        }
    }

    fn leg_timeout(&self) -> Duration {
        let pools = &self.snapshot.config.pools;
        pools
            .iter()
            .find(|pool| pool.name == *self.pool.name())
            .map_or(LEG_TIMEOUT, |pool| pool.attach_timeout)
    }
}

/// The answer that switches protocols, for both versions of HTTP.
fn switching(request: &Request<Incoming>) -> Result<Response<Body>, UpgradeError> {
    let mut response = Response::new(Body::Empty);
    if request.method() == Method::CONNECT
        && incoming::protocol(request.extensions()) == Some("websocket")
    {
        // RFC 8441 section 5: no key, and the answer is 200.
        let version = request.headers().get(header::SEC_WEBSOCKET_VERSION);
        if version.is_none_or(|version| version != handshake::VERSION) {
            return Err(HandshakeError::BadVersion.into());
        }
        return Ok(response);
    }
    let accept = handshake::check_request(request.method(), request.version(), request.headers())?;
    if !request.body().is_end_stream() {
        return Err(HandshakeError::HasBody.into());
    }
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    Ok(response)
}

/// Waits until the answer is out and hands the socket to a relay on a task of its own, which is
/// much smaller than this one.
async fn begin(
    on_upgrade: OnUpgrade,
    mut opening: Box<Opening>,
    registration: Registration,
    asked: Instant,
) {
    let Some((down, early)) = upgraded(on_upgrade).await else {
        return;
    };
    let shared = opening.shared.clone();
    let entry = registration.entry();
    if early.len() > SCRATCH_BYTES {
        info!(
            client = %entry.client, bytes = early.len(),
            "connection closed: the client sent frames before the answer to its upgrade"
        );
        return;
    }
    let greeting: &[u8] = match opening.framing {
        Framing::Raw => {
            shared.meters.opened_raw.increment(1);
            b""
        }
        Framing::SockJs => {
            shared.meters.opened_sockjs.increment(1);
            OPEN_FRAME
        }
    };
    info!(
        target: "access",
        event = "socket_open",
        session = %entry.id,
        client = %entry.client,
        peer = %entry.peer(),
        host = opening.request.host,
        framing = framing_label(opening.framing),
        tls = entry.tls,
        pool = %entry.pool.name(),
    );
    opening.early = early;
    let now = Instant::now();
    shared.meters.accept_seconds.record(now - asked);
    let relay = Relay::new(down, greeting, opening, registration, now);
    shared.tasks.spawn(relay);
}

/// Ends a SockJS session before it began, in the one way that neither starts the polling transports
/// nor resets the client's back-off: `c[3000,...]` in place of `o`.
async fn turn_away(on_upgrade: OnUpgrade, reason: UpgradeError, connection: Arc<Connection>) {
    let Some((mut down, _)) = upgraded(on_upgrade).await else {
        return;
    };
    let close = frame::close(3000, &reason.to_string());
    let mut frames = text_frame(&close);
    frames.extend_from_slice(GO_AWAY_FRAME);
    let goodbye = async {
        down.write_all(&frames).await?;
        down.flush().await?;
        down.shutdown().await?;
        // Until the client has closed as well: a reset could overtake the frames.
        let mut rest = [0; 256];
        while down.read(&mut rest).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    if timeout(GOODBYE_TIMEOUT, goodbye).await.is_err() {
        debug!("a client that was turned away did not close in time");
    }
    drop(connection);
}

async fn upgraded(on_upgrade: OnUpgrade) -> Option<(Downstream, Bytes)> {
    match timeout(UPGRADE_TIMEOUT, on_upgrade).await {
        Ok(Ok(upgraded)) => Some(upgraded),
        Ok(Err(UpgradeLost)) => {
            debug!("a client left during its upgrade");
            None
        }
        Err(_) => {
            debug!("a client did not take the answer to its upgrade");
            None
        }
    }
}

/// Under which a SockJS session is remembered; apart from DDP session ids.
fn sockjs_key(names: SockJsNames<'_>) -> String {
    format!("sockjs {}", names.session)
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Headers of the client that a streamer sees: its own, and those of its way here.
static TOLD: [HeaderName; 4] = [
    header::USER_AGENT,
    header::ORIGIN,
    header::ACCEPT_LANGUAGE,
    HeaderName::from_static("x-request-id"),
];
static TOLD_OF_WAY: [HeaderName; 5] = [
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

/// Longest value of such a header.
const TOLD_BYTES: usize = 2048;

/// A text frame with the SockJS `o`.
const OPEN_FRAME: &[u8] = &[0x81, 1, b'o'];

/// A close frame with 3000.
const GO_AWAY_FRAME: &[u8] = &[0x88, 2, 0x0b, 0xb8];

const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
const LEG_TIMEOUT: Duration = Duration::from_secs(5);
