//! How a version's artefact gets into its pods: mounted from a claim, fetched by an init container,
//! or part of the image.

use k8s_openapi::{
    api::core::v1::{
        Container, EmptyDirVolumeSource, EnvVar, HostPathVolumeSource,
        PersistentVolumeClaimVolumeSource, ResourceRequirements, SecretVolumeSource, Volume,
        VolumeMount,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use super::security::restricted;
use crate::api::{Cache, FETCH, Fetch, ModelArtefact, VersionSpec, validate::is_fetched};

/// Where the volume with the artefact is mounted.
const MOUNT: &str = "/models";
/// The folder of a fetched artefact in that volume. A fetch ends with a rename, which is not
/// possible at the mount itself.
const FOLDER: &str = "artefact";
const CREDENTIALS_MOUNT: &str = "/credentials";
const CACHE_MOUNT: &str = "/cache";
/// Group of the serving image's user: a claim is made writable for it.
const GROUP: i64 = 65532;

/// The parts of a pod that its artefact needs.
#[derive(Default)]
pub(super) struct Artefact {
    /// Path of the artefact in the server's container. `None` where the image holds the model.
    pub directory: Option<String>,
    /// Volumes of the pod.
    pub volumes: Vec<Volume>,
    /// The server's mount, read-only.
    pub mount: Option<VolumeMount>,
    /// The init container that fetches it.
    pub fetch: Option<Container>,
    /// Group of the pod's volumes.
    pub group: Option<i64>,
}

impl Artefact {
    /// Those of a version whose model's files are mounted at `path`, or by `None` as the bundled
    /// image expects them.
    pub fn of(version: &VersionSpec, path: Option<&str>) -> Self {
        let Some(model) = &version.model else {
            return Self::default();
        };
        let uri = &model.uri;
        if let Some((claim, folder)) = uri
            .strip_prefix("pvc://")
            .and_then(|rest| rest.split_once('/'))
        {
            let (directory, mount) = mounted(path, folder.trim_end_matches('/'));
            return Self {
                directory: Some(directory),
                volumes: vec![claim_volume("model", claim, true)],
                mount: Some(mount),
                ..Self::default()
            };
        }
        match &version.fetch {
            Some(fetch) if is_fetched(uri) => Self::fetched(model, fetch, path),
            _ => Self {
                directory: Some(uri.strip_prefix("file://").unwrap_or(uri).to_owned()),
                ..Self::default()
            },
        }
    }

    fn fetched(model: &ModelArtefact, fetch: &Fetch, path: Option<&str>) -> Self {
        let mut volumes = vec![Volume {
            name: "model".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource {
                medium: None,
                mode: None,
                // Twice the size: an archive lies beside its extracted files.
                size_limit: Some(Quantity((2 * fetch.max_size).to_string())),
            }),
            ..Volume::default()
        }];
        let mut mounts = vec![mount("model", MOUNT, false)];
        if let Some(secret) = &model.credentials {
            volumes.push(Volume {
                name: "credentials".to_owned(),
                secret: Some(SecretVolumeSource {
                    secret_name: Some(secret.clone()),
                    default_mode: Some(0o644),
                    // Optional: a missing Secret would keep the pod waiting without a message in
                    // its status; the fetch reports it.
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
        let (directory, mount) = mounted(path, FOLDER);
        Self {
            directory: Some(directory),
            volumes,
            mount: Some(mount),
            fetch: Some(container(model, fetch, mounts)),
            group: claimed.then_some(GROUP),
        }
    }
}

/// Where the server finds a folder of the volume, and how it is mounted.
fn mounted(path: Option<&str>, folder: &str) -> (String, VolumeMount) {
    match path {
        Some(path) => {
            let mut mount = mount("model", path, true);
            mount.sub_path = Some(folder.to_owned());
            (path.to_owned(), mount)
        }
        None => (format!("{MOUNT}/{folder}"), mount("model", MOUNT, true)),
    }
}

fn container(model: &ModelArtefact, fetch: &Fetch, mounts: Vec<VolumeMount>) -> Container {
    let given = |name: &str, value: String| EnvVar {
        name: name.to_owned(),
        value: Some(value),
        value_from: None,
    };
    let digest = model.digest.clone();
    let mut env: Vec<_> = digest
        .map(|digest| given("SERIN_FETCH_DIGEST", digest))
        .into_iter()
        .collect();
    env.extend([
        // A name that no host has, where none is allowed: an empty list would mean the flag's
        // default.
        given(
            "SERIN_FETCH_ALLOW_HOSTS",
            match fetch.hosts.as_slice() {
                [] => "none.invalid".to_owned(),
                hosts => hosts.join(","),
            },
        ),
        given("SERIN_FETCH_MAX_SIZE", fetch.max_size.to_string()),
    ]);
    if model.credentials.is_some() {
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
            model.uri.clone(),
            format!("{MOUNT}/{FOLDER}"),
        ]),
        env: Some(env),
        // A fetch streams: a few MiB of buffers, and a manifest of at most 16 MiB. Page cache does
        // not count.
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
mod tests;
