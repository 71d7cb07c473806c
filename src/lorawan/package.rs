//! What the application-layer packages have in common: several commands back to back in one frame, each of a size that
//! its identifier (and sometimes its content) decides, and the `PackageVersionReq`/`PackageVersionAns` pair under
//! identifier 0.
//!
//! Does not know any package's commands. TS003, TS004, TS005, TS006 and TS007 all open with these rules.

use super::{DecodeError, Decoded};

/// Identifier of `PackageVersionReq` and `PackageVersionAns` in every package.
pub(super) const CID_PACKAGE_VERSION: u8 = 0x00;

/// Which package and version a device speaks on a port. Same layout in every package and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackageVersionAns {
    /// `PACKAGE_IDENTIFIER` of a package. Devices that share one answer buffer between packages may send another
    /// package's answer on this port, so compare it before trusting the version.
    pub package_identifier: u8,
    /// Version number: 1 or 2 today.
    pub package_version: u8,
}

impl PackageVersionAns {
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.extend([
            CID_PACKAGE_VERSION,
            self.package_identifier,
            self.package_version,
        ]);
    }

    pub(super) fn decode(rest: &mut &[u8]) -> Result<Self, DecodeError> {
        let [package_identifier, package_version] = take(rest, "PackageVersionAns")?;
        Ok(Self {
            package_identifier,
            package_version,
        })
    }
}

/// Reads commands until the input ends or one cannot be read. `read_command` is given the identifier and the bytes
/// behind it, and advances those past its payload.
///
/// Each turn consumes the identifier at least, so there are at most as many turns as bytes.
pub(super) fn decode_commands<T>(
    bytes: &[u8],
    mut read_command: impl FnMut(u8, &mut &[u8]) -> Result<T, DecodeError>,
) -> Decoded<T> {
    let mut commands = Vec::new();
    let mut rest = bytes;
    while let Some((&cid, payload)) = rest.split_first() {
        rest = payload;
        match read_command(cid, &mut rest) {
            Ok(command) => commands.push(command),
            Err(error) => {
                return Decoded {
                    commands,
                    rest: Some(error),
                };
            }
        }
    }
    Decoded {
        commands,
        rest: None,
    }
}

/// Takes a payload of `N` bytes off the front.
pub(super) fn take<const N: usize>(
    rest: &mut &[u8],
    command: &'static str,
) -> Result<[u8; N], DecodeError> {
    let Some((payload, behind)) = rest.split_first_chunk::<N>() else {
        return Err(DecodeError::Truncated {
            command,
            need: N,
            have: rest.len(),
        });
    };
    *rest = behind;
    Ok(*payload)
}

/// Takes a payload of `size` bytes off the front.
pub(super) fn take_slice<'a>(
    rest: &mut &'a [u8],
    command: &'static str,
    size: usize,
) -> Result<&'a [u8], DecodeError> {
    let Some((payload, behind)) = rest.split_at_checked(size) else {
        return Err(DecodeError::Truncated {
            command,
            need: size,
            have: rest.len(),
        });
    };
    *rest = behind;
    Ok(payload)
}

/// Whether `bit` (0 is the lowest) is set.
pub(super) fn bit(byte: u8, bit: u8) -> bool {
    byte & (1 << bit) != 0
}

/// Names of the flags that are set, in the order given.
pub(super) fn set_flags<const N: usize>(
    flags: [(bool, &'static str); N],
) -> impl Iterator<Item = &'static str> {
    flags
        .into_iter()
        .filter(|(set, _)| *set)
        .map(|(_, name)| name)
}
