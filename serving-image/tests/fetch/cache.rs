//! The cache: by digest, shared by processes at once, healed where it is damaged, bounded.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::server::{Body, Reply, Server};
use crate::support::{Artefact, Outcome, Place};

fn with_cache(flags: &[&str]) -> (Place, PathBuf) {
    let place = Place::new();
    let cache = place.path("cache");
    let place = place
        .with(&["--cache", cache.to_str().unwrap()])
        .with(flags);
    (place, cache)
}

fn kept(cache: &std::path::Path, artefact: &Artefact) -> PathBuf {
    cache
        .join("artefacts")
        .join(artefact.digest.trim_start_matches("sha256:"))
}

#[test]
fn what_is_in_the_cache_is_not_fetched_again() {
    let artefact = Artefact::new(100_000);
    let server = artefact.publish();
    let (place, cache) = with_cache(&[]);
    let fetch = |name: &str| {
        let directory = place.path(name);
        let mut command = place.command_to(&server.url("/m"), &artefact.digest, &directory);
        Outcome::of(command.output().unwrap()).succeeds();
        assert!(artefact.is_at(&directory));
        directory
    };
    let first = fetch("first");
    let asked = server.asks().len();
    let second = fetch("second");
    assert_eq!(server.asks().len(), asked);
    // On one file system it costs no room.
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    assert_eq!(
        inode(first.join("weights.bin")),
        inode(second.join("weights.bin"))
    );
    assert!(artefact.is_at(&kept(&cache, &artefact)));

    // Damage is found, and only what is asked for again is fetched. What is in use elsewhere is
    // left alone.
    let damaged = kept(&cache, &artefact).join("weights.bin");
    fs::remove_file(&damaged).unwrap();
    fs::write(&damaged, vec![0; 100_000]).unwrap();
    fetch("third");
    assert!(server.asks().len() > asked);
    assert!(artefact.is_at(&kept(&cache, &artefact)));
    assert!(artefact.is_at(&first));
}

#[test]
fn two_at_once_fetch_once() {
    let artefact = Artefact::new(400_000);
    let published = artefact.clone();
    let server = Server::start(move |ask| {
        thread::sleep(Duration::from_millis(100));
        published.answer(ask)
    });
    let (place, cache) = with_cache(&[]);
    let children: Vec<_> = (0..4)
        .map(|number| {
            let directory = place.path(&format!("pod-{number}"));
            let mut command = place.command_to(&server.url("/m"), &artefact.digest, &directory);
            (command.spawn().unwrap(), directory)
        })
        .collect();
    for (mut child, directory) in children {
        assert!(child.wait().unwrap().success());
        assert!(artefact.is_at(&directory));
    }
    assert_eq!(server.asks_for("weights.bin").len(), 1);
    assert!(artefact.is_at(&kept(&cache, &artefact)));
}

#[test]
fn a_killed_holder_holds_nobody_up() {
    let artefact = Artefact::new(400_000);
    let published = artefact.clone();
    let server = Server::start(move |ask| {
        let whole = published.file("weights.bin");
        if ask.path.ends_with("weights.bin") && !ask.headers.contains_key("range") {
            return Reply::sent(Body::Silent(whole.to_vec(), 100_000));
        }
        published.answer(ask)
    });
    let (place, cache) = with_cache(&["--stall-timeout", "60s"]);
    let mut holder = place
        .command(&server.url("/m"), &artefact.digest)
        .spawn()
        .unwrap();
    let arrived = || {
        let digest = artefact.digest.trim_start_matches("sha256:");
        let weights = cache.join("staging").join(digest).join("files/weights.bin");
        fs::metadata(weights).is_ok_and(|found| found.len() == 100_000)
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !arrived() {
        assert!(Instant::now() < deadline, "it does not arrive");
        thread::sleep(Duration::from_millis(10));
    }
    let mut waiting = place
        .command_to(&server.url("/m"), &artefact.digest, &place.path("other"))
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(500));
    assert!(waiting.try_wait().unwrap().is_none(), "it did not wait");
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(waiting.wait().unwrap().success());
    assert!(artefact.is_at(&place.path("other")));
    assert!(artefact.is_at(&kept(&cache, &artefact)));
    let ranges = server.asks_for("weights.bin");
    assert_eq!(
        ranges[1].headers.get("range").map(String::as_str),
        Some("bytes=100000-")
    );
}

#[test]
fn above_its_limit_the_longest_unused_goes() {
    let artefacts: Vec<Artefact> = (1..=3)
        .map(|number| Artefact::of(&[("weights.bin", vec![number; 100_000])]))
        .collect();
    let (place, cache) = with_cache(&["--cache-limit", "250Ki"]);
    let fetch = |number: usize| {
        let artefact: &Artefact = &artefacts[number];
        let server = artefact.publish();
        let directory = place.path(&format!("pod-{number}"));
        let mut command = place.command_to(&server.url("/m"), &artefact.digest, &directory);
        Outcome::of(command.output().unwrap()).succeeds();
        let folder = fs::File::open(kept(&cache, artefact)).unwrap();
        let age = Duration::from_secs(3600 * (10 - number as u64));
        folder.set_modified(SystemTime::now() - age).unwrap();
    };
    fetch(0);
    fetch(1);
    // The first was used again since.
    let folder = fs::File::open(kept(&cache, &artefacts[0])).unwrap();
    folder.set_modified(SystemTime::now()).unwrap();
    fetch(2);
    let there: Vec<bool> = artefacts
        .iter()
        .map(|artefact| kept(&cache, artefact).exists())
        .collect();
    assert_eq!(there, [true, false, true]);
    // Who has it keeps it.
    assert!(artefacts[1].is_at(&place.path("pod-1")));
}

#[test]
fn a_directory_that_cannot_be_written_is_said() {
    let artefact = Artefact::new(10);
    let server = artefact.publish();
    let place = Place::new();
    fs::write(place.path("file"), "").unwrap();
    let mut command = place.command_to(
        &server.url("/m"),
        &artefact.digest,
        &place.path("file/artefact"),
    );
    Outcome::of(command.output().unwrap()).fails(7, "cannot write");
}
