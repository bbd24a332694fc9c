//! An authority for certificates, made by OpenSSL.

use std::path::Path;
use std::process::Command;

/// Writes `ca.pem`, and `leaf.pem` with `leaf.key`: the certificate that this authority gives to a
/// server at `address`.
pub fn certify(directory: &Path, address: std::net::IpAddr) {
    let script = format!(
        "set -e; umask 077
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj \
        /CN=authority -keyout ca.key -out ca.pem
        openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=leaf \
        -keyout leaf.key -out leaf.csr
        printf 'subjectAltName=IP:{address}\\nbasicConstraints=CA:FALSE\\n' > leaf.ext
        openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile \
        leaf.ext -out leaf.pem"
    );
    let mut made = Command::new("sh");
    let made = made.args(["-c", &script]).current_dir(directory).output();
    let made = made.unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
}
