//! Who comes to the peer listener, and what becomes of a session when somebody fails on the way.

use std::net::SocketAddr;

use ddp_gateway::{
    base::sealing::Sealer,
    bus::{Link, Meters, Post},
    ddp::Framing,
    proxy::{
        handover::{NameHash, packet},
        registry::Standing,
    },
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    phone::Phone,
    site::{SECRET, Site, config},
    support::{eventually, soon, until},
};

/// Another gateway, as far as the test wants it to be one.
struct Other {
    post: Post,
    _link: Link,
}

impl Other {
    async fn on(site: &Site) -> Self {
        let config = config(&site.nats, &site.servers, SECRET);
        let bus = config.replicas.unwrap().bus;
        let link = Box::pin(Link::connect(&bus, &Meters::new("test"))).await;
        let (post, link) = (Post::default(), link.unwrap());
        post.plug(&link);
        Self { post, _link: link }
    }

    /// Address and ticket for this session.
    async fn asks(&self, name: &str) -> Option<(SocketAddr, [u8; 16])> {
        let question = packet::question("the test", NameHash::of(name));
        let wait = std::time::Duration::from_secs(1);
        let subject = "ddp-gateway.owner".to_owned();
        let answer = self.post.ask(subject, question, wait).await.ok()?;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let peer = answer["peer"].as_str().unwrap().parse().unwrap();
        let ticket = answer["ticket"].as_str().unwrap();
        let ticket = u128::from_str_radix(ticket, 16).unwrap().to_be_bytes();
        Some((peer, ticket))
    }
}

/// A connection to a peer listener, and what is sealed for it.
struct Visit {
    stream: TcpStream,
    sealer: Sealer,
    context: Vec<u8>,
}

impl Visit {
    async fn with(peer: SocketAddr, ticket: [u8; 16], secret: &str) -> Self {
        let mut stream = TcpStream::connect(peer).await.unwrap();
        let mut nonce = [0; 16];
        soon("a nonce", stream.read_exact(&mut nonce))
            .await
            .unwrap();
        let head = [&b"C"[..], &ticket].concat();
        stream.write_all(&head).await.unwrap();
        Self {
            stream,
            sealer: Sealer::new("ddp-gateway hand-over v1", secret.as_bytes()),
            context: [&nonce[..], &head].concat(),
        }
    }

    async fn claims(&mut self, name: &str, token: &str) {
        let mut claim = Vec::new();
        for text in [name, token] {
            claim.push(u8::try_from(text.len()).unwrap());
            claim.extend_from_slice(text.as_bytes());
        }
        claim.push(0);
        claim.push(7);
        claim.extend_from_slice(b"default");
        let context = [self.context.as_slice(), &[0]].concat();
        let sealed = self.sealer.close(&context, &claim);
        let length = u32::try_from(sealed.len()).unwrap();
        let _ = self.stream.write_all(&length.to_be_bytes()).await;
        let _ = self.stream.write_all(&sealed).await;
    }

    /// The next byte, if there is one.
    async fn hears(&mut self) -> Option<u8> {
        soon("a byte or the end", self.stream.read_u8()).await.ok()
    }

    async fn parcel(&mut self) -> Vec<u8> {
        let length = soon("a length", self.stream.read_u32()).await.unwrap();
        let mut sealed = vec![0; length as usize];
        soon("a parcel", self.stream.read_exact(&mut sealed))
            .await
            .unwrap();
        let context = [self.context.as_slice(), &[1]].concat();
        let parcel = self.sealer.open(&context, &sealed);
        parcel.unwrap().expose().clone()
    }
}

