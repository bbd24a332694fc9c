//! The kinds of objects that this API server knows.

use std::fmt;

/// A kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Model,
    Deployment,
    Service,
    History,
    Slice,
    Pod,
    Event,
    Lease,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Model,
        Self::Deployment,
        Self::Service,
        Self::History,
        Self::Slice,
        Self::Pod,
        Self::Event,
        Self::Lease,
    ];

    /// Path of the API, plural, kind.
    fn row(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Model => ("serin.dev/v1alpha1", "modeldeployments", "ModelDeployment"),
            Self::Deployment => ("apps/v1", "deployments", "Deployment"),
            Self::Service => ("v1", "services", "Service"),
            Self::History => ("apps/v1", "controllerrevisions", "ControllerRevision"),
            Self::Slice => ("discovery.k8s.io/v1", "endpointslices", "EndpointSlice"),
            Self::Pod => ("v1", "pods", "Pod"),
            Self::Event => ("events.k8s.io/v1", "events", "Event"),
            Self::Lease => ("coordination.k8s.io/v1", "leases", "Lease"),
        }
    }

    /// `apiVersion` of its objects.
    pub fn api_version(self) -> &'static str {
        self.row().0
    }

    /// `kind` of its objects.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// The kind with this `apiVersion` and plural.
    pub fn find(api_version: &str, plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| {
            let row = kind.row();
            row.0 == api_version && row.1 == plural
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where an object is found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}
