//! How a version's artefact gets into its pods: mounted as it is, fetched by an init container, or part of the image.

use k8s_openapi::{
    api::core::v1::{
        Container, EmptyDirVolumeSource, EnvVar, HostPathVolumeSource,
        PersistentVolumeClaimVolumeSource, ResourceRequirements, SecretVolumeSource, Volume,
        VolumeMount,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use super::security::restricted;
use crate::{
    api::{Cache, Fetch, VersionSpec, validate::is_fetched},
    k8s::FETCH,
};

/// Where the volume with the artefact is mounted.
const MOUNT: &str = "/models";
/// Where a fetched artefact lies in it: a fetch puts it in place by a rename, which a mount itself cannot take.
const FETCHED: &str = "/models/artefact";
const CREDENTIALS_MOUNT: &str = "/credentials";
const CACHE_MOUNT: &str = "/cache";
/// Group of the serving image's user: a claim is made writable for it.
const GROUP: i64 = 65532;

/// What a pod needs for its artefact.
#[derive(Default)]
pub(super) struct Artefact {
    /// The directory that holds it, as the server sees it.
    pub directory: String,
    /// Volumes of the pod.
    pub volumes: Vec<Volume>,
    /// What the server mounts, to read.
    pub mount: Option<VolumeMount>,
    /// What runs before the server.
    pub fetch: Option<Container>,
    /// Group of the pod's volumes.
    pub group: Option<i64>,
}

impl Artefact {
    pub fn of(version: &VersionSpec) -> Self {
        let uri = &version.model.uri;
        if let Some((claim, path)) = uri
            .strip_prefix("pvc://")
            .and_then(|rest| rest.split_once('/'))
        {
            return Self {
                directory: format!("{MOUNT}/{path}"),
                volumes: vec![claim_volume("model", claim, true)],
                mount: Some(mount("model", MOUNT, true)),
                ..Self::default()
            };
        }
        match &version.fetch {
            Some(fetch) if is_fetched(uri) => Self::fetched(version, fetch),
            _ => Self {
                directory: uri.strip_prefix("file://").unwrap_or(uri).to_owned(),
                ..Self::default()
            },
        }
    }

    fn fetched(version: &VersionSpec, fetch: &Fetch) -> Self {
        let mut volumes = vec![Volume {
            name: "model".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource {
                medium: None,
                mode: None,
                // An archive lies beside what is taken out of it.
                size_limit: Some(Quantity((2 * fetch.max_size).to_string())),
            }),
            ..Volume::default()
        }];
        let mut mounts = vec![mount("model", MOUNT, false)];
        if let Some(secret) = &version.model.credentials {
            volumes.push(Volume {
                name: "credentials".to_owned(),
                secret: Some(SecretVolumeSource {
                    secret_name: Some(secret.clone()),
                    default_mode: Some(0o644),
                    // A Secret that is missing keeps a pod waiting without a word in its status; the fetch says it.
                    optional: Some(true),
                    ..SecretVolumeSource::default()
                }),
                ..Volume::default()
            });
            mounts.push(mount("credentials", CREDENTIALS_MOUNT, true));
        }
        if let Some(cache) = &fetch.cache {
            volumes.push(match cache {
                Cache::Claim(claim) => claim_volume("cache", claim, false),
                Cache::HostPath(path) => Volume {
                    name: "cache".to_owned(),
                    host_path: Some(HostPathVolumeSource {
                        path: path.clone(),
                        type_: Some("Directory".to_owned()),
                    }),
                    ..Volume::default()
                },
            });
            mounts.push(mount("cache", CACHE_MOUNT, false));
        }
        let claimed = matches!(fetch.cache, Some(Cache::Claim(_)));
        Self {
            directory: FETCHED.to_owned(),
            volumes,
            mount: Some(mount("model", MOUNT, true)),
            fetch: Some(container(version, fetch, mounts)),
            group: claimed.then_some(GROUP),
        }
    }
}

fn container(version: &VersionSpec, fetch: &Fetch, mounts: Vec<VolumeMount>) -> Container {
    let given = |name: &str, value: String| EnvVar {
        name: name.to_owned(),
        value: Some(value),
        value_from: None,
    };
    let mut env = vec![
        given("SERIN_FETCH_DIGEST", version.model.digest.clone()),
        // One that no host has, where none is allowed: an absent list would be the flag's default.
        given(
            "SERIN_FETCH_ALLOW_HOSTS",
            match fetch.hosts.as_slice() {
                [] => "none.invalid".to_owned(),
                hosts => hosts.join(","),
            },
        ),
        given("SERIN_FETCH_MAX_SIZE", fetch.max_size.to_string()),
    ];
    if version.model.credentials.is_some() {
        env.push(given(
            "SERIN_FETCH_CREDENTIALS",
            CREDENTIALS_MOUNT.to_owned(),
        ));
    }
    if fetch.cache.is_some() {
        env.push(given("SERIN_FETCH_CACHE", CACHE_MOUNT.to_owned()));
        if let Some(limit) = fetch.cache_limit {
            env.push(given("SERIN_FETCH_CACHE_LIMIT", limit.to_string()));
        }
    }
    let quantities = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned())))
            .collect()
    };
    Container {
        name: FETCH.to_owned(),
        image: Some(fetch.image.clone()),
        args: Some(vec![
            "fetch".to_owned(),
            version.model.uri.clone(),
            FETCHED.to_owned(),
        ]),
        env: Some(env),
        // It streams: a few MiB of buffers, and a manifest of 16 MiB at most. The pod's page cache is not in it.
        resources: Some(ResourceRequirements {
            requests: Some(quantities(&[("cpu", "50m"), ("memory", "64Mi")])),
            limits: Some(quantities(&[("memory", "256Mi")])),
            claims: None,
        }),
        security_context: Some(restricted()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn claim_volume(name: &str, claim: &str, read_only: bool) -> Volume {
    Volume {
        name: name.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.to_owned(),
            // `false` is what the API server leaves out.
            read_only: read_only.then_some(true),
        }),
        ..Volume::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn version(uri: &str, credentials: &Value, fetch: &Value) -> VersionSpec {
        let mut spec = json!({
            "model": {"uri": uri, "version": "1", "digest": "sha256:00", "credentials": credentials},
            "serving": {"image": "own:1"}, "fetch": fetch,
        });
        if credentials.is_null() {
            spec["model"].as_object_mut().unwrap().remove("credentials");
        }
        serde_json::from_value(spec).unwrap()
    }

    fn settings(more: &Value) -> Value {
        let mut fetch =
            json!({"image": "serve:1", "hosts": ["r:5000", "10.0.0.0/8"], "maxSize": 1000});
        for (key, value) in more.as_object().unwrap() {
            fetch[key] = value.clone();
        }
        fetch
    }

    fn env(container: &Container) -> Vec<(&str, &str)> {
        let env = container.env.as_ref().unwrap().iter();
        env.map(|variable| (variable.name.as_str(), variable.value.as_deref().unwrap()))
            .collect()
    }

    #[test]
    fn a_claim_and_a_folder_of_the_image_are_used_as_they_are() {
        let claim = Artefact::of(&version(
            "pvc://models/iris/1",
            &Value::Null,
            &settings(&json!({})),
        ));
        assert_eq!(claim.directory, "/models/iris/1");
        assert!(claim.fetch.is_none() && claim.volumes.len() == 1 && claim.group.is_none());
        let folder = Artefact::of(&version("file:///iris/1", &Value::Null, &Value::Null));
        assert_eq!(folder.directory, "/iris/1");
        assert!(folder.fetch.is_none() && folder.volumes.is_empty() && folder.mount.is_none());
    }

    #[test]
    fn what_is_fetched_is_fetched_by_the_bundled_image_and_read_only_to_the_server() {
        let artefact = Artefact::of(&version(
            "oci://r:5000/iris:1",
            &Value::Null,
            &settings(&json!({})),
        ));
        assert_eq!(artefact.directory, "/models/artefact");
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

        // A platform that names no host allows none, not all.
        let closed = Artefact::of(&version(
            "oci://r:5000/iris:1",
            &Value::Null,
            &settings(&json!({"hosts": []})),
        ));
        assert_eq!(env(&closed.fetch.unwrap())[1].1, "none.invalid");
    }

    #[test]
    fn only_the_init_container_sees_credentials_and_the_cache() {
        let fetch = settings(&json!({"cache": {"claim": "shared"}, "cacheLimit": 5}));
        let artefact = Artefact::of(&version("s3://b/iris", &json!("keys"), &fetch));
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
        let node = Artefact::of(&version("s3://b/iris", &Value::Null, &fetch));
        assert_eq!(
            node.volumes[1].host_path.as_ref().unwrap().path,
            "/var/lib/serin"
        );
        assert_eq!(node.group, None);
    }
}
