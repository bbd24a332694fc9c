//! Tests of `plan::artefact`.

use serde_json::{Value, json};

use super::*;

fn version(uri: &str, credentials: &Value, fetch: &Value) -> VersionSpec {
    let mut spec = json!({
        "model": {"uri": uri, "version": "1", "digest": "sha256:00",
            "credentials": credentials},
        "serving": {"image": "own:1"}, "fetch": fetch,
    });
    if credentials.is_null() {
        spec["model"].as_object_mut().unwrap().remove("credentials");
    }
    serde_json::from_value(spec).unwrap()
}

fn settings(more: &Value) -> Value {
    let mut fetch = json!({"image": "serve:1", "hosts": ["r:5000", "10.0.0.0/8"], "maxSize": 1000});
    for (key, value) in more.as_object().unwrap() {
        fetch[key] = value.clone();
    }
    fetch
}

/// As the bundled image gets it.
fn of(version: &VersionSpec) -> Artefact {
    Artefact::of(version, None)
}

fn env(container: &Container) -> Vec<(&str, &str)> {
    let env = container.env.as_ref().unwrap().iter();
    env.map(|variable| (variable.name.as_str(), variable.value.as_deref().unwrap()))
        .collect()
}

#[test]
fn claims_and_image_folders_are_used_in_place() {
    let claim = of(&version(
        "pvc://models/iris/1",
        &Value::Null,
        &settings(&json!({})),
    ));
    assert_eq!(claim.directory.as_deref(), Some("/models/iris/1"));
    assert!(claim.fetch.is_none() && claim.volumes.len() == 1 && claim.group.is_none());
    let folder = of(&version("file:///iris/1", &Value::Null, &Value::Null));
    assert_eq!(folder.directory.as_deref(), Some("/iris/1"));
    assert!(folder.fetch.is_none() && folder.volumes.is_empty() && folder.mount.is_none());
}

#[test]
fn fetched_artefacts_come_by_the_bundled_image_and_are_read_only_to_the_server() {
    let artefact = of(&version(
        "oci://r:5000/iris:1",
        &Value::Null,
        &settings(&json!({})),
    ));
    assert_eq!(artefact.directory.as_deref(), Some("/models/artefact"));
    assert_eq!(artefact.mount.unwrap().read_only, Some(true));
    let container = artefact.fetch.unwrap();
    assert_eq!(
        container.image.as_deref(),
        Some("serve:1"),
        "whatever serves"
    );
    assert_eq!(
        container.args.as_ref().unwrap()[..],
        ["fetch", "oci://r:5000/iris:1", "/models/artefact"]
    );
    assert_eq!(
        env(&container),
        [
            ("SERIN_FETCH_DIGEST", "sha256:00"),
            ("SERIN_FETCH_ALLOW_HOSTS", "r:5000,10.0.0.0/8"),
            ("SERIN_FETCH_MAX_SIZE", "1000"),
        ]
    );
    let security = container.security_context.unwrap();
    assert_eq!(security.read_only_root_filesystem, Some(true));
    assert_eq!(security.allow_privilege_escalation, Some(false));
    let volume = &artefact.volumes[0];
    assert_eq!(
        volume
            .empty_dir
            .as_ref()
            .unwrap()
            .size_limit
            .as_ref()
            .unwrap()
            .0,
        "2000"
    );

    // A platform that lists no host allows none, not all.
    let closed = of(&version(
        "oci://r:5000/iris:1",
        &Value::Null,
        &settings(&json!({"hosts": []})),
    ));
    assert_eq!(env(&closed.fetch.unwrap())[1].1, "none.invalid");
}

#[test]
fn only_the_init_container_sees_credentials_and_the_cache() {
    let fetch = settings(&json!({"cache": {"claim": "shared"}, "cacheLimit": 5}));
    let artefact = of(&version("s3://b/iris", &json!("keys"), &fetch));
    let names: Vec<_> = artefact
        .volumes
        .iter()
        .map(|volume| volume.name.as_str())
        .collect();
    assert_eq!(names, ["model", "credentials", "cache"]);
    assert_eq!(
        artefact.volumes[1]
            .secret
            .as_ref()
            .unwrap()
            .secret_name
            .as_deref(),
        Some("keys")
    );
    assert_eq!(artefact.group, Some(65532));
    assert_eq!(artefact.mount.unwrap().name, "model");
    let container = artefact.fetch.unwrap();
    assert_eq!(container.volume_mounts.as_ref().unwrap().len(), 3);
    assert_eq!(
        env(&container)[3..],
        [
            ("SERIN_FETCH_CREDENTIALS", "/credentials"),
            ("SERIN_FETCH_CACHE", "/cache"),
            ("SERIN_FETCH_CACHE_LIMIT", "5"),
        ]
    );
    let fetch = settings(&json!({"cache": {"hostPath": "/var/lib/serin"}}));
    let node = of(&version("s3://b/iris", &Value::Null, &fetch));
    assert_eq!(
        node.volumes[1].host_path.as_ref().unwrap().path,
        "/var/lib/serin"
    );
    assert_eq!(node.group, None);
}

#[test]
fn an_image_of_ones_own_finds_the_models_files_at_the_path_itself() {
    let fetch = settings(&json!({}));
    for (uri, folder) in [
        ("pvc://models/iris/1/", "iris/1"),
        ("s3://b/iris", "artefact"),
    ] {
        let artefact = Artefact::of(&version(uri, &Value::Null, &fetch), Some("/mnt/models"));
        assert_eq!(artefact.directory.as_deref(), Some("/mnt/models"));
        let mount = artefact.mount.unwrap();
        assert_eq!(mount.mount_path, "/mnt/models");
        assert_eq!(mount.sub_path.as_deref(), Some(folder));
    }
    let inside = json!({"serving": {"image": "own@sha256:00"}});
    let inside = Artefact::of(
        &serde_json::from_value(inside).unwrap(),
        Some("/mnt/models"),
    );
    assert!(inside.directory.is_none() && inside.volumes.is_empty() && inside.mount.is_none());
}

#[test]
fn a_pinned_address_is_fetched_without_a_digest() {
    let uri = "oci://r:5000/iris@sha256:00";
    let pinned = json!({"model": {"uri": uri, "version": "1"}, "serving": {},
        "fetch": settings(&json!({}))});
    let artefact = of(&serde_json::from_value(pinned).unwrap());
    let container = artefact.fetch.unwrap();
    assert_eq!(container.args.as_ref().unwrap()[1], uri);
    assert!(
        env(&container)
            .iter()
            .all(|(name, _)| *name != "SERIN_FETCH_DIGEST")
    );
}
