//! ONNX Runtime's own library: found and loaded when the first graph needs it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;
use tracing::{debug, error, info, warn};

use super::OnnxError;

/// Where the command line says that the library is.
static PATH: OnceLock<PathBuf> = OnceLock::new();

/// What a library that no flag names is called; the system's loader then looks for it.
const NAME: &str = "libonnxruntime.so";

/// The environment variable that ONNX Runtime's own bindings read, and the flag's.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// The one environment that a process may have. Its sessions hold it too.
static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// Says where the library is. The first call wins; it must come before a graph is loaded.
pub fn use_library(path: &Path) {
    let _ = PATH.set(path.to_owned()); // the same flag of the same process
}

/// Loads the library, unless that was done before.
pub(super) fn environment() -> Result<Environment, OnnxError> {
    let mut environment = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = environment.as_ref() {
        return Ok(environment.clone());
    }
    let path = PATH
        .get()
        .cloned()
        .or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from))
        .unwrap_or_else(|| NAME.into());
    let unusable = |reason: String| OnnxError::Library {
        path: path.clone(),
        reason,
    };
    let loaded = ort::init_from(&path)
        .map_err(|error| unusable(error.to_string()))?
        .with_name("serin-serve")
        .with_telemetry(false)
        .with_logger(std::sync::Arc::new(log))
        .build()
        .map_err(|error| unusable(error.to_string()))?;
    loaded.set_log_level(LogLevel::Warning);
    info!(path = %path.display(), "ONNX Runtime's library is loaded");
    *environment = Some(loaded.clone());
    Ok(loaded)
}

fn log(level: LogLevel, category: &str, _session: &str, place: &str, message: &str) {
    match level {
        LogLevel::Verbose | LogLevel::Info => debug!(category, place, "onnxruntime: {message}"),
        LogLevel::Warning => warn!(category, place, "onnxruntime: {message}"),
        LogLevel::Error | LogLevel::Fatal => error!(category, place, "onnxruntime: {message}"),
    }
}
