//! What Events say.

use crate::api::DecisionRecord;

/// A decision, and the person who asked for it.
pub(crate) fn note(record: &DecisionRecord) -> String {
    match &record.by {
        Some(by) => format!("On the word of {by}: {}", record.sentence),
        None => record.sentence.clone(),
    }
}

/// Annotations that could not be understood, each with what is wrong with it.
pub(crate) fn ignored(annotations: &[String]) -> String {
    annotations.join(" ")
}
