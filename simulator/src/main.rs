//! fuota-sim
fn main() {}
