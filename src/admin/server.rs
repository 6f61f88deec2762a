//! Accepting admin connections. Few, short, and never in the way of clients.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::routes;
use crate::{control::app::Control, net::listen::Bound};

/// Serves admin requests until `stop`; an [`crate::control::app::AdminServer`].
pub fn serve(
    control: Control,
    bound: Bound,
    stop: CancellationToken,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(accept(control, bound, stop))
}

async fn accept(control: Control, bound: Bound, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = bound.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "cannot accept admin connections");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            debug!("admin connection refused: {CONNECTIONS} are open");
            continue;
        };
        let control = control.clone();
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(move |request| routes::answer(control.clone(), request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), service);
            // How an admin connection ends is nobody's concern.
            let _ = timeout(LONGEST, connection).await;
        });
    }
}

const CONNECTIONS: usize = 64;
const PAUSE: Duration = Duration::from_millis(200);
const HEAD: Duration = Duration::from_secs(10);
const HEAD_BYTES: usize = 16 * 1024;

/// Long enough for a reload; scrapers come again.
const LONGEST: Duration = Duration::from_secs(300);
