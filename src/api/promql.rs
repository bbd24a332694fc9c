//! A query that a user wrote, confined to the user's namespace.
//!
//! The text is parsed, each selector in the tree gets a matcher `namespace="…"` of ours, and what
//! is sent is the tree printed anew, never the text. What the printed text says is parsed once more
//! and must be confined, too, so no cleverly named metric or label can open what the tree had
//! closed.

use promql_parser::label::{Labels, MatchOp, Matcher};
use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector};
use thiserror::Error;

use super::variables;
use crate::evidence::Versions;

/// The variables that a query may use.
pub const VARIABLES: [&str; 4] = ["name", "namespace", "canary", "stable"];

const NAMESPACE: &str = "namespace";
/// Deepest nesting of a query; bounds the stack.
const DEEPEST: usize = 64;
/// Longest range and offset of a query: what a rollout may need, and no more work than that.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

/// Why a query cannot be confined, or cannot be understood at all.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QueryRefused {
    /// No PromQL.
    #[error("it is no PromQL: {0}")]
    Syntax(String),
    /// Nested too deep.
    #[error("it is nested more than {DEEPEST} deep")]
    TooDeep,
    /// More than a day of data.
    #[error("a range or an offset is longer than a day")]
    TooLong,
    /// `info()` reads series that no selector names.
    #[error("the function {0} reads series that no selector names")]
    Function(String),
    /// A metric or label whose name is no plain name.
    #[error("\"{0}\" is no plain name of a metric or a label")]
    Name(String),
    /// `or` between matchers, which Prometheus does not know.
    #[error("matchers cannot be joined with `or`")]
    Alternatives,
    /// A variable that does not exist.
    #[error("there is no variable {{{{{0}}}}}; there are name, namespace, canary and stable")]
    Variable(String),
    /// It would say something else once printed.
    #[error("it cannot be confined to the namespace")]
    Unconfined,
}

/// Whether a query can be confined; which names it is for does not matter.
pub fn check(promql: &str) -> Result<(), QueryRefused> {
    let versions = Versions {
        namespace: "namespace".to_owned(),
        name: "name".to_owned(),
        canary: "00000000".to_owned(),
        stable: "ffffffff".to_owned(),
    };
    confined(promql, &versions).map(drop)
}

/// The query with its variables filled in, and each selector confined to the namespace.
pub fn confined(promql: &str, versions: &Versions) -> Result<String, QueryRefused> {
    if let Some(unknown) = variables::unknown(promql, &VARIABLES) {
        return Err(QueryRefused::Variable(unknown.trim().to_owned()));
    }
    let values = [
        versions.name.as_str(),
        versions.namespace.as_str(),
        versions.canary.as_str(),
        versions.stable.as_str(),
    ];
    // Names of objects and revisions: nothing in them means anything to PromQL or to a pattern.
    if !values.into_iter().all(is_name) {
        return Err(QueryRefused::Unconfined);
    }
    let promql = variables::filled(
        promql,
        &std::array::from_fn::<_, 4, _>(|i| (VARIABLES[i], values[i])),
    );
    let mut expression = parser::parse(&promql).map_err(QueryRefused::Syntax)?;
    let namespace = Matcher::new(MatchOp::Equal, NAMESPACE, &versions.namespace);
    let confining = Confining(namespace);
    confining.expression(&mut expression, DEEPEST)?;
    let printed = expression.to_string();
    let read = parser::parse(&printed).map_err(|_| QueryRefused::Unconfined)?;
    let same = read.to_string() == printed && confining.holds(&read);
    same.then_some(printed).ok_or(QueryRefused::Unconfined)
}

/// The matcher that each selector gets.
struct Confining(Matcher);

impl Confining {
    /// Confines an expression and all below it, at most `depth` levels.
    fn expression(&self, expression: &mut Expr, depth: usize) -> Result<(), QueryRefused> {
        let depth = depth.checked_sub(1).ok_or(QueryRefused::TooDeep)?;
        match expression {
            Expr::VectorSelector(selector) => self.selector(selector),
            Expr::MatrixSelector(matrix) => {
                no_longer(matrix.range)?;
                self.selector(&mut matrix.vs)
            }
            Expr::Subquery(subquery) => {
                no_longer(subquery.range)?;
                offset(subquery.offset.as_ref())?;
                self.expression(&mut subquery.expr, depth)
            }
            Expr::Aggregate(aggregate) => {
                plain_labels(aggregate.modifier.as_ref().map(LabelModifier::labels))?;
                // The parser's own visitor leaves this one out: topk(scalar(secret), …).
                if let Some(parameter) = &mut aggregate.param {
                    self.expression(parameter, depth)?;
                }
                self.expression(&mut aggregate.expr, depth)
            }
            Expr::Binary(binary) => {
                if let Some(modifier) = &binary.modifier {
                    plain_labels(modifier.matching.as_ref().map(LabelModifier::labels))?;
                    plain_labels(modifier.card.labels())?;
                }
                self.expression(&mut binary.lhs, depth)?;
                self.expression(&mut binary.rhs, depth)
            }
            Expr::Call(call) => {
                // Joins target_info without a selector that could be confined.
                if call.func.name == "info" {
                    return Err(QueryRefused::Function(call.func.name.to_owned()));
                }
                call.args
                    .args
                    .iter_mut()
                    .try_for_each(|argument| self.expression(argument, depth))
            }
            Expr::Unary(unary) => self.expression(&mut unary.expr, depth),
            Expr::Paren(paren) => self.expression(&mut paren.expr, depth),
            Expr::StringLiteral(_) | Expr::NumberLiteral(_) => Ok(()),
            Expr::Extension(_) => Err(QueryRefused::Unconfined),
        }
    }

