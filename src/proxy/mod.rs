//! The data path: requests, upgrades, relays.
//!
//! [`Gateway`] is where a request enters; its `call` names the phases in their order.

mod attach;
pub mod body;
mod bypass;
pub mod client;
pub mod connection;
mod detached;
pub mod download;
pub mod handover;
mod http;
mod inspect;
mod introduction;
pub mod mailbox;
mod meters;
mod outlet;
mod pace;
mod pump;
mod record;
pub mod refusal;
pub mod registry;
mod relay;
pub mod reloads;
pub mod route;
mod serving;
pub mod shared;
pub mod snapshot;
mod taken;
pub mod target;
mod transfer;
mod tunnel;
pub mod upgrade;
mod upload;

use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc, time::SystemTime};

use ::http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::service::Service;

use self::{
    body::{Body, Recorded},
    bypass::{Bypass, Way},
    client::{Client, Connection},
    connection::Activity,
    record::Record,
    refusal::Refusal,
    route::{Destination, RouteKind},
    shared::{Phase, Shared},
    snapshot::Snapshot,
    target::{Target, TargetError},
};
use crate::{
    net::incoming::{self, Incoming},
    pool::Pool,
    sockjs::{self, Visit},
};

/// Serves the requests of one connection.
#[derive(Clone, Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    activity: Arc<Activity>,
}

impl Gateway {
    fn new(shared: Arc<Shared>, connection: Arc<Connection>, activity: Arc<Activity>) -> Self {
        Self {
            shared,
            connection,
            activity,
        }
    }

    /// A request from its head to the head of its answer. What follows, the body, is written down
    /// by the [`Record`] that travels with it.
    async fn serve(self, request: Request<Incoming>) -> Response<Recorded> {
        let snapshot = self.load();
        let (parts, body) = request.into_parts();
        let mut record = self.admit(&parts, &snapshot);
        let client = self.identify(&parts, &snapshot, &mut record);
        let accept = Accept::of(&parts);
        let answered = self
            .respond(parts, body, &client, &snapshot, &mut record)
            .await;
        let response = match answered {
            Ok(response) => response,
            Err(refusal) => refuse(refusal, &accept, &client, &mut record),
        };
        self.activity.informed().await;
        self.finish(response, record)
    }

    /// The phases that may end in a refusal.
    async fn respond(
        &self,
        mut parts: Parts,
        body: Incoming,
        client: &Client,
        snapshot: &Arc<Snapshot>,
        record: &mut Record,
    ) -> Result<Response<Body>, Refusal> {
        if let Some(redirect) = self.redirect(&parts)? {
            return Ok(redirect);
        }
        if is_server_wide_options(&parts) {
            return Ok(options());
        }
        let target = route(&parts, snapshot)?;
        let host = target.host.as_ref().map(|host| host.name.as_str());
        let destination = snapshot.routes.find(host, &target.path);
        record.routed(host, destination.kind());
        if let Err(refusal) = self.limit(&parts, &body, snapshot) {
            http::discard(body);
            return Err(refusal);
        }
        if parts.version == Version::HTTP_2 {
            let Ok(stream) = self.connection.guard.stream() else {
                http::discard(body);
                return Err(Refusal::Crowded);
            };
            record.hold(stream);
        }
        match destination {
            Destination::Monolith { monolith } => {
                let monolith = &snapshot.monoliths[monolith];
                let upgrade = tunnel::is_wanted(&parts, &body);
                if parts.method == Method::CONNECT && !upgrade {
                    return Err(Refusal::BadUpgrade);
                }
                let informs = self.activity.informs(&parts).await;
                http::rewrite(&mut parts, client, &target, upgrade);
                if upgrade {
                    record.routed(host, RouteKind::Tunnel);
                    let request = Request::from_parts(parts, body);
                    // Boxed, so that other requests do not carry it along.
                    let shared = &self.shared;
                    return Box::pin(tunnel::open(
                        shared, snapshot, monolith, client, request, record,
                    ))
                    .await;
                }
                http::forward(snapshot, monolith, parts, body, informs, record).await
            }
            Destination::WebSocket { pool, route } => {
                if !upgrade::is_wanted(&parts) {
                    http::discard(body);
                    return Ok(sockjs::info::no_upgrade().map(Body::Full));
                }
                let session = upgrade::Visit {
                    shared: &self.shared,
                    snapshot,
                    pool: &snapshot.pools[pool],
                    client,
                    connection: &self.connection,
                    route,
                    sockjs: None,
                };
                Ok(session.accept(Request::from_parts(parts, body))?)
            }
            Destination::SockJs { pool, route, path } => {
                let pool = &snapshot.pools[pool];
                if upgrade::is_wanted(&parts)
                    && let Some(sockjs) = path.and_then(upgrade::websocket)
                {
                    let session = upgrade::Visit {
                        shared: &self.shared,
                        snapshot,
                        pool,
                        client,
                        connection: &self.connection,
                        route,
                        sockjs,
                    };
                    return Ok(session.accept(Request::from_parts(parts, body))?);
                }
                http::discard(body);
                let visit = Visit {
                    now: SystemTime::now(),
                    entropy: rand::random(),
                    full: self.turned_away(pool).then_some(POOL_RETRY),
                };
                let answer = snapshot
                    .pages
                    .answer(path, &parts.method, &parts.headers, &visit);
                Ok(answer.map(Body::Full))
            }
        }
    }

