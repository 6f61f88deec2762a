//! Streamers by the EndpointSlices of a Kubernetes Service.
//!
//! Unlike the DNS, which only drops a pod, they say that one is about to end, at the moment when
//! Kubernetes decides so: its sessions can be moved while it still serves them.
//!
//! A list, then a watch from the version of that list on, as every client of the API does it: this
//! is `api-conventions.md`, "Efficient detection of changes". [`slice`] reads, [`table`] knows, and
//! neither does I/O. This file asks.
//!
//! Two GET requests are all of the API that is needed. The crate `kube` would add 60 crates to some
//! 230 for them, tower among them, and does not bound what it reads; the list, the watch and the
//! pace of retries would be ours to decide and to test either way. Hence hyper and rustls, which
//! are here already.

mod access;
mod lines;
mod slice;
mod table;
#[cfg(test)]
mod tests;
mod trouble;

use std::{
    fmt::Write as _,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use http::{StatusCode, header};
use tokio::time::{sleep, timeout, timeout_at};

pub use self::trouble::Trouble;
use self::{
    access::Access,
    lines::Lines,
    slice::{Event, Line, Page, message},
    table::{Sight, Table},
};
use super::{Endpoints, Host, Seen, SourceError, board::Board};
use crate::{
    base::id::StreamerAddr,
    config::model::{Kubernetes, ServicePort},
    net::https::{self, Answer, GetError, Peer},
};

/// The watch of one Service.
pub(super) struct Watch {
    config: Kubernetes,
    table: Table,
    /// Of the table; `None`: it has to be listed.
    version: Option<String>,
    pauses: Pauses,
}

/// How the watch of a version ended, when nothing was wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// In its time, or the connection broke: it goes on from the version that was reached.
    Over,
    /// The version is too old.
    Expired,
}

impl Watch {
    pub(super) fn new(config: Kubernetes) -> Self {
        Self {
            config,
            table: Table::default(),
            version: None,
            pauses: Pauses::default(),
        }
    }

    /// Follows the Service; never ends by itself.
    pub(super) async fn run(mut self, board: Board) {
        loop {
            let (began, lists) = (Instant::now(), self.version.is_none());
            // A defect that an odd answer brings to light must not end the watch for good.
            let round = AssertUnwindSafe(self.round(&board)).catch_unwind().await;
            if began.elapsed() > LONGEST_PAUSE {
                // However it ended, it was not for asking too often.
                self.pauses.heard();
            }
            let pause = match round {
                Ok(Ok(End::Over)) => self.pauses.after_good(began.elapsed()),
                Ok(Ok(End::Expired)) => {
                    self.version = None;
                    if lists {
                        self.fail(&board, SourceError::Kubernetes(Trouble::Expired));
                    }
                    self.pauses.after_bad(None)
                }
                Ok(Err(Failure {
                    trouble,
                    retry_after,
                })) => {
                    // What is known, or the version of it, is doubtful then.
                    if let Trouble::Garbage | Trouble::TooMuch | Trouble::Status { .. } = trouble {
                        self.version = None;
                    }
                    self.fail(&board, SourceError::Kubernetes(trouble));
                    self.pauses.after_bad(retry_after)
                }
                Err(_panic) => {
                    self.version = None;
                    self.fail(&board, SourceError::Defect);
                    self.pauses.after_bad(None)
                }
            };
            sleep(pause).await;
        }
    }

    fn fail(&self, board: &Board, error: SourceError) {
        board.put(Err(error), Instant::now());
    }

    fn tell(&self, board: &Board) {
        let sight = self.table.sight();
        if sight.portless
            && let ServicePort::Name(name) = &self.config.port
        {
            let trouble = Trouble::NoPort(name.clone());
            self.fail(board, SourceError::Kubernetes(trouble));
            return;
        }
        board.put(Ok(sight.into()), Instant::now());
    }

    /// Lists if need be, and watches once.
    async fn round(&mut self, board: &Board) -> Result<End, Failure> {
        let namespace = access::namespace(&self.config).await?;
        if let Some(version) = self.version.clone() {
            return self.watch(&namespace, &version, board, false).await;
        }
        let Some(version) = self.list(&namespace).await? else {
            return Ok(End::Expired);
        };
        self.version = Some(version.clone());
        self.tell(board);
        self.watch(&namespace, &version, board, true).await
    }

