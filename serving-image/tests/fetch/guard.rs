//! No redirect, name or address leads to a host that the platform's list does not allow.

use std::fs;

use crate::server::{Reply, Server, own_address};
use crate::support::{Artefact, Outcome, Place};

/// Where a hostile server may send a client, one a row.
const FORBIDDEN: [&str; 30] = [
    "http://127.0.0.1/",
    "http://127.0.0.1:8080/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://127.255.255.254/",
    "http://0.0.0.0/",
    "http://0/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://localhost/",
    "http://LOCALHOST/",
    "https://localhost/",
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.170.2/v2/credentials",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://[::ffff:169.254.169.254]/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://[fe80::1]/",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "file:///etc/passwd",
    "ftp://ftp.example.com/x",
];

#[test]
fn no_redirect_leads_to_forbidden_addresses() {
    let server = Server::start(|ask| {
        let row: usize = ask
            .path
            .trim_start_matches("/r/")
            .split('/')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        Reply::redirect(FORBIDDEN[row])
    });
    let digest = Artefact::new(1).digest;
    for (row, target) in FORBIDDEN.iter().enumerate() {
        let place = Place::new();
        // Everything is on the list, even without TLS: these are refused all the same.
        let mut command = place.command(&server.url(&format!("/r/{row}")), &digest);
        command.args([
            "--allow-host",
            "0.0.0.0/0,::/0,http://0.0.0.0/0,http://::/0,http://localhost,localhost",
        ]);
        let outcome = Outcome::of(command.output().unwrap());
        assert_eq!(
            outcome.code,
            Some(if target.starts_with("file") { 4 } else { 3 }),
            "{target}: {}",
            outcome.log
        );
        assert!(!place.directory().exists());
    }
}

#[test]
fn only_hosts_of_the_list_are_asked() {
    let artefact = Artefact::new(1000);
    let server = artefact.publish();
    let fetch = |hosts: &str| {
        let place = Place::new();
        let mut command = place.command(&server.url("/m"), &artefact.digest);
        Outcome::of(command.args(["--allow-host", hosts]).output().unwrap())
    };
    let own = own_address();
    fetch("ghcr.io").fails(3, "without TLS");
    fetch("*").fails(3, "without TLS");
    fetch(&format!("http://{own}:1")).fails(3, "without TLS");
    fetch("http://*").fails(2, "");
    assert!(server.asks().is_empty());
    fetch(&format!("http://{own}")).succeeds();
}

#[test]
fn a_redirect_to_a_host_that_is_not_listed_ends_there() {
    let server = Server::start(|_| Reply::redirect("https://unlisted.example/x?signature=hunter2"));
    let digest = Artefact::new(1).digest;
    let own = own_address();
    let place = Place::new();
    let mut command = place.command(&server.url("/m"), &digest);
    command.args(["--allow-host", &format!("http://{own}")]);
    let outcome = Outcome::of(command.output().unwrap());
    outcome.fails(3, "https://unlisted.example is not on the platform's list");
    assert!(!outcome.log.contains("hunter2"), "{}", outcome.log);
}

#[test]
fn redirects_are_followed_and_credentials_stay_behind() {
    let artefact = Artefact::new(1000);
    let storage = artefact.publish();
    let base = storage.url("");
    let server = Server::start(move |ask| Reply::redirect(format!("{base}{}", ask.path)));
    let place = Place::new();
    let secret = place.path("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("token"), "hunter2\n").unwrap();
    let mut command = place.command(&server.url("/m"), &artefact.digest);
    let outcome = Outcome::of(command.arg("--credentials").arg(&secret).output().unwrap());
    outcome.succeeds();
    assert!(artefact.is_at(&place.directory()));
    let sent = |server: &Server| {
        let asks = server.asks();
        let tokens = asks
            .iter()
            .filter(|ask| ask.headers.contains_key("authorization"));
        (tokens.count(), asks.len())
    };
    assert_eq!(sent(&server), (4, 4));
    assert_eq!(server.asks()[0].headers["authorization"], "Bearer hunter2");
    assert_eq!(sent(&storage), (0, 4));
    assert!(!outcome.log.contains("hunter2"), "{}", outcome.log);
}

#[test]
fn endless_redirects_end() {
    let server = Server::start(|ask| Reply::redirect(format!("{}x", ask.path)));
    let digest = Artefact::new(1).digest;
    Place::new()
        .fetch(&server.url("/m"), &digest)
        .fails(4, "redirects more than 5 times");
    assert_eq!(server.asks().len(), 6);
}

#[test]
fn no_credential_is_shown_when_a_source_refuses() {
    let server = Server::start(|_| Reply::status(403));
    let place = Place::new();
    let secret = place.path("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("username"), "ada").unwrap();
    fs::write(secret.join("password"), "hunter2").unwrap();
    let mut command = place.command(&server.url("/m"), &Artefact::new(1).digest);
    command
        .args(["--log-level", "trace", "--credentials"])
        .arg(&secret);
    let outcome = Outcome::of(command.output().unwrap());
    outcome.fails(8, "Check the credentials");
    assert!(server.asks()[0].headers["authorization"].starts_with("Basic "));
    // Neither as it is, nor as it was sent.
    assert!(
        !outcome.log.contains("hunter2") && !outcome.log.contains("YWRhOmh1bnRlcjI"),
        "{}",
        outcome.log
    );
    let server = Server::start(|_| Reply::status(401));
    Place::new()
        .fetch(&server.url("/m"), &Artefact::new(1).digest)
        .fails(8, "Give credentials");
}
