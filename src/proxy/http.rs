//! Forwarding a request to the monolith and its response to the client.

use std::{future::pending, pin::pin, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
    request::Parts,
};
use hyper::body::Body as _;
use tokio::time::{Instant, sleep_until};

use super::{
    body::Body,
    client::{Client, X_REQUEST_ID},
    download::Download,
    pace::Rules,
    record::Record,
    refusal::Refusal,
    snapshot::Snapshot,
    target::Target,
    upload::{Progress, Stage, Upload, linger},
};
use crate::{
    config::model::{Http, MIN_RATE_WINDOW},
    headers::{forwarded, hop},
    net::{
        incoming::{Incoming, Informs},
        monolith::{Fault, Lease, Monolith, Outgoing, Reply, SendError, Terms},
    },
};

/// Checks how the request is framed and whether its size is acceptable. HTTP/1.1 framing that hyper
/// accepts but other readers may not is refused here.
pub(super) fn check(parts: &Parts, body: &Incoming, http: &Http) -> Result<(), Refusal> {
    let headers = &parts.headers;
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if codings.next().is_some() || headers.contains_key(header::CONTENT_LENGTH) {
            return Err(Refusal::BadFraming);
        }
        if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::UnknownCoding);
        }
    }
    if headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return Err(Refusal::BadFraming);
    }
    if parts.method == Method::TRACE {
        return Err(Refusal::MethodRefused);
    }
    if let Some(expect) = headers.get(header::EXPECT)
        && !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(Refusal::UnknownExpectation);
    }
    if body.size_hint().lower() > http.body_limit {
        return Err(Refusal::TooLarge);
    }
    Ok(())
}

/// Turns the client's headers into those the monolith gets.
pub(super) fn rewrite(parts: &mut Parts, client: &Client, target: &Target, upgrade: bool) {
    let headers = &mut parts.headers;
    if upgrade {
        hop::strip_but_upgrade(headers);
    } else {
        hop::strip(headers);
    }
    join_cookies(headers);
    let host = target.host.as_ref().map(|host| &host.value);
    forwarded::apply(headers, &client.origin(), client.peer, host);
    if let Ok(id) = HeaderValue::from_str(client.request_id.as_str()) {
        headers.insert(X_REQUEST_ID, id);
    }
    match host {
        Some(host) => headers.insert(header::HOST, host.clone()),
        None => headers.remove(header::HOST),
    };
    parts.uri = Uri::from(target.forward.clone());
    parts.version = Version::HTTP_11;
}

/// Forwards a rewritten request; the response is ready for the client.
///
/// Informational responses go to `informs`.
pub(super) async fn forward(
    snapshot: &Snapshot,
    monolith: &Monolith,
    parts: Parts,
    body: Incoming,
    informs: Option<Informs>,
    record: &mut Record,
) -> Result<Response<Body>, Refusal> {
    let http = &snapshot.config.http;
    let rules = rules(http, record);
    let head = parts.method == Method::HEAD;
    let exchange = Exchange {
        monolith,
        terms: Terms::from(http),
        first_byte: http.first_byte_timeout,
        rules,
        limit: http.body_limit,
        informs,
    };
    let (reply, upload) = exchange.send(parts, body, snapshot, record).await?;
    record.served_by(reply.connection.lease().server());
    answer(reply, head, rules, upload)
}

/// The pace that is expected of an exchange.
pub(super) fn rules(http: &Http, record: &Record) -> Rules {
    Rules {
        idle: http.idle_timeout,
        min_rate: http.min_rate,
        window: MIN_RATE_WINDOW,
        deadline: record.started() + http.request_timeout,
    }
}

/// One request and the way it may take.
struct Exchange<'a> {
    monolith: &'a Monolith,
    terms: Terms,
    first_byte: Duration,
    rules: Rules,
    limit: u64,
    informs: Option<Informs>,
}

