//! TLS in front of a server that speaks plain HTTP, with a certificate of an unknown authority.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use testkit::certify;

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// It works as long as the process does.
pub struct Front {
    files: TempDir,
    pub url: String,
}

impl Front {
    pub fn start(behind: SocketAddr) -> Self {
        let files = tempfile::tempdir().unwrap();
        certify(files.path(), ADDRESS);
        let path = |name: &str| files.path().join(name);
        let certificate = CertificateDer::from_pem_file(path("leaf.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(path("leaf.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = std::net::TcpListener::bind((ADDRESS, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        // A client that does not trust this authority leaves at once.
                        let mut outside = acceptor.accept(stream).await?;
                        let mut inside = TcpStream::connect(behind).await?;
                        copy_bidirectional(&mut outside, &mut inside).await
                    });
                }
            });
        });
        Self { files, url }
    }

    /// The authority's certificate.
    pub fn authority(&self) -> PathBuf {
        self.files.path().join("ca.pem")
    }
}
