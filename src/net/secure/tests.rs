//! Against the client of tokio-rustls, over loopback.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, ServerName},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::Secure;

const LIMIT: Duration = Duration::from_secs(30);

struct Ends {
    server: Secure,
    client: TlsStream<TcpStream>,
}

struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

fn configs(version: &'static SupportedProtocolVersion) -> Configs {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Configs {
        server: Arc::new(server),
        client: Arc::new(client),
    }
}

/// A socket that is connected, and what will be the other end of it.
async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn connect(configs: &Configs, address: SocketAddr) -> TlsStream<TcpStream> {
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(configs.client.clone());
    connector.connect(name, socket).await.unwrap()
}

async fn ends(version: &'static SupportedProtocolVersion) -> Ends {
    let configs = configs(version);
    let (listener, address) = listen().await;
    let accept = async {
        let (socket, _) = listener.accept().await.unwrap();
        Secure::accept(socket, configs.server.clone())
            .await
            .unwrap()
    };
    let (server, client) = tokio::join!(accept, connect(&configs, address));
    assert_eq!(server.alpn_protocol(), Some(&b"http/1.1"[..]));
    Ends { server, client }
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count)
        .map(|n| u8::try_from(n * 31 % 251).unwrap())
        .collect()
}

/// What is sent comes back, in pieces of other sizes.
async fn echo(mut server: Secure, room: usize) -> io::Result<Secure> {
    let mut buffer = vec![0; room];
    loop {
        let count = server.read(&mut buffer).await?;
        if count == 0 {
            server.shutdown().await?;
            return Ok(server);
        }
        server.write_all(&buffer[..count]).await?;
        server.flush().await?;
    }
}

#[tokio::test]
async fn all_bytes_come_through_in_both_directions() {
    for version in [&TLS12, &TLS13] {
        for room in [1, 700, 16_384, 100_000] {
            let Ends { server, client } = ends(version).await;
            let echo = tokio::spawn(echo(server, room));
            let (mut from, mut to) = tokio::io::split(client);
            let sent = bytes(if room == 1 { 5_000 } else { 300_000 });
            let all = sent.clone();
            let sending = tokio::spawn(async move {
                let mut rest = &all[..];
                for size in (1..).map(|n| n * 977 % 40_000 + 1) {
                    let (piece, later) = rest.split_at(rest.len().min(size));
                    to.write_all(piece).await.unwrap();
                    to.flush().await.unwrap();
                    rest = later;
                    if rest.is_empty() {
                        break;
                    }
                }
                to.shutdown().await.unwrap();
            });
            let mut heard = Vec::new();
            let hearing = from.read_to_end(&mut heard);
            timeout(LIMIT, hearing).await.unwrap().unwrap();
            assert!(heard == sent, "{version:?} {room}");
            sending.await.unwrap();
            echo.await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn nothing_is_kept_while_nothing_happens() {
    let Ends {
        mut server,
        mut client,
    } = ends(&TLS13).await;
    client.write_all(&bytes(50_000)).await.unwrap();
    client.flush().await.unwrap();
    let mut room = vec![0; 50_000];
    server.read_exact(&mut room).await.unwrap();
    server.write_all(&room).await.unwrap();
    server.flush().await.unwrap();
    client.read_exact(&mut room).await.unwrap();
    assert_eq!(room, bytes(50_000));
    assert_eq!(server.incoming.capacity(), 0);
    assert_eq!(server.plain.bytes.capacity(), 0);
    assert_eq!(server.outgoing.bytes.capacity(), 0);
}

/// A byte at a time, so that every record and message of the handshake comes in parts.
#[tokio::test]
async fn records_may_come_in_any_parts() {
    for version in [&TLS12, &TLS13] {
        let configs = configs(version);
        let (listener, address) = listen().await;
        let (slow, slow_address) = listen().await;
        tokio::spawn(async move {
            let (client, _) = slow.accept().await.unwrap();
            let server = TcpStream::connect(address).await.unwrap();
            server.set_nodelay(true).unwrap();
            let (mut from, mut to) = client.into_split();
            let (mut back, mut away) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut back, &mut to).await });
            let mut byte = [0];
            while let Ok(1) = from.read(&mut byte).await {
                away.write_all(&byte).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let accept = async {
            let (socket, _) = listener.accept().await.unwrap();
            let server = Secure::accept(socket, configs.server.clone())
                .await
                .unwrap();
            tokio::spawn(echo(server, 1000));
        };
        let ((), mut client) = tokio::join!(accept, connect(&configs, slow_address));
        for size in [1, 500, 3000] {
            client.write_all(&bytes(size)).await.unwrap();
            client.flush().await.unwrap();
            let mut heard = vec![0; size];
            let hearing = client.read_exact(&mut heard);
            timeout(LIMIT, hearing).await.unwrap().unwrap();
            assert_eq!(heard, bytes(size));
        }
    }
}

#[tokio::test]
async fn who_has_said_goodbye_can_still_be_answered() {
    let Ends {
        mut server,
        mut client,
    } = ends(&TLS13).await;
    client.write_all(b"last words").await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = Vec::new();
    server.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"last words");
    server.write_all(b"an answer").await.unwrap();
    server.shutdown().await.unwrap();
    assert!(server.write_all(b"more").await.is_err());
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"an answer");
}

#[tokio::test]
async fn an_end_without_a_goodbye_is_an_error() {
    let Ends { mut server, client } = ends(&TLS13).await;
    let (mut socket, _) = client.into_inner();
    socket.shutdown().await.unwrap();
    let error = server.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(server.read(&mut [0; 10]).await.is_err());
}

#[tokio::test]
async fn who_does_not_speak_tls_is_told_so() {
    let configs = configs(&TLS13);
    let (listener, address) = listen().await;
    let accept = async {
        let (socket, _) = listener.accept().await.unwrap();
        Secure::accept(socket, configs.server.clone()).await
    };
    let client = async {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut heard = Vec::new();
        let _ = socket.read_to_end(&mut heard).await;
        heard
    };
    let (accepted, heard) = tokio::join!(accept, client);
    let error = accepted.unwrap_err();
    let inner = error.get_ref().unwrap();
    assert!(inner.is::<rustls::Error>(), "{error}");
    // An alert (21).
    assert_eq!(heard.first(), Some(&21), "{heard:?}");
}

#[tokio::test]
async fn a_forged_record_ends_the_connection_with_an_alert() {
    let Ends { mut server, client } = ends(&TLS12).await;
    let (mut socket, _) = client.into_inner();
    let mut forged = vec![23, 3, 3, 0, 40];
    forged.extend([7; 40]);
    // More of them, which nobody looks at any more.
    socket.write_all(&forged.repeat(3)).await.unwrap();
    let error = server.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(server.read(&mut [0; 10]).await.is_err());
    assert!(server.write(b"x").await.is_err());
    server.shutdown().await.unwrap();
    let mut heard = [0; 5];
    socket.read_exact(&mut heard).await.unwrap();
    // An alert (21), encrypted.
    assert_eq!(heard[..3], [21, 3, 3], "{heard:?}");
}

/// Half of a message of the handshake, which the connection remembers the beginning of, and then a
/// write.
#[tokio::test]
async fn a_write_between_the_parts_of_a_message_is_no_harm() {
    let configs = configs(&TLS12);
    let (listener, address) = listen().await;
    let accept = async {
        let (socket, _) = listener.accept().await.unwrap();
        Secure::accept(socket, configs.server.clone())
            .await
            .unwrap()
    };
    let (mut server, mut client) = tokio::join!(accept, connect(&configs, address));
    client.write_all(b"x").await.unwrap();
    client.flush().await.unwrap();
    server.read_exact(&mut [0]).await.unwrap();
    // A header that promises more than there is.
    let (socket, _) = client.get_mut();
    socket.write_all(&[22, 3, 3, 0, 100, 1]).await.unwrap();
    let nothing = timeout(Duration::from_millis(50), server.read(&mut [0; 10])).await;
    assert!(nothing.is_err());
    assert_eq!(server.incoming.len(), 6);
    server.write_all(&bytes(100)).await.unwrap();
    let mut heard = [0; 100];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard[..], bytes(100));
}

