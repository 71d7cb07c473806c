//! Tests of the library through its public interface.

mod foreign_codec_lrwn;
mod golden_commands;
mod properties_commands;
