//! Pods in words: how many are Ready, and what keeps the others from serving.

use crate::observe::VersionHealth;

/// How many pods of a version are Ready, and what the others wait for, as a sentence.
pub(super) fn pods_of(version: &str, health: &VersionHealth, replicas: i32) -> String {
    let all = health.desired.max(replicas);
    let why = health.failure.as_ref().or(health.trouble.as_ref());
    let why = why.map_or_else(String::new, |why| {
        format!(": {}", why.trim_end_matches('.'))
    });
    let ready = health.ready;
    format!("Version {version}: {ready} of {all} pods are Ready{why}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_others_wait_for_ends_the_sentence() {
        let words = "the scheduler says: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.";
        let health = VersionHealth {
            desired: 1,
            trouble: Some(words.to_owned()),
            ..VersionHealth::default()
        };
        assert_eq!(
            pods_of("2", &health, 3),
            format!("Version 2: 0 of 3 pods are Ready: {words}")
        );
    }
}
