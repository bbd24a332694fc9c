//! The kubectl plug-in: shows rollouts and gives commands about them.
//!
//! Each verb is a pure function from the resource to a [`Change`]: one patch, which Git could hold
//! too, and a sentence or two about its effect. Only this file calls the API server.

mod abort;
mod change;
mod history;
mod pause;
mod person;
mod promote;
mod retry;
pub mod subcommands;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod undo;

use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::{
    Api, Client, Config, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;

use crate::{
    api::{MODEL_LABEL, ModelDeployment},
    k8s::{is_code, words},
    report::{explain, report, terminal_width},
};
use change::Change;
use history::Entry;

/// Field manager of what the plug-in writes.
const MANAGER: &str = "kubectl-serin";
/// Attempts at a change when others write the resource at the same time.
const TRIES: usize = 5;

/// Shows rollouts of ModelDeployments, and gives commands about them.
#[derive(Parser)]
#[command(name = "kubectl serin", version)]
pub struct Arguments {
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
    /// The kubeconfig's context to use; the current one where absent.
    #[arg(long, global = true)]
    context: Option<String>,
    /// The namespace; the context's where absent.
    #[arg(long, short, global = true)]
    namespace: Option<String>,
}

/// The verb.
#[derive(Subcommand)]
pub enum Verb {
    /// Show the state of a rollout, its gates and its decisions.
    Status(Name),
    /// Explain the last decisions with their evidence, what comes next, what you can do, and which
    /// values are in force.
    Explain(Name),
    /// Hold the weight until `resume`; a version that breaks its objectives is still rolled back.
    Pause(Name),
    /// Continue after `pause`.
    Resume(Name),
    /// Approve that the version on trial leaves its step once its evidence passes (where the step
    /// waits for a person).
    #[command(visible_alias = "approve")]
    Promote {
        /// The model.
        #[command(flatten)]
        name: Name,
        /// Leave the step now, without waiting for its evidence; refused while the evidence fails.
        #[arg(long, conflicts_with = "full")]
        skip_step: bool,
        /// Promote to all traffic now, whatever the evidence says; the version's pods must be
        /// Ready.
        #[arg(long)]
        full: bool,
    },
    /// End the trial: all traffic goes back to the stable version, and the one on trial is refused
    /// until `retry`.
    Abort(Name),
    /// Try the spec's version again after it was rolled back or aborted.
    Retry(Name),
    /// Go back to an earlier version; where none is named, to the previous one.
    Undo {
        /// The model.
        #[command(flatten)]
        name: Name,
        /// A version of `history`; its revision, where two have the same version.
        #[arg(long, value_name = "VERSION")]
        to_revision: Option<String>,
    },
    /// List the versions that are kept for `undo`.
    History(Name),
}

/// The model.
#[derive(Args, Clone)]
pub struct Name {
    /// The ModelDeployment's name.
    name: String,
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// No cluster is configured.
    #[error("no cluster is configured: {0}; set KUBECONFIG or --context")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// The model does not exist.
    #[error(
        "there is no ModelDeployment {name} in namespace {namespace}; `kubectl get mdep \
         --all-namespaces` lists all"
    )]
    NotFound {
        /// Its name.
        name: String,
        /// The namespace that was searched.
        namespace: String,
    },
    /// The verb does not apply to the present state; the sentence says which does.
    #[error("{0}")]
    Pointless(String),
    /// Others kept writing the resource.
    #[error("{0} was changed by others {TRIES} times in a row; try again")]
    Contended(String),
    /// The API server refused, or could not be reached.
    #[error("{}", words(.0))]
    Api(#[from] kube::Error),
    /// The resource could not be read from JSON, or written to it.
    #[error("the resource cannot be read or written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Runs the command line and returns the text for the user. An error where there is no usable
/// kubeconfig, the API server refuses, or the verb does not apply to the model's state; each has
/// its remedy.
pub async fn run(arguments: Arguments) -> Result<String, CliError> {
    let kubeconfig = Kubeconfig::read()?;
    let user = person::of_kubeconfig(&kubeconfig, arguments.context.as_deref());
    let options = KubeConfigOptions {
        context: arguments.context,
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    let namespace = arguments
        .namespace
        .unwrap_or_else(|| config.default_namespace.clone());
    let session = Session::new(Client::try_from(config)?, namespace, user);
    session.perform(&arguments.verb).await
}

/// A client of one namespace.
pub struct Session {
    client: Client,
    namespace: String,
    user: Option<String>,
}

impl Session {
    /// Makes a session. `user` is the user's name for API servers that cannot tell it.
    pub fn new(client: Client, namespace: String, user: Option<String>) -> Self {
        Self {
            client,
            namespace,
            user,
        }
    }

    /// Runs one verb. Returns its output, or the effect of its change. An error where the API
    /// server refuses, or the verb does not apply to the model's state.
    pub async fn perform(&self, verb: &Verb) -> Result<String, CliError> {
        match verb {
            Verb::Status(Name { name }) => Ok(report(&self.model(name).await?)),
            Verb::Explain(Name { name }) => {
                let (model, stored) = self.model_as_stored(name).await?;
                let known = history::known(&self.history(&model).await?);
                let now = Timestamp::now();
                Ok(explain(&model, &stored, &known, now, terminal_width()))
            }
            Verb::History(Name { name }) => {
                let model = self.model(name).await?;
                let entries = self.history(&model).await?;
                Ok(history::table(&model, &entries))
            }
            Verb::Pause(Name { name }) => self.change(name, |model| Ok(pause::pause(model))).await,
            Verb::Resume(Name { name }) => {
                self.change(name, |model| Ok(pause::resume(model))).await
            }
            Verb::Abort(Name { name }) => self.change(name, abort::abort).await,
            Verb::Promote {
                name: Name { name },
                skip_step,
                full,
            } => {
                let how = match (skip_step, full) {
                    (true, _) => promote::skip_step,
                    (_, true) => promote::full,
                    _ => promote::approve,
                };
                self.change(name, how).await
            }
            Verb::Retry(Name { name }) => {
                let token = Timestamp::now().strftime("%FT%TZ").to_string();
                self.change(name, |model| retry::retry(model, &token)).await
            }
            Verb::Undo {
                name: Name { name },
                to_revision,
            } => {
                let entries = self.history(&self.model(name).await?).await?;
                let to = to_revision.as_deref();
                self.change(name, |model| {
                    undo::undo(model, &entries, to, Timestamp::now())
                })
                .await
            }
        }
    }

    async fn model(&self, name: &str) -> Result<ModelDeployment, CliError> {
        let found = self.models().get_opt(name).await?;
        found.ok_or_else(|| self.not_found(name))
    }

    /// The model, and its spec as it is stored: without the defaults, which are no part of it.
    async fn model_as_stored(&self, name: &str) -> Result<(ModelDeployment, Value), CliError> {
        let resource = ApiResource::erase::<ModelDeployment>(&());
        let models: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let found = models.get_opt(name).await?;
        let found = found.ok_or_else(|| self.not_found(name))?;
        let stored = found.data["spec"].clone();
        let model = serde_json::from_value(serde_json::to_value(found)?)?;
        Ok((model, stored))
    }

    fn not_found(&self, name: &str) -> CliError {
        CliError::NotFound {
            name: name.to_owned(),
            namespace: self.namespace.clone(),
        }
    }

    fn models(&self) -> Api<ModelDeployment> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The model's versions, oldest first.
    async fn history(&self, model: &ModelDeployment) -> Result<Vec<Entry>, CliError> {
        let revisions: Api<ControllerRevision> =
            Api::namespaced(self.client.clone(), &self.namespace);
        let of_model = format!("{MODEL_LABEL}={}", model.name_any());
        let found = revisions
            .list(&ListParams::default().labels(&of_model))
            .await?;
        Ok(history::entries(model, found.items))
    }

    /// Writes a change, with the version of the resource that it was computed from as precondition.
    async fn change(
        &self,
        name: &str,
        think: impl Fn(&ModelDeployment) -> Result<Change, CliError>,
    ) -> Result<String, CliError> {
        let mut by = None;
        for _ in 0..TRIES {
            let model = self.model(name).await?;
            let change = think(&model)?;
            let sentence = format!("{}\n", change.sentence);
            if change.is_nothing() {
                return Ok(sentence);
            }
            if by.is_none() {
                by = person::ask(&self.client).await.or(self.user.clone());
            }
            let patch = Patch::Merge(change.patch(&model, by.as_deref()));
            let params = PatchParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PatchParams::default()
            };
            match self.models().patch(name, &params, &patch).await {
                Ok(_) => return Ok(sentence),
                Err(error) if is_code(&error, 409) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CliError::Contended(name.to_owned()))
    }
}
