//! The cells: all pairs of state and event, and triples by seed.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
    time::Instant,
};

use super::{
    cell::{Cell, Leave, Report, play},
    event::Event,
    place::Place,
};
use crate::{
    rng::Rng,
    tests::{number, on_all_cores},
};

/// Triples that are played where `SERIN_GRID_TRIPLES` says nothing.
const TRIPLES: u64 = 120;

/// How the trial of a cell ends: each way takes turns along the states and the events.
fn leave(state: Place, events: &[Event], turn: usize) -> Leave {
    let turn = turn % 4;
    if events.iter().any(|event| event.asks_for_another()) {
        return [Leave::GoesOn, Leave::SpecBack][turn % 2];
    }
    // The spec changes, or the version has to advance.
    let lasting = [
        Event::SpecEditedAndBack,
        Event::SpecRefused,
        Event::OnePodFits,
    ];
    if events.iter().any(|event| lasting.contains(event)) {
        return Leave::GoesOn;
    }
    match state {
        // Without metrics no breach can be seen.
        _ if events.contains(&Event::PrometheusDown) => [Leave::SpecBack, Leave::GoesOn][turn % 2],
        _ if state.has_weight() => {
            [Leave::Breach, Leave::SpecBack, Leave::GoesOn, Leave::Abort][turn]
        }
        Place::Preparing => [Leave::SpecBack, Leave::GoesOn, Leave::Abort, Leave::GoesOn][turn],
        Place::Blocked => [Leave::SpecBack, Leave::GoesOn][turn % 2],
        _ => Leave::GoesOn,
    }
}

/// All pairs that are possible, and those that are not, with the reason.
fn pairs() -> (Vec<Cell>, Vec<(Place, Event, &'static str)>) {
    let (mut cells, mut impossible) = (Vec::new(), Vec::new());
    for (row, place) in Place::ALL.into_iter().enumerate() {
        for (column, event) in Event::ALL.into_iter().enumerate() {
            match event.is_impossible(place) {
                Some(reason) => impossible.push((place, event, reason)),
                None => cells.push(Cell {
                    place,
                    events: vec![event],
                    leave: leave(place, &[event], row + column),
                    seed: (row * Event::ALL.len() + column) as u64,
                }),
            }
        }
    }
    (cells, impossible)
}

/// A state and two events that may come together, drawn by seed.
fn triple(seed: u64) -> Option<Cell> {
    let mut rng = Rng::new(seed, "triple");
    let row = rng.below(Place::ALL.len() as u64) as usize;
    let column = rng.below(Event::ALL.len() as u64) as usize;
    let place = Place::ALL[row];
    let events = [Event::ALL[column], *rng.pick(&Event::ALL)];
    let is_possible = events
        .iter()
        .all(|event| event.is_impossible(place).is_none());
    let [first, second] = events;
    (is_possible && first.goes_with(second)).then(|| Cell {
        place,
        events: events.to_vec(),
        leave: leave(place, &events, row + column),
        seed,
    })
}

/// Plays cells on all cores. Returns the findings, by the cell's name.
fn play_all(cells: &[Cell]) -> BTreeMap<String, Vec<String>> {
    let found = Mutex::new(BTreeMap::new());
    let began = Instant::now();
    let sums = Mutex::new((0, 0));
    on_all_cores(cells.len() as u64, |index| {
        let cell = &cells[index as usize];
        let played = catch_unwind(AssertUnwindSafe(|| play(cell)));
        let findings = match played {
            Ok(Report {
                findings,
                seconds,
                silent,
                ..
            }) => {
                let mut sums = sums.lock().unwrap();
                *sums = (sums.0 + seconds, sums.1.max(silent));
                findings
            }
            Err(_) => vec!["the world panicked".to_owned()],
        };
        if std::env::var_os("SERIN_WORLD_VERBOSE").is_some() {
            eprintln!("{cell}: {findings:?}");
        }
        if !findings.is_empty() {
            found.lock().unwrap().insert(cell.to_string(), findings);
        }
    });
    let (lived, silent) = sums.into_inner().unwrap();
    println!(
        "{} cells in {:.1} s, {:.1} h of cluster time; no address was silent for more than \
         {silent} s",
        cells.len(),
        began.elapsed().as_secs_f64(),
        f64::from(u32::try_from(lived).unwrap_or(u32::MAX)) / 3600.0,
    );
    found.into_inner().unwrap()
}

/// What was found, each cell with its first sentences.
fn listed(found: &BTreeMap<String, Vec<String>>) -> String {
    let line = |(cell, findings): (&String, &Vec<String>)| {
        format!("{cell}\n    {}", findings.join("\n    "))
    };
    found.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The table: a row a state, with the number of events that were played and that are impossible.
fn print_table(cells: &[Cell], impossible: &[(Place, Event, &str)], found: &[&String]) {
    println!(
        "{:<18} {:>6} {:>10} {:>6}",
        "state", "played", "impossible", "red"
    );
    for place in Place::ALL {
        let played = cells.iter().filter(|cell| cell.place == place).count();
        let not = impossible.iter().filter(|(of, ..)| *of == place).count();
        let start = format!("{place:?}/");
        let red = found.iter().filter(|name| name.starts_with(&start)).count();
        println!(
            "{:<18} {played:>6} {not:>10} {red:>6}",
            format!("{place:?}")
        );
    }
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (place, event, reason) in impossible {
        reasons
            .entry(reason)
            .or_default()
            .push(format!("{place:?}/{event:?}"));
    }
    for (reason, cells) in reasons {
        println!("impossible: {reason}: {}", cells.join(", "));
    }
    println!(
        "{} states × {} events: {} pairs played, {} impossible, {} red",
        Place::ALL.len(),
        Event::ALL.len(),
        cells.len(),
        impossible.len(),
        found.len()
    );
}

/// Fails with each red cell and its findings.
fn assert_green(found: &BTreeMap<String, Vec<String>>) {
    assert!(
        found.is_empty(),
        "{} cells:\n{}",
        found.len(),
        listed(found)
    );
}

#[test]
fn every_state_survives_every_event() {
    let (cells, impossible) = pairs();
    let found = play_all(&cells);
    print_table(&cells, &impossible, &found.keys().collect::<Vec<_>>());
    assert_green(&found);
}

#[test]
fn every_state_survives_two_events_at_once() {
    let asked = number("SERIN_GRID_TRIPLES").unwrap_or(TRIPLES);
    let from = number("SERIN_GRID_FROM").unwrap_or(0);
    let cells: Vec<Cell> = (from..).filter_map(triple).take(asked as usize).collect();
    let found = play_all(&cells);
    assert_green(&found);
}

/// The cell of `SERIN_GRID_CELL`, such as `Canary10/DeploymentsDenied`, with its whole log; without
/// one, nothing.
#[test]
fn one_cell() {
    let Ok(name) = std::env::var("SERIN_GRID_CELL") else {
        return;
    };
    let triples = (0..200_000).filter_map(triple);
    let cell = pairs().0.into_iter().chain(triples).find(|cell| {
        let full = cell.to_string();
        full == name || full.starts_with(&format!("{name}/"))
    });
    let report = play(&cell.expect("a cell of this name"));
    println!("{}", report.journal.join("\n"));
    assert!(report.findings.is_empty(), "{}", report.findings.join("\n"));
}

/// A failing cell can be played again.
#[test]
fn the_same_cell_is_played_the_same_way() {
    let (cells, _) = pairs();
    for cell in cells.iter().step_by(97) {
        assert_eq!(play(cell).journal.join("\n"), play(cell).journal.join("\n"));
    }
}
