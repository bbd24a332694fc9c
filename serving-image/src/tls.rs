//! The certificate authorities that outgoing connections trust: the system's, and those that a flag
//! or a variable names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls_platform_verifier::Verifier;

/// Why there are no usable certificate authorities.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of authorities is missing, or malformed.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: pem::Error,
    },
    /// The file holds no certificate.
    #[error("{}: expected certificates in PEM", .0.display())]
    Empty(PathBuf),
    /// An authority's certificate is malformed, or there is no authority at all.
    #[error("cannot trust anybody: {0}")]
    Authorities(#[from] rustls::Error),
}

/// How to connect to servers whose certificate is of the system's authorities, or of those in this
/// file.
pub(crate) fn client(authorities: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let further = authorities.map(read).transpose()?.unwrap_or_default();
    let verifier = Verifier::new_with_extra_roots(further, Arc::clone(&provider))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous() // the name of every verifier but one: this one checks chains, names and dates
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(config)
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |error| TlsError::Unreadable {
        path: path.to_owned(),
        error,
    };
    let found = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(unreadable)?;
    if found.is_empty() {
        return Err(TlsError::Empty(path.to_owned()));
    }
    Ok(found)
}
