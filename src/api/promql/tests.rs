//! Tests of `api::promql`.

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
            concat!(
                r#"sum(rate(errors_total{pod=~"{{name}}-{{ canary }}-.*"}[5m])) / "#,
                "sum(rate(requests_total[5m]))",
            ),
            concat!(
                r#"sum(rate(errors_total{namespace="ml",pod=~"churn-cccccccc-.*"}[5m])) / "#,
                r#"sum(rate(requests_total{namespace="ml"}[5m]))"#,
            ),
        ),
        (
            "topk(scalar(a), b) + on (pod) group_left (node) c offset 5m",
            concat!(
                r#"topk(scalar(a{namespace="ml"}), b{namespace="ml"}) + "#,
                r#"on (pod) group_left (node) c{namespace="ml"} offset 5m"#,
            ),
        ),
        (
            "max_over_time((-(a @ 100))[10m:1m])",
            r#"max_over_time((-(a{namespace="ml"} @ 100.000))[10m:1m])"#,
        ),
        (
            r#"{__name__=~".+"} or vector(0)"#,
            r#"{__name__=~".+",namespace="ml"} or vector(0)"#,
        ),
        // Both matchers apply, so this selects nothing.
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
fn invalid_names_are_refused() {
    for hostile in [r#""} or b{x=""#, ".*|x", "", "a\nb"] {
        let mut versions = versions();
        versions.namespace = hostile.to_owned();
        assert_eq!(confined("a", &versions), Err(QueryRefused::Unconfined));
    }
}

#[test]
fn a_comment_hides_no_selector() {
    assert_eq!(
        sent("a # {namespace=\"x\"}\n + b"),
        r#"a{namespace="ml"} + b{namespace="ml"}"#
    );
}

/// Parts of queries, joined at random.
#[rustfmt::skip]
const PARTS: [&str; 39] = [
    "a", "{", "}", "(", ")", "[5m]", "=", "=~", "\"x\"", "'y'", "`z`", ",", "+", "or", "sum",
    "by", "rate", "topk", "scalar", "namespace", "{\"b\"}", "\\\"", "\"", "#", "\n", " ", "1",
    "-", "@", "offset", "1h", "on", "{{name}}", "\"} or b{\"", "[10m:1m]", "without", "info",
    ":", "__name__",
];

proptest! {
    /// Each selector of an accepted query names the namespace.
    #[test]
    fn no_accepted_query_reads_another_namespace(
        parts in prop::collection::vec(prop::sample::select(&PARTS[..]), 0..24)
    ) {
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
    fn no_text_panics(promql in any::<String>()) {
        let _ = check(&promql);
    }

    #[test]
    fn strings_cannot_escape_the_matcher(value in any::<String>()) {
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