    fn selector(&self, selector: &mut VectorSelector) -> Result<(), QueryRefused> {
        if !selector.matchers.or_matchers.is_empty() {
            return Err(QueryRefused::Alternatives);
        }
        offset(selector.offset.as_ref())?;
        if let Some(name) = &selector.name
            && !is_plain(name, true)
        {
            return Err(QueryRefused::Name(name.clone()));
        }
        let mut names = selector
            .matchers
            .matchers
            .iter()
            .map(|matcher| &matcher.name);
        if let Some(name) = names.find(|name| !is_plain(name, false)) {
            return Err(QueryRefused::Name(name.clone()));
        }
        selector.matchers.matchers.push(self.0.clone());
        Ok(())
    }

    /// Whether every selector in a tree is confined.
    fn holds(&self, expression: &Expr) -> bool {
        let selector = |selector: &VectorSelector| {
            selector.matchers.or_matchers.is_empty() && selector.matchers.matchers.contains(&self.0)
        };
        match expression {
            Expr::VectorSelector(vector) => selector(vector),
            Expr::MatrixSelector(matrix) => selector(&matrix.vs),
            Expr::Subquery(subquery) => self.holds(&subquery.expr),
            Expr::Aggregate(aggregate) => {
                self.holds(&aggregate.expr)
                    && aggregate
                        .param
                        .as_ref()
                        .is_none_or(|param| self.holds(param))
            }
            Expr::Binary(binary) => self.holds(&binary.lhs) && self.holds(&binary.rhs),
            Expr::Call(call) => call.args.args.iter().all(|argument| self.holds(argument)),
            Expr::Unary(unary) => self.holds(&unary.expr),
            Expr::Paren(paren) => self.holds(&paren.expr),
            Expr::StringLiteral(_) | Expr::NumberLiteral(_) => true,
            Expr::Extension(_) => false,
        }
    }
}

fn no_longer(range: std::time::Duration) -> Result<(), QueryRefused> {
    if range > LONGEST {
        return Err(QueryRefused::TooLong);
    }
    Ok(())
}

fn offset(offset: Option<&parser::Offset>) -> Result<(), QueryRefused> {
    match offset {
        Some(parser::Offset::Pos(by) | parser::Offset::Neg(by)) => no_longer(*by),
        None => Ok(()),
    }
}

fn plain_labels(labels: Option<&Labels>) -> Result<(), QueryRefused> {
    let mut labels = labels.into_iter().flat_map(|labels| &labels.labels);
    match labels.find(|label| !is_plain(label, false)) {
        Some(label) => Err(QueryRefused::Name(label.clone())),
        None => Ok(()),
    }
}

/// The name of an object: small letters, digits, dashes and dots.
fn is_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    !text.is_empty() && text.bytes().all(fits)
}

