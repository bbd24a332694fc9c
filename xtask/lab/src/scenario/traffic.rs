//! Steady traffic whose every answer is counted, by status and by the version that gave it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serin::evidence::{Observation, Tally};
use tokio::task::JoinSet;

use super::port_forward::Forward;

/// A prediction for one flower.
const BODY: &str = concat!(
    r#"{"instances":[{"sepal_length":5.1,"sepal_width":3.5,"#,
    r#""petal_length":1.4,"petal_width":0.2}]}"#
);
/// No answer within this time is a failure.
const PATIENCE: Duration = Duration::from_secs(10);
/// A slow client uses no connection that was idle for longer: less than a router keeps serving
/// after SIGTERM.
const IDLE: Duration = Duration::from_secs(2);

/// What became of one request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// When it was due, since the traffic began.
    pub sent: Duration,
    /// When its answer was complete.
    pub done: Duration,
    /// The HTTP status, or why there was none.
    pub status: Result<u16, String>,
    /// The version that the answer names.
    pub version: Option<String>,
}

impl Answer {
    /// Whether the client got what it asked for.
    pub fn is_ok(&self) -> bool {
        matches!(self.status, Ok(200))
    }

    /// Time from the request to the end of its answer.
    pub fn latency(&self) -> Duration {
        self.done.saturating_sub(self.sent)
    }

    fn is_of(&self, version: &str) -> bool {
        self.version.as_deref() == Some(version)
    }
}

/// Every request that was due: answered, or still open.
#[derive(Default)]
struct Ledger {
    answers: Vec<Answer>,
    /// When each unanswered request was due, by its number.
    open: BTreeMap<u64, Duration>,
}

/// Requests at a fixed rate, sent whether or not earlier ones are answered (an open loop).
pub struct Traffic {
    ledger: Arc<Mutex<Ledger>>,
    began: Instant,
    began_at: Timestamp,
    task: tokio::task::JoinHandle<()>,
    stop: tokio::sync::watch::Sender<bool>,
    _way: Option<Forward>,
}

impl Traffic {
    /// Begins to send `rate` requests a second.
    ///
    /// `way` is what the address leads through, if anything, and stays open as long as the traffic.
    pub fn start(url: &str, rate: u32, way: Option<Forward>) -> Result<Self> {
        Self::start_with(url, rate, PATIENCE, None, way)
    }

    /// The same of so few requests a second that connections are idle for seconds. A router that
    /// ends closes those last, and HTTP/1.1 has no word for a request that is sent in that moment.
    pub fn start_slow(url: &str, rate: u32) -> Result<Self> {
        Self::start_with(url, rate, PATIENCE, Some(IDLE), None)
    }

    fn start_with(
        url: &str,
        rate: u32,
        patience: Duration,
        idle: Option<Duration>,
        way: Option<Forward>,
    ) -> Result<Self> {
        let mut client = reqwest::Client::builder()
            .timeout(patience)
            .pool_idle_timeout(idle)
            .no_proxy();
        if way.is_some() {
            // One connection for all requests: kubectl port-forward does not recover from hundreds,
            // which HTTP/1.1 opens as soon as answers take longer than usual.
            client = client.http2_prior_knowledge();
        }
        let client = client.build().context("cannot make an HTTP client")?;
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let (stop, mut stopped) = tokio::sync::watch::channel(false);
        let (began, began_at) = (Instant::now(), Timestamp::now());
        let (url, log) = (url.to_owned(), ledger.clone());
        let task = tokio::spawn(async move {
            // Ticks that this machine was too busy for follow at once, and their requests count
            // from when they were due.
            let mut clock = tokio::time::interval(Duration::from_secs(1) / rate);
            let mut open = JoinSet::new();
            let mut numbers = 0..;
            loop {
                tokio::select! {
                    _ = stopped.changed() => break,
                    due = clock.tick() => {
                        let Some(number) = numbers.next() else { break };
                        let sent = due.into_std().saturating_duration_since(began);
                        let request = client
                            .post(&url)
                            .header("content-type", "application/json")
                            .body(BODY);
                        lock(&log).open.insert(number, sent);
                        let log = log.clone();
                        open.spawn(async move {
                            let answer = ask(request, began, sent).await;
                            let mut ledger = lock(&log);
                            ledger.open.remove(&number);
                            ledger.answers.push(answer);
                        });
                        while open.try_join_next().is_some() {}
                    }
                }
            }
            open.join_all().await; // every request has an end: an answer, an error or its patience
        });
        Ok(Self {
            ledger,
            began,
            began_at,
            task,
            stop,
            _way: way,
        })
    }

    /// Time since the traffic began.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// The same, of a moment that another program recorded on this machine.
    pub fn at(&self, moment: Timestamp) -> Duration {
        Duration::try_from(moment.duration_since(self.began_at)).unwrap_or_default()
    }

    /// The moment in which a request was due.
    pub fn moment(&self, sent: Duration) -> Timestamp {
        self.began_at + sent
    }

    /// How many requests wait for their answer.
    pub fn open(&self) -> usize {
        lock(&self.ledger).open.len()
    }

    /// All answers so far. A request that hangs is not among them: for a claim that nothing failed,
    /// ask [`Self::settled`].
    pub fn answers(&self) -> Answers {
        Answers(lock(&self.ledger).answers.clone())
    }

