//! Every verb in every situation: its sentence, and its patch.

use std::fmt::Write as _;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::{Value, json};

use super::{
    CliError,
    change::{Change, difference},
    history::{self, Entry},
    person,
    retry::retry,
    undo::undo,
    {abort, pause, promote},
};
use crate::api::{ModelDeployment, Revision, VersionSpec};

const TOKEN: &str = "2026-11-21T03:00:00Z";

fn now() -> Timestamp {
    "2026-11-18T00:00:00Z".parse().unwrap()
}

fn declared(version: &str) -> Value {
    json!({"uri": format!("file:///m/{version}"), "version": version, "digest": "sha256:0"})
}

fn revision(version: &str) -> Revision {
    let spec = json!({"model": declared(version), "serving": {}});
    let spec: VersionSpec = serde_json::from_value(spec).unwrap();
    spec.revision()
}

fn reference(version: &str) -> Value {
    json!({"version": version, "revision": revision(version)})
}

/// A model whose spec asks for a version, with this rollout and status.
#[allow(clippy::needless_pass_by_value)] // JSON as it is written
fn model(version: &str, rollout: Value, status: Value) -> ModelDeployment {
    serde_json::from_value(json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": {"name": "churn", "namespace": "ml", "uid": "u1", "resourceVersion": "7"},
        "spec": {
            "model": declared(version),
            "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
            "rollout": rollout,
        },
        "status": status,
    }))
    .unwrap()
}

fn canary(version: &str, step: u32, weight: u8) -> Value {
    let mut canary = reference(version);
    canary["weight"] = json!(weight);
    canary["since"] = json!("2026-11-21T02:00:00Z");
    if weight > 0 {
        canary["progress"] =
            json!({"step": step, "stepSince": "2026-11-21T02:00:00Z", "gates": []});
    }
    canary
}

fn on_trial(rollout: Value, step: u32, weight: u8) -> ModelDeployment {
    let canary = canary("2", step, weight);
    let status = json!({"phase": "Canary", "stable": reference("1"), "canary": canary});
    model("2", rollout, status)
}

fn refused(version: &str) -> Value {
    let mut refused = reference(version);
    refused["at"] = json!("2026-11-21T02:30:00Z");
    refused["reason"] = json!("It failed.");
    refused
}

fn situations() -> Vec<(&'static str, ModelDeployment)> {
    let none = || json!({});
    let mut approved = on_trial(json!({"approval": "BeforePromotion"}), 3, 100);
    let progress = |model: &mut ModelDeployment| {
        let canary = model.status.as_mut().unwrap().state.canary.as_mut();
        let by = json!({"at": "2026-11-21T02:10:00Z", "by": "ada@example.com"});
        canary.unwrap().progress.as_mut().unwrap().approved = serde_json::from_value(by).unwrap();
    };
    progress(&mut approved);
    let mut failing = on_trial(json!({"onFailure": "Hold"}), 1, 25);
    let held = json!({
        "at": "2026-11-21T02:10:00Z", "action": "FailureHeld", "version": "2", "weight": 25,
        "sentence": "",
    });
    let state = &mut failing.status.as_mut().unwrap().state;
    state.decisions.push(serde_json::from_value(held).unwrap());
    let mut unseen = model("1", none(), none());
    unseen.status = None;
    let steps = json!([{"weight": 10, "pause": {}}, {"weight": 100}]);
    vec![
        ("the operator has not seen it", unseen),
        (
            "the first version is being started",
            model("1", none(), json!({"canary": canary("1", 0, 0)})),
        ),
        (
            "version 2 serves all",
            model("2", none(), json!({"stable": reference("2")})),
        ),
        ("version 2 has no traffic yet", on_trial(none(), 0, 0)),
        ("version 2 has 10 %", on_trial(none(), 0, 10)),
        (
            "version 2 has 10 %, paused",
            on_trial(json!({"paused": true}), 0, 10),
        ),
        (
            "version 2 has 10 %, a step that waits for a person",
            on_trial(json!({"steps": steps}), 0, 10),
        ),
        (
            "version 2 has 100 % and waits for a person",
            on_trial(json!({"approval": "BeforePromotion"}), 3, 100),
        ),
        ("version 2 has 100 % and is approved", approved),
        ("version 2 fails and is held", failing),
        (
            "version 2 was rolled back",
            model(
                "2",
                none(),
                json!({"stable": reference("1"), "refused": [refused("2")]}),
            ),
        ),
        (
            "version 2 was rolled back, and the spec asks for 1 again",
            model(
                "1",
                none(),
                json!({"stable": reference("1"), "refused": [refused("2")]}),
            ),
        ),
    ]
}

