//! The admin listener of the gateway, as a client of it.

use std::{net::SocketAddr, time::Duration};

use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

/// What the gateway counts of itself at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Gauges {
    pub(crate) heap_bytes: f64,
    pub(crate) resident_bytes: f64,
    pub(crate) descriptors: f64,
    /// Of all phases.
    pub(crate) sessions: f64,
}

impl Gauges {
    /// # Errors
    /// What is wrong with the listener, or which of the figures it does not have.
    pub(crate) async fn read(admin: SocketAddr) -> Result<Self, String> {
        let page = fetch(admin, Method::GET, "/metrics").await?;
        let page = String::from_utf8_lossy(&page);
        Self::of(&page).ok_or_else(|| wrong(admin, "its metrics do not say what memory it uses"))
    }

    /// The smaller one of each figure.
    pub(crate) fn least(self, other: Self) -> Self {
        Self {
            heap_bytes: self.heap_bytes.min(other.heap_bytes),
            resident_bytes: self.resident_bytes.min(other.resident_bytes),
            descriptors: self.descriptors.min(other.descriptors),
            sessions: self.sessions.min(other.sessions),
        }
    }

    fn of(page: &str) -> Option<Self> {
        Some(Self {
            heap_bytes: sum(page, "ddp_gateway_heap_bytes")?,
            resident_bytes: sum(page, "ddp_gateway_resident_bytes")?,
            descriptors: sum(page, "ddp_gateway_open_descriptors")?,
            sessions: sum(page, "ddp_gateway_sessions").unwrap_or(0.0),
        })
    }
}

/// Of all lines of a metric; `None` where there is none.
fn sum(page: &str, name: &str) -> Option<f64> {
    let lines = page.lines().filter_map(|line| line.strip_prefix(name));
    let lines = lines.filter(|rest| rest.starts_with([' ', '{']));
    let values = lines.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok());
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

fn wrong(admin: SocketAddr, what: &str) -> String {
    format!("the admin listener {admin}: {what}")
}

/// The answer to a request as JSON.
///
/// # Errors
/// What is wrong with the listener, or what it said.
pub(crate) async fn ask(admin: SocketAddr, method: Method, path: &str) -> Result<Value, String> {
    let page = fetch(admin, method, path).await?;
    serde_json::from_slice(&page).map_err(|error| wrong(admin, &error.to_string()))
}

async fn fetch(admin: SocketAddr, method: Method, path: &str) -> Result<Bytes, String> {
    let wrong = |what: String| wrong(admin, &what);
    let exchange = async {
        let stream = TcpStream::connect(admin)
            .await
            .map_err(|error| wrong(error.to_string()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| wrong(error.to_string()))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, admin.to_string())
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| wrong(error.to_string()))?;
        let asked = async {
            let response = sender.send_request(request).await;
            let response = response.map_err(|error| wrong(error.to_string()))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), PAGE_BYTES)
                .collect()
                .await;
            let body = body.map_err(|error| wrong(error.to_string()))?.to_bytes();
            match status.is_success() {
                true => Ok(body),
                false => {
                    let said = String::from_utf8_lossy(&body);
                    Err(wrong(format!("{status}: {}", said.trim())))
                }
            }
        };
        tokio::pin!(asked);
        tokio::select! {
            answer = &mut asked => answer,
            // It may end right behind the answer.
            _ = connection => asked.await,
        }
    };
    match timeout(ANSWER_LIMIT, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(wrong("no answer in 10 s".to_owned())),
    }
}

const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const PAGE_BYTES: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::Gauges;

    #[test]
    fn only_whole_names_count() {
        let page = "# HELP ddp_gateway_sessions x\nddp_gateway_sessions{phase=\"a b\"} 3\n\
                    ddp_gateway_sessions{phase=\"logged_in\"} 4\nddp_gateway_sessions_total 9\n\
                    ddp_gateway_heap_bytes 5e6\nddp_gateway_resident_bytes 7\n";
        assert_eq!(Gauges::of(page), None);
        let page = format!("{page}ddp_gateway_open_descriptors 12\n");
        let expected = Gauges {
            heap_bytes: 5e6,
            resident_bytes: 7.0,
            descriptors: 12.0,
            sessions: 7.0,
        };
        assert_eq!(Gauges::of(&page), Some(expected));
    }
}
