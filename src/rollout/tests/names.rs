//! How sentences name versions.

use super::*;

#[test]
fn two_revisions_of_one_version_are_named_by_their_revisions() {
    let mut world = World::with_stable_v1();
    let stable = VersionSpec::of(&world.spec).revision();
    world.spec.model.as_mut().unwrap().digest = Some("sha256:1".to_owned());
    let canary = VersionSpec::of(&world.spec).revision();
    world.look(None);
    let message = &world.state.message;
    let names = format!("Starting version 1 ({canary}) beside 1 ({stable}),");
    assert!(message.starts_with(&names), "{message}");
    assert_eq!(world.state.decisions.last().unwrap().version, "1");
}
