//! The gateway that has a session ends without a word, or hangs, while another one takes the
//! session over.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use ddp_gateway::{control::app::App, ddp::Framing};
use futures_util::StreamExt as _;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    between::{Between, Point},
    phone::{Line, Phone},
    server::NatsServer,
    site::{self, SECRET},
    support::{
        deployment::Servers, eventually, http, metrics::Metrics, process::Gateway, settles,
        socket::Way, soon, until,
    },
};

/// A gateway in this process, another user at it, and what both gateways stand on.
struct Scene {
    gateway: App,
    neighbour: Phone,
    servers: Servers,
    nats: NatsServer,
    folder: TempDir,
    published: u64,
}

/// A gateway that is a process of its own, and has a session.
struct Owner {
    process: Gateway,
    between: Between,
    phone: Phone,
}

impl Scene {
    async fn start() -> Self {
        let nats = NatsServer::start();
        let servers = Servers::start(2).await;
        let config = site::config(&nats, &servers, SECRET);
        let gateway = Box::pin(site::gateway(config)).await;
        let here = line(gateway.addresses()[0].0);
        let neighbour = Phone::in_room(here, true, "neighbour").await;
        Self {
            gateway,
            neighbour,
            servers,
            nats,
            folder: tempfile::tempdir().unwrap(),
            published: 0,
        }
    }

    /// A client has a session there and comes here, where it is not finished: the hand-over
    /// is stopped at this point.
    async fn owner(&self, point: Point) -> Owner {
        let between = Between::start(point).await;
        let text = site::text(&self.nats, &self.servers, SECRET);
        let text = format!(
            "watch = false\n{text}address = \"{}\"\n[log]\nformat = \"text\"\n",
            between.address
        );
        let config = self.folder.path().join("owner.toml");
        fs::write(&config, text).unwrap();
        let mut process = Gateway::run(&config);
        let there = process.said("listening: http://").await;
        let peer = process.said("fetch sessions here address=").await;
        between.lead_to(peer);
        let phone = Phone::in_room(line(there), true, "ann").await;
        // It speaks to those who come only while it knows somebody.
        eventually("the owner to know others", async || {
            let mut stream = TcpStream::connect(peer).await.ok()?;
            stream.read_u128().await.ok()
        })
        .await;
        let handover = &self.gateway.control().shared().handover;
        until("the way to others", async || handover.is_open()).await;
        Owner {
            process,
            between,
            phone,
        }
    }

    fn comes_here(&self, phone: &mut Phone) {
        phone.cut();
        phone.line = line(self.gateway.addresses()[0].0);
    }

    async fn publish(&mut self) -> u64 {
        self.published += 1;
        let workspace = self.servers.streamers[0].workspace();
        let event = serde_json::json!({"n": self.published});
        workspace.publish("stream-room-messages", "GENERAL", &[event]);
        self.neighbour.until_event(self.published).await;
        self.published
    }

    /// The client is here as one that has never been there, and nothing is left of anything else.
    async fn is_level(&mut self, mut phone: Phone) {
        let number = self.publish().await;
        phone.until_event(number).await;
        self.counts(2).await;
        phone.send_frame(Message::Close(None)).await;
        self.counts(1).await;
        self.publish().await;
        let all: Vec<u64> = (1..=self.published).collect();
        assert_eq!(
            self.neighbour.numbers(),
            all,
            "another session was disturbed"
        );
    }

    /// Sessions here, by everything that counts them, and sockets at the streamers.
    async fn counts(&self, count: usize) {
        let shared = self.gateway.control().shared();
        let admin = self.gateway.admin().unwrap();
        settles("sessions", (count, 0, count as u64, 0.0), async || {
            let pools = http::get(admin, "/streamers").await.json();
            let rows = pools["pools"][0]["streamers"].as_array().unwrap().clone();
            let permits = rows.iter().map(|row| row["sessions"].as_u64().unwrap());
            let pipes = Metrics::read(admin).await.sum("handover_pipes", &[]);
            let borrowed = shared.handover.borrowed().len();
            (shared.registry.len(), borrowed, permits.sum(), pipes)
        })
        .await;
        settles("sockets at the streamers", count, async || {
            let streamers = self.servers.streamers.iter();
            let sockets = streamers.map(|streamer| streamer.counters().sockets);
            sockets.sum::<usize>()
        })
        .await;
    }
}

/// Hears nothing more until the gateway ends the connection; the code that it gives.
async fn until_end(phone: &mut Phone) -> Option<u16> {
    let mut socket = phone.vanish().unwrap();
    loop {
        match soon("the end of a connection", socket.next()).await {
            Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return None,
        }
    }
}

