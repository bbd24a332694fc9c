//! Upgrades from the release before: a version keeps its name and its pods, and a rollout continues
//! from its status.

use std::collections::BTreeMap;

use k8s_openapi::{api::apps::v1::ControllerRevision, apimachinery::pkg::runtime::RawExtension};
use serde_json::{Value, json};
use serin::{
    api::{Fetch, ModelDeployment, ModelDeploymentStatus, Revision, State, VersionSpec},
    k8s::{KnownVersion, Object},
    plan::{Plan, PlanInput, PlatformDefaults, plan},
    router::{
        Report, Setup,
        envoy::{Envoy, Prober},
    },
};

use crate::{errors_and_latency, rollout, scenario::Scenario};

/// A version as that release recorded it.
struct Case {
    what: String,
    model: ModelDeployment,
    defaults: PlatformDefaults,
    /// The revision that names it.
    revision: String,
    /// What its ControllerRevision holds, the pods of its Deployment among it.
    record: Value,
}

fn cases() -> Vec<Case> {
    let text = include_str!("release/versions.json");
    let cases: Vec<Value> = serde_json::from_str(text).unwrap();
    cases.iter().map(case).collect()
}

fn case(case: &Value) -> Case {
    let model = json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
        "metadata": {"name": case["name"], "namespace": "ml", "uid": "1", "generation": 1},
        "spec": case["spec"],
    });
    let fetch: Fetch = serde_json::from_value(case["fetch"].clone()).unwrap();
    Case {
        what: case["what"].as_str().unwrap().to_owned(),
        model: serde_json::from_value(model).unwrap(),
        defaults: PlatformDefaults {
            serving_image: "localhost/serin-serve:1".to_owned(),
            fetch,
        },
        revision: case["revision"].as_str().unwrap().to_owned(),
        record: case["record"].clone(),
    }
}

/// A state in which the spec's version serves.
fn serving(model: &ModelDeployment) -> State {
    let revision = VersionSpec::of(&model.spec).revision();
    let stable = json!({"revision": revision, "version": model.spec.version_name()});
    serde_json::from_value(json!({"phase": "Stable", "stable": stable})).unwrap()
}

fn planned(case: &Case, known: &BTreeMap<Revision, KnownVersion>) -> Plan {
    plan(
        &case.model,
        &PlanInput {
            state: &serving(&case.model),
            known,
            known_is_all: true,
            usable: true,
            router: &Envoy::new(&Setup::default(), Prober::by_tcp()),
            report: &Report::default(),
            defaults: &case.defaults,
        },
    )
}

fn template(plan: &Plan) -> Value {
    let mut objects = plan.apply.iter().map(|intent| &intent.object);
    let found = objects.find_map(|object| match object {
        Object::Deployment(deployment) => Some(&deployment.spec),
        _ => None,
    });
    serde_json::to_value(&found.unwrap().template).unwrap()
}

fn history(plan: &Plan) -> ControllerRevision {
    let mut objects = plan.apply.iter().map(|intent| &intent.object);
    let found = objects.find_map(|object| match object {
        Object::ControllerRevision(history) => Some(history.clone()),
        _ => None,
    });
    found.unwrap()
}

fn record(plan: &Plan) -> Value {
    history(plan).data.0
}

#[test]
fn versions_of_the_release_keep_their_names_and_their_pods() {
    let cases = cases();
    assert!(cases.len() >= 9);
    for case in &cases {
        let revision = VersionSpec::of(&case.model.spec).revision();
        assert_eq!(revision.0, case.revision, "{}", case.what);
        let known = KnownVersion::read(&ControllerRevision {
            data: RawExtension(case.record.clone()),
            ..ControllerRevision::default()
        });
        let plan = planned(case, &[(revision, known.unwrap())].into());
        assert_eq!(template(&plan), case.record["template"], "{}", case.what);
        assert_eq!(record(&plan), case.record, "{}: it is immutable", case.what);
    }
}

