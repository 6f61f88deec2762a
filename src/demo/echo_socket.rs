//! A WebSocket of the monolith's own that sends back what it gets.

use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error, handshake::derive_accept_key, protocol::Role},
};
use tokio_util::sync::CancellationToken;

use super::{body::Body, socket::websocket_config};

/// Accepts the upgrade and echoes text and binary messages until the peer closes or `stop` is
/// cancelled.
pub(super) fn upgrade(mut request: Request<Incoming>, stop: CancellationToken) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
    let accept = key.map(|key| derive_accept_key(key.as_bytes()));
    let Some(accept) = accept.and_then(|accept| HeaderValue::try_from(accept).ok()) else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = echo(upgraded) => {}
        }
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    // The first subprotocol on offer, to see that these headers travel.
    let offered = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
    let first = offered
        .and_then(|value| value.to_str().ok()?.split(',').next())
        .and_then(|first| HeaderValue::from_str(first.trim()).ok());
    if let Some(first) = first {
        response
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_PROTOCOL, first);
    }
    response
}

async fn echo(upgraded: hyper::upgrade::OnUpgrade) -> Result<(), Error> {
    let Ok(upgraded) = upgraded.await else {
        return Ok(());
    };
    let io = TokioIo::new(upgraded);
    let mut socket =
        WebSocketStream::from_raw_socket(io, Role::Server, Some(websocket_config())).await;
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}
