//! The simulated monolith's answers.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::body::Body;

/// What arrived: method, target, headers in their order, size and hash of the body.
pub(super) async fn echo(request: Request<Incoming>) -> Response<Body> {
    let headers: Vec<Value> = request
        .headers()
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let mut answer = json!({
        "method": request.method().as_str(),
        "target": request.uri().to_string(),
        "version": format!("{:?}", request.version()),
        "headers": headers,
    });
    match digest(request.into_body()).await {
        Ok(body) => answer["body"] = body,
        Err(error) => answer["error"] = json!(error.to_string()),
    }
    json_body(&answer)
}

pub(super) async fn upload(request: Request<Incoming>) -> Response<Body> {
    match digest(request.into_body()).await {
        Ok(body) => json_body(&body),
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

/// Reads a body to its end: bytes, BLAKE3 hash, trailers. Keeps nothing of it.
async fn digest(mut body: Incoming) -> Result<Value, hyper::Error> {
    let mut hash = blake3::Hasher::new();
    let mut bytes = 0u64;
    let mut trailers = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => {
                hash.update(&data);
                bytes += data.len() as u64;
            }
            Err(frame) => {
                let fields = frame.into_trailers().unwrap_or_default();
                trailers.extend(fields.iter().map(|(name, value)| {
                    json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())])
                }));
            }
        }
    }
    let hash = hash.finalize().to_hex();
    Ok(json!({ "bytes": bytes, "blake3": hash.as_str(), "trailers": trailers }))
}

pub(super) fn trailers() -> Response<Body> {
    let mut fields = HeaderMap::new();
    fields.insert("grpc-status", HeaderValue::from_static("0"));
    fields.insert("x-checksum", HeaderValue::from_static("abc"));
    let mut response = Response::new(Body::with_trailers("with trailers\n", fields));
    let names = HeaderValue::from_static("grpc-status, x-checksum");
    response.headers_mut().insert(header::TRAILER, names);
    response
}

pub(super) fn large_head(bytes: u64) -> Response<Body> {
    let mut response = text(StatusCode::OK, "a large head\n");
    let value = HeaderValue::from_static(
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef012345678",
    );
    for n in 0..bytes / 100 {
        if let Ok(name) = HeaderName::try_from(format!("x-f{n:05}")) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

pub(super) fn query<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

pub(super) fn binary(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

pub(super) fn json_body(value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::full(value.to_string()));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn text(status: StatusCode, body: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

pub(super) fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "There is nothing here.\n")
}
