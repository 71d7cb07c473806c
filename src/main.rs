//! The `fuota` binary.
fn main() {}
