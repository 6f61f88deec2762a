//! Requests over connections that stay open.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Request, header};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};

use crate::{
    record::{Measure, Sample},
    scenario::{Ask, Http},
    schedule::Schedule,
    units::Size,
    upload::Upload,
    users::{Spread, Target, dial},
};

/// When there is load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) start: Instant,
    pub(crate) end: Instant,
    /// What was meant to be sent before the end and is not by then is given up.
    pub(crate) deadline: Instant,
}

/// Connections that ask; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Requests {
    desk: Arc<Desk>,
    window: watch::Sender<Option<Window>>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Desk {
    open: AtomicUsize,
    at_work: AtomicUsize,
    tally: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    latency: Spread,
    bytes: u64,
    sent: u64,
    errors: BTreeMap<String, u64>,
}

impl Desk {
    fn tally(&self) -> MutexGuard<'_, Asked> {
        // Numbers only: whatever was interrupted, they are still numbers.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, what: String, count: u64) {
        if count > 0 {
            *self.tally().errors.entry(what).or_default() += count;
        }
    }
}

impl Requests {
    /// Opens the connections, so many in a second; nothing is asked yet.
    pub(crate) fn open(http: &Http, target: &Arc<Target>, ramp: f64) -> Self {
        let desk = Arc::new(Desk::default());
        let (window, start) = watch::channel(None);
        let mut tasks = JoinSet::new();
        let now = Instant::now();
        let all = http.connections;
        for n in 0..all {
            let due = Schedule::share(now, ramp, n, all).due();
            let asker = Asker {
                number: n,
                all,
                http: http.clone(),
                target: target.clone(),
                desk: desk.clone(),
            };
            let start = start.clone();
            desk.at_work.fetch_add(1, Ordering::Relaxed);
            tasks.spawn(async move {
                sleep_until(due.into()).await;
                asker.run(start).await;
                asker.desk.at_work.fetch_sub(1, Ordering::Relaxed);
            });
        }
        Self {
            desk,
            window,
            _tasks: tasks,
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.desk.open.load(Ordering::Relaxed)
    }

    pub(crate) fn begin(&self, window: Window) {
        self.window.send_replace(Some(window));
    }

    /// Whether all have ended.
    pub(crate) fn are_done(&self) -> bool {
        self.desk.at_work.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn take(&self) -> Sample {
        let asked = std::mem::take(&mut *self.desk.tally());
        Sample {
            counts: vec![
                ("responses", asked.latency.count()),
                ("response_bytes", asked.bytes),
                ("request_bytes", asked.sent),
            ],
            spreads: vec![(Measure::Request, asked.latency)],
            errors: asked.errors,
            examples: Vec::new(),
        }
    }
}

struct Asker {
    number: u32,
    all: u32,
    http: Http,
    target: Arc<Target>,
    desk: Arc<Desk>,
}

impl Asker {
    async fn run(&self, mut start: watch::Receiver<Option<Window>>) {
        let mut connection = self.connect().await;
        let window = match start.wait_for(Option::is_some).await {
            Ok(window) => *window,
            Err(_) => return,
        };
        let Some(window) = window else { return };
        let rate = self.http.rate;
        let mut schedule =
            rate.map(|rate| Schedule::share(window.start, rate.0, self.number, self.all));
        let round = self.http.round();
        // Connections begin at different places of it.
        let mut asks = round
            .iter()
            .cycle()
            .skip(self.number as usize % round.len().max(1));
        loop {
            let now = Instant::now();
            let intended = schedule.as_ref().map_or(now, Schedule::due);
            if intended >= window.end {
                break;
            }
            if now >= window.deadline {
                let left = schedule.map_or(0, |schedule| schedule.left(window.end));
                let what = "request that could not be sent in time";
                return self.desk.error(what.to_owned(), left);
            }
            sleep_until(intended.into()).await;
            let Some(open) = &mut connection else {
                sleep(PAUSE).await;
                connection = self.connect().await;
                continue;
            };
            let Some(ask) = asks.next() else { return };
            if let Some(schedule) = &mut schedule {
                schedule.advance();
            }
            let asked = timeout(LIMIT, self.ask(&mut open.sender, ask, intended)).await;
            let is_reusable = match asked {
                Ok(Ok(())) => open.sender.ready().await.is_ok(),
                Ok(Err(what)) => {
                    self.desk.error(what, 1);
                    false
                }
                Err(_) => {
                    self.desk
                        .error("request not answered in 30 s".to_owned(), 1);
                    false
                }
            };
            if !is_reusable {
                connection = self.connect().await;
            }
        }
    }

    async fn connect(&self) -> Option<Open> {
        let opening = async {
            let wire = dial(&self.target, self.number)
                .await
                .map_err(|_| "connection refused, or TLS failed")?;
            http1::handshake(TokioIo::new(wire))
                .await
                .map_err(|_| "connection lost")
        };
        match timeout(LIMIT, opening).await {
            Ok(Ok((sender, connection))) => {
                self.desk.open.fetch_add(1, Ordering::Relaxed);
                let desk = self.desk.clone();
                let mut task = JoinSet::new();
                task.spawn(async move {
                    // How it ends is seen by who waits for an answer.
                    let _ = connection.await;
                    desk.open.fetch_sub(1, Ordering::Relaxed);
                });
                Some(Open {
                    sender,
                    _task: task,
                })
            }
            Ok(Err(what)) => {
                self.desk.error(what.to_owned(), 1);
                None
            }
            Err(_) => {
                self.desk.error("not connected in 30 s".to_owned(), 1);
                None
            }
        }
    }

    async fn ask(
        &self,
        sender: &mut SendRequest<Upload>,
        ask: &Ask,
        intended: Instant,
    ) -> Result<(), String> {
        let Ask { path, upload, .. } = ask;
        let (request, length) = match upload {
            Some(Size(bytes)) => (Request::post(path), *bytes),
            None => (Request::get(path), 0),
        };
        let request = request
            .header(header::HOST, &self.target.host)
            .header(header::USER_AGENT, "ddp-load")
            .body(Upload::of(length))
            .map_err(|error| format!("{path}: {error}"))?;
        let cut = |_| "request without an answer".to_owned();
        let mut response = sender.send_request(request).await.map_err(cut)?;
        let mut bytes = 0;
        while let Some(frame) = response.frame().await {
            let frame = frame.map_err(|_| "request whose answer was cut".to_owned())?;
            bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        let status = response.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(format!("request answered with {}", status.as_u16()));
        }
        let mut asked = self.desk.tally();
        asked.latency.record(intended.elapsed());
        asked.bytes += bytes;
        asked.sent += length;
        Ok(())
    }
}

struct Open {
    sender: SendRequest<Upload>,
    _task: JoinSet<()>,
}

/// For an answer, or a connection.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two tries to connect.
const PAUSE: Duration = Duration::from_millis(100);
