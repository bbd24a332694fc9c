//! The tables, as Markdown.

use std::fmt::Write;

use super::cells::{Cell, Outcomes};
use super::gate::Contender;
use super::limits;
use super::play::End;
use super::scenario::{Deserves, RATES, Scenario, Story};

/// All tables.
pub fn tables(cells: &[Cell]) -> String {
    let mut text = String::new();
    text.push_str("False rollback, % of whole rollouts, at ");
    text.push_str(&RATES.map(|rate| rate.to_string()).join(" / "));
    text.push_str(" requests a second in all:\n");
    rows(&mut text, cells, |scenario| {
        scenario.deserves != Deserves::Rollback && scenario.has_all_rates()
    });
    text.push_str(
        "\nBursts that hit the canary only, once in five minutes: rolled back %, at 20 / 200 \
         requests a second:\n",
    );
    bursts(&mut text, cells);
    text.push_str(
        "\nWhat became of the others (%, promoted / held at the end of the simulated time):\n",
    );
    held(&mut text, cells);
    text.push_str(
        "\nRegressions: rolled back % (promoted %, where any) · median/p95 time · median bad \
         answers of the canary:\n",
    );
    regressions(&mut text, cells);
    text.push_str("\nMedian time until a healthy version has all traffic:\n");
    times(&mut text, cells);
    text.push_str(
        "\nSerin, set otherwise. Healthy: rolled back % · median time to all traffic; others: \
         rolled back % (promoted %, where any) · median/p95 time · median bad answers of the \
         canary:\n",
    );
    settings(&mut text, cells);
    text.push_str(
        "\nWhat information allows (no test of the same certainty is faster on average):\n",
    );
    information(&mut text, cells);
    text
}

fn head(text: &mut String, first: &str, gates: &[Contender]) {
    let names: Vec<String> = gates
        .iter()
        .map(|gate| {
            if gate.is_serin() {
                format!("**{}**", gate.name())
            } else {
                gate.name().to_owned()
            }
        })
        .collect();
    row(text, first, &names);
    let _ = writeln!(text, "|---{}|", "|---".repeat(gates.len()));
}

fn row(text: &mut String, first: &str, columns: &[String]) {
    let _ = writeln!(text, "| {first} | {} |", columns.join(" | "));
}

/// The cells of one scenario, by rate.
fn of_scenario<'a>(cells: &'a [Cell], name: &str) -> Vec<&'a Cell> {
    cells
        .iter()
        .filter(|cell| cell.scenario.name == name)
        .collect()
}

fn names(cells: &[Cell], wanted: impl Fn(&Scenario) -> bool) -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for cell in cells.iter().filter(|cell| wanted(cell.scenario)) {
        if !names.contains(&cell.scenario.name) {
            names.push(cell.scenario.name);
        }
    }
    names
}

fn rows(text: &mut String, cells: &[Cell], wanted: impl Fn(&Scenario) -> bool) {
    head(text, "", &Contender::COLUMNS);
    for name in names(cells, wanted) {
        let cells = of_scenario(cells, name);
        let columns = Contender::COLUMNS.map(|gate| {
            let shares: Vec<String> = cells
                .iter()
                .map(|cell| percent(cell.of(gate).share(End::RolledBack)))
                .collect();
            shares.join("/")
        });
        row(text, name, &columns);
    }
}

fn held(text: &mut String, cells: &[Cell]) {
    head(text, "", &Contender::COLUMNS);
    for name in names(cells, |scenario| {
        matches!(scenario.story, Story::BothFail(_) | Story::BadInputs(_))
    }) {
        let cells = of_scenario(cells, name);
        let columns = Contender::COLUMNS.map(|gate| {
            let ends: Vec<String> = cells
                .iter()
                .map(|cell| {
                    let outcomes = cell.of(gate);
                    format!(
                        "{}·{}",
                        percent(outcomes.share(End::Promoted)),
                        percent(outcomes.share(End::Held))
                    )
                })
                .collect();
            ends.join("/")
        });
        row(text, name, &columns);
    }
}

fn regressions(text: &mut String, cells: &[Cell]) {
    head(text, "", &Contender::COLUMNS);
    for cell in cells
        .iter()
        .filter(|cell| cell.scenario.deserves == Deserves::Rollback)
    {
        let columns = Contender::COLUMNS.map(|gate| regression(cell.of(gate)));
        row(text, &cell.name(), &columns);
    }
}

