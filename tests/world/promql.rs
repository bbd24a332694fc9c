//! As much of PromQL as the operator asks: raw ranges of a selector, and the label sets of `count
//! by (…) (last_over_time(…))`.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};

use regex::Regex;
use serde::Serialize;

/// Labels of a series, its name as `__name__`.
pub type Labels = BTreeMap<String, String>;

/// One series with its samples: Unix milliseconds and value, oldest first.
#[derive(Clone, Debug)]
pub struct Series {
    pub labels: Labels,
    pub samples: Vec<(i64, f64)>,
}

/// A parsed query.
#[derive(Debug)]
pub struct Query {
    matchers: Vec<Matcher>,
    range_ms: i64,
    /// The labels to count by, where it is a count.
    by: Option<Vec<String>>,
}

#[derive(Debug)]
struct Matcher {
    label: String,
    pattern: Pattern,
    negated: bool,
}

#[derive(Debug)]
enum Pattern {
    Text(String),
    Regex(Rc<Known>),
}

impl Query {
    /// Reads a query; `None` for a form that is not known here.
    pub fn parse(text: &str) -> Option<Self> {
        let (by, selector) = match text.strip_prefix("count by (") {
            Some(rest) => {
                let (labels, rest) = rest.split_once(") (last_over_time(")?;
                let by = labels.split(',').map(|label| label.trim().to_owned());
                (Some(by.collect()), rest.strip_suffix("))")?)
            }
            None => (None, text),
        };
        let (name, rest) = selector.split_once('{')?;
        let mut matchers = Vec::new();
        if !name.is_empty() {
            matchers.push(Matcher {
                label: "__name__".to_owned(),
                pattern: Pattern::Text(name.to_owned()),
                negated: false,
            });
        }
        let mut rest = rest;
        while !rest.starts_with('}') {
            let end = rest.find(['=', '!'])?;
            let label = rest[..end].trim().to_owned();
            rest = &rest[end..];
            let operator = ["=~", "!~", "!=", "="]
                .into_iter()
                .find(|operator| rest.starts_with(operator))?;
            let (value, after) = unquote(&rest[operator.len()..])?;
            rest = after.strip_prefix(',').unwrap_or(after);
            let pattern = if operator.ends_with('~') {
                Pattern::Regex(regex(&value)?)
            } else {
                Pattern::Text(value)
            };
            matchers.push(Matcher {
                label,
                pattern,
                negated: operator.starts_with('!'),
            });
        }
        let seconds: i64 = rest.strip_prefix("}[")?.strip_suffix("s]")?.parse().ok()?;
        Some(Self {
            matchers,
            range_ms: seconds * 1000,
            by,
        })
    }

    /// Whether the series with these labels is asked for.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.matchers.iter().all(|matcher| {
            let value = labels.get(&matcher.label).map_or("", String::as_str);
            let matches = match &matcher.pattern {
                Pattern::Text(text) => text == value,
                Pattern::Regex(known) => known.is_match(value),
            };
            matches != matcher.negated
        })
    }

    /// The answer's `data`, as of a moment in Unix milliseconds.
    pub fn answer<'a>(&self, all: &'a [Series], at_ms: i64) -> Data<'a> {
        let selected = all
            .iter()
            .filter(|series| self.selects(&series.labels))
            .filter_map(|series| {
                let start = series
                    .samples
                    .partition_point(|(ms, _)| *ms <= at_ms - self.range_ms);
                let end = series.samples.partition_point(|(ms, _)| *ms <= at_ms);
                (start < end).then(|| (&series.labels, &series.samples[start..end]))
            });
        if let Some(by) = &self.by {
            let groups: BTreeSet<Labels> = selected
                .map(|(labels, _)| {
                    let kept = labels.iter().filter(|(name, _)| by.contains(name));
                    kept.map(|(name, value)| (name.clone(), value.clone()))
                        .collect()
                })
                .collect();
            let value = (seconds(at_ms), "1");
            let one = |metric| One { metric, value };
            return Data::Vector(groups.into_iter().map(one).collect());
        }
        let range = |(metric, samples): (&'a Labels, &[(i64, f64)])| Range {
            metric,
            values: samples
                .iter()
                .map(|(ms, value)| (seconds(*ms), value.to_string()))
                .collect(),
        };
        Data::Matrix(selected.map(range).collect())
    }
}

/// An answer's `data`.
#[derive(Serialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
pub enum Data<'a> {
    Vector(Vec<One>),
    Matrix(Vec<Range<'a>>),
}

/// One value.
#[derive(Serialize)]
pub struct One {
    metric: Labels,
    value: (f64, &'static str),
}

/// The samples of one series: seconds and value.
#[derive(Serialize)]
pub struct Range<'a> {
    metric: &'a Labels,
    values: Vec<(f64, String)>,
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// A string literal at the start of a text, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.strip_prefix('"')?.chars();
    loop {
        match rest.next()? {
            '"' => return Some((value, rest.as_str())),
            '\\' => value.push(rest.next()?),
            c => value.push(c),
        }
    }
}

/// A regex, and what it says of the values that were asked about: the same few are all the time.
#[derive(Debug)]
struct Known {
    regex: Regex,
    answers: RefCell<HashMap<String, bool>>,
}

impl Known {
    fn is_match(&self, value: &str) -> bool {
        if let Some(known) = self.answers.borrow().get(value) {
            return *known;
        }
        let answer = self.regex.is_match(value);
        self.answers.borrow_mut().insert(value.to_owned(), answer);
        answer
    }
}

/// Compiled once a thread: the same few patterns are asked for all the time.
fn regex(pattern: &str) -> Option<Rc<Known>> {
    thread_local! {
        static COMPILED: RefCell<HashMap<String, Rc<Known>>> = RefCell::default();
    }
    COMPILED.with_borrow_mut(|compiled| {
        if let Some(known) = compiled.get(pattern) {
            return Some(known.clone());
        }
        let known = Rc::new(Known {
            regex: Regex::new(&format!("^(?:{pattern})$")).ok()?,
            answers: RefCell::default(),
        });
        compiled.insert(pattern.to_owned(), known.clone());
        Some(known)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_what_was_scraped_within_it_and_matches_absent_labels_as_empty() {
        let series = |name: &str, class: Option<&str>| Series {
            labels: [("__name__", Some(name)), ("class", class)]
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
                .collect(),
            samples: vec![(1_000, 1.0), (11_000, 2.0), (21_000, 3.0)],
        };
        let all = [
            series("a", None),
            series("a", Some("5")),
            series("a", Some("2")),
        ];
        let query = Query::parse(r#"{__name__=~"a|up",class=~"|5"}[15s]"#).unwrap();
        let answer = serde_json::to_value(query.answer(&all, 21_500)).unwrap();
        assert_eq!(answer["result"].as_array().unwrap().len(), 2);
        assert_eq!(
            answer["result"][0]["values"],
            serde_json::json!([[11.0, "2"], [21.0, "3"]])
        );
        let query = Query::parse(r#"count by (class) (last_over_time({__name__="a"}[60s]))"#);
        let answer = serde_json::to_value(query.unwrap().answer(&all, 21_500)).unwrap();
        assert_eq!(answer["result"].as_array().unwrap().len(), 3);
        assert!(Query::parse("rate(a[5m])").is_none());
    }
}