impl Exchange<'_> {
    /// Sends the request, and once more if the first server failed in a way that makes a second try
    /// safe: nothing was sent, or the method is idempotent and there is no body.
    async fn send(
        &self,
        mut parts: Parts,
        body: Incoming,
        snapshot: &Snapshot,
        record: &mut Record,
    ) -> Result<(Reply, Option<Arc<Progress>>), Refusal> {
        let bodiless = body.is_end_stream();
        if bodiless || self.informs.is_none() {
            parts.headers.remove(header::EXPECT);
        }
        let expects = parts.headers.contains_key(header::EXPECT);
        let again = (bodiless && parts.method.is_idempotent()).then(|| Again::of(&parts));
        let upload = (!bodiless).then(|| Progress::new(record.started()));
        let outgoing = match &upload {
            None => Outgoing::empty(),
            Some(progress) => {
                record.uploads(progress.clone());
                Outgoing::new(Upload::new(
                    body,
                    self.limit,
                    self.rules,
                    progress.clone(),
                    expects,
                ))
            }
        };
        let request = Request::from_parts(parts, outgoing);
        let lease = self.monolith.choose(None);
        let (error, second) = match self
            .attempt(lease.clone(), request, upload.as_ref(), false)
            .await
        {
            Ok(reply) => return Ok((reply, upload)),
            Err(Failed::Given(refusal)) => return Err(refusal),
            Err(Failed::Send(error)) => {
                let second = match error.unsent {
                    // A dead server is asked again only if it is not the only one.
                    Some(request) if self.monolith.has_several() => Some(*request),
                    Some(_) => None,
                    None if error.fault == Fault::Closed => again.map(Again::request),
                    None => None,
                };
                (error.fault, second)
            }
        };
        let Some(request) = second else {
            return Err(refusal_of(error, upload.as_deref()));
        };
        snapshot.meters.retries.increment(1);
        let other = self.monolith.choose(Some(&lease));
        drop(lease);
        // Boxed, as it is seldom wanted.
        match Box::pin(self.attempt(other, request, upload.as_ref(), true)).await {
            Ok(reply) => Ok((reply, upload)),
            Err(Failed::Given(refusal)) => Err(refusal),
            Err(Failed::Send(error)) => Err(refusal_of(error.fault, upload.as_deref())),
        }
    }

    /// Passes informational responses on; `100 Continue` means the body.
    fn listen(&self, request: &mut Request<Outgoing>, upload: Option<&Arc<Progress>>) {
        let informs = self.informs.clone();
        let upload = upload.cloned();
        if informs.is_none() && upload.is_none() {
            return;
        }
        hyper::ext::on_informational(request, move |response| {
            if response.status() == StatusCode::CONTINUE {
                if let Some(upload) = &upload {
                    upload.wanted();
                }
            } else if let Some(informs) = &informs {
                let mut headers = response.headers().clone();
                hop::strip(&mut headers);
                informs.inform(response.status(), &headers);
            }
        });
    }

    /// Sends the request to one server and waits for the head of its response: while the client
    /// uploads, as long as bytes move; then for the time to the first byte.
    async fn attempt(
        &self,
        lease: Lease,
        mut request: Request<Outgoing>,
        upload: Option<&Arc<Progress>>,
        fresh: bool,
    ) -> Result<Reply, Failed> {
        if !request.headers().contains_key(header::HOST) {
            let host = lease.host().clone();
            request.headers_mut().insert(header::HOST, host);
        }
        self.listen(&mut request, upload);
        let server = lease.clone();
        let started = Instant::now();
        let mut sending = pin!(lease.send(request, self.terms, fresh));
        let refusal = loop {
            let due = match upload {
                None => started + self.first_byte,
                Some(upload) => self.due(upload, started),
            };
            let ended = async {
                match upload {
                    None => pending().await,
                    Some(upload) => upload.ended().await,
                }
            };
            tokio::select! {
                biased;
                sent = &mut sending => return sent.map_err(Failed::Send),
                () = sleep_until(due.min(self.rules.deadline)) => {}
                () = ended => continue,
            }
            let now = Instant::now();
            if now >= self.rules.deadline {
                break Refusal::Deadline;
            }
            let Some(upload) = upload else {
                break Refusal::Silent;
            };
            match upload.stage() {
                Stage::Awaited => {}
                Stage::Ended | Stage::Offered if now < self.due(upload, started) => {}
                Stage::Ended | Stage::Offered => break Refusal::Silent,
                failed => break of_stage(failed).unwrap_or(Refusal::Silent),
            }
        };
        if matches!(refusal, Refusal::Silent | Refusal::Deadline) {
            server.timed_out();
        }
        Err(Failed::Given(refusal))
    }

    /// When to look again at a request whose body is on its way, or was.
    fn due(&self, upload: &Progress, started: Instant) -> Instant {
        match upload.stage() {
            Stage::Ended => upload.moved().max(started) + self.first_byte,
            Stage::Offered => upload.moved().max(started) + self.rules.idle,
            // The body watches the client itself.
            Stage::Awaited => Instant::now() + self.rules.idle,
            _ => Instant::now() + GRACE,
        }
    }
}

