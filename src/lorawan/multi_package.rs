//! TS007 multi-package access, version 1.0.0: the package's own commands.
//!
//! There is one version; the version argument is there so that all packages are called alike. Does not read what other
//! packages' commands a frame on this port carries.

use super::package::{CID_PACKAGE_VERSION, PackageVersionAns, decode_commands, take, take_slice};
use super::{DecodeError, Decoded, PackageVersion};

/// `PackageIdentifier` of TS007.
pub const PACKAGE_IDENTIFIER: u8 = 0;
/// FPort, fixed (TS007-1.0.0 §2).
pub const DEFAULT_F_PORT: u8 = 225;

const CID_DEV_PACKAGE: u8 = 0x01;

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
    /// In wire order; at most 255 are sent.
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
                let count = u8::try_from(packages.len()).unwrap_or(u8::MAX);
                out.extend([CID_DEV_PACKAGE, count]);
                for package in packages.iter().take(usize::from(count)) {
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
    decode_commands(bytes, |cid, _| match cid {
        CID_PACKAGE_VERSION => Ok(DownlinkCommand::PackageVersionReq),
        CID_DEV_PACKAGE => Ok(DownlinkCommand::DevPackageReq),
        cid => Err(unknown_command(cid)),
    })
}

/// Reads what a device sent.
pub fn decode_uplink(_version: PackageVersion, bytes: &[u8]) -> Decoded<UplinkCommand> {
    decode_commands(bytes, |cid, rest| match cid {
        CID_PACKAGE_VERSION => {
            PackageVersionAns::decode(rest).map(UplinkCommand::PackageVersionAns)
        }
        CID_DEV_PACKAGE => DevPackageAns::decode(rest).map(UplinkCommand::DevPackageAns),
        cid => Err(unknown_command(cid)),
    })
}

impl DevPackageAns {
    fn decode(rest: &mut &[u8]) -> Result<Self, DecodeError> {
        let command = "DevPackageAns";
        let size = rest.first().map_or(1, |&count| 1 + 3 * usize::from(count));
        let mut payload = take_slice(rest, command, size)?;
        let [count] = take(&mut payload, command)?;
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
