//! Two real replicas of Prometheus behind one address, as a Service puts them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serin::{
    evidence::{Cursors, Observation},
    observe::metrics::{Objective, read},
};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    harness::{Prometheus, Router, client, now, question},
    look,
};

/// Connects each client to the next of `backends`.
async fn round_robin(backends: [SocketAddr; 2]) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for backend in backends.into_iter().cycle() {
            let (mut client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(backend).await {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    address
}

/// When in the second it scrapes the router: ms.
async fn phase(prometheus: &Prometheus) -> i64 {
    let url = format!("{}/api/v1/query?query=timestamp(up)", prometheus.url());
    let answer = reqwest::get(url).await.unwrap().text().await.unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let seconds = answer["data"]["result"][0]["value"][1].as_str().unwrap();
    (seconds.parse::<f64>().unwrap() * 1000.0).round() as i64 % 1000
}

/// Two replicas that scrape `router` at least 0.2 s apart.
async fn replicas(router: &Router) -> Option<(Prometheus, Prometheus)> {
    let a = Prometheus::start_replica("a", &[router.job()]).await?;
    for name in ["b", "c", "d", "e", "f", "g", "h"] {
        let b = Prometheus::start_replica(name, &[router.job()]).await?;
        for _ in 0..4 {
            router.scraped_again().await;
        }
        let apart = phase(&a).await - phase(&b).await;
        if (200..=800).contains(&apart.rem_euclid(1000)) {
            println!("replicas a and {name} scrape {apart} ms apart");
            return Some((a, b));
        }
    }
    panic!("all replicas scrape at one time");
}

/// Reads once, on a connection of its own, and adds what was counted.
async fn add_reading(address: SocketAddr, cursors: &mut Cursors, sum: &mut Observation) {
    let question = question(Objective::ErrorRate);
    let Ok(window) = read(&client(address), &question, cursors, None, now()).await else {
        return;
    };
    sum.canary.requests += window.look.canary.requests;
    sum.canary.bad += window.look.canary.bad;
    sum.stable.requests += window.look.stable.requests;
    sum.stable.bad += window.look.stable.bad;
    *cursors = window.cursors;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_count_once_although_replicas_take_turns() {
    let router = Router::start("serin-router-5d8f-aaaaa").await;
    let Some((mut a, b)) = replicas(&router).await else {
        return;
    };
    let address = round_robin([a.address(), b.address()]).await;
    let (mut cursors, mut sum) = (
        Cursors::starting_at(now().as_millisecond()),
        Observation::default(),
    );
    let mut canary = (0, 0);
    let mut stable = (0, 0);
    let mut send = |cycle: u64| {
        router.count("cccccccc", "2", 3);
        router.count("55555555", "2", 20);
        canary.0 += 3;
        stable.0 += 20;
        if cycle.is_multiple_of(4) {
            router.count("cccccccc", "5", 1);
            canary = (canary.0 + 1, canary.1 + 1);
        }
        (canary, stable)
    };
    let settled = async |cursors: &mut Cursors, sum: &mut Observation, expected: Observation| {
        for _ in 0..4 {
            router.scraped_again().await;
        }
        for _ in 0..6 {
            add_reading(address, cursors, sum).await;
        }
        assert_eq!(*sum, expected);
    };

    let mut counts = ((0, 0), (0, 0));
    for cycle in 0..300 {
        counts = send(cycle);
        tokio::time::sleep(Duration::from_millis(40)).await;
        if cycle % 10 == 0 {
            add_reading(address, &mut cursors, &mut sum).await;
        }
    }
    settled(&mut cursors, &mut sum, look(counts.0, counts.1)).await;

    // One of them goes for good: each second connection ends at once.
    a.stop().await;
    for cycle in 0..100 {
        counts = send(cycle);
        tokio::time::sleep(Duration::from_millis(40)).await;
        if cycle % 10 == 0 {
            add_reading(address, &mut cursors, &mut sum).await;
        }
    }
    settled(&mut cursors, &mut sum, look(counts.0, counts.1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lacks_the_target_is_named() {
    let router = Router::start("serin-router-5d8f-aaaaa").await;
    let Some(a) = Prometheus::start_replica("a", &[router.job()]).await else {
        return;
    };
    let Some(b) = Prometheus::start_replica("b", &[]).await else {
        return;
    };
    router.scraped_again().await;
    let question = question(Objective::ErrorRate);
    let start = Cursors::starting_at(now().as_millisecond() - 5_000);
    let window = read(&a.client(), &question, &start, None, now()).await;
    let cursors = window.unwrap().cursors;
    let blind = read(&b.client(), &question, &cursors, None, now()).await;
    let blind = blind.unwrap_err().to_string();
    assert!(
        blind.starts_with(
            "two replicas of Prometheus answer, and they differ: one scraped 127.0.0.1:"
        ),
        "{blind}"
    );
    assert!(blind.contains("this one never did"), "{blind}");
}
