//! The kubectl plug-in.
fn main() {}