/// The history of versions 0, 1 and 2, as the operator keeps it: with the image that they were
/// given.
fn versions(model: &ModelDeployment) -> Vec<Entry> {
    let kept = |(index, version): (usize, &&str)| -> ControllerRevision {
        serde_json::from_value(json!({
            "metadata": {
                "name": format!("churn-{version}"), "namespace": "ml",
                "creationTimestamp": "2026-11-20T00:00:00Z",
                "annotations": {
                    "serin.dev/in-force": (index + 1).to_string(),
                    "serin.dev/in-force-until": format!("2026-11-1{index}T00:00:00Z"),
                },
                "labels": {"serin.dev/revision": revision(version)},
                "ownerReferences": [{"apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
                        "name": "churn", "uid": "u1"}],
            },
            "revision": index + 1,
            "data": {
                "model": declared(version),
                "serving": {"image": "serin-serve:0.1", "port": 8080}, "template": {},
            },
        }))
        .unwrap()
    };
    let mut found: Vec<_> = ["0", "1", "2"].iter().enumerate().map(kept).collect();
    let mut foreign = found[0].clone();
    foreign.metadata.owner_references.as_mut().unwrap()[0].uid = "before".to_owned();
    found.push(foreign);
    found.reverse();
    history::entries(model, found)
}