    /// Lists all slices; returns the version of the list, `None` when it expired between two pages.
    async fn list(&mut self, namespace: &str) -> Result<Option<String>, Failure> {
        let mut slices = Vec::new();
        let mut next: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let mut query = format!("limit={PAGE}");
            if let Some(next) = &next {
                query.push_str("&continue=");
                escape(next, &mut query);
            }
            let answer = match self.ask("list", namespace, &query).await? {
                Ok(answer) => answer,
                Err(Gone) => return Ok(None),
            };
            let body = timeout(self.config.timeout, answer.whole(MOST_OF_A_PAGE)).await;
            let body = body.map_err(|_| self.late())?.ok_or(Trouble::Garbage)?;
            let page = Page::parse(&body, &self.config.port)?;
            slices.extend(page.slices);
            next = page.next;
            if next.is_none() {
                self.table.replace(slices)?;
                return Ok(Some(page.version));
            }
        }
        Err(Trouble::TooMuch.into())
    }

    async fn watch(
        &mut self,
        namespace: &str,
        version: &str,
        board: &Board,
        told: bool,
    ) -> Result<End, Failure> {
        let lasts = self.config.renew.mul_f64(rand::random_range(0.75..=1.0));
        let seconds = lasts.as_secs().max(1);
        let mut query = format!(
            "watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion="
        );
        escape(version, &mut query);
        let mut answer = match self.ask("watch", namespace, &query).await? {
            Ok(answer) => answer,
            Err(Gone) => return Ok(End::Expired),
        };
        if !told {
            // What was known is confirmed.
            self.tell(board);
        }
        // A server that hangs, or a connection that is dead, ends it too: it says nothing about
        // that, and silence is all that there is to hear of a Service that does not change.
        let deadline = tokio::time::Instant::now() + lasts + self.config.timeout;
        let mut lines = Lines::default();
        loop {
            let Ok(piece) = timeout_at(deadline, answer.next()).await else {
                return Err(self.late());
            };
            let Some(piece) = piece else {
                return Ok(End::Over);
            };
            lines.push(&piece);
            let mut changed = false;
            while let Some(line) = lines.next()? {
                let Line { event, version } = Line::parse(&line, &self.config.port)?;
                match event {
                    Event::Expired => return Ok(End::Expired),
                    Event::Error(trouble) => return Err(trouble.into()),
                    event => changed |= self.table.apply(event)?,
                }
                if version.is_some() {
                    self.version = version;
                }
                self.pauses.heard();
            }
            if changed {
                self.tell(board);
            }
        }
    }

    /// Asks the API server for the slices of the Service. The token is read each time.
    async fn ask(
        &self,
        verb: &'static str,
        namespace: &str,
        query: &str,
    ) -> Result<Result<Answer, Gone>, Failure> {
        let Kubernetes { service, .. } = &self.config;
        let access = Access::read(&self.config).await?;
        let target = format!(
            "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices\
             ?labelSelector=kubernetes.io%2Fservice-name%3D{service}&{query}"
        );
        let server = access.server.to_string();
        let peer = Peer {
            host: &access.server.host,
            port: access.server.port,
            trust: access.trust.clone(),
        };
        let answer = timeout(
            self.config.timeout,
            https::get(&peer, &target, access.headers()),
        );
        let answer = match answer.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(unreachable(server, &error).into()),
            Err(_) => return Err(Trouble::Timeout { server }.into()),
        };
        match answer.status {
            StatusCode::OK => Ok(Ok(answer)),
            StatusCode::GONE => Ok(Err(Gone)),
            _ => Err(self.refused(verb, namespace, answer).await),
        }
    }

    async fn refused(&self, verb: &'static str, namespace: &str, answer: Answer) -> Failure {
        let code = answer.status.as_u16();
        let wait = answer.headers.get(header::RETRY_AFTER);
        let wait = wait.and_then(|wait| wait.to_str().ok()?.parse().ok());
        let body = timeout(self.config.timeout, answer.whole(MOST_OF_A_REFUSAL)).await;
        let message = message(&body.ok().flatten().unwrap_or_default());
        let trouble = match code {
            401 => Trouble::Unauthorized {
                path: self.config.token_file.clone(),
            },
            403 => Trouble::Forbidden {
                verb,
                namespace: namespace.to_owned(),
                message,
            },
            404 => Trouble::NotFound,
            429 | 503 => Trouble::Busy { code },
            _ => Trouble::Status { code, message },
        };
        Failure {
            trouble,
            retry_after: wait.map(Duration::from_secs),
        }
    }

    fn late(&self) -> Failure {
        let server = self.config.server.as_ref();
        let server = server.map_or_else(|| "of the cluster".to_owned(), ToString::to_string);
        Trouble::Timeout { server }.into()
    }
}

impl From<Sight> for Seen {
    fn from(sight: Sight) -> Self {
        let hosts = sight.pods.into_iter().map(|(name, (address, leaving))| {
            let address = Some(StreamerAddr(address));
            (name, Host { address, leaving })
        });
        Self {
            endpoints: Endpoints::of_addresses(sight.serving),
            leaving: sight.leaving.into_iter().map(StreamerAddr).collect(),
            hosts: hosts.collect(),
        }
    }
}

/// The version that was asked for is too old (410).
struct Gone;

/// What is wrong, and how long the server wants to be left alone.
struct Failure {
    trouble: Trouble,
    retry_after: Option<Duration>,
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        Self {
            trouble,
            retry_after: None,
        }
    }
}

fn unreachable(server: String, error: &GetError) -> Trouble {
    Trouble::Unreachable {
        server,
        reason: error.to_string(),
    }
}

/// Everything but unreserved characters (RFC 3986 section 2.3) is escaped.
fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

/// How long to wait before asking again.
#[derive(Debug, Default)]
struct Pauses {
    /// In a row.
    failures: u32,
}

impl Pauses {
    /// The server has been of use.
    fn heard(&mut self) {
        self.failures = 0;
    }

    /// A watch that ended in its time is renewed at once, but not one that ends as soon as it begins.
    fn after_good(&mut self, lasted: Duration) -> Duration {
        if lasted < FIRST_PAUSE {
            return self.after_bad(None);
        }
        self.failures = 0;
        Duration::ZERO
    }

    /// Twice as long each time, and not all gateways at once.
    fn after_bad(&mut self, at_least: Option<Duration>) -> Duration {
        let most = FIRST_PAUSE * 2_u32.saturating_pow(self.failures.min(8));
        self.failures = self.failures.saturating_add(1);
        let pause = most
            .min(LONGEST_PAUSE)
            .mul_f64(rand::random_range(0.5..=1.0));
        pause.max(at_least.unwrap_or_default().min(LONGEST_PAUSE))
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Slices in one answer.
const PAGE: usize = 32;
const MOST_PAGES: usize = 16;
const MOST_OF_A_PAGE: usize = 16 * 1024 * 1024;
const MOST_OF_A_REFUSAL: usize = 64 * 1024;