enum Failed {
    Send(SendError),
    /// Given up by the gateway: no other server would do better.
    Given(Refusal),
}

/// What it takes to send a request without a body again.
struct Again {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Again {
    fn of(parts: &Parts) -> Self {
        Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            headers: parts.headers.clone(),
        }
    }

    fn request(self) -> Request<Outgoing> {
        let mut request = Request::new(Outgoing::empty());
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        request
    }
}

/// A failure to send may be the client's: its body broke.
fn refusal_of(fault: Fault, upload: Option<&Progress>) -> Refusal {
    upload
        .and_then(|upload| of_stage(upload.stage()))
        .unwrap_or_else(|| fault.into())
}

fn of_stage(stage: Stage) -> Option<Refusal> {
    match stage {
        Stage::Offered | Stage::Awaited | Stage::Ended => None,
        Stage::ClientCut => Some(Refusal::ClientGone),
        Stage::ClientSlow => Some(Refusal::SlowBody),
        Stage::TooLarge => Some(Refusal::TooLarge),
        Stage::Deadline => Some(Refusal::Deadline),
    }
}

/// Makes the monolith's response one for the client.
pub(super) fn answer(
    reply: Reply,
    head: bool,
    rules: Rules,
    upload: Option<Arc<Progress>>,
) -> Result<Response<Body>, Refusal> {
    let (mut parts, body) = reply.response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody asked for it.
        return Err(Refusal::BadGateway);
    }
    let lasts = parts.version == Version::HTTP_11
        && !hop::has_token(&parts.headers, header::CONNECTION, "close");
    hop::strip(&mut parts.headers);
    parts.headers.remove(header::TE);
    parts.version = Version::HTTP_11;
    let bodiless =
        head || parts.status == StatusCode::NO_CONTENT || parts.status == StatusCode::NOT_MODIFIED;
    let body = if bodiless || body.is_end_stream() {
        reply.connection.give_back();
        if let Some(upload) = upload {
            upload.over();
        }
        Body::Empty
    } else {
        // A slow monolith is waited for; the rate is a rule for clients.
        let rules = Rules {
            min_rate: 0,
            ..rules
        };
        let mut connection = reply.connection;
        if upload.as_ref().is_some_and(|upload| upload.is_under_way()) {
            // It shall not depend on whether the client takes the answer.
            connection.detach();
        }
        Body::Monolith(Box::new(Download::new(
            body, rules, connection, upload, lasts,
        )))
    };
    Ok(Response::from_parts(parts, body))
}

/// HTTP/2 clients may send one header per cookie; HTTP/1.1 has one for all (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().count() < 2 {
        return;
    }
    let joined = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect::<Vec<_>>()
        .join(&b"; "[..]);
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, value);
    }
}

/// Gives a body back that was not forwarded: the client may still be sending it.
pub(super) fn discard(body: Incoming) {
    linger(body);
}

/// Time that hyper gets to pass on an error of the body.
const GRACE: Duration = Duration::from_secs(1);
