//! Tests of `api::validate::pods`.

use super::*;

#[test]
fn quantities_are_parsed_like_kubernetes_does() {
    for (text, number) in [
        ("2", 2.0),
        ("300m", 0.3),
        ("0.3", 0.3),
        (".5", 0.5),
        ("4Gi", 4_294_967_296.0),
        ("1e3", 1000.0),
        ("1E", 1e18),
        ("+1k", 1000.0),
        ("0", 0.0),
    ] {
        assert_eq!(amount(text), Some(number), "{text}");
    }
    for text in ["lots", "", "1 Gi", "1GB", "-1", "1e", "Gi", "1..2"] {
        assert_eq!(amount(text), None, "{text}");
    }
}

#[test]
fn images_are_parsed_like_container_runtimes_do() {
    let pinned = format!("ghcr.io/team/serve@sha256:{:064}", 1);
    for image in [
        "serve:1",
        "registry:5000/a/b_c:v1.0",
        "Host.example.com/a:1",
        "a/b:1",
        &pinned,
    ] {
        assert!(is_image(image), "{image}");
    }
    for image in [
        "a b:1",
        "ghcr.io/Team/serve:1",
        "a@sha256:1",
        "https://ghcr.io/a:1",
        "a/:1",
        ":1",
    ] {
        assert!(!is_image(image), "{image}");
    }
}
