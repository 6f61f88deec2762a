//! A proxy made with Pingora that does what the other proxies of the comparison do: sockets to the
//! streamers in turn, everything else to the monolith, in plain text and over TLS.

use std::{
    env,
    error::Error,
    fs,
    net::SocketAddr,
    process::exit,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use pingora::{
    http::RequestHeader,
    listeners::tls::TlsSettings,
    protocols::ALPN,
    proxy::{ProxyHttp, Session, http_proxy_service},
    server::{Server, configuration::ServerConf},
    tls::ssl::SslVersion,
    upstreams::peer::HttpPeer,
};
use serde::Deserialize;

/// What the file has beside Pingora's own keys, which in turn knows nothing of these.
#[derive(Deserialize)]
struct File {
    http: String,
    https: String,
    certificate: String,
    key: String,
    /// In seconds.
    connect_timeout: u64,
    monolith: SocketAddr,
    streamers: Vec<SocketAddr>,
}

struct Routes {
    monolith: HttpPeer,
    streamers: Vec<HttpPeer>,
    next: AtomicUsize,
}

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["--version"] => println!(
            "Pingora {} in a program of ours (configs/pingora), {}",
            env!("CARGO_PKG_VERSION"),
            openssl::version::version(),
        ),
        ["--conf", file] => {
            env_logger::init();
            if let Err(error) = serve(file) {
                eprintln!("{file}: {error}");
                exit(1);
            }
        }
        _ => {
            eprintln!("usage: pingora --conf FILE | --version");
            exit(64);
        }
    }
}

fn serve(file: &str) -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string(file)?;
    let own: File = serde_yaml::from_str(&text)?;
    let mut server = Server::new_with_opt_and_conf(None, ServerConf::from_yaml(&text)?);
    server.bootstrap();
    let peer = |address: &SocketAddr| {
        let mut peer = HttpPeer::new(address, false, String::new());
        peer.options.connection_timeout = Some(Duration::from_secs(own.connect_timeout));
        peer
    };
    let routes = Routes {
        monolith: peer(&own.monolith),
        streamers: own.streamers.iter().map(peer).collect(),
        next: AtomicUsize::new(0),
    };
    let mut tls = TlsSettings::intermediate(&own.certificate, &own.key)?;
    tls.set_alpn(ALPN::H1);
    tls.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    tls.set_ciphersuites("TLS_AES_128_GCM_SHA256")?;
    tls.set_groups_list("X25519")?;
    let mut service = http_proxy_service(&server.configuration, routes);
    service.add_tcp(&own.http);
    service.add_tls_with_settings(&own.https, None, tls);
    server.add_service(service);
    server.run_forever()
}

#[async_trait]
impl ProxyHttp for Routes {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(
        &self,
        session: &mut Session,
        _: &mut (),
    ) -> pingora::Result<Box<HttpPeer>> {
        let path = session.req_header().uri.path();
        let is_socket = path == "/websocket" || path.starts_with("/sockjs/");
        if !is_socket || self.streamers.is_empty() {
            return Ok(Box::new(self.monolith.clone()));
        }
        // A client that says nothing for a minute would be cut off.
        session.set_read_timeout(None);
        let nth = self.next.fetch_add(1, Ordering::Relaxed) % self.streamers.len();
        Ok(Box::new(self.streamers[nth].clone()))
    }

    /// The next one in turn is tried, as the others do.
    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        _: &mut (),
        mut error: Box<pingora::Error>,
    ) -> Box<pingora::Error> {
        error.set_retry(true);
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _: &mut (),
    ) -> pingora::Result<()> {
        let client = session.client_addr().and_then(|address| address.as_inet());
        if let Some(client) = client {
            request.append_header("X-Forwarded-For", client.ip().to_string())?;
        }
        let is_tls = session
            .digest()
            .is_some_and(|digest| digest.ssl_digest.is_some());
        request.insert_header("X-Forwarded-Proto", if is_tls { "https" } else { "http" })?;
        Ok(())
    }
}