#[tokio::test]
async fn keys_may_change_in_between() {
    let Ends { server, mut client } = ends(&TLS13).await;
    let _echo = tokio::spawn(echo(server, 1000));
    for _ in 0..5 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(&bytes(2000)).await.unwrap();
        client.flush().await.unwrap();
        let mut heard = [0; 2000];
        let hearing = client.read_exact(&mut heard);
        timeout(LIMIT, hearing).await.unwrap().unwrap();
        assert_eq!(heard[..], bytes(2000));
    }
}

/// What the socket does not take waits here, and no more than one call's worth of it.
#[tokio::test]
async fn a_client_that_does_not_read_holds_the_writer_back() {
    let Ends {
        mut server,
        mut client,
    } = ends(&TLS13).await;
    let sent = bytes(1 << 20);
    let mut count = 0_usize;
    loop {
        let write = timeout(Duration::from_millis(100), server.write(&sent));
        match write.await {
            Ok(written) => count += written.unwrap(),
            Err(_) => break,
        }
        assert!(server.outgoing.rest().len() <= super::MOST_AT_ONCE + 1024);
        assert!(count < 100 << 20, "nobody is held back");
    }
    let mut left = count;
    let finish = async {
        server.flush().await.unwrap();
        server.shutdown().await.unwrap();
    };
    let read = async {
        let mut room = vec![0; 1 << 16];
        loop {
            let got = client.read(&mut room).await.unwrap();
            if got == 0 {
                break;
            }
            left -= got;
        }
    };
    timeout(LIMIT, async { tokio::join!(finish, read) })
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn pieces_of_one_write_stay_in_order() {
    let Ends {
        mut server,
        mut client,
    } = ends(&TLS13).await;
    for sizes in [
        [1, 2, 3],
        [0, 9, 0],
        [5, 70_000, 2],
        [20_000, 20_000, 20_000],
    ] {
        let pieces = sizes.map(bytes);
        let slices = [0, 1, 2].map(|n| io::IoSlice::new(&pieces[n]));
        let written = server.write_vectored(&slices).await.unwrap();
        server.flush().await.unwrap();
        let all = pieces.concat();
        assert!(written > 0 && written <= all.len());
        let mut heard = vec![0; written];
        client.read_exact(&mut heard).await.unwrap();
        assert!(heard == all[..written]);
    }
}
