//! Which parts of Serin a cluster holds: the demo names for removal only what it installed.

use anyhow::Result;
use cluster::{Cluster, process};

use crate::install::NAMESPACE;

/// Everything that the demo may bring, and the commands that remove it, in this order.
const BROUGHT: [(Item, &str); 5] = [
    (Item::Models, "kubectl delete namespace demo"),
    (Item::Release, "helm uninstall serin -n serin-system"),
    (Item::Namespace, "kubectl delete namespace serin-system"),
    (
        Item::Definition,
        "kubectl delete crd modeldeployments.serin.dev",
    ),
    (
        Item::Images,
        "kubectl delete configmap -n kube-system serin-images",
    ),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Models,
    Release,
    Namespace,
    Definition,
    Images,
}

impl Item {
    /// How `kubectl get -o name` writes it.
    fn is(self, line: &str) -> bool {
        match self {
            Self::Models => line == "namespace/demo",
            Self::Release => line.starts_with("secret/sh.helm.release.v1.serin."),
            Self::Namespace => line == "namespace/serin-system",
            Self::Definition => line.ends_with("/modeldeployments.serin.dev"),
            Self::Images => line == "configmap/serin-images",
        }
    }
}

/// What is there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inventory(Vec<Item>);

impl Inventory {
    /// Asks the cluster.
    pub fn of(cluster: &Cluster) -> Result<Self> {
        let mut names = String::new();
        for question in [
            &["namespace/demo", "namespace/serin-system"][..],
            &["customresourcedefinition/modeldeployments.serin.dev"],
            &["configmap/serin-images", "-n", "kube-system"],
            &["secret", "-l", "owner=helm,name=serin", "-n", NAMESPACE],
        ] {
            let mut kubectl = cluster.command("kubectl")?;
            kubectl.args(["get", "--ignore-not-found", "-o", "name"]);
            names += &process::output(kubectl.args(question))?;
        }
        Ok(Self::parse(&names))
    }

    fn parse(names: &str) -> Self {
        let items = BROUGHT.iter().map(|(item, _)| *item);
        Self(
            items
                .filter(|item| names.lines().any(|line| item.is(line)))
                .collect(),
        )
    }

    /// Whether the chart's release is there.
    pub fn has_release(&self) -> bool {
        self.0.contains(&Item::Release)
    }

    /// Whether the demo's model is there.
    pub fn has_models(&self) -> bool {
        self.0.contains(&Item::Models)
    }

    /// The commands that remove what is here and was not there `before`.
    pub fn removal(&self, before: &Self) -> Vec<&'static str> {
        BROUGHT
            .iter()
            .filter(|(item, _)| self.0.contains(item) && !before.0.contains(item))
            .map(|(_, command)| *command)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "namespace/demo\nnamespace/serin-system\n\
        customresourcedefinition.apiextensions.k8s.io/modeldeployments.serin.dev\n\
        secret/sh.helm.release.v1.serin.v3\nconfigmap/serin-images\n";

    #[test]
    fn only_what_was_not_there_before_is_named_for_removal() {
        let (none, all) = (Inventory::default(), Inventory::parse(ALL));
        assert_eq!(all.removal(&none), BROUGHT.map(|(_, command)| command));
        assert!(all.removal(&all).is_empty());
        assert!(none.removal(&none).is_empty());

        let before = Inventory::parse("secret/sh.helm.release.v1.serin.v1\nnamespace/serin-system");
        assert!(before.has_release() && !before.has_models());
        let removal = all.removal(&before);
        assert_eq!(removal.len(), 3, "{removal:?}");
        assert!(!removal.iter().any(|command| command.contains("helm")));
    }

    #[test]
    fn another_release_and_another_namespace_are_not_the_demos() {
        let others = "namespace/demo-2\nsecret/sh.helm.release.v1.serin2.v1\n";
        assert_eq!(Inventory::parse(others), Inventory::default());
    }
}