/// Letters, digits and underscores, no digit first; in a metric's name colons, too.
fn is_plain(name: &str, is_metric: bool) -> bool {
    let fits = |c: char| c == '_' || c.is_ascii_alphanumeric() || (is_metric && c == ':');
    name.starts_with(|c: char| !c.is_ascii_digit()) && name.chars().all(fits)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn versions() -> Versions {
        Versions {
            namespace: "ml".to_owned(),
            name: "churn".to_owned(),
            canary: "cccccccc".to_owned(),
            stable: "55555555".to_owned(),
        }
    }

    fn sent(promql: &str) -> String {
        confined(promql, &versions()).unwrap()
    }

    #[test]
    fn every_selector_is_confined() {
        for (written, sent_) in [
            ("up", r#"up{namespace="ml"}"#),
            (
                r#"sum(rate(errors_total{pod=~"{{name}}-{{ canary }}-.*"}[5m])) / sum(rate(requests_total[5m]))"#,
                r#"sum(rate(errors_total{namespace="ml",pod=~"churn-cccccccc-.*"}[5m])) / sum(rate(requests_total{namespace="ml"}[5m]))"#,
            ),
            (
                "topk(scalar(a), b) + on (pod) group_left (node) c offset 5m",
                r#"topk(scalar(a{namespace="ml"}), b{namespace="ml"}) + on (pod) group_left (node) c{namespace="ml"} offset 5m"#,
            ),
            (
                "max_over_time((-(a @ 100))[10m:1m])",
                r#"max_over_time((-(a{namespace="ml"} @ 100.000))[10m:1m])"#,
            ),
            (
                r#"{__name__=~".+"} or vector(0)"#,
                r#"{__name__=~".+",namespace="ml"} or vector(0)"#,
            ),
            // The two must both hold, so this finds nothing.
            (
                r#"a{namespace="kube-system"}"#,
                r#"a{namespace="kube-system",namespace="ml"}"#,
            ),
            (
                r#"count_values("{{stable}}", a)"#,
                r#"count_values("55555555", a{namespace="ml"})"#,
            ),
        ] {
            assert_eq!(sent(written), sent_);
        }
    }

    #[test]
    fn what_cannot_be_confined_is_refused() {
        let deep = format!("{}a{}", "(".repeat(500), ")".repeat(500));
        let minus = format!("{}a", "-".repeat(1_000));
        let chain = format!("a{}", "+a".repeat(500));
        for (promql, refused) in [
            // A metric of this very name.
            (r#"{"a} or {b"}"#, ""),
            (r#"{"a", "x=\"\"} or b{y"="1"}"#, "is no plain name"),
            (r#"sum by ("a) (b) or sum by (c") (d)"#, "is no plain name"),
            (r#"a{x="1" or y="2"}"#, "cannot be joined with `or`"),
            ("info(a)", "no selector names"),
            ("a[25h]", "longer than a day"),
            ("a offset 2d", "longer than a day"),
            ("max_over_time(a[2d:1m])", "longer than a day"),
            ("{{model}}", "no variable {{model}}"),
            (deep.as_str(), "nested more than 64 deep"),
            (minus.as_str(), "nested more than 64 deep"),
            (chain.as_str(), "nested more than 64 deep"),
            ("", "no PromQL"),
            ("a{", "no PromQL"),
            ("sum(", "no PromQL"),
            ("a # {", ""),
        ] {
            match check(promql) {
                Err(reason) => assert!(reason.to_string().contains(refused), "{promql}: {reason}"),
                Ok(()) => assert_eq!(refused, "", "{promql}"),
            }
        }
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for hostile in [r#""} or b{x=""#, ".*|x", "", "a\nb"] {
            let mut versions = versions();
            versions.namespace = hostile.to_owned();
            assert_eq!(confined("a", &versions), Err(QueryRefused::Unconfined));
        }
    }

    #[test]
    fn a_comment_hides_nothing() {
        assert_eq!(
            sent("a # {namespace=\"x\"}\n + b"),
            r#"a{namespace="ml"} + b{namespace="ml"}"#
        );
    }

    proptest! {
        /// Whatever is accepted: a confined text, each of whose selectors names the namespace.
        #[test]
        fn nothing_accepted_reads_elsewhere(parts in prop::collection::vec(prop::sample::select(vec![
            "a", "{", "}", "(", ")", "[5m]", "=", "=~", "\"x\"", "'y'", "`z`", ",", "+", "or", "sum", "by",
            "rate", "topk", "scalar", "namespace", "{\"b\"}", "\\\"", "\"", "#", "\n", " ", "1", "-", "@",
            "offset", "1h", "on", "{{name}}", "\"} or b{\"", "[10m:1m]", "without", "info", ":", "__name__",
        ]), 0..24)) {
            let promql: String = parts.join(" ");
            if let Ok(text) = confined(&promql, &versions()) {
                let tree = parser::parse(&text).unwrap();
                let mut found = Vec::new();
                collect(&tree, &mut found);
                for selector in found {
                    prop_assert!(selector.contains(r#"namespace="ml""#), "{promql:?} → {text}");
                }
            }
        }

        #[test]
        fn no_text_makes_it_panic(promql in any::<String>()) {
            let _ = check(&promql);
        }

        #[test]
        fn no_string_escapes(value in any::<String>()) {
            let promql = format!("a{{x={}}}", serde_json::to_string(&value).unwrap());
            if let Ok(text) = confined(&promql, &versions()) {
                let mut found = Vec::new();
                collect(&parser::parse(&text).unwrap(), &mut found);
                prop_assert_eq!(found.len(), 1);
                prop_assert!(found[0].contains(r#"namespace="ml""#));
            }
        }
    }

    /// All selectors of a tree, by its debug text: independent of the code under test.
    fn collect(tree: &Expr, found: &mut Vec<String>) {
        let text = format!("{tree:?}");
        for (start, _) in text.match_indices("VectorSelector {") {
            let end = text[start..]
                .find("offset:")
                .map_or(text.len(), |end| start + end);
            let selector = &text[start..end];
            let confined = selector.contains(r#"op: Equal, name: "namespace", value: "ml""#);
            found.push(if confined {
                r#"namespace="ml""#.to_owned()
            } else {
                selector.to_owned()
            });
        }
    }
}
