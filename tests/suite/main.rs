//! Tests of the library through its public interface.

mod golden_commands;
mod properties_commands;