    /// All answers, once every request that was sent before this call has its end: an answer, an
    /// error or its patience.
    pub async fn settled(&self) -> Answers {
        let now = self.now();
        while lock(&self.ledger).open.values().any(|sent| *sent < now) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.answers()
    }

    /// Sends no more, waits for what is under way, and gives all answers.
    pub async fn finish(self) -> Answers {
        // The sender's task is the only receiver, and is awaited next.
        let _ = self.stop.send(true);
        let _ = self.task.await;
        Answers(lock(&self.ledger).answers.clone())
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask(request: reqwest::RequestBuilder, began: Instant, sent: Duration) -> Answer {
    let result = async {
        let response = request.send().await?;
        let status = response.status().as_u16();
        let version = response
            .headers()
            .get("x-model-version")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        response.bytes().await?;
        Ok::<_, reqwest::Error>((status, version))
    };
    let (status, version) = match result.await {
        Ok((status, version)) => (Ok(status), version),
        Err(error) => (Err(format!("{error:?}")), None),
    };
    Answer {
        sent,
        done: began.elapsed(),
        status,
        version,
    }
}

/// Answers, to be asked about.
#[derive(Clone, Debug, Default)]
pub struct Answers(pub Vec<Answer>);

impl Answers {
    /// Those to requests sent within a span.
    pub fn within(&self, from: Duration, to: Duration) -> Self {
        Self(
            self.0
                .iter()
                .filter(|answer| (from..to).contains(&answer.sent))
                .cloned()
                .collect(),
        )
    }

    /// Those that one version gave.
    pub fn of(&self, version: &str) -> Self {
        Self(
            self.0
                .iter()
                .filter(|answer| answer.is_of(version))
                .cloned()
                .collect(),
        )
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// How many are no 200.
    pub fn failed(&self) -> usize {
        self.0.iter().filter(|answer| !answer.is_ok()).count()
    }

    /// What the failures were, and how many of each.
    pub fn failures(&self) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for answer in self.0.iter().filter(|answer| !answer.is_ok()) {
            let kind = match &answer.status {
                Ok(code) => format!("HTTP {code}"),
                Err(error) => error.clone(),
            };
            *kinds.entry(kind).or_default() += 1;
        }
        kinds
    }

    /// The 99th percentile of latency.
    pub fn p99(&self) -> Duration {
        let mut latencies: Vec<Duration> = self.0.iter().map(Answer::latency).collect();
        latencies.sort_unstable();
        let index = (latencies.len() * 99).div_ceil(100).saturating_sub(1);
        latencies.get(index).copied().unwrap_or_default()
    }

    /// The versions that answered, each with how many answers it gave.
    pub fn versions(&self) -> BTreeMap<String, usize> {
        let mut versions = BTreeMap::new();
        for version in self.0.iter().filter_map(|answer| answer.version.clone()) {
            *versions.entry(version).or_default() += 1;
        }
        versions
    }

    /// One version's share of all answers, 0 to 1.
    pub fn share(&self, version: &str) -> f64 {
        self.of(version).count() as f64 / self.count().max(1) as f64
    }

    /// The counts of a gate: requests, and those for which `bad` holds.
    pub fn look(&self, canary: &str, stable: &str, bad: impl Fn(&Answer) -> bool) -> Observation {
        let tally = |version: &str| {
            let of_version = self.0.iter().filter(|answer| answer.is_of(version));
            let (requests, bad) = of_version.fold((0, 0), |(all, some), answer| {
                (all + 1, some + u64::from(bad(answer)))
            });
            Tally::new(requests, bad)
        };
        Observation {
            canary: tally(canary),
            stable: tally(stable),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn answer(ms: u64, status: u16, version: &str) -> Answer {
        Answer {
            sent: Duration::from_millis(ms),
            done: Duration::from_millis(ms + ms),
            status: Ok(status),
            version: Some(version.to_owned()),
        }
    }

    #[test]
    fn answers_are_counted_by_version_status_and_time() {
        let all = Answers(
            (1..=100)
                .map(|n| {
                    answer(
                        n,
                        if n % 10 == 0 { 500 } else { 200 },
                        if n <= 25 { "2" } else { "1" },
                    )
                })
                .collect(),
        );
        assert_eq!(
            (all.count(), all.failed(), all.of("2").count()),
            (100, 10, 25)
        );
        assert!((all.share("2") - 0.25).abs() < 1e-9);
        assert_eq!(all.p99(), Duration::from_millis(99));
        assert_eq!(
            all.within(Duration::from_millis(1), Duration::from_millis(11))
                .count(),
            10
        );
        let look = all.look("2", "1", |answer| !answer.is_ok());
        assert_eq!(
            (look.canary, look.stable),
            (Tally::new(25, 2), Tally::new(75, 8))
        );
    }

    #[tokio::test]
    async fn a_request_that_is_never_answered_is_waited_for_and_counted_as_failed() {
        // As `main` does; another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // It takes connections and says nothing.
        let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/predict", deaf.local_addr().unwrap());
        let patience = Duration::from_millis(400);
        let traffic = Traffic::start_with(&url, 50, patience, None, None).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(traffic.answers().count(), 0);
        let until = traffic.now();
        let settled = traffic.settled().await.within(Duration::ZERO, until);
        assert!(settled.count() >= 3, "{settled:?}");
        assert_eq!(settled.failed(), settled.count());
    }
}
