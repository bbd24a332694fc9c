//! SIGTERM under traffic: not one request is lost.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, Server, iris, one_flower};

/// How long the server keeps serving after SIGTERM.
const DRAIN_DELAY: Duration = Duration::from_secs(4);

/// How long after SIGTERM the clients still send: a router needs that long to learn of it. A thread
/// of a busy machine may be a second late.
const STILL_SENDING: Duration = Duration::from_secs(3);

const CLIENTS: usize = 16;

/// What became of the requests of all clients.
struct Outcome {
    sent: usize,
    answered: usize,
    /// Of those answered, how many were after the listener had closed.
    late: usize,
}

fn terminate_under_traffic(flags: &[&str]) -> Outcome {
    let args = [
        &[
            "--drain-delay",
            "4s",
            "--log-level",
            "warn,serin_serve::run=info",
        ],
        flags,
    ]
    .concat();
    let server = Server::start(&iris("1.0.0"), &args);
    let address = server.address;
    let terminated = Instant::now() + Duration::from_millis(500);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            thread::spawn(move || {
                let (mut client, body) = (Client::new(address), one_flower());
                let mut outcome = Outcome {
                    sent: 0,
                    answered: 0,
                    late: 0,
                };
                while Instant::now() < terminated + STILL_SENDING {
                    outcome.sent += 1;
                    match client.post("/predict", &body) {
                        Ok(response) if response.status == 200 => outcome.answered += 1,
                        other => eprintln!("lost: {other:?}"),
                    }
                    outcome.late += usize::from(Instant::now() > terminated + DRAIN_DELAY);
                }
                outcome
            })
        })
        .collect();

    thread::sleep(terminated.saturating_duration_since(Instant::now()));
    server.terminate();
    let readyz = loop {
        let readyz = server.get("/readyz");
        if readyz.status != 200 {
            break readyz;
        }
        assert!(terminated.elapsed() < STILL_SENDING, "still ready");
        thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(
        (readyz.status, readyz.header("connection")),
        (503, Some("close"))
    );
    assert_eq!(readyz.json()["type"], "urn:serin:problem:draining");
    assert_eq!(server.get("/livez").status, 200);

    let mut outcome = Outcome {
        sent: 0,
        answered: 0,
        late: 0,
    };
    for client in clients {
        let part = client.join().unwrap();
        outcome.sent += part.sent;
        outcome.answered += part.answered;
        outcome.late += part.late;
    }
    let (status, log) = server.wait();
    assert!(status.success(), "{status}: {log:?}");
    assert!(
        TcpStream::connect(address).is_err(),
        "something still listens"
    );
    outcome
}

#[test]
fn fast_requests_on_kept_connections_are_all_answered() {
    let outcome = terminate_under_traffic(&[]);
    println!(
        "{} requests sent during SIGTERM, {} answered 200",
        outcome.sent, outcome.answered
    );
    assert_eq!(outcome.sent - outcome.answered, 0, "requests were lost");
    assert!(
        outcome.sent > 500,
        "only {} requests: too few to tell",
        outcome.sent
    );
}

#[test]
fn slow_requests_in_flight_when_the_listener_closes_are_all_answered() {
    let outcome = terminate_under_traffic(&["--test-faults", "--test-latency", "2500ms"]);
    println!(
        "{} slow requests sent, {} answered 200, {} late",
        outcome.sent, outcome.answered, outcome.late
    );
    assert_eq!(outcome.sent - outcome.answered, 0, "requests were lost");
    assert!(
        outcome.late >= CLIENTS / 2,
        "only {} were in flight when the listener closed",
        outcome.late
    );
}
