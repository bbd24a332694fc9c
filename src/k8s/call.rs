//! Calls to the API server: their timeout, and what an error says.

use std::time::Duration;

use crate::api::conditions::reasons;

/// Timeout of one call to the API server. The client's own retries could take minutes.
pub const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Characters of the API server's message that are kept. A webhook's may be a page.
const WORDS_KEPT: usize = 240;

/// The API server did not answer in time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the API server did not answer within {} s", CALL_LIMIT.as_secs())]
pub struct NoAnswer;

/// Bounds one call to [`CALL_LIMIT`]. An error where it takes longer.
pub async fn timely<T>(call: impl Future<Output = T>) -> Result<T, NoAnswer> {
    tokio::time::timeout(CALL_LIMIT, call)
        .await
        .map_err(|_| NoAnswer)
}

/// Whether the API server refused a request with this HTTP status code.
pub fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// The API server's own message. kube's error repeats it three times.
pub fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => {
            format!("{} ({} {})", status.message, status.code, status.reason)
        }
        error => error.to_string(),
    }
}

/// A condition's reason for a refusal. The API server has no code for most of these: its messages
/// are fixed in its source (plugin/pkg/admission/resourcequota, pkg/admission/plugin/webhook,
/// pkg/admission/plugin/policy). If one changes there, the general reason is used.
pub fn reason(error: &kube::Error) -> &'static str {
    let kube::Error::Api(status) = error else {
        return reasons::WRITE_REFUSED;
    };
    let says = |words: &str| status.message.contains(words);
    if says("exceeded quota") || says("failed quota") {
        reasons::QUOTA_EXCEEDED
    } else if says("admission webhook") || says("failed calling webhook") || says("AdmissionPolicy")
    {
        reasons::ADMISSION_DENIED
    } else if status.code == 422 || status.code == 400 {
        reasons::OBJECT_INVALID
    } else if status.code == 403 || status.code == 401 {
        reasons::FORBIDDEN
    } else {
        reasons::WRITE_REFUSED
    }
}

/// A message in one line of at most 240 characters.
pub fn shortened(words: &str) -> String {
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(WORDS_KEPT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_becomes_a_line() {
        let page = format!("denied:\n\n{}", "ü".repeat(1000));
        let line = shortened(&page);
        assert!(line.starts_with("denied: ü") && line.ends_with('…'));
        assert_eq!(line.chars().count(), WORDS_KEPT + 1);
    }
}
