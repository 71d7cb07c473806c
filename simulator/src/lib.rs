//! Simulated end-devices and gateways for lorawan-fuota, and the worlds they live in.
//!
//! `device`, `gateway` and `channel` are PURE and written from the specifications, never from the server's code. `lab`
//! steps them in virtual time; `world` adds the production server in the same virtual time, with faults and checks;
//! `realtime` runs a lab against the wall clock and real sockets. `fleet` describes what to run, `operator` and
//! `server` do over gRPC and processes what a user would. `scenario` has all of it in one file.
//!
//! # In a test of one's own
//!
//! ```
//! use fuota_simulator::scenario::Scenario;
//!
//! let text = r#"
//!     name = "Ten sensors on a roof"
//!     region = "EU868"
//!     image = { size = "2 kB" }
//!     [[group]]
//!     name = "sensors"
//!     count = 10
//!     link = { loss = "10 %" }
//! "#;
//! let scenario = Scenario::read(text, "roof.toml").map_err(|errors| format!("{errors:#?}"))?;
//! let outcome = scenario.run(1);
//! assert!(outcome.passed, "{}", fuota_simulator::scenario::summary(&outcome));
//! # Ok::<(), String>(())
//! ```
//!
//! `Scenario::read_file` reads a file as `fuota-sim run` does; `docs/scenarios.md` is the manual.
//! `scenario::Running` is a run in steps, with the world at hand before and after it.

pub mod beacon;
pub mod bound;
pub mod calibration;
pub mod channel;
pub mod check;
pub mod checkers;
pub mod compare;
pub mod compare_command;
pub mod compare_drawing;
pub mod counter_watch;
pub mod demo;
pub mod device;
pub mod energy;
pub mod fleet;
pub mod forecast;
pub mod forecast_command;
pub mod gateway;
pub mod image_set;
pub mod lab;
pub mod lab_command;
mod live_records;
pub mod minimise;
pub mod operator;
pub mod propagation;
pub mod random;
pub mod realtime;
pub mod redundancy;
pub mod redundancy_command;
pub mod report;
pub mod report_command;
pub mod rule_watch;
pub mod run_command;
pub mod run_live;
pub mod scale;
pub mod scale_command;
pub mod scenario;
pub mod scene;
pub mod semtech;
pub mod server;
pub mod svg;
pub mod udp;
pub mod world;
