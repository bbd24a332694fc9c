//! One write of a status.

use kube::{Api, ResourceExt, api::PostParams};

use super::{context::Context, error::StatusError};
use crate::{
    api::{ModelDeployment, ModelDeploymentStatus},
    k8s::timely,
};

/// Writes a status with the `resourceVersion` that was read as precondition. The routers of this
/// process see it at once.
pub(super) async fn replace_status(
    api: &Api<ModelDeployment>,
    model: &ModelDeployment,
    status: Option<ModelDeploymentStatus>,
    context: &Context,
) -> Result<(), StatusError> {
    let mut wanted = model.clone();
    wanted.metadata.managed_fields = None;
    wanted.status = status;
    let written =
        timely(api.replace_status(&model.name_any(), &PostParams::default(), &wanted)).await?;
    let written = written.map_err(StatusError::Refused)?;
    context.stores.models.answered(&written);
    Ok(())
}
