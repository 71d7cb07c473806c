//! TS007 multi-package access, version 1.0.0: the package's own commands, and the frames of its port, which carry
//! commands of all packages.
//!
//! There is one version; the version argument is there so that all packages are called alike.

use super::package::{CID_PACKAGE_VERSION, PackageVersionAns, decode_commands, take, take_slice};
use super::{DecodeError, Decoded, PackageVersion};

mod access;
mod answer_buffer;

pub use access::{
    Answer, DownlinkFrame, MultiPackBufferFrag, MultiPackBufferReq, PackageVersions, Request,
    UplinkFrame, encode_answers, encode_requests,
};
pub use answer_buffer::AnswerBuffer;

/// `PackageIdentifier` of TS007.
pub const PACKAGE_IDENTIFIER: u8 = 0;
/// FPort, fixed (TS007-1.0.0 §2).
pub const DEFAULT_F_PORT: u8 = 225;

const CID_DEV_PACKAGE: u8 = 0x01;
/// Most packages a `DevPackageAns` lists: its count has four bits.
const MAX_PACKAGES: usize = 15;

/// Server to device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownlinkCommand {
    /// Asks for the package's version.
    PackageVersionReq,
    /// Asks which packages the device has, on which ports.
    DevPackageReq,
}

/// Device to server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UplinkCommand {
    /// The package's version.
    PackageVersionAns(PackageVersionAns),
    /// Which packages the device has.
    DevPackageAns(DevPackageAns),
}

/// The packages a device has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevPackageAns {
    /// In wire order; at most 15 are sent. With this package itself (TS007-1.0.0 §4.2).
    pub packages: Vec<DevPackage>,
}

/// One package of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevPackage {
    /// `PACKAGE_IDENTIFIER` of the package.
    pub package_identifier: u8,
    /// Version number.
    pub package_version: u8,
    /// FPort the package uses.
    pub f_port: u8,
}

impl DownlinkCommand {
    /// Appends the command.
    pub fn encode(&self, _version: PackageVersion, out: &mut Vec<u8>) {
        match self {
            Self::PackageVersionReq => out.push(CID_PACKAGE_VERSION),
            Self::DevPackageReq => out.push(CID_DEV_PACKAGE),
        }
    }
}

impl UplinkCommand {
    /// Appends the command.
    pub fn encode(&self, _version: PackageVersion, out: &mut Vec<u8>) {
        match self {
            Self::PackageVersionAns(answer) => answer.encode(out),
            Self::DevPackageAns(DevPackageAns { packages }) => {
                let packages = &packages[..packages.len().min(MAX_PACKAGES)];
                let count = u8::try_from(packages.len()).unwrap_or(0);
                out.extend([CID_DEV_PACKAGE, count]);
                for package in packages {
                    out.extend([
                        package.package_identifier,
                        package.package_version,
                        package.f_port,
                    ]);
                }
            }
        }
    }
}

/// Reads what a server sent.
pub fn decode_downlink(_version: PackageVersion, bytes: &[u8]) -> Decoded<DownlinkCommand> {
    decode_commands(bytes, read_downlink)
}

/// Reads the command `cid` of such a frame; `rest` is what is behind the identifier.
fn read_downlink(cid: u8, _rest: &mut &[u8]) -> Result<DownlinkCommand, DecodeError> {
    match cid {
        CID_PACKAGE_VERSION => Ok(DownlinkCommand::PackageVersionReq),
        CID_DEV_PACKAGE => Ok(DownlinkCommand::DevPackageReq),
        cid => Err(unknown_command(cid)),
    }
}

/// Reads what a device sent.
pub fn decode_uplink(_version: PackageVersion, bytes: &[u8]) -> Decoded<UplinkCommand> {
    decode_commands(bytes, read_uplink)
}

/// Reads the command `cid` of such a frame; `rest` is what is behind the identifier.
fn read_uplink(cid: u8, rest: &mut &[u8]) -> Result<UplinkCommand, DecodeError> {
    match cid {
        CID_PACKAGE_VERSION => {
            PackageVersionAns::decode(rest).map(UplinkCommand::PackageVersionAns)
        }
        CID_DEV_PACKAGE => DevPackageAns::decode(rest).map(UplinkCommand::DevPackageAns),
        cid => Err(unknown_command(cid)),
    }
}

impl DevPackageAns {
    fn decode(rest: &mut &[u8]) -> Result<Self, DecodeError> {
        let command = "DevPackageAns";
        // The upper four bits are reserved.
        let count = rest.first().map_or(0, |count| count & 0x0f);
        let mut payload = take_slice(rest, command, 1 + 3 * usize::from(count))?;
        let [_] = take(&mut payload, command)?;
        let mut packages = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let [package_identifier, package_version, f_port] = take(&mut payload, command)?;
            packages.push(DevPackage {
                package_identifier,
                package_version,
                f_port,
            });
        }
        Ok(Self { packages })
    }
}

fn unknown_command(cid: u8) -> DecodeError {
    DecodeError::UnknownCommand {
        package: "multi-package access",
        cid,
    }
}
