//! Connections on the threads that carry them.

use std::{
    collections::BTreeSet,
    fs, io,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    thread,
};

use arc_swap::ArcSwap;
use ddp_gateway::{
    base::id::ListenAddr,
    config::model::Config,
    net::{
        gate::{Gate, GateTerms},
        listen::{self, Accepted, Sharing, Terms},
        workers::{self, Placement, Threads},
    },
};
use rustix::thread::sched_getaffinity;
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::support::{deployment::read, process::Gateway, until};

const ANY: &str = "127.0.0.1:0";

#[tokio::test]
async fn each_thread_takes_a_part_of_the_connections() {
    let threads = Threads::start(NonZeroUsize::new(3), Placement::Free).unwrap();
    let bound = listen::bind_on(address(ANY), Sharing::Alone, &threads.workers()).unwrap();
    let local = bound.local();
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let told = seen.clone();
    bound.serve(
        &terms(),
        gate(),
        &tasks,
        &stop,
        &move |accepted: Accepted| {
            let name = thread::current().name().unwrap_or_default().to_owned();
            told.lock().unwrap().insert(name);
            async move { drop(accepted) }
        },
    );
    until("every thread has had one", async || {
        connect(local.0).await;
        seen.lock().unwrap().len() == 3
    })
    .await;
    let names: Vec<String> = seen.lock().unwrap().iter().cloned().collect();
    assert_eq!(names, ["worker-1", "worker-2", "worker-3"]);

    // All of them stop, and the address is free again.
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    drop(listen::bind(local).unwrap());
}

#[tokio::test]
async fn an_address_in_use_is_refused_with_workers_too() {
    let threads = Threads::start(NonZeroUsize::new(2), Placement::Free).unwrap();
    let first = listen::bind_on(address(ANY), Sharing::Alone, &threads.workers()).unwrap();
    for second in [
        listen::bind_on(first.local(), Sharing::Alone, &threads.workers()),
        listen::bind(first.local()),
    ] {
        let error = second.unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse, "{error}");
    }
}

#[tokio::test]
async fn an_address_is_shared_only_by_those_who_say_so() {
    let threads = Threads::start(NonZeroUsize::new(2), Placement::Free).unwrap();
    let bind = |address, sharing| listen::bind_on(address, sharing, &threads.workers());
    let first = bind(address(ANY), Sharing::Processes).unwrap();
    let second = bind(first.local(), Sharing::Processes).unwrap();
    assert_eq!(first.local(), second.local());
    let alone = bind(first.local(), Sharing::Alone).unwrap_err();
    assert_eq!(alone.source.kind(), io::ErrorKind::AddrInUse, "{alone}");
}

#[test]
fn there_are_as_many_as_asked_for() {
    assert_eq!(workers::count(NonZeroUsize::new(7)), 7);
    assert!(workers::count(None) >= 1);
}

/// Returns when the other side has closed.
async fn connect(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.read(&mut [0]).await;
}

fn address(text: &str) -> ListenAddr {
    ListenAddr(text.parse().unwrap())
}

fn terms() -> Arc<ArcSwap<Terms>> {
    let config = config();
    Arc::new(ArcSwap::from_pointee(Terms {
        listener: Arc::new(config.listeners[0].clone()),
        tls: None,
        handshake_timeout: config.http.header_timeout,
    }))
}

fn gate() -> Arc<Gate> {
    let config = config();
    Arc::new(Gate::new(GateTerms {
        max_connections: 1000,
        max_handshakes: 10,
        per_address: config.limits.connections,
        exempt: config.trusted_proxies,
    }))
}

fn config() -> Config {
    read(
        "listen = \"127.0.0.1:0\"\nmonolith = \"http://127.0.0.1:1\"\nstreamers = [\"127.0.0.1:1\"]\n",
    )
}

/// The process as it is started, with as many workers as it may use cores, and with one more.
#[tokio::test]
async fn workers_stay_on_their_cores_unless_told_otherwise() {
    let all = allowed("/proc/thread-self").unwrap();
    let count = sched_getaffinity(None).unwrap().count();
    for (workers, pin, is_pinned) in [
        (count, "", true),
        (count, "pin_workers = false", false),
        (count + 1, "", false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("proxy.toml");
        let text = format!(
            "listen = \"{ANY}\"\nadmin = \"{ANY}\"\nmonolith = \"http://127.0.0.1:1\"\n\
             streamers = [\"127.0.0.1:1\"]\nworkers = {workers}\n{pin}\n"
        );
        fs::write(&config, text).unwrap();
        let mut gateway = Gateway::run(&config);
        let place = match is_pinned {
            true => "on a core of its own",
            false => "where the system places it",
        };
        let said = gateway.line(" worker");
        assert!(said.contains(place), "{said}");
        let expected = if is_pinned { workers as usize } else { 0 };
        let pid = gateway.pid().as_raw_nonzero();
        until("the workers to be where they stay", async || {
            let (pinned, free): (Vec<_>, Vec<_>) = threads(pid.get())
                .into_iter()
                .partition(|(name, cores)| name.starts_with("worker-") && *cores != all);
            // Nobody else is kept anywhere.
            assert!(free.iter().all(|(_, cores)| *cores == all), "{free:?}");
            let taken: BTreeSet<usize> = pinned
                .iter()
                .map(|(_, cores)| cores.parse().expect("one core"))
                .collect();
            taken.len() == expected
        })
        .await;
    }
}

/// Each thread's name, and where it may run.
fn threads(process: i32) -> Vec<(String, String)> {
    let folder = format!("/proc/{process}/task");
    let threads = fs::read_dir(folder).unwrap();
    let named = threads.filter_map(|thread| {
        let path = thread.unwrap().path().display().to_string();
        // It may have ended meanwhile.
        let name = fs::read_to_string(format!("{path}/comm")).ok()?;
        Some((name.trim().to_owned(), allowed(&path)?))
    });
    named.collect()
}

/// Where a thread may run, as the system lists it.
fn allowed(thread: &str) -> Option<String> {
    let status = fs::read_to_string(format!("{thread}/status")).ok()?;
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    Some(list?.trim().to_owned())
}
