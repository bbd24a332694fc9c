//! The phases of a rollout, one file each, all of one shape: a method of the
//! [`DecisionContext`](super::context::DecisionContext) that makes one move at most, and returns
//! the time until the next look; `None` where only a change brings one.

mod asleep;
mod canary;
mod pending;
mod preparing;
mod stable;
mod trial;
