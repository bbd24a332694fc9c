//! Tests of `evidence::blind`.

use super::*;

#[test]
fn messages_name_the_remedy() {
    let expired = BlindReason::Status {
        code: 401,
        message: "token expired".to_owned(),
    };
    assert_eq!(
        expired.to_string(),
        "Prometheus answered 401 (token expired): renew the credentials with which the \
         operator asks"
    );
    let edge = BlindReason::NoBucketEdge {
        metric: "model_request_duration_seconds_bucket".to_owned(),
        max: Duration::from_millis(3),
        smallest: Some(Duration::from_millis(5)),
    };
    assert_eq!(
        edge.to_string(),
        "model_request_duration_seconds_bucket has no bucket edge at or below 3ms that all \
         pods share (the smallest is 5ms): raise the objective, or add a bucket at it"
    );
}

#[test]
fn quoted_messages_are_one_short_line() {
    assert_eq!(shortened(" a\nb\u{1b}c "), "a b c");
    let long = shortened(&"é".repeat(10_000));
    assert_eq!(long.chars().count(), LONGEST_QUOTE + 1);
    assert!(long.ends_with('…'));
}
