//! The value of a query that a user wrote.

use jiff::Timestamp;

use super::{Client, answer::Single};
use crate::{
    api::promql::confined,
    evidence::{BlindReason, Value, Versions},
};

/// Asks for the one value that a user's query gives at `at`. The error says why there is not
/// exactly one value.
pub async fn read_value(
    client: &Client,
    versions: &Versions,
    promql: &str,
    scrape_interval: std::time::Duration,
    at: Timestamp,
) -> Result<Value, BlindReason> {
    let query = confined(promql, versions).map_err(|refused| BlindReason::QueryRefused {
        detail: refused.to_string(),
    })?;
    let reply = client.query(&query, at).await?;
    reply.check_clock(at, scrape_interval)?;
    let Single(value) = Single::parse(&reply.body)?;
    Ok(Value { value, at, query })
}
