//! `s3://BUCKET/PREFIX` on AWS or any server that speaks its protocol, by path-style addresses and
//! signature version 4.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use hmac::{Hmac, Mac as _};
use jiff::Timestamp;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use super::credentials::{Credentials, Secret};
use super::error::FetchError;
use super::remote::{Access, Remote};
use super::uri::encode;

/// An access key, and the region that its signatures are for.
#[derive(Debug)]
pub struct Keys {
    key: String,
    secret: Secret,
    session: Option<Secret>,
    region: String,
}

/// Where buckets are.
#[derive(Debug)]
pub struct Endpoint {
    base: Url,
    keys: Option<Arc<Keys>>,
}

impl Endpoint {
    /// AWS, or the server that flags or credentials name. Without keys, requests are anonymous. An
    /// error where the endpoint or the region cannot be used.
    pub fn new(
        endpoint: Option<&str>,
        region: Option<&str>,
        credentials: &Credentials,
    ) -> Result<Self, FetchError> {
        let region = region
            .or(credentials.aws_region.as_deref())
            .unwrap_or("us-east-1");
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if region.is_empty() || !region.bytes().all(is_name) {
            return Err(FetchError::usage(
                "AWS_REGION",
                "expected a region such as eu-central-1",
            ));
        }
        let text = endpoint
            .or(credentials.aws_endpoint.as_deref())
            .map_or_else(
                || format!("https://s3.{region}.amazonaws.com"),
                str::to_owned,
            );
        let base = Url::parse(&text)
            .ok()
            .filter(|url| url.has_host() && url.query().is_none() && url.username().is_empty())
            .ok_or_else(|| {
                FetchError::usage(
                    "AWS_ENDPOINT_URL_S3",
                    "expected an address such as https://minio.example.com:9000",
                )
            })?;
        let keys = credentials.aws.clone().map(|(key, secret, session)| {
            Arc::new(Keys {
                key,
                secret,
                session,
                region: region.to_owned(),
            })
        });
        Ok(Self { base, keys })
    }

    /// An object of a bucket.
    pub fn object(&self, bucket: &str, key: &str) -> Remote {
        let mut url = self.base.clone();
        let base = self.base.path().trim_end_matches('/');
        url.set_path(&format!("{base}/{bucket}/{}", encode(key)));
        let access = self.keys.clone().map_or(Access::Open, Access::Signed);
        Remote { url, access }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    // HMAC takes keys of any length.
    Hmac::<Sha256>::new_from_slice(key)
        .map(|mac| mac.chain_update(text).finalize().into_bytes().to_vec())
        .unwrap_or_default()
}

impl Keys {
    /// The headers that sign a GET of `url` at this moment. An error where the session token has
    /// characters that a header may not have.
    pub fn sign(&self, url: &Url, now: Timestamp) -> Result<HeaderMap, FetchError> {
        self.sign_with(url, now, &[])
    }

    /// As [`Keys::sign`], with further headers under the signature.
    fn sign_with(
        &self,
        url: &Url,
        now: Timestamp,
        further: &[(&'static str, &str)],
    ) -> Result<HeaderMap, FetchError> {
        let moment = now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let day = &moment[..8];
        let host = url.host_str().unwrap_or_default();
        let host = url
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let nothing = hex(&Sha256::digest(b""));
        let mut signed: BTreeMap<&'static str, &str> = further.iter().copied().collect();
        signed.insert("host", &host);
        signed.insert("x-amz-content-sha256", &nothing);
        signed.insert("x-amz-date", &moment);
        if let Some(session) = &self.session {
            signed.insert("x-amz-security-token", session.reveal());
        }
        let names = signed.keys().copied().collect::<Vec<_>>().join(";");
        let mut lines = String::new();
        for (name, value) in &signed {
            let _ = writeln!(lines, "{name}:{value}");
        }
        let canonical = format!("GET\n{}\n\n{lines}\n{names}\n{nothing}", url.path());
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let digest = hex(&Sha256::digest(canonical.as_bytes()));
        let to_sign = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}");
        let seed = format!("AWS4{}", self.secret.reveal());
        let key = [day, &self.region, "s3", "aws4_request"]
            .iter()
            .fold(seed.into_bytes(), |key, part| mac(&key, part));
        let signature = hex(&mac(&key, &to_sign));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.key
        );

        let mut headers = HeaderMap::new();
        signed.insert(AUTHORIZATION.as_str(), &authorization);
        for (name, text) in signed.into_iter().filter(|(name, _)| *name != "host") {
            let mut value: HeaderValue = text.parse().map_err(|_| {
                FetchError::usage(
                    "the credentials' AWS keys",
                    "expected visible ASCII letters",
                )
            })?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// "GET Object" of AWS' own documentation of signature version 4 for S3.
    #[test]
    fn the_signature_is_that_of_the_published_example() {
        let keys = Keys {
            key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            session: None,
            region: "us-east-1".to_owned(),
        };
        let url = Url::parse("https://examplebucket.s3.amazonaws.com/test.txt").unwrap();
        let now: Timestamp = "2013-05-24T00:00:00Z".parse().unwrap();
        let headers = keys
            .sign_with(&url, now, &[("range", "bytes=0-9")])
            .unwrap();
        assert_eq!(
            headers[AUTHORIZATION],
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, \
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        assert!(headers[AUTHORIZATION].is_sensitive());
    }

    #[test]
    fn objects_are_addressed_by_path_and_encoded_once() {
        let credentials = Credentials {
            aws_endpoint: Some("https://minio.example.com:9000/base/".to_owned()),
            ..Credentials::default()
        };
        let endpoint = Endpoint::new(None, None, &credentials).unwrap();
        let url = endpoint.object("models", "a b/c+d=ü.bin").url;
        assert_eq!(
            url.as_str(),
            "https://minio.example.com:9000/base/models/a%20b/c%2Bd%3D%C3%BC.bin"
        );
        let aws = Endpoint::new(None, Some("eu-central-1"), &Credentials::default()).unwrap();
        assert_eq!(
            aws.object("models", "x").url.as_str(),
            "https://s3.eu-central-1.amazonaws.com/models/x"
        );
        for (endpoint, region) in [
            (Some("minio:9000"), None),
            (Some("https://u:p@minio"), None),
            (None, Some("eu central")),
            (None, Some("x.evil.example/")),
        ] {
            assert!(Endpoint::new(endpoint, region, &Credentials::default()).is_err());
        }
    }
}