    /// Whether SockJS clients are told to come back later: their back-off grows that way, while a
    /// refused socket would start the polling transports.
    fn turned_away(&self, pool: &Pool) -> bool {
        *self.shared.phase.borrow() != Phase::Running || !self.shared.accepting(pool)
    }

    /// The request is counted from here on.
    fn admit(&self, parts: &Parts, snapshot: &Snapshot) -> Record {
        Record::new(
            &snapshot.meters,
            parts,
            self.connection.peer.0,
            self.activity.enter(),
            snapshot.config.log.access,
        )
    }

    /// One configuration for the whole request.
    fn load(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    fn identify(&self, parts: &Parts, snapshot: &Snapshot, record: &mut Record) -> Client {
        let client = Client::identify(&self.connection, &parts.headers, &snapshot.config);
        record.identified(client.clone());
        client
    }

    /// A listener that only sends clients to https.
    fn redirect(&self, parts: &Parts) -> Result<Option<Response<Body>>, Refusal> {
        let Some(port) = self.connection.listener.redirect_https else {
            return Ok(None);
        };
        let target = Target::read(
            &parts.method,
            &parts.uri,
            parts.version,
            &parts.headers,
            |_, _| (),
        )?;
        let host = target.host.ok_or(TargetError::NoHost)?;
        let location = if port == 443 {
            format!("https://{}{}", host.name, target.forward)
        } else {
            format!("https://{}:{port}{}", host.name, target.forward)
        };
        let mut response = Response::new(Body::Empty);
        // 308 keeps the method and the body.
        *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
        let location = HeaderValue::from_str(&location).map_err(|_| TargetError::BadHost)?;
        response.headers_mut().insert(header::LOCATION, location);
        Ok(Some(response))
    }

    fn finish(&self, response: Response<Body>, mut record: Record) -> Response<Recorded> {
        record.answered(response.status());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.activity.side().agree_to_switch();
        }
        let taken = self.activity.taken();
        response.map(|body| Recorded::new(body, record, taken))
    }

    /// What is too much or cannot be understood, before anything is forwarded.
    fn limit(&self, parts: &Parts, body: &Incoming, snapshot: &Snapshot) -> Result<(), Refusal> {
        if *self.shared.phase.borrow() == Phase::Closing {
            return Err(Refusal::ShuttingDown);
        }
        http::check(parts, body, &snapshot.config.http)
    }
}

/// For hyper's server, which speaks HTTP/1.1; HTTP/2 calls `serve` itself.
impl Service<Request<hyper::body::Incoming>> for Gateway {
    type Response = Response<Recorded>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<hyper::body::Incoming>) -> Self::Future {
        let gateway = self.clone();
        let mut request = request.map(Incoming::Http1);
        if request.headers().contains_key(header::UPGRADE) {
            incoming::may_upgrade(&mut request, gateway.activity.side());
        }
        let lasts = gateway.activity.bypass().is_some() && bypass::lasts(&request);
        Box::pin(async move {
            let activity = gateway.activity.clone();
            let mut response = gateway.serve(request).await;
            let pipes = activity.bypass().filter(|_| lasts);
            if let Some(way) = pipes.and_then(|pipes| Way::past(&mut response, pipes)) {
                activity.set_aside(Bypass::new(response, way));
                // The connection is taken out of hyper, and this request with it.
                return std::future::pending().await;
            }
            Ok(response)
        })
    }
}

/// What a refusal's form depends on, kept while the request is taken apart.
struct Accept {
    headers: ::http::HeaderMap,
    version: Version,
}

impl Accept {
    fn of(parts: &Parts) -> Self {
        let mut headers = ::http::HeaderMap::new();
        for value in parts.headers.get_all(header::ACCEPT) {
            headers.append(header::ACCEPT, value.clone());
        }
        Self {
            headers,
            version: parts.version,
        }
    }
}

fn route(parts: &Parts, snapshot: &Snapshot) -> Result<Target, Refusal> {
    let target = Target::read(
        &parts.method,
        &parts.uri,
        parts.version,
        &parts.headers,
        |host, path| snapshot.routes.place(host, path),
    )?;
    Ok(target)
}

fn refuse(
    refusal: Refusal,
    accept: &Accept,
    client: &Client,
    record: &mut Record,
) -> Response<Body> {
    record.refused(refusal);
    let mut response = refusal.answer(&accept.headers, client.request_id.as_str());
    if refusal.closes() && accept.version <= Version::HTTP_11 {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// `OPTIONS *` asks about the gateway itself (RFC 9110 section 9.3.7).
fn is_server_wide_options(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS && parts.uri.path() == "*"
}

fn options() -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(
        header::ALLOW,
        HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    );
    response
}

/// What a client is told to wait when the pool has no room.
const POOL_RETRY: std::time::Duration = std::time::Duration::from_secs(10);
