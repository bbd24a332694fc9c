//! Tests of `plan`.

use serde_json::json;

use super::*;
use crate::router::{
    Setup,
    envoy::{Envoy, Prober},
};

fn defaults() -> PlatformDefaults {
    let fetch = json!({"image": "serve:1", "hosts": [], "maxSize": 1});
    PlatformDefaults {
        serving_image: "serve:1".to_owned(),
        fetch: serde_json::from_value(fetch).unwrap(),
    }
}

#[test]
fn replicas_are_never_lowered_during_a_rollout() {
    let version = |version: &str| {
        let model = json!({"uri": "file:///m", "version": version, "digest": "sha256:0"});
        serde_json::from_value::<VersionSpec>(json!({"model": model, "serving": {}})).unwrap()
    };
    let known = |spec: VersionSpec, number| {
        let data = serde_json::to_value(&spec).unwrap();
        let version = KnownVersion {
            number,
            spec,
            template: json!({}),
            reign: None,
            until: None,
            data,
        };
        (version.spec.revision(), version)
    };
    let known: BTreeMap<_, _> = (1..=4)
        .map(|number| known(version(&number.to_string()), number))
        .collect();
    let revision = |number: &str| version(number).revision().0;
    let defaults = defaults();
    let replicas = |wanted: i32, floor: Option<i32>| {
        let model: ModelDeployment = serde_json::from_value(json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "churn", "namespace": "ml", "uid": "u", "generation": 1},
            "spec": {
                "model": {"uri": "file:///m", "version": "2", "digest": "sha256:0"},
                "replicas": wanted, "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
            },
        }))
        .unwrap();
        let state: State = serde_json::from_value(json!({
            "phase": "Canary", "stable": {"revision": revision("1"), "version": "1"},
            "canary": {"revision": revision("2"), "version": "2", "weight": 10,
                "since": "1970-01-01T00:00:00Z"},
            "retiring": [{"revision": revision("3"), "scaleDownAt": "1970-01-01T00:00:00Z"}],
            "replicasFloor": floor,
        }))
        .unwrap();
        let input = PlanInput {
            state: &state,
            known: &known,
            known_is_all: true,
            usable: true,
            router: &Envoy::new(&Setup::default(), Prober::by_tcp()),
            report: &Report::default(),
            defaults: &defaults,
        };
        let plan = plan(&model, &input);
        let deployments = plan
            .apply
            .into_iter()
            .filter_map(|intent| match intent.object {
                Object::Deployment(deployment) => Some(deployment),
                _ => None,
            });
        let of = |deployment: VersionDeployment| {
            let version = &deployment.metadata.annotations.unwrap()["serin.dev/version"];
            (version.clone(), deployment.spec.replicas)
        };
        let mut replicas: Vec<_> = deployments.map(of).collect();
        replicas.sort();
        replicas
            .into_iter()
            .map(|(_, replicas)| replicas)
            .collect::<Vec<_>>()
    };
    assert_eq!(replicas(3, None), [3, 3, 3, 0]);
    assert_eq!(
        replicas(1, Some(5)),
        [5, 5, 5, 0],
        "an autoscaler goes down"
    );
    assert_eq!(replicas(7, Some(5)), [7, 7, 7, 0], "and up");
}

#[test]
fn a_lost_state_scales_no_version_down() {
    let model: ModelDeployment = serde_json::from_value(json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": {"name": "churn", "namespace": "ml", "uid": "u", "generation": 1},
        "spec": {
            "model": {"uri": "file:///m", "version": "1", "digest": "sha256:0"},
            "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
        },
    }))
    .unwrap();
    let spec = VersionSpec::of(&model.spec);
    let orphan = KnownVersion {
        number: 1,
        data: serde_json::to_value(&spec).unwrap(),
        spec,
        template: json!({}),
        reign: None,
        until: None,
    };
    let of = |state: &State, orphan: &KnownVersion| {
        let input = PlanInput {
            state,
            known: &[(orphan.spec.revision(), orphan.clone())].into(),
            known_is_all: true,
            usable: true,
            router: &Envoy::new(&Setup::default(), Prober::by_tcp()),
            report: &Report::default(),
            defaults: &defaults(),
        };
        plan(&model, &input).apply.len()
    };
    assert_eq!(of(&State::default(), &orphan), 0);
    let on_trial: State = serde_json::from_value(json!({
        "phase": "Preparing",
        "canary": {"revision": "2", "version": "2", "weight": 0,
            "since": "1970-01-01T00:00:00Z"},
    }))
    .unwrap();
    let in_force = KnownVersion {
        reign: Some(1),
        ..orphan
    };
    assert_eq!(of(&on_trial, &in_force), 0, "a state that was lost");
}

