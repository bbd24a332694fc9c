//! Tests of `evidence::cursors`.

use super::*;

const SCRAPE: Duration = Duration::from_secs(15);

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap()
}

fn cursors(floor_ms: i64, targets: &[(&str, i64)]) -> Cursors {
    Cursors {
        floor_ms,
        targets: targets
            .iter()
            .map(|(i, ms)| ((*i).to_owned(), *ms))
            .collect(),
        counted: BTreeMap::new(),
        surplus: Surplus::default(),
    }
}

#[test]
fn a_normal_query_reaches_back_four_scrapes() {
    let span = cursors(0, &[("a", 985_000), ("b", 990_000)]).span(at(1_000_000), SCRAPE);
    assert_eq!(
        span,
        Span {
            range: Duration::from_secs(60),
            replayed: None,
            lost: None
        }
    );
}

#[test]
fn after_an_outage_the_query_reaches_behind_the_last_counted_scrape() {
    let span = cursors(0, &[("a", 100_000), ("b", 110_500)]).span(at(1_000_000), SCRAPE);
    assert_eq!(span.range, Duration::from_secs(930));
    assert_eq!(span.replayed, Some(Duration::from_millis(889_500)));
    assert_eq!(span.lost, None);
}

#[test]
fn an_outage_beyond_two_hours_reports_the_lost_part() {
    let span = cursors(0, &[("a", 0)]).span(at(9_000_000), SCRAPE);
    assert_eq!(span.range, Duration::from_secs(7200));
    assert_eq!(span.lost, Some(Duration::from_secs(1800)));
}

#[test]
fn a_clock_that_jumped_back_gives_the_shortest_range() {
    let span = cursors(5_000_000, &[]).span(at(1_000_000), SCRAPE);
    assert_eq!(span.range, Duration::from_secs(60));
    assert_eq!(span.replayed, None);
}

#[test]
fn only_later_scrapes_are_new() {
    let cursors = cursors(100, &[("a", 200)]);
    assert!(!cursors.is_new("a", 200));
    assert!(cursors.is_new("a", 201));
    assert!(!cursors.is_new("unknown", 100));
    assert!(cursors.is_new("unknown", 101));
}

#[test]
fn cursors_never_go_back() {
    let before = cursors(0, &[("a", 200)]);
    assert_eq!(
        before.advanced(&[("a", 150)].into(), &Carried::default(), SCRAPE),
        before
    );
}

#[test]
fn a_silent_target_is_forgotten_after_ten_minutes_and_never_counted_twice() {
    let before = cursors(0, &[("gone", 1_000), ("live", 2_000)]);
    let kept = before.advanced(&[("live", 600_000)].into(), &Carried::default(), SCRAPE);
    assert_eq!(kept, cursors(0, &[("gone", 1_000), ("live", 600_000)]));
    let dropped = kept.advanced(&[("live", 601_000)].into(), &Carried::default(), SCRAPE);
    assert_eq!(dropped, cursors(1_000, &[("live", 601_000)]));
    assert!(!dropped.is_new("gone", 1_000));
}

#[test]
fn at_most_256_targets_are_kept_and_the_floor_rises_to_the_rest() {
    let names: Vec<String> = (0..300).map(|i| format!("10.0.0.{i}:8080")).collect();
    let newest = names.iter().map(String::as_str).zip(1..).collect();
    let cursors = Cursors::starting_at(0).advanced(&newest, &Carried::default(), SCRAPE);
    assert_eq!(cursors.targets.len(), 256);
    assert_eq!(cursors.floor_ms, 44);
    for (name, ms) in &newest {
        assert!(!cursors.is_new(name, *ms), "{name}");
        assert!(cursors.is_new(name, *ms + 300), "{name}");
    }
}

#[test]
fn cursors_survive_serialisation() {
    let cursors = cursors(1, &[("10.0.0.1:9902", 2)]);
    let json = serde_json::to_string(&cursors).unwrap();
    assert_eq!(json, r#"{"floorMs":1,"targets":{"10.0.0.1:9902":2}}"#);
    assert_eq!(serde_json::from_str::<Cursors>(&json).unwrap(), cursors);
}
