//! Simulated end-devices and gateways for lorawan-fuota, and the worlds they live in.
//!
//! `device`, `gateway` and `channel` are PURE and written from the specifications, never from the server's code. `lab`
//! steps them in virtual time; `world` adds the production server in the same virtual time, with faults and checks;
//! `realtime` runs a lab against the wall clock and real sockets. `fleet` describes what to run, `operator` and
//! `server` do over gRPC and processes what a user would.

pub mod beacon;
pub mod bound;
pub mod channel;
pub mod check;
pub mod checkers;
pub mod counter_watch;
pub mod demo;
pub mod device;
pub mod fleet;
pub mod forecast;
pub mod forecast_command;
pub mod gateway;
pub mod lab;
pub mod lab_command;
pub mod minimise;
pub mod operator;
pub mod random;
pub mod realtime;
pub mod redundancy;
pub mod redundancy_command;
pub mod rule_watch;
pub mod scale;
pub mod scale_command;
pub mod scene;
pub mod semtech;
pub mod server;
pub mod udp;
pub mod world;