#[test]
fn every_verb_states_its_effect_or_the_alternative() {
    let mut text = String::new();
    for (situation, model) in situations() {
        writeln!(text, "{situation}").unwrap();
        let entries = versions(&model);
        let said: [(&str, Result<Change, CliError>); 8] = [
            ("pause", Ok(pause::pause(&model))),
            ("resume", Ok(pause::resume(&model))),
            ("promote", promote::approve(&model)),
            ("promote --skip-step", promote::skip_step(&model)),
            ("promote --full", promote::full(&model)),
            ("abort", abort::abort(&model)),
            ("retry", retry(&model, TOKEN)),
            ("undo", undo(&model, &entries, None, now())),
        ];
        for (verb, result) in said {
            let sentence = match result {
                Ok(change) if change.is_nothing() => format!("(nothing) {}", change.sentence),
                Ok(change) => change.sentence,
                Err(error) => format!("error: {error}"),
            };
            writeln!(text, "  {verb}: {sentence}").unwrap();
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_patch_names_the_trial_and_the_person() {
    let model = on_trial(json!({"approval": "BeforePromotion"}), 3, 100);
    let change = promote::approve(&model).unwrap();
    assert_eq!(
        change.patch(&model, Some("ada@example.com")),
        json!({"metadata": {"resourceVersion": "7", "annotations": {
            "serin.dev/approve": format!("{}@100", revision("2")),
            "serin.dev/requested-by": "ada@example.com",
        }}})
    );
    let change = pause::pause(&model);
    assert_eq!(
        change.patch(&model, None),
        json!({
            "metadata": {"resourceVersion": "7", "annotations": {"serin.dev/requested-by": null}},
            "spec": {"rollout": {"paused": true}},
        }),
        "an unknown person is not the last one"
    );
}

#[test]
fn a_retry_removes_only_the_commands_about_the_version() {
    let status = json!({"stable": reference("1"), "refused": [refused("2")]});
    let mut model = model("2", json!({}), status);
    model.metadata.annotations = Some(
        [
            ("serin.dev/abort".to_owned(), revision("2").0),
            (
                "serin.dev/approve".to_owned(),
                format!("{}@10", revision("3")),
            ),
        ]
        .into(),
    );
    assert_eq!(
        retry(&model, TOKEN).unwrap().patch(&model, Some("ada")),
        json!({
            "metadata": {"resourceVersion": "7", "annotations": {
                "serin.dev/abort": null, "serin.dev/requested-by": "ada",
            }},
            "spec": {"rollout": {"retryToken": TOKEN}},
        })
    );
}

#[test]
fn an_undo_declares_exactly_the_kept_version() {
    let status = json!({"stable": reference("2")});
    let mut model = model("2", json!({}), status);
    model.spec.serving.port = Some(9000);
    let entries = versions(&model);
    assert_eq!(entries.len(), 3, "another model's of the same name is none");
    for to in [&revision("1").0, "1"] {
        let change = undo(&model, &entries, Some(to), now()).unwrap();
        let patch = change.patch(&model, None);
        assert_eq!(patch["spec"]["model"]["version"], "1", "to {to}");
        assert_eq!(
            patch["spec"]["serving"],
            json!({"port": null}),
            "without the image and the port that it was given"
        );
    }
    let error = undo(&model, &entries, Some("1.5"), now()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("kubectl serin history churn"), "{error}");
}

#[test]
fn a_version_is_named_by_its_revision_only_where_another_has_its_name() {
    let status = json!({"stable": reference("2"), "refused": [refused("0")]});
    let model = model("2", json!({}), status);
    let mut entries = versions(&model);
    let mut twin = entries[1].clone();
    twin.declared.serving.port = Some(9000);
    twin.revision = twin.declared.revision();
    entries.push(twin);
    let (one, other) = (&entries[1].revision, &entries[3].revision);
    let table = history::table(&model, &entries);
    let names = table.lines().map(|line| line.split("  ").next().unwrap());
    let twins = [format!("1 ({one})"), format!("1 ({other})")];
    assert_eq!(
        names.collect::<Vec<_>>(),
        ["VERSION", "0", &twins[0], "2", &twins[1]]
    );

    let said = undo(&model, &entries, Some("1"), now()).unwrap_err();
    assert_eq!(
        said.to_string(),
        format!(
            "several versions of churn are called 1; name one by its revision: --to-revision \
             {one} (kept), --to-revision {other} (kept)"
        )
    );
    for (to, name) in [one, other].into_iter().zip(twins) {
        let change = undo(&model, &entries, Some(&to.0), now()).unwrap();
        let sentence = change.sentence;
        assert!(sentence.contains(&format!("ersion {name} ")), "{sentence}");
    }
    let change = undo(&model, &entries, Some("0"), now()).unwrap();
    assert!(
        change.sentence.contains("version 0 again"),
        "{}",
        change.sentence
    );
}

#[test]
fn an_undo_says_whether_the_version_takes_the_steps() {
    let status = json!({"stable": reference("2")});
    let model = |window: Value| model("2", json!({"rollbackWindow": window}), status.clone());
    // Version 1 was stable until a week ago, version 0 a day longer.
    for (to, window, without_steps) in [
        ("1", json!({}), true),
        ("0", json!({}), false),
        ("0", json!({"within": "192h"}), true),
        ("0", json!({"within": "192h", "revisions": 1}), false),
        ("1", json!({"revisions": 0}), false),
    ] {
        let model = model(window.clone());
        let to = revision(to).0;
        let change = undo(&model, &versions(&model), Some(&to), now()).unwrap();
        let sentence = change.sentence;
        assert_eq!(
            sentence.contains("without steps"),
            without_steps,
            "{window}: {sentence}"
        );
    }
}

#[test]
fn a_merge_patch_removes_absent_fields() {
    let old = json!({"a": 1, "b": {"c": [1], "d": 2}, "e": 3});
    let new = json!({"a": 1, "b": {"c": [2], "f": null}, "g": 4});
    assert_eq!(
        difference(&old, &new),
        json!({"b": {"c": [2], "d": null, "f": null}, "e": null, "g": 4})
    );
    assert_eq!(difference(&old, &old), json!({}));
}

#[test]
fn the_history_shows_the_state_of_each_version() {
    let status = json!({
        "stable": reference("1"), "canary": canary("2", 0, 10), "refused": [refused("0")],
    });
    let model = model("2", json!({}), status);
    insta::assert_snapshot!(history::table(&model, &versions(&model)));
}

#[test]
fn the_user_of_a_kubeconfig_is_the_contexts() {
    let kubeconfig: kube::config::Kubeconfig = serde_json::from_value(json!({
        "current-context": "b",
        "contexts": [
            {"name": "a", "context": {"cluster": "c", "user": "ada"}},
            {"name": "b", "context": {"cluster": "c", "user": "bob"}},
        ],
    }))
    .unwrap();
    let of = |context| person::of_kubeconfig(&kubeconfig, context);
    assert_eq!(of(None).as_deref(), Some("bob"));
    assert_eq!(of(Some("a")).as_deref(), Some("ada"));
    assert_eq!(of(Some("c")), None);
}

/// A stand-in for an API server of 1.26 or later, which answers as KEP-3325 specifies.
async fn api_server(known: &'static str) -> kube::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let path = format!("/apis/authentication.k8s.io/{known}/selfsubjectreviews");
    let answer = || async {
        axum::Json(json!({"kind": "SelfSubjectReview",
                    "status": {"userInfo": {"username": "ada@example.com"}}}))
    };
    let missing = || async {
        let status = json!({"kind": "Status", "status": "Failure", "code": 404,
                "reason": "NotFound", "message": ""});
        (http::StatusCode::NOT_FOUND, axum::Json(status))
    };
    let app = axum::Router::new()
        .route(&path, axum::routing::post(answer))
        .fallback(missing);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    kube::Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap()
}

#[tokio::test]
async fn the_api_server_names_the_user_where_it_can() {
    for version in ["v1", "v1beta1", "v1alpha1"] {
        let name = person::ask(&api_server(version).await).await;
        assert_eq!(name.as_deref(), Some("ada@example.com"), "{version}");
    }
    assert_eq!(person::ask(&api_server("v0").await).await, None);
}