fn regression(outcomes: Outcomes<'_>) -> String {
    let mut text = percent(outcomes.share(End::RolledBack));
    if outcomes.count(End::Promoted) > 0 {
        let _ = write!(text, " ({})", percent(outcomes.share(End::Promoted)));
    }
    let after = |quantile| {
        outcomes
            .rollback_after(quantile)
            .map_or("–".to_owned(), time)
    };
    let _ = write!(
        text,
        "·{}/{}·{}",
        after(0.5),
        after(0.95),
        outcomes.bad_answers()
    );
    text
}

fn times(text: &mut String, cells: &[Cell]) {
    head(text, "rate", &Contender::COLUMNS);
    for cell in of_scenario(cells, "healthy") {
        let columns = Contender::COLUMNS
            .map(|gate| cell.of(gate).full_after(0.5).map_or("–".to_owned(), time));
        row(text, &format!("{} rps", cell.rate), &columns);
    }
}

/// Serin's rollouts where the canary has bursts.
fn bursts(text: &mut String, cells: &[Cell]) {
    head(text, "", &[Contender::Serin]);
    let is_burst = |scenario: &Scenario| matches!(scenario.story, Story::CanaryBursts(_));
    for name in names(cells, is_burst) {
        let cells = of_scenario(cells, name);
        let busy = cells.iter().filter(|cell| cell.rate >= 20.0);
        let shares: Vec<String> = busy
            .map(|cell| percent(cell.of(Contender::Serin).share(End::RolledBack)))
            .collect();
        row(text, name, &[shares.join("/")]);
    }
}

/// What other settings gain and cost, where they make a difference.
fn settings(text: &mut String, cells: &[Cell]) {
    head(text, "", &Contender::SETTINGS);
    let differs = |cell: &&Cell| {
        Contender::SETTINGS
            .iter()
            .all(|gate| gate.plays(cell.scenario))
    };
    for cell in cells.iter().filter(differs) {
        let columns = Contender::SETTINGS.map(|gate| {
            let outcomes = cell.of(gate);
            if cell.scenario.deserves == Deserves::Rollback {
                regression(outcomes)
            } else {
                let full = outcomes.full_after(0.5);
                let rolled_back = percent(outcomes.share(End::RolledBack));
                format!("{rolled_back} · {}", full.map_or("–".to_owned(), time))
            }
        });
        row(text, &cell.name(), &columns);
    }
}

/// The regressions that fail a share of requests from the first weight on, beside the least time
/// that a proof takes there.
fn information(text: &mut String, cells: &[Cell]) {
    text.push_str("| | requests | time at 10 % | Serin's median |\n|---|---|---|---|\n");
    for cell in cells {
        let Story::Fails {
            share,
            from_weight: 0,
        } = cell.scenario.story
        else {
            continue;
        };
        if share >= 1.0 {
            continue;
        }
        let requests = limits::to_fail(share);
        let _ = writeln!(
            text,
            "| roll back {} | {requests:.0} | {} | {} |",
            cell.name(),
            time((requests / (cell.rate * 0.1)) as u32),
            cell.of(Contender::Serin)
                .rollback_after(0.5)
                .map_or("–".to_owned(), time)
        );
    }
    // A healthy version's latency, 0.28 % over the limit, is harder to prove than its 0.1 % of
    // errors.
    for (from, weight) in [(10, 25), (25, 50), (50, 100)] {
        for (what, share) in [("0.1 % errors", 0.001), ("0.28 % slow", 0.0028)] {
            let _ = writeln!(
                text,
                "| move from {from} to {weight} %, {what} | {:.0} in all | – | – |",
                limits::to_pass(share, weight)
            );
        }
    }
}

/// Percent without needless digits: 0, 0.2, 12.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent >= 10.0 || percent == 0.0 {
        format!("{percent:.0}")
    } else {
        let text = format!("{percent:.1}");
        text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
    }
}

/// 45 s, 12 min, 3.4 h.
fn time(seconds: u32) -> String {
    match seconds {
        0..600 => format!("{seconds} s"),
        600..7_200 => format!("{:.0} min", f64::from(seconds) / 60.0),
        _ => format!("{:.1} h", f64::from(seconds) / 3_600.0),
    }
}
