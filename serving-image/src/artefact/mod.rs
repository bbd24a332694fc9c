//! The model artefact: a directory whose manifest, `serin-model.json`, lists every file with its
//! sha256.
//!
//! The artefact's digest is the sha256 of the manifest's bytes, so that one number fixes weights,
//! tokeniser, preprocessing and labels together.

mod files;
mod manifest;

pub use files::{Artefact, ArtefactError, Digest, Files, MAX_MANIFEST, write_manifest};
#[cfg(test)]
pub(crate) use manifest::tests::categories;
pub use manifest::{
    Activation, Background, Channels, Distribution, Drop, Dtype, FileEntry, Filter, Golden,
    GraphInput, GraphOutput, Head, Holds, ImageDtype, ImageStep, Input, InputType, Kind, Layout,
    Limits, MANIFEST_FILE, Manifest, ManifestError, Mode, Network, Orientation, Outputs, Pooling,
    Reference, Resize, Scalar, Scaler, Scaling, Step, Task,
};
