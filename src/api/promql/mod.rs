//! A query that a user wrote, confined to the user's namespace.
//!
//! The text is parsed, each selector in the tree gets a matcher `namespace="…"`, and the query that
//! is sent is printed from the tree. The printed text is parsed again and must still be confined,
//! so that no crafted name of a metric or label escapes the matcher.

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
/// Longest range and offset of a query. A rollout needs no more, and it bounds Prometheus' work.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

/// Why a query cannot be parsed or confined.
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
    /// A metric or label whose name is not a plain identifier.
    #[error("\"{0}\" is no plain name of a metric or a label")]
    Name(String),
    /// `or` between matchers, which Prometheus does not know.
    #[error("matchers cannot be joined with `or`")]
    Alternatives,
    /// A variable that does not exist.
    #[error("there is no variable {{{{{0}}}}}; there are name, namespace, canary and stable")]
    Variable(String),
    /// The printed query differs from the parsed one.
    #[error("it cannot be confined to the namespace")]
    Unconfined,
}

/// Checks that a query can be confined. The names that are filled in do not matter. The error says
/// what cannot be.
pub fn check(promql: &str) -> Result<(), QueryRefused> {
    let versions = Versions {
        namespace: "namespace".to_owned(),
        name: "name".to_owned(),
        canary: "00000000".to_owned(),
        stable: "ffffffff".to_owned(),
    };
    confined(promql, &versions).map(drop)
}

/// Returns the query with its variables filled in and each selector confined to the namespace. An
/// error where it is no valid PromQL, has an unknown variable, or a selector that reaches beyond
/// the namespace.
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
    // Names of objects and revisions have no character that is special in PromQL or in a pattern.
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

/// Adds the matcher to each selector.
struct Confining(Matcher);

impl Confining {
    /// Confines an expression and all below it. Fails beyond `depth` levels.
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
                // The parser's own visitor skips the parameter: topk(scalar(secret), …).
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

/// Whether a text can be the name of an object: small letters, digits, dashes and dots.
fn is_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    !text.is_empty() && text.bytes().all(fits)
}

/// Whether a name is letters, digits and underscores without a leading digit; a metric's may have
/// colons.
fn is_plain(name: &str, is_metric: bool) -> bool {
    let fits = |c: char| c == '_' || c.is_ascii_alphanumeric() || (is_metric && c == ':');
    name.starts_with(|c: char| !c.is_ascii_digit()) && name.chars().all(fits)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
