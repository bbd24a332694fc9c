//! Schemas of single values, whose rules name the remedy.
//!
//! Lengths are bounded, since the API server refuses a CRD rule whose estimated cost exceeds its
//! budget.

use schemars::{Schema, SchemaGenerator};
use serde_json::{Value, json};

/// A DNS subdomain, the name of most objects: Secrets, ConfigMaps, ServiceAccounts.
const OBJECT_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// The schema of a text of at most `longest` characters that matches `pattern`; `remedy` is its
/// error message.
pub(super) fn text(longest: u32, pattern: &str, remedy: &str) -> Value {
    json!({
        "type": "string", "maxLength": longest,
        "x-kubernetes-validations": [{"rule": matches(pattern), "message": remedy}],
    })
}

/// The CEL rule that a text matches `pattern`.
pub(super) fn matches(pattern: &str) -> String {
    format!("self.matches({})", quoted(pattern))
}

fn quoted(pattern: &str) -> String {
    format!("'{}'", pattern.replace('\\', r"\\").replace('\'', r"\'"))
}

fn object_name(kind: &str) -> Value {
    let remedy = format!(
        "expected the name of a {kind} of this namespace: small letters, digits, - and ., a letter \
         or digit at both ends"
    );
    text(253, OBJECT_NAME, &remedy)
}

pub(super) fn credentials(_: &mut SchemaGenerator) -> Schema {
    schema(object_name("Secret"))
}

pub(super) fn schema(value: Value) -> Schema {
    // Every caller passes a JSON object.
    Schema::try_from(value).unwrap_or_default()
}
