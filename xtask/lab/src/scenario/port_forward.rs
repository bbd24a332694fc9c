//! A way to a router of a cluster whose Services cannot be reached from this machine.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use deploy::NAMESPACE;

/// Longest time until kubectl has opened the way.
const OPEN_WITHIN: Duration = Duration::from_secs(20);

/// `kubectl port-forward` to one router pod; it ends with this value.
pub struct Forward {
    address: String,
    _kubectl: Child,
}

impl Forward {
    /// Opens a way to the port on which every router listens for one model.
    pub async fn open(port: u16) -> Result<Self> {
        let mut kubectl = Command::new("kubectl")
            .args(["port-forward", "-n", NAMESPACE, "deployment/serin-router"])
            .arg(format!(":{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start kubectl")?;
        let output = kubectl.stdout.take().context("kubectl has no output")?;
        let mut lines = BufReader::new(output).lines();
        let opened = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(address) = opened_at(&line) {
                    return Ok(address);
                }
            }
            anyhow::bail!("kubectl port-forward ended; its reason is above")
        };
        let address = tokio::time::timeout(OPEN_WITHIN, opened)
            .await
            .context("kubectl port-forward opens no way")??;
        // It says a line for each connection; nothing else reads them.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self {
            address,
            _kubectl: kubectl,
        })
    }

    /// Where predictions are asked for.
    pub fn url(&self) -> String {
        format!("http://{}/predict", self.address)
    }
}

/// The address in "Forwarding from 127.0.0.1:40123 -> 20000"; none in a line that tells something
/// else, or of IPv6.
fn opened_at(line: &str) -> Option<String> {
    let (address, _) = line.strip_prefix("Forwarding from ")?.split_once(" -> ")?;
    address.starts_with("127.").then(|| address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_what_kubectl_says() {
        assert_eq!(
            opened_at("Forwarding from 127.0.0.1:40123 -> 20000").as_deref(),
            Some("127.0.0.1:40123")
        );
        assert_eq!(opened_at("Forwarding from [::1]:40123 -> 20000"), None);
        assert_eq!(opened_at("Handling connection for 40123"), None);
    }
}