#[test]
fn a_version_keeps_its_recorded_pod_template() {
    for case in cases() {
        let new = planned(&case, &BTreeMap::new());
        let mut history = history(&new);
        assert_eq!(history.data.0["template"], template(&new), "{}", case.what);
        // As an operator would have rendered them that renders pods otherwise.
        history.data.0["template"]["spec"]["containers"][0]["env"][0]["name"] = json!("OTHER");
        let known = KnownVersion::read(&history).unwrap();
        let revision = VersionSpec::of(&case.model.spec).revision();
        let later = planned(&case, &[(revision, known)].into());
        assert_eq!(
            template(&later),
            history.data.0["template"],
            "{}",
            case.what
        );
        assert_eq!(record(&later), history.data.0, "{}", case.what);
    }
}

/// The Deployment is rendered from the record alone, and so is the Service that leads to its pods.
#[test]
fn defaults_that_change_reach_no_recorded_version() {
    for mut case in cases() {
        let new = planned(&case, &BTreeMap::new());
        let mut history = history(&new);
        let serving = &history.data.0["serving"];
        assert_eq!(serving["port"], port(&new), "{}", case.what);
        let image = &template(&new)["spec"]["containers"][0]["image"];
        assert_eq!(&serving["image"], image, "{}", case.what);

        // Recorded by an operator with another default port, and read by one with another image.
        history.data.0["serving"]["port"] = json!(9090);
        let pod = &mut history.data.0["template"]["spec"];
        pod["containers"][0]["ports"][0]["containerPort"] = json!(9090);
        pod["terminationGracePeriodSeconds"] = json!(31);
        let known = KnownVersion::read(&history).unwrap();
        let revision = VersionSpec::of(&case.model.spec).revision();
        assert_eq!(revision.0, case.revision, "{}", case.what);
        "localhost/serin-serve:2".clone_into(&mut case.defaults.serving_image);
        "localhost/serin-serve:2".clone_into(&mut case.defaults.fetch.image);
        case.defaults.fetch.max_size += 1;
        let later = planned(&case, &[(revision, known)].into());
        let recorded = &history.data.0["template"];
        assert_eq!(template(&later), *recorded, "{}", case.what);
        assert_eq!(port(&later), json!(9090), "{}", case.what);
        assert_eq!(record(&later), history.data.0, "{}", case.what);
    }
}

/// Port of the version's own Service.
fn port(plan: &Plan) -> Value {
    let mut objects = plan.apply.iter().map(|intent| &intent.object);
    let found = objects.find_map(|object| match object {
        Object::Service(service) => service.spec.as_ref()?.ports.as_ref()?.first(),
        _ => None,
    });
    json!(found.unwrap().port)
}

#[test]
fn a_rollout_continues_from_the_status_of_the_earlier_release() {
    let old: Value = serde_json::from_str(include_str!("release/status.json")).unwrap();
    let status: ModelDeploymentStatus = serde_json::from_value(old.clone()).unwrap();
    let now = serde_json::to_value(&status).unwrap();
    assert_eq!(lost(&old, &now, ""), Vec::<String>::new());

    let mut scenario = Scenario::new("", &errors_and_latency(), rollout(&json!({})));
    scenario.roll_out("2");
    scenario.state = status.state;
    assert_eq!(scenario.weight(), 25);
    scenario.play(15);
    assert_eq!(
        scenario.weight(),
        25,
        "the step continues and does not start again"
    );
    let mut weights = vec![25];
    while scenario.state.canary.is_some() {
        scenario.play(15);
        weights.push(scenario.weight());
    }
    weights.dedup();
    assert_eq!(weights, [25, 50, 100, 0]);
    assert_eq!(scenario.state.stable.unwrap().version, "2");
}

/// Where a value has nothing, or something else, of what another one says.
fn lost(old: &Value, now: &Value, at: &str) -> Vec<String> {
    match old {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(field, old)| lost(old, &now[field], &format!("{at}/{field}")))
            .collect(),
        old if old == now => Vec::new(),
        _ => vec![at.to_owned()],
    }
}