fn line(address: SocketAddr) -> Line {
    Line {
        address,
        way: Way::Plain,
        framing: Framing::Raw,
    }
}

/// Up to the owner's last byte its client begins anew, and does so at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_is_killed_before_it_gave_the_session_away() {
    let mut scene = Scene::start().await;
    for point in [Point::Come, Point::Given, Point::Taken] {
        let Owner {
            mut process,
            mut between,
            mut phone,
        } = scene.owner(point).await;
        let session = phone.session.clone();
        scene.comes_here(&mut phone);
        phone.connect().await;
        between.is_reached().await;
        process.signal(Signal::KILL);
        process.ended().await;
        between.go_on();
        phone.until_in().await;
        assert_ne!(phone.session, session, "{point:?}");
        scene.is_level(phone).await;
    }
}

/// Behind it the session is the taker's, whose leg ends with the owner: as when a streamer ends, the
/// client is told to come again, and begins anew then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_is_killed_when_it_has_given_the_session_away() {
    let mut scene = Scene::start().await;
    for point in [Point::Yours, Point::Way] {
        let Owner {
            mut process,
            mut between,
            mut phone,
        } = scene.owner(point).await;
        let session = phone.session.clone();
        scene.comes_here(&mut phone);
        phone.connect().await;
        between.is_reached().await;
        process.signal(Signal::KILL);
        process.ended().await;
        between.go_on();
        assert_eq!(until_end(&mut phone).await, Some(1012), "{point:?}");
        phone.connect().await;
        phone.until_in().await;
        assert_ne!(phone.session, session, "{point:?}");
        scene.is_level(phone).await;
    }
}

/// The client is here already when the owner ends, and either has a leg of its own by then, or is
/// told to come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_is_killed_while_it_is_the_way_to_the_streamer() {
    let mut scene = Scene::start().await;
    let Owner {
        mut process,
        between,
        mut phone,
    } = scene.owner(Point::Way).await;
    between.go_on();
    let session = phone.session.clone();
    scene.comes_here(&mut phone);
    phone.connect().await;
    phone.until_answered().await;
    assert_eq!(phone.session, session);
    let number = scene.publish().await;
    phone.until_event(number).await;
    process.signal(Signal::KILL);
    process.ended().await;
    let handover = &scene.gateway.control().shared().handover;
    let ended = tokio::select! {
        code = until_end(&mut phone) => Some(code),
        () = until("a leg of its own", async || handover.borrowed().is_empty()) => None,
    };
    assert!(matches!(ended, None | Some(Some(1012))), "{ended:?}");
    phone.cut();
    scene.counts(1).await;
}

/// A stopped process takes connections, and says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_hangs_is_not_waited_for() {
    let mut scene = Scene::start().await;
    for point in [
        None,
        Some(Point::Come),
        Some(Point::Given),
        Some(Point::Taken),
    ] {
        let Owner {
            mut process,
            mut between,
            mut phone,
        } = scene.owner(point.unwrap_or(Point::Way)).await;
        let session = phone.session.clone();
        scene.comes_here(&mut phone);
        let began;
        if point.is_some() {
            phone.connect().await;
            between.is_reached().await;
            process.signal(Signal::STOP);
            began = Instant::now();
            between.go_on();
        } else {
            process.signal(Signal::STOP);
            began = Instant::now();
            phone.connect().await;
        }
        phone.until_in().await;
        let took = began.elapsed();
        // Four seconds, and what a login takes on a busy machine.
        assert!(took < Duration::from_secs(8), "{point:?}: {took:?}");
        assert_ne!(phone.session, session, "{point:?}");
        // Its end brings everything back to level, and not before.
        process.signal(Signal::KILL);
        process.ended().await;
        scene.is_level(phone).await;
    }
}

/// Not even when it is the way to the streamer by then: the client is told to come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_hangs_as_the_way_to_the_streamer_is_given_up() {
    let mut scene = Scene::start().await;
    let Owner {
        mut process,
        mut between,
        mut phone,
    } = scene.owner(Point::Way).await;
    let session = phone.session.clone();
    scene.comes_here(&mut phone);
    phone.connect().await;
    between.is_reached().await;
    process.signal(Signal::STOP);
    let began = Instant::now();
    between.go_on();
    assert_eq!(until_end(&mut phone).await, Some(1012));
    let took = began.elapsed();
    // Six seconds.
    assert!(took < Duration::from_secs(12), "{took:?}");
    phone.connect().await;
    phone.until_in().await;
    assert_ne!(phone.session, session);
    process.signal(Signal::KILL);
    process.ended().await;
    scene.is_level(phone).await;
}