#[tokio::test]
async fn nobody_gets_anything_without_ticket_secret_and_token() {
    let site = Site::start().await;
    let other = Other::on(&site).await;
    let mut phone = Phone::in_room(site.line(0, Framing::Raw), true, "ann").await;
    let name = phone.session.clone().unwrap();
    assert_eq!(other.asks("nobody has it").await, None);
    let (peer, ticket) = other.asks(&name).await.unwrap();

    // Not with a ticket that was never given out, not with bytes of any kind.
    let mut visit = Visit::with(peer, [7; 16], SECRET).await;
    visit.claims(&name, "demo-ann").await;
    assert_eq!(visit.hears().await, None);
    for bytes in [&[0xff; 4_096][..], b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut stream = TcpStream::connect(peer).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let mut said = Vec::new();
        let _ = soon("the end", stream.read_to_end(&mut said)).await;
        assert!(said.len() <= 16, "{said:?}");
    }
    // Not without the secret of the gateways; and the ticket is used up by that.
    let mut visit = Visit::with(peer, ticket, "another secret").await;
    visit.claims(&name, "demo-ann").await;
    assert_eq!(visit.hears().await, None);
    let mut visit = Visit::with(peer, ticket, SECRET).await;
    visit.claims(&name, "demo-ann").await;
    assert_eq!(visit.hears().await, None);
    // Not without the token, nor by another session's ticket: the same answer.
    let (peer, ticket) = other.asks(&name).await.unwrap();
    let mut visit = Visit::with(peer, ticket, SECRET).await;
    visit.claims(&name, "demo-eve").await;
    assert_eq!((visit.hears().await, visit.hears().await), (Some(0), None));
    let (peer, ticket) = other.asks(&name).await.unwrap();
    let mut visit = Visit::with(peer, ticket, SECRET).await;
    visit.claims("nobody has it", "demo-ann").await;
    assert_eq!((visit.hears().await, visit.hears().await), (Some(0), None));

    site.publish(1);
    phone.until_event(1).await;
    assert_eq!(phone.numbers(), [1]);
}

#[tokio::test]
async fn who_fails_before_it_has_the_session_leaves_it_where_it_was() {
    let site = Site::start().await;
    site.teach(0).await;
    let other = Other::on(&site).await;
    let mut phone = Phone::in_room(site.line(0, Framing::Raw), true, "ann").await;
    let name = phone.session.clone().unwrap();
    phone.cut();
    site.standing(0, Standing::Detached, 1).await;
    // It has heard that it gets it, it has got it, it has said something else than it should.
    for stage in 0..3 {
        let ticket = eventually("a ticket", async || other.asks(&name).await).await;
        let mut visit = Visit::with(ticket.0, ticket.1, SECRET).await;
        visit.claims(&name, "demo-ann").await;
        assert_eq!(visit.hears().await, Some(1));
        if stage > 0 {
            assert!(visit.parcel().await.len() > 100);
        }
        if stage > 1 {
            visit.stream.write_all(&[9]).await.unwrap();
            assert_eq!(visit.hears().await, None);
        }
        drop(visit);
        site.standing(0, Standing::Detached, 1).await;
        site.publish(stage + 1);
    }
    phone.connect().await;
    phone.until_event(3).await;
    assert_eq!(phone.session.as_deref(), Some(name.as_str()));
    assert_eq!(phone.numbers(), [1, 2, 3]);
    site.legs(1).await;
}

#[tokio::test]
async fn who_fails_when_it_has_the_session_takes_it_along() {
    let site = Site::start().await;
    let other = Other::on(&site).await;
    let mut phone = Phone::in_room(site.line(0, Framing::Raw), true, "ann").await;
    let name = phone.session.clone().unwrap();
    phone.cut();
    site.standing(0, Standing::Detached, 1).await;
    let (peer, ticket) = other.asks(&name).await.unwrap();
    let mut visit = Visit::with(peer, ticket, SECRET).await;
    visit.claims(&name, "demo-ann").await;
    assert_eq!(visit.hears().await, Some(1));
    visit.parcel().await;
    visit.stream.write_all(&[2]).await.unwrap();
    assert_eq!(visit.hears().await, Some(3));
    // The leg is there still, and its bytes come here.
    site.publish(1);
    assert_eq!(
        visit.hears().await,
        Some(0x81),
        "a text frame of the streamer"
    );
    until("it is not here any more", async || {
        site.shared(0).registry.is_empty()
    })
    .await;
    assert_eq!(other.asks(&name).await, None);
    drop(visit);
    site.legs(0).await;
    // Nobody has it: the client begins anew, wherever it comes.
    phone.connect().await;
    phone.until_in().await;
    assert_ne!(phone.session.as_deref(), Some(name.as_str()));
}
