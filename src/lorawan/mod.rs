//! The wire: bytes to values and back. One file per application-layer package (version 1 and 2 in one enum, the version
//! as data) or per concern of the link layer.
//!
//! PURE: no clock, no randomness, no I/O. Decoders never panic, check sizes first and do work bounded by the input's
//! length.

pub mod airtime;
pub mod class_b;
pub mod clock_sync;
pub mod firmware_management;
pub mod fragmentation;
pub mod frame;
pub mod identifiers;
pub mod join;
pub mod keys;
pub mod mac_commands;
pub mod multi_package;
pub mod multicast_setup;
mod package;
pub mod region;

pub use package::PackageVersionAns;

use serde::{Deserialize, Serialize};

/// Version of an application-layer package's specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PackageVersion {
    /// 1.0.0 (2018).
    V1,
    /// 2.0.0 (2022).
    V2,
}

impl PackageVersion {
    /// The number a `PackageVersionAns` carries.
    pub fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    /// The version of that number, if this crate speaks it.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::V1),
            2 => Some(Self::V2),
            _ => None,
        }
    }
}

/// What a decoder read before the input ended or stopped making sense. Commands before a bad one are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<T> {
    /// In wire order.
    pub commands: Vec<T>,
    /// Why decoding stopped early; `None` when everything was read.
    pub rest: Option<DecodeError>,
}

/// Why bytes from the air could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ends inside a command.
    #[error("{command} truncated: needs {need} bytes, has {have}")]
    Truncated {
        /// Name of the command.
        command: &'static str,
        /// Bytes it needs after its identifier.
        need: usize,
        /// Bytes there were.
        have: usize,
    },
    /// The package has no such command in this version.
    #[error("unknown command {cid:#04x} of package {package}")]
    UnknownCommand {
        /// Name of the package.
        package: &'static str,
        /// Command identifier.
        cid: u8,
    },
    /// A field has a value outside its range.
    #[error("{command}: {field} has the invalid value {value}")]
    InvalidField {
        /// Name of the command.
        command: &'static str,
        /// Name of the field.
        field: &'static str,
        /// Value found.
        value: u32,
    },
}
