//! An API server of Kubernetes with the EndpointSlices of a few Services, over TLS, in the format of
//! the real one; a test changes what is there, and how it answers.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use super::certificate::Pair;

pub const NAMESPACE: &str = "chat";
pub const SERVICE: &str = "rocketchat-ddp-streamer";

/// Serves until dropped.
pub struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    folder: TempDir,
    certificate: Pair,
    task: JoinHandle<()>,
}

struct Shared {
    state: Mutex<State>,
    /// Tells watchers that there is something new.
    changed: watch::Sender<()>,
}

struct State {
    version: u64,
    /// By name.
    slices: BTreeMap<String, Value>,
    /// Each with its version, kind and object.
    events: VecDeque<(u64, &'static str, Value)>,
    /// Versions before this one are too old to be watched.
    oldest: u64,
    token: String,
    mood: Mood,
    /// Slices in a page, whatever the client wants.
    page: usize,
    requests: Vec<Asked>,
    /// Watches that were cut, or are to be.
    cuts: u64,
    watchers: usize,
}

/// A request, as the server understood it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub watch: bool,
    pub version: Option<String>,
    pub next: Option<String>,
    pub bookmarks: bool,
    pub seconds: Option<u64>,
    pub token: Option<String>,
    pub path: String,
    pub selector: String,
}

/// How the server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mood {
    Normal,
    /// Takes requests and never answers.
    Silent,
    /// Begins to answer watches and then sends nothing any more.
    Frozen,
    /// Refuses with this status, text and header.
    Refusing(u16, &'static str, &'static str),
    /// A body that is no list and no event.
    Garbage,
    /// A line that never ends.
    Endless,
    /// Says 410 by status, not by an event.
    GoneByStatus,
    /// Ends every watch as soon as it began.
    Hasty,
}

/// A pod behind the Service.
#[derive(Clone, Debug)]
pub struct Pod {
    pub name: String,
    pub address: SocketAddr,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

impl Pod {
    pub fn ready(name: &str, address: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            address,
            ready: true,
            serving: true,
            terminating: false,
        }
    }

    /// It is about to end, and serves yet.
    pub fn ending(name: &str, address: SocketAddr) -> Self {
        Self {
            ready: false,
            terminating: true,
            ..Self::ready(name, address)
        }
    }
}

impl ApiServer {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificate = Pair::write(folder.path(), "api", &["127.0.0.1"]);
        let token = "eyJhbGciOi.first".to_owned();
        fs::write(folder.path().join("token"), format!("{token}\n")).unwrap();
        fs::write(folder.path().join("namespace"), NAMESPACE).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                version: 1000,
                slices: BTreeMap::new(),
                events: VecDeque::new(),
                oldest: 0,
                token,
                mood: Mood::Normal,
                page: usize::MAX,
                requests: Vec::new(),
                cuts: 0,
                watchers: 0,
            }),
            changed: watch::channel(()).0,
        });
        let acceptor = acceptor(&certificate);
        Self {
            address: listener.local_addr().unwrap(),
            task: tokio::spawn(serve(listener, acceptor, shared.clone())),
            shared,
            folder,
            certificate,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn ca_file(&self) -> PathBuf {
        self.certificate.cert.clone()
    }

    pub fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    /// The table for `proxy.toml`, with further keys.
    pub fn toml(&self, keys: &str) -> String {
        format!(
            "[discovery.kubernetes]\nservice = \"{SERVICE}\"\nserver = \"https://{}\"\n\
             token_file = {:?}\nca_file = {:?}\n{keys}\n",
            self.address,
            self.token_file(),
            self.ca_file(),
        )
    }

    /// Adds or changes a slice; all its pods have the port of the first one.
    pub fn put(&self, slice: &str, pods: &[Pod]) {
        self.put_for(SERVICE, slice, pods);
    }

    /// As [`Self::put`], for another Service.
    pub fn put_for(&self, service: &str, slice: &str, pods: &[Pod]) {
        let mut state = self.shared.lock();
        state.version += 1;
        let object = object(service, slice, pods, state.version);
        let before = state.slices.insert(slice.to_owned(), object.clone());
        let kind = if before.is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        state.note(kind, object);
        drop(state);
        self.shared.changed.send_replace(());
    }

    pub fn remove(&self, slice: &str) {
        let mut state = self.shared.lock();
        state.version += 1;
        let mut object = state.slices.remove(slice).unwrap();
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.note("DELETED", object);
        drop(state);
        self.shared.changed.send_replace(());
    }

    /// Tells watchers the version, as after changes of other Services.
    pub fn bookmark(&self) -> String {
        let mut state = self.shared.lock();
        state.version += 10;
        let version = state.version.to_string();
        let object = json!({
            "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": { "resourceVersion": version, "creationTimestamp": null },
            "addressType": "", "endpoints": null, "ports": null,
        });
        state.note("BOOKMARK", object);
        drop(state);
        self.shared.changed.send_replace(());
        version
    }

    /// Forgets the events so far, as etcd does after five minutes.
    pub fn compact(&self) {
        let mut state = self.shared.lock();
        state.version += 1;
        state.oldest = state.version;
        state.events.clear();
    }

    /// Cuts all watches.
    pub fn cut(&self) {
        self.shared.lock().cuts += 1;
        self.shared.changed.send_replace(());
    }

    pub fn set_mood(&self, mood: Mood) {
        self.shared.lock().mood = mood;
        self.shared.changed.send_replace(());
    }

    pub fn set_page(&self, slices: usize) {
        self.shared.lock().page = slices;
    }

    /// Another token is valid from now on; the file has it when `written`.
    pub fn set_token(&self, token: &str, written: bool) {
        self.shared.lock().token = token.to_owned();
        if written {
            self.write_token(token);
        }
    }

    pub fn write_token(&self, token: &str) {
        fs::write(self.token_file(), token).unwrap();
    }

    pub fn requests(&self) -> Vec<Asked> {
        self.shared.lock().requests.clone()
    }

    pub fn lists(&self) -> usize {
        self.requests().iter().filter(|asked| !asked.watch).count()
    }

    /// Watches that are open.
    pub fn watchers(&self) -> usize {
        self.shared.lock().watchers
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn note(&mut self, kind: &'static str, object: Value) {
        self.events.push_back((self.version, kind, object));
    }
}

fn object(service: &str, name: &str, pods: &[Pod], version: u64) -> Value {
    let endpoints: Vec<_> = pods
        .iter()
        .map(|pod| {
            json!({
                "addresses": [pod.address.ip().to_string()],
                "conditions": {
                    "ready": pod.ready, "serving": pod.serving, "terminating": pod.terminating,
                },
                "nodeName": "worker-1", "zone": "zone-a",
                "targetRef": {
                    "kind": "Pod", "namespace": NAMESPACE, "name": pod.name,
                    "uid": format!("uid-{}", pod.name),
                },
            })
        })
        .collect();
    let port = pods.first().map_or(3000, |pod| pod.address.port());
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": name, "generateName": format!("{service}-"), "namespace": NAMESPACE,
            "uid": format!("uid-{name}"), "resourceVersion": version.to_string(), "generation": 3,
            "creationTimestamp": "2026-11-20T10:00:00Z",
            "labels": {
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
            "managedFields": [{ "manager": "kube-controller-manager", "operation": "Update" }],
        },
        "addressType": match pods.first().map(|pod| pod.address.ip()) {
            Some(IpAddr::V6(_)) => "IPv6",
            _ => "IPv4",
        },
        "endpoints": match endpoints.is_empty() { true => Value::Null, false => json!(endpoints) },
        "ports": [
            { "name": "metrics", "port": 9458, "protocol": "TCP" },
            { "name": "http", "port": port, "protocol": "TCP" },
        ],
    })
}

