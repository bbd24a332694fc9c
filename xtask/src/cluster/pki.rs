//! Keys, certificates and tokens of one cluster, made new at each start.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::config::{NODE_ADDRESS, USERS};
use crate::process;

/// Makes `ca`, `apiserver` and `sa` (service account) keys and certificates in `folder`.
pub fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for name in ["ca", "apiserver", "sa"] {
        openssl(
            folder,
            &format!("ecparam -name prime256v1 -genkey -noout -out {name}.key"),
        )?;
    }
    openssl(folder, "ec -in sa.key -pubout -out sa.pub")?;
    openssl(
        folder,
        "req -x509 -new -key ca.key -subj /CN=serin-cluster-ca -days 3650 -out ca.crt",
    )?;
    fs::write(
        folder.join("apiserver.ext"),
        format!(
            "basicConstraints = CA:FALSE\nextendedKeyUsage = serverAuth\nsubjectAltName = DNS:localhost, DNS:kubernetes, \
             DNS:kubernetes.default, DNS:kubernetes.default.svc, DNS:kubernetes.default.svc.cluster.local, \
             IP:127.0.0.1, IP:10.96.0.1, IP:{NODE_ADDRESS}\n"
        ),
    )?;
    openssl(
        folder,
        "req -new -key apiserver.key -subj /CN=kube-apiserver -out apiserver.csr",
    )?;
    openssl(
        folder,
        "x509 -req -in apiserver.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile apiserver.ext \
         -out apiserver.crt",
    )
}

/// A fresh token for each of the cluster's [`USERS`].
pub fn tokens() -> Result<BTreeMap<&'static str, String>> {
    let mut random = fs::File::open("/dev/urandom").context("cannot read random numbers")?;
    let mut tokens = BTreeMap::new();
    for user in USERS {
        let mut bytes = [0; 16];
        random.read_exact(&mut bytes)?;
        tokens.insert(user.file, format!("{:032x}", u128::from_ne_bytes(bytes)));
    }
    Ok(tokens)
}

fn openssl(folder: &Path, args: &str) -> Result<()> {
    process::run(
        Command::new("openssl")
            .args(args.split_whitespace())
            .current_dir(folder),
    )
}
