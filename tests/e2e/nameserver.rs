//! A DNS server on the loopback interface, whose zone a test changes while it runs.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, SRV},
    },
};
use tokio::{net::UdpSocket, task::JoinHandle};

/// Answers queries over UDP until dropped.
pub(crate) struct NameServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    zone: Mutex<Zone>,
    mood: Mutex<Mood>,
    queries: AtomicU32,
}

/// Records by name; all have the same TTL.
#[derive(Clone, Default)]
pub(crate) struct Zone {
    records: Vec<(String, RData)>,
    /// Names for which the server fails.
    broken: Vec<String>,
    ttl_seconds: u32,
}

/// How the server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Normal,
    /// Says that the names exist and have no records.
    Empty,
    NoSuchName,
    Failing,
    Silent,
    /// Sends bytes that are no DNS message.
    Garbage,
}

impl Zone {
    pub(crate) fn with_ttl(ttl_seconds: u32) -> Self {
        Self {
            records: Vec::new(),
            broken: Vec::new(),
            ttl_seconds,
        }
    }

    pub(crate) fn address(mut self, name: &str, address: IpAddr) -> Self {
        let data = match address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        self.records.push((name.to_owned(), data));
        self
    }

    pub(crate) fn service(mut self, name: &str, target: &str, port: u16) -> Self {
        let target = Name::from_ascii(target).expect("a valid name");
        let data = RData::SRV(SRV::new(0, 0, port, target));
        self.records.push((name.to_owned(), data));
        self
    }

    pub(crate) fn broken(mut self, name: &str) -> Self {
        self.broken.push(name.to_owned());
        self
    }
}

impl NameServer {
    pub(crate) async fn start(zone: Zone) -> io::Result<Self> {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), zone).await
    }

    /// Listens where an earlier one did.
    pub(crate) async fn start_at(address: SocketAddr, zone: Zone) -> io::Result<Self> {
        let socket = UdpSocket::bind(address).await?;
        let shared = Arc::new(Shared {
            zone: Mutex::new(zone),
            mood: Mutex::new(Mood::Normal),
            queries: AtomicU32::new(0),
        });
        Ok(Self {
            address: socket.local_addr()?,
            shared: shared.clone(),
            task: tokio::spawn(serve(socket, shared)),
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn set_zone(&self, zone: Zone) {
        *self.shared.zone.lock().expect("no test panics under it") = zone;
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        *self.shared.mood.lock().expect("no test panics under it") = mood;
    }

    /// Queries received so far.
    pub(crate) fn queries(&self) -> u32 {
        self.shared.queries.load(Ordering::SeqCst)
    }

    /// Closes the port and waits until it is free.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(socket: UdpSocket, shared: Arc<Shared>) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let Ok(query) = Message::from_vec(&buffer[..length]) else {
            continue;
        };
        shared.queries.fetch_add(1, Ordering::SeqCst);
        if let Some(answer) = shared.answer(&query) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

impl Shared {
    fn answer(&self, query: &Message) -> Option<Vec<u8>> {
        let mood = *self.mood.lock().expect("no test panics under it");
        let zone = self.zone.lock().expect("no test panics under it").clone();
        let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
        answer.add_queries(query.queries.iter().cloned());
        answer.metadata.response_code = match mood {
            Mood::Normal | Mood::Empty => ResponseCode::NoError,
            Mood::NoSuchName => ResponseCode::NXDomain,
            Mood::Failing => ResponseCode::ServFail,
            Mood::Silent => return None,
            Mood::Garbage => return Some(b"this is no DNS message".to_vec()),
        };
        if mood == Mood::Normal {
            let asked = query.queries.first()?;
            let is = |name: &str| {
                let name = Name::from_ascii(name).expect("a valid name");
                name.eq_ignore_root(asked.name())
            };
            if zone.broken.iter().any(|name| is(name)) {
                answer.metadata.response_code = ResponseCode::ServFail;
                return answer.to_vec().ok();
            }
            let mut known = false;
            for (name, data) in &zone.records {
                if !is(name) {
                    continue;
                }
                known = true;
                if data.record_type() == asked.query_type() || asked.query_type() == RecordType::ANY
                {
                    let name = asked.name().clone();
                    answer.add_answer(Record::from_rdata(name, zone.ttl_seconds, data.clone()));
                }
            }
            if !known {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
        }
        answer.to_vec().ok()
    }
}
