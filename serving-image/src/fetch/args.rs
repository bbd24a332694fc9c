//! Flags of `serin-serve fetch`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::hosts::Entry;
use crate::args::{LogArgs, parse_duration};
use crate::artefact::Digest;

/// Flags of `serin-serve fetch`. None holds a credential, because every user of the machine sees
/// command lines.
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// Address of the artefact: oci://HOST/REPOSITORY:TAG, s3://BUCKET/PREFIX, https://HOST/PATH,
    /// hf://OWNER/REPOSITORY@REVISION or :REVISION. The path may name a folder or, but for oci, a
    /// .tar, .tar.gz or .tgz of one
    #[arg(value_name = "URI")]
    pub uri: String,
    /// Directory of the artefact, which appears complete or not at all; its parent must be writable
    pub directory: PathBuf,
    /// Digest that the artefact must have, as sha256:HEX: that of its serin-model.json, which holds
    /// those of its files. May be absent where the address pins the content: oci://…@sha256:…
    #[arg(long, env = "SERIN_FETCH_DIGEST")]
    pub digest: Option<Digest>,
    /// Hosts that may be connected to: HOST[:PORT], *.SUFFIX, * (all, over TLS), http://HOST[:PORT]
    /// (without TLS), and CIDRs for private addresses. Loopback, link-local and metadata addresses
    /// are always refused
    #[arg(
        long = "allow-host",
        env = "SERIN_FETCH_ALLOW_HOSTS",
        value_name = "HOST",
        value_delimiter = ',',
        default_value = "*"
    )]
    pub allow_hosts: Vec<Entry>,
    /// Allow file:///PATH, for development
    #[arg(long, env = "SERIN_FETCH_ALLOW_FILE")]
    pub allow_file: bool,
    /// Largest artefact, packed or unpacked, as bytes or with Ki, Mi, Gi or Ti
    #[arg(long, env = "SERIN_FETCH_MAX_SIZE", value_name = "SIZE", default_value = "20Gi",
        value_parser = parse_size)]
    pub max_size: u64,
    /// Cache directory, shared by pods, which keeps artefacts by digest [default: no cache]
    #[arg(long, env = "SERIN_FETCH_CACHE", value_name = "DIRECTORY")]
    pub cache: Option<PathBuf>,
    /// Largest size of the cache; above it, the least recently used artefacts are deleted
    /// [default: no limit]
    #[arg(long, env = "SERIN_FETCH_CACHE_LIMIT", value_name = "SIZE", value_parser = parse_size,
        requires = "cache")]
    pub cache_limit: Option<u64>,
    /// Directory with credentials, such as a mounted Secret: one file per key
    #[arg(long, env = "SERIN_FETCH_CREDENTIALS", value_name = "DIRECTORY")]
    pub credentials: Option<PathBuf>,
    /// File of certificate authorities in PEM, trusted besides the system's
    #[arg(long, env = "SERIN_FETCH_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The S3 server [default: AWS, or AWS_ENDPOINT_URL_S3 of the credentials]
    #[arg(long, env = "SERIN_FETCH_S3_ENDPOINT", value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// The bucket's region [default: AWS_REGION of the credentials, or us-east-1]
    #[arg(long, env = "SERIN_FETCH_S3_REGION", value_name = "REGION")]
    pub s3_region: Option<String>,
    /// The Hugging Face Hub, or a server like it
    #[arg(
        long,
        env = "HF_ENDPOINT",
        value_name = "URL",
        default_value = "https://huggingface.co"
    )]
    pub hf_endpoint: String,
    /// Retries of a failed request; a megabyte of progress resets the count
    #[arg(
        long,
        env = "SERIN_FETCH_RETRIES",
        value_name = "COUNT",
        default_value_t = 8
    )]
    pub retries: u32,
    /// Longest time to connect, TLS included
    #[arg(long, env = "SERIN_FETCH_CONNECT_TIMEOUT", value_name = "TIME", default_value = "10s",
        value_parser = parse_duration)]
    pub connect_timeout: Duration,
    /// Longest time in which fewer than 16 KiB arrive
    #[arg(long, env = "SERIN_FETCH_STALL_TIMEOUT", value_name = "TIME", default_value = "30s",
        value_parser = parse_duration)]
    pub stall_timeout: Duration,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Bytes, as a whole number or one with a binary unit.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => Some(1),
        "Ki" => Some(1 << 10),
        "Mi" => Some(1 << 20),
        "Gi" => Some(1 << 30),
        "Ti" => Some(1_u64 << 40),
        _ => None,
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit))
        .filter(|size| *size > 0)
        .ok_or_else(|| {
            "expected bytes, as a number or with Ki, Mi, Gi or Ti, such as 20Gi".to_owned()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(parse_size("512"), Ok(512));
        assert_eq!(parse_size("20Gi"), Ok(20 << 30));
        for wrong in ["", "0", "Gi", "20G", "-1", "1.5Gi", "99999999999Ti"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