#[test]
fn the_history_keeps_until_when_a_version_was_stable_unless_it_was_refused_since() {
    let model: ModelDeployment = serde_json::from_value(json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": {"name": "churn", "namespace": "ml", "uid": "u", "generation": 1},
        "spec": {
            "model": {"uri": "file:///m", "version": "2", "digest": "sha256:0"},
            "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
        },
    }))
    .unwrap();
    let known = |number: i64, reign, until: Option<&str>| {
        let mut spec = VersionSpec::of(&model.spec);
        spec.model.as_mut().unwrap().version = number.to_string();
        let version = KnownVersion {
            number,
            data: json!({"model": spec.model, "serving": spec.serving, "template": {}}),
            spec,
            template: json!({}),
            reign,
            until: until.map(|until| until.parse().unwrap()),
        };
        (Revision(number.to_string()), version)
    };
    let (day, later) = ("2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z");
    let known: BTreeMap<_, _> = [
        known(1, Some(1), Some(day)),
        known(2, Some(2), Some(day)), // stable again
        known(3, Some(4), None),      // just replaced
        known(4, Some(3), Some(day)), // refused since
    ]
    .into();
    let state: State = serde_json::from_value(json!({
        "phase": "Promoting", "stable": {"revision": "2", "version": "2"},
        "retiring": [{"revision": "3", "scaleDownAt": later, "stableUntil": later}],
        "refused": [{"revision": "4", "version": "4", "at": later, "reason": ""}],
    }))
    .unwrap();
    let input = PlanInput {
        state: &state,
        known: &known,
        known_is_all: true,
        usable: true,
        router: &Envoy::new(&Setup::default(), Prober::by_tcp()),
        report: &Report::default(),
        defaults: &defaults(),
    };
    let kept = plan(&model, &input).apply.into_iter().filter_map(|intent| {
        let Object::ControllerRevision(kept) = intent.object else {
            return None;
        };
        let read = KnownVersion::read(&kept).unwrap();
        Some((
            read.number,
            read.reign,
            read.until.map(|until| until.to_string()),
        ))
    });
    let until = |until: &str| Some(until.to_owned());
    let expected = [
        (1, Some(1), until(day)),
        (2, Some(5), None),
        (3, Some(4), until(later)),
        (4, None, None),
    ];
    assert_eq!(kept.collect::<Vec<_>>(), expected);
}

/// A model with this `serving`.
fn serving(serving: &serde_json::Value) -> ModelDeployment {
    serde_json::from_value(json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": {"name": "churn", "namespace": "ml", "uid": "u", "generation": 1},
        "spec": {
            "model": {"uri": "file:///m", "version": "2", "digest": "sha256:0"},
            "serving": serving, "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
        },
    }))
    .unwrap()
}

#[test]
fn a_field_of_the_template_that_no_release_knows_reaches_the_deployment_and_the_history() {
    let model = serving(&json!({"template": {"spec": {
        "newer": {"a": [1]},
        "containers": [
            {"name": "server", "newest": {}, "resources": {"claims": [{"name": "gpu"}]}},
        ],
    }}}));
    let (revision, deployment) = draft(&model, &defaults()).unwrap();
    let pod = &deployment.spec.template["spec"];
    assert_eq!(pod["newer"], json!({"a": [1]}));
    let server = &pod["containers"][0];
    assert_eq!(server["newest"], json!({}));
    assert_eq!(server["resources"], json!({"claims": [{"name": "gpu"}]}));
    assert_eq!(server["image"], "serve:1", "the rest is ours");

    let owner = model.controller_owner_ref(&()).unwrap();
    let defaults = defaults();
    let builder = ObjectBuilder {
        model: &model,
        owner,
        defaults: &defaults,
        replicas: 1,
    };
    let spec = pin(VersionSpec::of(&model.spec), &defaults);
    let recorded = builder.history(
        &revision,
        &builder.new_version(&revision, 1, spec),
        &Standing {
            reign: None,
            until: None,
        },
    );
    let read = KnownVersion::read(&recorded).unwrap();
    assert_eq!(
        builder.deployment(&revision, &read, true).spec.template,
        deployment.spec.template
    );
}

#[test]
fn an_image_of_ones_own_has_no_liveness_probe_but_the_users() {
    let server = |image: &str, server: &serde_json::Value| {
        let model = serving(&json!({
            "image": image, "template": {"spec": {"containers": [server]}},
        }));
        let (_, deployment) = draft(&model, &defaults()).unwrap();
        deployment.spec.template["spec"]["containers"][0].clone()
    };
    let plain = json!({"name": "server"});
    let bundled = server("serve:2", &plain);
    assert_eq!(bundled["livenessProbe"]["httpGet"]["path"], "/livez");
    let own = server("vllm:1", &plain);
    assert_eq!(own["livenessProbe"], json!(null));
    assert_eq!(own["readinessProbe"]["httpGet"]["path"], "/readyz");
    let grpc = json!({"name": "server", "readinessProbe": {"grpc": {"port": 9000}}});
    let own = server("vllm:1", &grpc);
    assert_eq!(
        own["readinessProbe"]["httpGet"],
        json!(null),
        "of another kind"
    );
    assert_eq!(own["readinessProbe"]["grpc"]["port"], 9000);
}
