//! Which models have to be reconciled.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::Stream;
use kube_runtime::reflector::ObjectRef;
use parking_lot::Mutex;

use crate::api::ModelDeployment;

/// A set, so that a model is in it once however often it changes. It keeps nothing before a
/// listener exists: a follower watches for weeks without acting, and a leader reconciles every
/// model when it begins. Clones are the same set.
#[derive(Clone, Debug, Default)]
pub struct Dirty {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Namespace and name of each. `None` without a listener.
    keys: Option<BTreeSet<(String, String)>>,
    waker: Option<Waker>,
}

impl Dirty {
    /// Marks a model.
    pub fn mark(&self, namespace: &str, name: &str) {
        let mut shared = self.shared.lock();
        let Some(keys) = &mut shared.keys else {
            return;
        };
        keys.insert((namespace.to_owned(), name.to_owned()));
        let waker = shared.waker.take();
        drop(shared);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The models that are marked from now on, each as soon as it is; one listener at a time.
    pub fn listen(&self) -> Marked {
        self.shared.lock().keys = Some(BTreeSet::new());
        Marked(self.clone())
    }
}

/// The marked models; each is taken out of the set as it is given. Never ends.
#[derive(Debug)]
pub struct Marked(Dirty);

impl Stream for Marked {
    type Item = ObjectRef<ModelDeployment>;

    fn poll_next(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut shared = self.0.shared.lock();
        let marked = shared.keys.as_mut().and_then(BTreeSet::pop_first);
        if let Some((namespace, name)) = marked {
            return Poll::Ready(Some(ObjectRef::new(&name).within(&namespace)));
        }
        shared.waker = Some(task.waker().clone());
        Poll::Pending
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        *self.0.shared.lock() = Shared::default();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt;

    use super::*;

    /// Each of 100 models changes 50 times.
    fn change(dirty: &Dirty) {
        for change in 0..5_000 {
            dirty.mark("ml", &format!("m{:02}", change % 100));
        }
    }

    fn kept(dirty: &Dirty) -> Option<usize> {
        dirty.shared.lock().keys.as_ref().map(BTreeSet::len)
    }

    #[tokio::test]
    async fn a_follower_keeps_nothing_and_a_leader_each_model_once() {
        let dirty = Dirty::default();
        change(&dirty);
        assert_eq!(kept(&dirty), None);

        let mut marked = dirty.listen();
        assert_eq!(kept(&dirty), Some(0));
        change(&dirty);
        assert_eq!(kept(&dirty), Some(100));
        let given: Vec<_> = marked.by_ref().take(100).collect().await;
        assert_eq!(given[7], ObjectRef::new("m07").within("ml"));
        assert_eq!(kept(&dirty), Some(0));

        drop(marked);
        change(&dirty);
        assert_eq!(kept(&dirty), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_waits_is_woken() {
        let dirty = Dirty::default();
        let mut marked = dirty.listen();
        let waits = tokio::spawn(async move { marked.next().await });
        tokio::task::yield_now().await;
        dirty.mark("ml", "churn");
        let woken = tokio::time::timeout(Duration::from_secs(1), waits).await;
        let given = woken.expect("woken").expect("no panic");
        assert_eq!(given, Some(ObjectRef::new("churn").within("ml")));
    }
}
