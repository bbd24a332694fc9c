//! A job that is killed again and again.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::{Job, csv};

/// Small steps of a linear congruential generator: another moment for each kill, the same in each
/// run of the test.
struct Moments(u64);

impl Moments {
    fn next(&mut self, from: u64, to: u64) -> Duration {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis(from + (self.0 >> 33) % (to - from))
    }
}

/// Every 97th row is wrong, some in two fields.
fn flawed(rows: usize) -> String {
    csv(rows)
        .lines()
        .enumerate()
        .map(|(row, line)| match row % 97 {
            96 => format!("f,-1,x{row},,1,1\n"),
            _ => format!("{line}\n"),
        })
        .collect()
}

fn after_kills(output: &str, args: &[&str]) -> u32 {
    let job = Job::new("in.csv", &flawed(20_000));
    let rejects = |name: &str| job.path(name).to_str().unwrap().to_owned();
    let args = [
        args,
        &[
            "--keep",
            "id",
            "--chunk-rows",
            "16",
            "--checkpoint-every",
            "5ms",
            "--max-rejects",
            "1000",
        ],
    ]
    .concat();
    let whole = format!("whole-{output}");
    job.run(
        &whole,
        &[&args[..], &["--rejects", &rejects("whole-rejects")]].concat(),
    );

    let mut moments = Moments(output.len() as u64);
    let mut kills = 0;
    let rejects = rejects("rejects");
    let args = [&args[..], &["--rejects", &rejects]].concat();
    loop {
        let mut child = job
            .command(output, &args)
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Later and later, so that the job ends on a slow machine too.
        thread::sleep(moments.next(20, 60 + 10 * u64::from(kills)));
        if let Some(status) = child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(0));
            break;
        }
        child.kill().unwrap(); // SIGKILL
        if child.wait().unwrap().success() {
            break;
        }
        kills += 1;
    }
    assert!(
        fs::read(job.path(output)).unwrap() == fs::read(job.path(&whole)).unwrap(),
        "the output differs"
    );
    assert_eq!(job.read("rejects"), job.read("whole-rejects"));
    assert_eq!(job.read("rejects").lines().count(), 206 * 2);
    let state = |output: &str| format!("{output}.batch.json");
    let mut expected = [
        output.to_owned(),
        "rejects".into(),
        "whole-rejects".into(),
        whole.clone(),
        state(output),
        state(&whole),
    ];
    expected.sort();
    assert_eq!(job.files(), expected, "something is left over");
    println!("{output}: killed {kills} times, and the same bytes");
    kills
}

#[test]
fn a_job_that_is_killed_again_and_again_writes_the_same_bytes() {
    let kills = [
        after_kills("out.csv", &[]),
        after_kills("out.jsonl", &[]),
        after_kills("out.parquet", &["--row-group-rows", "500"]),
    ];
    assert!(
        kills.iter().all(|kills| *kills >= 3),
        "too fast to be killed: {kills:?}"
    );
}

/// What a kill leaves between the last steps.
#[test]
fn a_kill_between_the_last_steps_is_made_good() {
    for output in ["out.csv", "out.parquet"] {
        let job = Job::new("in.csv", &csv(300));
        let state = format!("{output}.batch.json");
        job.run(output, &["--row-group-rows", "100", "--chunk-rows", "50"]);
        let whole = fs::read(job.path(output)).unwrap();

        // Complete, and in its place: nothing to do.
        let log = job.run(output, &["--row-group-rows", "100", "--chunk-rows", "50"]);
        assert_eq!(
            log.last().unwrap()["message"],
            "the output is complete already: nothing to do"
        );

        // Complete, but not renamed yet (text), or the parts not removed yet (Parquet).
        if output == "out.csv" {
            fs::rename(job.path(output), job.path("out.csv.partial")).unwrap();
        } else {
            fs::create_dir(job.path("out.parquet.parts")).unwrap();
            fs::write(job.path("out.parquet.parts/00000000.parquet"), "half").unwrap();
        }
        job.run(output, &["--row-group-rows", "100", "--chunk-rows", "50"]);
        assert!(fs::read(job.path(output)).unwrap() == whole);
        assert_eq!(job.files(), [output, &state]);

        // Taken away: made again.
        fs::remove_file(job.path(output)).unwrap();
        job.run(output, &["--row-group-rows", "100", "--chunk-rows", "50"]);
        assert!(fs::read(job.path(output)).unwrap() == whole);
    }
}

/// Process 1 of a container gets SIGTERM only if it asks for it, and its successor waits for the
/// output until it has ended.
#[test]
fn a_job_that_is_told_to_end_ends_at_once() {
    let job = Job::new("in.csv", &csv(100_000));
    let mut child = job
        .command("out.csv", &["--chunk-rows", "1"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    while !job.path("out.csv.partial").exists() {
        assert!(Instant::now() < deadline);
        thread::yield_now();
    }
    let killed = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    job.run("out.csv", &["--overwrite"]);
    assert_eq!(job.read("out.csv").lines().count(), 100_001);
}