fn acceptor(certificate: &Pair) -> TlsAcceptor {
    let key = PrivateKeyDer::from_pem_file(&certificate.key).unwrap();
    let chain = vec![CertificateDer::from(certificate.der.clone())];
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, shared) = (acceptor.clone(), shared.clone());
        connections.spawn(async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                // A client that goes away is no fault.
                let _ = answer(stream, &shared).await;
            }
        });
    }
}

/// One request on each connection.
async fn answer<S>(mut stream: S, shared: &Shared) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let asked = parse(&String::from_utf8(head).unwrap());
    let (mood, valid) = {
        let mut state = shared.lock();
        state.requests.push(asked.clone());
        (state.mood.clone(), state.token.clone())
    };
    if asked.token.as_ref() != Some(&valid) && mood == Mood::Normal {
        return refuse(&mut stream, 401, "Unauthorized", "").await;
    }
    match mood {
        Mood::Silent => silence(&mut stream).await,
        Mood::Refusing(status, message, header) => {
            refuse(&mut stream, status, message, header).await
        }
        Mood::Garbage => whole(&mut stream, 200, "", b"<html>sign in</html>\n").await,
        Mood::Endless => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                .await?;
            loop {
                chunk(&mut stream, &[b'x'; 16 * 1024]).await?;
            }
        }
        _ if asked.path
            != format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices") =>
        {
            refuse(
                &mut stream,
                404,
                "the server could not find the requested resource",
                "",
            )
            .await
        }
        Mood::Normal | Mood::Frozen | Mood::GoneByStatus | Mood::Hasty if asked.watch => {
            watch(&mut stream, shared, &asked, &mood).await
        }
        Mood::Normal | Mood::Frozen | Mood::GoneByStatus | Mood::Hasty => {
            list(&mut stream, shared, &asked).await
        }
    }
}

