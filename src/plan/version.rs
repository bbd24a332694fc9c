//! One version's Deployment and ControllerRevision. Both are made once. Of the Deployment only
//! `replicas` and an annotation change, of the ControllerRevision only the annotations
//! on its time as the stable version.
//!
//! A version's pod template is rendered once, when the version is recorded: an operator that
//! rendered it differently later would restart every model at once (`tests/golden/release.rs`).

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::ControllerRevision,
        core::v1::{
            Container, ContainerPort, EnvVar, HTTPGetAction, PodSecurityContext, PodSpec,
            PodTemplateSpec, Probe, SeccompProfile, TopologySpreadConstraint,
        },
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        runtime::RawExtension,
        util::intstr::IntOrString,
    },
};
use kube::ResourceExt;
use serde_json::Value;

use super::{ObjectBuilder, Standing, artefact::Artefact, merge::merge, security::restricted};
use crate::{
    api::{Revision, SERVER, VersionSpec},
    k8s::{
        HTTP_PORT_NAME, KnownVersion, REIGN_ANNOTATION, TEMPLATE_FIELD, UNTIL_ANNOTATION,
        VersionDeployment, VersionDeploymentSpec, version_labels, version_name, version_selector,
    },
};

/// Annotation with the version that the user gave.
pub const VERSION_ANNOTATION: &str = "serin.dev/version";
/// Annotation of the Deployment of a version in use: the generation of the spec that asks for it.
const GENERATION_ANNOTATION: &str = "serin.dev/generation";
/// Time for in-flight requests after SIGTERM: 5 s of further serving until routers have the news,
/// then up to 25 s to finish.
const GRACE_SECONDS: i64 = 30;

