//! Sources that break off, stall or send wrong content: resumed or retried where that helps, else
//! given up.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::server::{Ask, Body, Reply, Server};
use crate::support::{Artefact, Place};

/// Serves the artefact, but lets `fault` answer for the weights; it gets the count of earlier
/// requests for them.
fn with_fault(
    artefact: &Artefact,
    fault: impl Fn(usize, &Ask, &[u8]) -> Reply + Send + Sync + 'static,
) -> Server {
    let (artefact, count) = (artefact.clone(), AtomicUsize::new(0));
    Server::start(move |ask| {
        if ask.path.ends_with("weights.bin") {
            let earlier = count.fetch_add(1, Ordering::SeqCst);
            fault(earlier, ask, artefact.file("weights.bin"))
        } else {
            artefact.answer(ask)
        }
    })
}

fn ranges(server: &Server) -> Vec<Option<String>> {
    let asks = server.asks_for("weights.bin");
    asks.iter()
        .map(|ask| ask.headers.get("range").cloned())
        .collect()
}

#[test]
fn a_cut_is_gone_on_with_from_where_it_was() {
    let artefact = Artefact::new(400_000);
    let server = with_fault(&artefact, |earlier, ask, bytes| match earlier {
        0 => Reply::sent(Body::Cut(bytes.to_vec(), 150_000)),
        _ => Reply::file(ask, bytes),
    });
    let place = Place::new();
    let outcome = place.fetch(&server.url("/m"), &artefact.digest);
    outcome.succeeds();
    assert!(artefact.is_at(&place.directory()));
    assert_eq!(ranges(&server), [None, Some("bytes=150000-".to_owned())]);
    assert!(outcome.log.contains("trying again"), "{}", outcome.log);
}

#[test]
fn a_source_without_ranges_starts_anew() {
    let artefact = Artefact::new(400_000);
    let server = with_fault(&artefact, |earlier, _, bytes| match earlier {
        0 => Reply::sent(Body::Cut(bytes.to_vec(), 150_000)),
        _ => Reply::sent(Body::Whole(bytes.to_vec())),
    });
    let place = Place::new();
    place.fetch(&server.url("/m"), &artefact.digest).succeeds();
    assert!(artefact.is_at(&place.directory()));
}

#[test]
fn a_file_that_changed_between_two_attempts_is_fetched_once_more() {
    let artefact = Artefact::new(400_000);
    let server = with_fault(&artefact, |earlier, ask, bytes| match earlier {
        0 => Reply::sent(Body::Cut(vec![7; bytes.len()], 150_000)),
        _ => Reply::file(ask, bytes),
    });
    let place = Place::new();
    place.fetch(&server.url("/m"), &artefact.digest).succeeds();
    assert!(artefact.is_at(&place.directory()));
    assert_eq!(
        ranges(&server),
        [None, Some("bytes=150000-".to_owned()), None]
    );
}