async fn list<S>(stream: &mut S, shared: &Shared, asked: &Asked) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let body = {
        let state = shared.lock();
        // As opaque as the real one, and with characters that do not stand in a query.
        let skip: usize = asked.next.as_ref().map_or(0, |next| {
            let at = next.strip_prefix("eyJ2/+").unwrap().strip_suffix("==");
            at.unwrap().parse().unwrap()
        });
        let of_it: Vec<_> = state
            .slices
            .values()
            .filter(|slice| selected(slice, asked))
            .collect();
        let page: Vec<_> = of_it.iter().skip(skip).take(state.page).collect();
        let mut metadata = json!({ "resourceVersion": state.version.to_string() });
        let left = of_it.len() - skip - page.len();
        if left > 0 {
            metadata["continue"] = json!(format!("eyJ2/+{}==", skip + page.len()));
            metadata["remainingItemCount"] = json!(left);
        }
        json!({
            "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1",
            "metadata": metadata, "items": page,
        })
    };
    whole(stream, 200, "", format!("{body}\n").as_bytes()).await
}

async fn watch<S>(
    stream: &mut S,
    shared: &Shared,
    asked: &Asked,
    mood: &Mood,
) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut reached: u64 = asked.version.as_ref().unwrap().parse().unwrap();
    let (oldest, cuts) = {
        let state = shared.lock();
        (state.oldest, state.cuts)
    };
    let expired = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("too old resource version: {reached} ({oldest})"),
        "reason": "Expired", "code": 410,
    });
    if reached < oldest && *mood == Mood::GoneByStatus {
        return whole(stream, 410, "", expired.to_string().as_bytes()).await;
    }
    stream
        .write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
              transfer-encoding: chunked\r\n\r\n",
        )
        .await?;
    stream.flush().await?;
    if reached < oldest {
        event(stream, "ERROR", &expired).await?;
        return stream.write_all(b"0\r\n\r\n").await;
    }
    if *mood == Mood::Hasty {
        return stream.write_all(b"0\r\n\r\n").await;
    }
    let _watcher = Watcher::new(shared);
    let mut changed = shared.changed.subscribe();
    let ends = Instant::now() + Duration::from_secs(asked.seconds.unwrap());
    loop {
        let news: Option<Vec<_>> = {
            let state = shared.lock();
            let events = state.events.iter();
            let events = events.filter(|(version, ..)| *version > reached);
            let events =
                events.filter(|(_, kind, object)| *kind == "BOOKMARK" || selected(object, asked));
            (state.cuts == cuts).then(|| events.cloned().collect())
        };
        let Some(news) = news else {
            // In the middle of an event.
            return stream.write_all(b"400\r\n{\"type\":\"MODIF").await;
        };
        if *mood == Mood::Frozen {
            return silence(stream).await;
        }
        for (version, kind, object) in news {
            if kind != "BOOKMARK" || asked.bookmarks {
                event(stream, kind, &object).await?;
            }
            reached = version;
        }
        match timeout_at(ends, changed.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return stream.write_all(b"0\r\n\r\n").await,
        }
    }
}

/// A watch that is open.
struct Watcher<'a>(&'a Shared);

impl<'a> Watcher<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.lock().watchers += 1;
        Self(shared)
    }
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        self.0.lock().watchers -= 1;
    }
}

/// In pieces, as they come when the line is long.
async fn event<S>(stream: &mut S, kind: &str, object: &Value) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let line = format!("{}\n", json!({ "type": kind, "object": object }));
    for piece in line.as_bytes().chunks(100) {
        chunk(stream, piece).await?;
    }
    stream.flush().await
}

async fn chunk<S>(stream: &mut S, data: &[u8]) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream
        .write_all(format!("{:x}\r\n", data.len()).as_bytes())
        .await?;
    stream.write_all(data).await?;
    stream.write_all(b"\r\n").await
}

async fn refuse<S>(stream: &mut S, status: u16, message: &str, header: &str) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "code": status,
    });
    whole(stream, status, header, body.to_string().as_bytes()).await
}

async fn whole<S>(stream: &mut S, status: u16, header: &str, body: &[u8]) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{header}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.flush().await
}

/// Until the client goes away.
async fn silence<S>(stream: &mut S) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.flush().await?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await?;
    Ok(())
}

fn selected(object: &Value, asked: &Asked) -> bool {
    let Some((label, value)) = asked.selector.split_once('=') else {
        return true;
    };
    object["metadata"]["labels"][label] == value
}

fn parse(head: &str) -> Asked {
    let mut lines = head.lines();
    let target = lines.next().unwrap().split(' ').nth(1).unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut asked = Asked {
        path: path.to_owned(),
        ..Asked::default()
    };
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap();
        let value = unescape(value);
        match name {
            "watch" => asked.watch = value == "true",
            "allowWatchBookmarks" => asked.bookmarks = value == "true",
            "resourceVersion" => asked.version = Some(value),
            "continue" => asked.next = Some(value),
            "timeoutSeconds" => asked.seconds = Some(value.parse().unwrap()),
            "labelSelector" => asked.selector = value,
            "limit" => assert!(value.parse::<usize>().unwrap() > 0),
            _ => panic!("unknown parameter {name}"),
        }
    }
    for line in lines {
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("authorization")
        {
            asked.token = value.strip_prefix("Bearer ").map(str::to_owned);
        }
    }
    asked
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        bytes.push(u8::from_str_radix(&rest[at + 1..at + 3], 16).unwrap());
        rest = &rest[at + 3..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).unwrap()
}
