//! An object at an address, with the credentials to read it.

use std::sync::Arc;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode, Url};

use super::client::Client;
use super::credentials::Credentials;
use super::error::FetchError;
use super::hosts::Origin;
use super::{oci, s3};

/// Something that can be fetched.
#[derive(Clone)]
pub struct Remote {
    /// Its address.
    pub url: Url,
    /// How the source knows who asks.
    pub access: Access,
}

/// How a source knows who asks.
#[derive(Clone)]
pub enum Access {
    /// It does not.
    Open,
    /// By a fixed header.
    Fixed(HeaderValue),
    /// By a signature of each request.
    Signed(Arc<s3::Keys>),
    /// By a token that the registry's own service hands out.
    Registry(Arc<oci::Session>),
}

impl Access {
    /// What the credentials say for a plain HTTP source: a token, or a user and a password. An
    /// error where they have characters that a header may not have.
    pub fn of(credentials: &Credentials) -> Result<Self, FetchError> {
        let header = if let Some(token) = &credentials.token {
            token.bearer()?
        } else if let Some((user, password)) = &credentials.basic {
            password.basic(user)?
        } else {
            return Ok(Self::Open);
        };
        Ok(Self::Fixed(header))
    }

    /// Whether requests carry no credentials.
    fn is_anonymous(&self) -> bool {
        match self {
            Self::Open => true,
            Self::Fixed(_) | Self::Signed(_) => false,
            Self::Registry(session) => session.is_anonymous(),
        }
    }

    fn headers(&self, url: &Url) -> Result<HeaderMap, FetchError> {
        let mut headers = HeaderMap::new();
        match self {
            Self::Open => {}
            Self::Fixed(header) => {
                headers.insert(AUTHORIZATION, header.clone());
            }
            Self::Signed(keys) => headers = keys.sign(url, jiff::Timestamp::now())?,
            Self::Registry(session) => {
                if let Some(header) = session.header() {
                    headers.insert(AUTHORIZATION, header);
                }
            }
        }
        Ok(headers)
    }
}

impl Remote {
    /// Opens it, from byte `from` on where that is above 0. The answer is 200, 206 or 416. Any
    /// other answer is an error, as is none.
    pub async fn open(
        &self,
        client: &Client,
        accept: Option<&'static str>,
        from: u64,
    ) -> Result<Response, FetchError> {
        let get = async || {
            let headers = self.access.headers(&self.url)?;
            client.get(&self.url, &headers, accept, from).await
        };
        let mut response = get().await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Access::Registry(session) = &self.access
        {
            session
                .log_in(client, &self.url, response.headers())
                .await?;
            response = get().await?;
        }
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                Ok(response)
            }
            status => Err(self.refusal(status, response).await),
        }
    }

    async fn refusal(&self, status: StatusCode, response: Response) -> FetchError {
        // Its own path only: where a redirect led, the path may be a secret.
        let what = format!("{}{}", Origin(&self.url), self.url.path());
        let code = error_code(response).await;
        let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
        let remedy = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => match &self.access {
                access if access.is_anonymous() => {
                    "Give credentials (spec.model.credentials, --credentials)"
                }
                _ => "Check the credentials, and that they may read this",
            },
            StatusCode::NOT_FOUND => "Check the address, and that the artefact is published there",
            _ => "Ask who runs it",
        };
        let text = format!("{what} answers {status}{code}. {remedy}");
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => FetchError::Source(text),
            _ => FetchError::Denied(text),
        }
    }
}

/// The code in an S3 server's or a registry's error: one word, which tells a wrong key from a wrong
/// clock.
async fn error_code(mut response: Response) -> Option<String> {
    let mut text = Vec::new();
    while text.len() < 4096
        && let Ok(Some(chunk)) = response.chunk().await
    {
        text.extend_from_slice(&chunk);
    }
    let text = String::from_utf8_lossy(&text);
    let after = |start: &str| text.split_once(start).map(|(_, rest)| rest.to_owned());
    let rest = after("<Code>").or_else(|| after("\"code\":\""))?;
    let code: String = rest
        .chars()
        .take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
        .take(64)
        .collect();
    (!code.is_empty()).then_some(code)
}
