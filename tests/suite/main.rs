//! Tests of the crate from outside, in one binary so that it links once.
//!
//! Every property test, here and in the units, runs as many cases as the environment variable `PROPTEST_CASES` says
//! (256 without it; storms, which take long, a quarter). The decoders' tests of any bytes are named alike, for a long
//! run: `PROPTEST_CASES=1000000 cargo test --release -p lorawan-fuota any_bytes`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod abp_restart;
mod api_control;
mod api_fleet;
mod api_images;
mod api_plans;
mod api_records;
mod api_rollouts;
mod api_rules;
mod api_server;
mod api_several_images;
mod api_support;
mod api_tasks;
mod api_tls;
mod api_trust;
mod api_watches;
mod campaign;
mod class_b;
mod cli;
mod cli_offline;
mod cli_rollouts;
mod control;
mod deltas;
mod device_formats;
mod dialogue;
mod forecast;
mod foreign_codec_lrwn;
mod foreign_device;
mod frames_foreign;
mod garbage;
mod golden_commands;
mod golden_erasure;
mod golden_keys;
mod kept_groups;
mod native;
mod native_foreign;
mod native_groups;
mod native_net;
mod native_storm;
mod properties_commands;
mod properties_decoders;
mod properties_multi_package;
mod queue;
mod rules;
mod server_clock;
mod several_images;
mod simulation;
mod slots;
mod store_contract;
mod store_records;
mod store_sqlite;
mod tidy;
mod unicast;
mod waves;