impl ObjectBuilder<'_> {
    /// Makes the record of a new version: all that is needed to build it again.
    pub(super) fn new_version(
        &self,
        revision: &Revision,
        number: i64,
        spec: VersionSpec,
    ) -> KnownVersion {
        let mut data = serde_json::to_value(&spec).unwrap_or_default();
        let template = self.template(revision, &spec);
        data[TEMPLATE_FIELD] = template.clone();
        KnownVersion {
            number,
            spec,
            template,
            reign: None,
            until: None,
            data,
        }
    }

    /// The version's ControllerRevision. Its `data` is immutable, so it is passed through as read.
    pub(super) fn history(
        &self,
        revision: &Revision,
        version: &KnownVersion,
        standing: &Standing,
    ) -> ControllerRevision {
        let model = self.model.name_any();
        let mut metadata = self.metadata(
            version_name(&model, revision),
            version_labels(&model, revision),
        );
        let mut annotations = version_annotation(&version.spec);
        if let Some(reign) = standing.reign {
            annotations.insert(REIGN_ANNOTATION.to_owned(), reign.to_string());
        }
        if let Some(until) = standing.until {
            annotations.insert(UNTIL_ANNOTATION.to_owned(), until.to_string());
        }
        metadata.annotations = Some(annotations);
        ControllerRevision {
            metadata,
            revision: Some(version.number),
            data: RawExtension(version.data.clone()),
        }
    }

    /// The version's Deployment, with 0 replicas where it is not in use.
    ///
    /// Stamps each spec change on the Deployment, so that late writes fail their precondition. A
    /// request to scale down may arrive minutes after its sender gave it up, and has the
    /// resourceVersion that the sender saw as precondition. Without the stamp, a version that is
    /// tried again would still match it.
    pub(super) fn deployment(
        &self,
        revision: &Revision,
        version: &KnownVersion,
        in_use: bool,
    ) -> VersionDeployment {
        let model = self.model.name_any();
        let labels = version_labels(&model, revision);
        let mut metadata = self.metadata(version_name(&model, revision), labels);
        let mut annotations = version_annotation(&version.spec);
        if let Some(generation) = self.model.metadata.generation.filter(|_| in_use) {
            annotations.insert(GENERATION_ANNOTATION.to_owned(), generation.to_string());
        }
        metadata.annotations = Some(annotations);
        let replicas = if in_use { self.replicas } else { 0 };
        VersionDeployment {
            metadata,
            spec: VersionDeploymentSpec {
                replicas,
                selector: self.selector(revision),
                template: version.template.clone(),
            },
        }
    }

    fn selector(&self, revision: &Revision) -> LabelSelector {
        LabelSelector {
            match_labels: Some(version_selector(&self.model.name_any(), revision)),
            ..LabelSelector::default()
        }
    }

    /// Renders the version's pod template, and merges the user's onto it.
    fn template(&self, revision: &Revision, version: &VersionSpec) -> Value {
        let ours = PodTemplateSpec {
            metadata: Some(ObjectMeta {
                labels: Some(version_labels(&self.model.name_any(), revision)),
                annotations: Some(version_annotation(version)),
                ..ObjectMeta::default()
            }),
            spec: Some(self.pod(version, self.selector(revision))),
        };
        let mut template = serde_json::to_value(ours).unwrap_or_default();
        merge(&mut template, version.serving.template.fields());
        template
    }

    /// A pod under the `restricted` Pod Security Standard, without an API token. A template of the
    /// user's may change both.
    fn pod(&self, version: &VersionSpec, selector: LabelSelector) -> PodSpec {
        let path = version.serving.mount_path(&self.defaults.serving_image);
        let artefact = Artefact::of(version, path);
        PodSpec {
            containers: vec![self.container(version, &artefact)],
            init_containers: artefact.fetch.map(|fetch| vec![fetch]),
            volumes: non_empty(&artefact.volumes),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                fs_group: artefact.group,
                fs_group_change_policy: artefact.group.map(|_| "OnRootMismatch".to_owned()),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            topology_spread_constraints: Some(vec![TopologySpreadConstraint {
                max_skew: 1,
                topology_key: "kubernetes.io/hostname".to_owned(),
                when_unsatisfiable: "ScheduleAnyway".to_owned(),
                label_selector: Some(selector),
                ..TopologySpreadConstraint::default()
            }]),
            ..PodSpec::default()
        }
    }

    fn container(&self, version: &VersionSpec, artefact: &Artefact) -> Container {
        let serving = &version.serving;
        let port = serving.port();
        Container {
            name: SERVER.to_owned(),
            image: Some(
                serving
                    .image
                    .clone()
                    .unwrap_or_else(|| self.defaults.serving_image.clone()),
            ),
            env: Some(self.environment(version, artefact.directory.as_deref(), port)),
            ports: Some(vec![ContainerPort {
                name: Some(HTTP_PORT_NAME.to_owned()),
                container_port: port,
                protocol: Some("TCP".to_owned()),
                ..ContainerPort::default()
            }]),
            readiness_probe: Some(Probe {
                period_seconds: Some(2),
                failure_threshold: Some(2),
                ..probe("/readyz", port)
            }),
            // An image of one's own may lack the path: the kubelet would restart it for that.
            liveness_probe: serving
                .is_bundled(&self.defaults.serving_image)
                .then(|| Probe {
                    period_seconds: Some(10),
                    failure_threshold: Some(6),
                    ..probe("/livez", port)
                }),
            security_context: Some(restricted()),
            volume_mounts: artefact.mount.clone().map(|mount| vec![mount]),
            ..Container::default()
        }
    }

    /// The settings of the bundled server, as environment; other images ignore them.
    fn environment(
        &self,
        version: &VersionSpec,
        directory: Option<&str>,
        port: i32,
    ) -> Vec<EnvVar> {
        let digest = version
            .model
            .as_ref()
            .and_then(|model| model.digest.clone());
        let ours = [
            ("SERIN_SERVE_MODEL_DIR", directory.map(str::to_owned)),
            ("SERIN_SERVE_MODEL_NAME", Some(self.model.name_any())),
            ("SERIN_SERVE_MODEL_VERSION", Some(version.name())),
            ("SERIN_SERVE_DIGEST", digest),
            ("SERIN_SERVE_ADDRESS", Some(format!("0.0.0.0:{port}"))),
        ];
        ours.into_iter()
            .filter(|(_, value)| value.is_some())
            .map(|(name, value)| EnvVar {
                name: name.to_owned(),
                value,
                value_from: None,
            })
            .collect()
    }
}

fn probe(path: &str, port: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(port),
            scheme: Some("HTTP".to_owned()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(2),
        success_threshold: Some(1),
        ..Probe::default()
    }
}

fn version_annotation(version: &VersionSpec) -> BTreeMap<String, String> {
    [(VERSION_ANNOTATION.to_owned(), version.name())].into()
}

fn non_empty<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}
