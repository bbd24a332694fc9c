//! Watches: the changes of one kind, line by line, delayed, merged and interrupted by faults.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::Stream;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    objects::{ApiError, Change},
    request::Request,
    wire::Process,
    world::{State, World},
};

/// Time between two bookmarks.
const BOOKMARKS: Duration = Duration::from_secs(20);

/// The outcome of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFate {
    Open,
    /// The server says that the version is too old, and hangs up.
    Gone,
    /// The server hangs up.
    Closed,
    /// The connection goes silent without an error.
    HalfOpen,
}

struct Watch {
    world: Arc<World>,
    process: Arc<Process>,
    request: Request,
    /// The last version that was sent.
    sent: u64,
    end: Instant,
    bookmark: Instant,
    over: bool,
}

/// The lines of a watch that begins after version `from`.
pub fn lines(
    world: Arc<World>,
    process: Arc<Process>,
    request: Request,
    from: u64,
) -> impl Stream<Item = Bytes> + Send {
    let seconds = request.number("timeoutSeconds").unwrap_or(290);
    let now = Instant::now();
    let watch = Watch {
        world,
        process,
        request,
        sent: from,
        end: now + Duration::from_secs(seconds),
        bookmark: now + BOOKMARKS,
        over: false,
    };
    futures::stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((line, watch))
    })
}

impl Watch {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let now = Instant::now();
            if self.over || now >= self.end {
                return None;
            }
            // Registered before looking, so that no change is missed in between.
            let world = self.world.clone();
            let mut change = std::pin::pin!(world.changed());
            change.as_mut().enable();
            let (fate, event, wake_ms) = world.with(|state| {
                let fate = state.faults.watch_fate(&self.process, self.request.kind);
                let (event, wake_ms) = self.look(state);
                (fate, event, wake_ms)
            });
            match fate {
                WatchFate::Open => {}
                WatchFate::Closed => return None,
                WatchFate::Gone => return Some(self.gone()),
                WatchFate::HalfOpen => {
                    let text = format!("the watch of {} goes silent", self.request.kind);
                    world.with(|state| state.note(&self.process.name, &text));
                    return std::future::pending().await;
                }
            }
            if let Some(event) = event {
                return Some(event);
            }
            if now >= self.bookmark {
                self.bookmark = now + BOOKMARKS;
                return Some(self.bookmark());
            }
            let wake = wake_ms.map_or(self.end, |ms| now + Duration::from_millis(ms));
            let wake = wake.min(self.end).min(self.bookmark);
            let _ = tokio::time::timeout_at(wake, change).await;
        }
    }

    /// The next event that is visible, or how long until one is.
    fn look(&mut self, state: &mut State) -> (Option<Bytes>, Option<u64>) {
        let objects = &mut state.objects;
        if self.sent < objects.oldest {
            return (Some(self.gone()), None);
        }
        let lag = state.faults.lag_ms(&self.process, self.request.kind);
        let changes = objects.since(self.sent);
        for (index, change) in changes.iter().enumerate() {
            let due = change.at_ms + lag;
            if due > objects.now_ms {
                return (None, Some(due - objects.now_ms));
            }
            self.sent = change.version;
            let Some(kind) = self.event(change) else {
                continue;
            };
            let overtakes = |later: &Change| {
                later.key == change.key
                    && !later.deleted
                    && later.after["metadata"]["uid"] == change.after["metadata"]["uid"]
                    && later.at_ms + lag <= objects.now_ms
            };
            let merged = state.faults.merges() && changes[index + 1..].iter().any(overtakes);
            if !merged {
                let object = change.after.clone();
                return (Some(line(kind, &objects.text(&object))), None);
            }
        }
        (None, None)
    }

    /// The type of a change for this watch's selector: an object may enter and leave the selection.
    fn event(&self, change: &Change) -> Option<&'static str> {
        let selected = |object: &Value| self.request.selects(&change.key, object);
        let before = change
            .before
            .as_ref()
            .is_some_and(|before| selected(before));
        let after = selected(&change.after);
        match (before, after, change.deleted) {
            (_, true, true) | (true, false, _) => Some("DELETED"),
            (_, false, _) => None,
            (false, true, false) => Some("ADDED"),
            (true, true, false) => Some("MODIFIED"),
        }
    }

    fn bookmark(&self) -> Bytes {
        let kind = self.request.kind;
        let body = json!({
            "kind": kind.name(), "apiVersion": kind.api_version(),
            "metadata": {"resourceVersion": self.sent.to_string()},
        });
        line("BOOKMARK", body.to_string().as_bytes())
    }

    fn gone(&mut self) -> Bytes {
        self.over = true;
        let gone = ApiError::new(410, "Expired", "too old resource version");
        line("ERROR", gone.status().to_string().as_bytes())
    }
}

/// One event of a watch.
fn line(kind: &str, object: &[u8]) -> Bytes {
    let start = format!(r#"{{"type":"{kind}","object":"#);
    [start.as_bytes(), object, b"}\n"].concat().into()
}