#[test]
fn a_killed_process_is_gone_on_with_by_the_next() {
    let artefact = Artefact::new(400_000);
    let server = with_fault(&artefact, |earlier, ask, bytes| match earlier {
        0 => Reply::sent(Body::Silent(bytes.to_vec(), 250_000)),
        _ => Reply::file(ask, bytes),
    });
    let place = Place::new().with(&["--stall-timeout", "60s"]);
    let mut first = place
        .command(&server.url("/m"), &artefact.digest)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let staged = || {
        let files = place.path(".artefact.fetching/staging");
        let mut folders = std::fs::read_dir(files).into_iter().flatten();
        let weights = folders.next()?.ok()?.path().join("files/weights.bin");
        std::fs::metadata(weights).ok().map(|found| found.len())
    };
    while staged() != Some(250_000) {
        assert!(Instant::now() < deadline, "{:?}", staged());
        std::thread::sleep(Duration::from_millis(10));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(!place.directory().exists());
    place.fetch(&server.url("/m"), &artefact.digest).succeeds();
    assert!(artefact.is_at(&place.directory()));
    assert_eq!(ranges(&server)[1].as_deref(), Some("bytes=250000-"));
    assert_eq!(place.names(), ["artefact"]);
}

#[test]
fn a_busy_source_is_given_time() {
    let artefact = Artefact::new(1000);
    let server = with_fault(&artefact, |earlier, ask, bytes| match earlier {
        0 => Reply::status(503),
        1 => Reply::status(429).with("retry-after", "1"),
        _ => Reply::file(ask, bytes),
    });
    let place = Place::new();
    place.fetch(&server.url("/m"), &artefact.digest).succeeds();
    assert_eq!(ranges(&server).len(), 3);
}

/// Exit code 6 is what tells an operator that waiting may help.
#[test]
fn a_source_that_stays_away_is_given_up_with_its_reason() {
    let artefact = Artefact::new(100_000);
    let digest = &artefact.digest;
    let busy = Server::start(|_| Reply::status(503));
    Place::new().fetch(&busy.url("/m"), digest).fails(
        6,
        "answers 503 Service Unavailable; given up after 3 attempts",
    );
    assert_eq!(busy.asks().len(), 3);
    let silent = with_fault(&artefact, |_, _, bytes| {
        Reply::sent(Body::Silent(bytes.to_vec(), 0))
    });
    let place = Place::new().with(&["--stall-timeout", "300ms", "--retries", "1"]);
    place
        .fetch(&silent.url("/m"), digest)
        .fails(6, "given up after 2 attempts");
    let slow = with_fault(&artefact, |_, _, bytes| {
        Reply::sent(Body::Trickle(bytes.to_vec()))
    });
    place.fetch(&slow.url("/m"), digest).fails(6, "bytes in");
    let cutting = with_fault(&artefact, |_, _, bytes| {
        Reply::sent(Body::Cut(bytes.to_vec(), 10))
    });
    place
        .fetch(&cutting.url("/m"), digest)
        .fails(6, "given up after 2 attempts");
    let gone = format!("http://{}:1/m", busy.address.ip());
    place
        .fetch(&gone, digest)
        .fails(6, "cannot be connected to");
    place
        .fetch("https://no-such-host.invalid/m", digest)
        .fails(6, "no-such-host.invalid cannot be resolved");
    assert!(!place.directory().exists());
}

#[test]
fn lies_are_not_believed() {
    let artefact = Artefact::new(100_000);
    let digest = &artefact.digest;
    let endless = Server::start(|_| Reply::sent(Body::Endless));
    Place::new()
        .fetch(&endless.url("/m"), digest)
        .fails(5, "more than");
    let endless = with_fault(&artefact, |_, _, _| Reply::sent(Body::Endless));
    Place::new()
        .fetch(&endless.url("/m"), digest)
        .fails(5, "size mismatch");
    let place = Place::new().with(&["--max-size", "1Mi"]);
    let endless = Server::start(|_| Reply::sent(Body::Endless));
    place
        .fetch(&endless.url("/m.tar"), digest)
        .fails(3, "--max-size");
    let encoded = with_fault(&artefact, |_, ask, bytes| {
        Reply::file(ask, bytes).with("content-encoding", "gzip")
    });
    Place::new()
        .fetch(&encoded.url("/m"), digest)
        .fails(4, "encodes its answer");
    let elsewhere = with_fault(&artefact, |earlier, _, bytes| match earlier {
        0 => Reply::sent(Body::Cut(bytes.to_vec(), 50_000)),
        1 => {
            let mut part = Reply::sent(Body::Whole(bytes[10..].to_vec()));
            part.status = 206;
            part.with("content-range", format!("bytes 10-{0}/{0}", bytes.len()))
        }
        _ => Reply::sent(Body::Whole(bytes.to_vec())),
    });
    let place = Place::new();
    place.fetch(&elsewhere.url("/m"), digest).succeeds();
    assert!(artefact.is_at(&place.directory()));
}
