//! The kubectl plug-in: what a person can see of a rollout, and say about it.
//!
//! Each verb is a pure function from the resource to a [`Change`]: the one patch that says it, as Git could say it too,
//! and in a sentence or two what follows from it. Only this file speaks to the API server.

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
    api::{ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{
    api::{MODEL_LABEL, ModelDeployment},
    k8s::{is_code, words},
    report::{explain, report, terminal_width},
};
use change::Change;
use history::Entry;

/// Field manager of what the plug-in writes.
const MANAGER: &str = "kubectl-serin";
/// How often a change is made anew because somebody else wrote at the same time.
const TRIES: usize = 5;

/// Looks at rollouts of ModelDeployments, and says what people decide about them.
#[derive(Parser)]
#[command(name = "kubectl serin", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// The kubeconfig's context to use; the current one where absent.
    #[arg(long, global = true)]
    context: Option<String>,
    /// The namespace; the context's where absent.
    #[arg(long, short, global = true)]
    namespace: Option<String>,
}

/// What to do.
#[derive(Subcommand)]
pub enum Verb {
    /// Where a rollout stands, what its gates say, and what was decided and why.
    Status(Name),
    /// Why: the last decisions with all that was asked and counted, what comes next, and what you can do.
    Explain(Name),
    /// Raise no weight until `resume`; a version that breaks its objectives is still rolled back.
    Pause(Name),
    /// Go on after `pause`.
    Resume(Name),
    /// Agree that the version on trial leaves its step once its evidence passes (where the step waits for a person).
    #[command(visible_alias = "approve")]
    Promote {
        /// Which model.
        #[command(flatten)]
        name: Name,
        /// Leave the step now, without its evidence; refused while the evidence speaks against the version.
        #[arg(long, conflicts_with = "full")]
        skip_step: bool,
        /// All traffic and promoted now, whatever the evidence says; only the version's pods must be Ready.
        #[arg(long)]
        full: bool,
    },
    /// End the trial: traffic back to the version before, and the one on trial refused until `retry`.
    Abort(Name),
    /// Try the spec's version again after it was rolled back or aborted.
    Retry(Name),
    /// Go back to an earlier version; without a revision, to the one before.
    Undo {
        /// Which model.
        #[command(flatten)]
        name: Name,
        /// A revision of `history`: its 8 hex digits, its number, or its model version.
        #[arg(long, value_name = "REVISION")]
        to_revision: Option<String>,
    },
    /// The versions that can be gone back to.
    History(Name),
}

/// Which model.
#[derive(Args, Clone)]
pub struct Name {
    /// The ModelDeployment's name.
    name: String,
}

/// Why a verb did nothing.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// No cluster is configured.
    #[error("no cluster to speak to: {0}; set KUBECONFIG or --context")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// There is no such model.
    #[error(
        "there is no ModelDeployment {name} in namespace {namespace}; `kubectl get mdep --all-namespaces` lists all"
    )]
    NotFound {
        /// Its name.
        name: String,
        /// Where it was looked for.
        namespace: String,
    },
    /// The verb makes no sense as things stand; the sentence says what does.
    #[error("{0}")]
    Pointless(String),
    /// Somebody else kept writing.
    #[error("somebody else changed {0} {TRIES} times in a row; try again")]
    Contended(String),
    /// The API server refused, or could not be reached.
    #[error("{}", words(.0))]
    Api(#[from] kube::Error),
    /// A text could not be made of the resource.
    #[error("the resource cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Does what the command line says; the text is for its user.
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

/// One user's way to one namespace.
pub struct Session {
    client: Client,
    namespace: String,
    user: Option<String>,
}

impl Session {
    /// Speaks to a namespace. `user` is who that is where the API server cannot say it.
    pub fn new(client: Client, namespace: String, user: Option<String>) -> Self {
        Self {
            client,
            namespace,
            user,
        }
    }

    /// Does one thing; the text says what it shows, or what follows.
    pub async fn perform(&self, verb: &Verb) -> Result<String, CliError> {
        match verb {
            Verb::Status(Name { name }) => Ok(report(&self.model(name).await?)),
            Verb::Explain(Name { name }) => {
                let model = self.model(name).await?;
                Ok(explain(&model, Timestamp::now(), terminal_width()))
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
                self.change(name, |model| undo::undo(model, &entries, to))
                    .await
            }
        }
    }

    async fn model(&self, name: &str) -> Result<ModelDeployment, CliError> {
        let found = self.models().get_opt(name).await?;
        found.ok_or_else(|| CliError::NotFound {
            name: name.to_owned(),
            namespace: self.namespace.clone(),
        })
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

    /// Makes a change, on exactly the resource that it was thought out for.
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
