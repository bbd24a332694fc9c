//! Keys, certificates and tokens of one cluster, made new at each start.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::config::USERS;
use super::flavour::IpFamilies;
use crate::process;

/// Who asks an aggregated API server (metrics-server) on behalf of others.
pub const FRONT_PROXY: &str = "front-proxy-client";

/// Makes `ca`, `apiserver`, `front-proxy` and `sa` (service account) keys and certificates in
/// `folder`.
pub fn create(folder: &Path, ip_families: IpFamilies) -> Result<()> {
    fs::create_dir_all(folder)?;
    for name in ["ca", "apiserver", "front-proxy", "sa"] {
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
    let mut addresses = String::new();
    for family in ip_families.families() {
        // Writing into a String cannot fail.
        let _ = write!(addresses, ", IP:{}, IP:{}", family.api_server, family.node);
    }
    fs::write(
        folder.join("apiserver.ext"),
        format!(
            "basicConstraints = CA:FALSE\nextendedKeyUsage = serverAuth\n\
             subjectAltName = DNS:localhost, DNS:kubernetes, DNS:kubernetes.default, \
             DNS:kubernetes.default.svc, DNS:kubernetes.default.svc.cluster.local, \
             IP:127.0.0.1{addresses}\n"
        ),
    )?;
    fs::write(
        folder.join("front-proxy.ext"),
        "basicConstraints = CA:FALSE\nextendedKeyUsage = clientAuth\n",
    )?;
    for (name, subject) in [
        ("apiserver", "kube-apiserver"),
        ("front-proxy", FRONT_PROXY),
    ] {
        openssl(
            folder,
            &format!("req -new -key {name}.key -subj /CN={subject} -out {name}.csr"),
        )?;
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 \
                 -extfile {name}.ext -out {name}.crt"
            ),
        )?;
    }
    Ok(())
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
