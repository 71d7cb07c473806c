//! Frames of FPort 225: commands of several packages behind each other, each run of them under the identifier of its
//! package, and a token at the end by which an answer is known for what it answers.
//!
//! Does not decide which packages a device has, and does not send. TS007-1.0.0 §3.1, §4.3, §4.4.

use super::super::{
    DecodeError, Decoded, PackageVersion, clock_sync, firmware_management, fragmentation,
    multicast_setup,
};
use super::{DownlinkCommand, UplinkCommand};

/// Marks a byte as `PackageID`; no command on this port has it.
const PACKAGE_ID: u8 = 0x80;
const CID_MULTI_PACK_BUFFER: u8 = 0x02;
/// In the place of `BaseByte`, which is less than 128.
const BUFFER_ERROR: u8 = 0xff;
const TOKEN_MASK: u8 = 0x03;

/// The versions of the packages that have more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackageVersions {
    /// TS003.
    pub clock_sync: PackageVersion,
    /// TS005.
    pub multicast_setup: PackageVersion,
    /// TS004.
    pub fragmentation: PackageVersion,
}

/// A command of any package, server to device. `DataFragment` is none of them: it is alone in its frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// TS007.
    MultiPackage(DownlinkCommand),
    /// TS003.
    ClockSync(clock_sync::DownlinkCommand),
    /// TS005.
    MulticastSetup(multicast_setup::DownlinkCommand),
    /// TS004.
    Fragmentation(fragmentation::DownlinkCommand),
    /// TS006.
    FirmwareManagement(firmware_management::DownlinkCommand),
}

/// A command of any package, device to server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// TS007.
    MultiPackage(UplinkCommand),
    /// TS003.
    ClockSync(clock_sync::UplinkCommand),
    /// TS005.
    MulticastSetup(multicast_setup::UplinkCommand),
    /// TS004.
    Fragmentation(fragmentation::UplinkCommand),
    /// TS006.
    FirmwareManagement(firmware_management::UplinkCommand),
}

/// Asks for a part of the answers again. Alone in its frame and without token (§4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MultiPackBufferReq {
    /// First byte of the answers wanted, 0..=127.
    pub start_byte: u8,
    /// Last byte wanted, not before the first; one behind the end stands for the end.
    pub stop_byte: u8,
}

/// A part of answers that were too long for one frame, or asked for again (§4.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MultiPackBufferFrag {
    /// Where the part begins in the answers, 0..=127.
    pub base_byte: u8,
    /// The part.
    pub bytes: Vec<u8>,
    /// Of the commands answered, 0..=3.
    pub token: u8,
}

/// What a frame to a device says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownlinkFrame {
    /// Commands, executed in order.
    Requests {
        /// As far as they can be read.
        requests: Decoded<Request>,
        /// Copied into the answers, 0..=3.
        token: u8,
    },
    /// A part of the last answers is wanted.
    BufferReq(MultiPackBufferReq),
}

/// What a frame of a device says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UplinkFrame {
    /// All answers.
    Answers {
        /// As far as they can be read.
        answers: Decoded<Answer>,
        /// Of the commands answered, 0..=3.
        token: u8,
    },
    /// A part of the answers.
    BufferFrag(MultiPackBufferFrag),
    /// The part asked for is none.
    BufferError,
}

/// Appends a whole frame of commands with its token (0..=3).
pub fn encode_requests(
    versions: PackageVersions,
    requests: &[Request],
    token: u8,
    out: &mut Vec<u8>,
) {
    let mut package = super::PACKAGE_IDENTIFIER;
    for request in requests {
        enter(&mut package, request.package_identifier(), out);
        match request {
            Request::MultiPackage(command) => command.encode(PackageVersion::V1, out),
            Request::ClockSync(command) => command.encode(versions.clock_sync, out),
            Request::MulticastSetup(command) => command.encode(versions.multicast_setup, out),
            Request::Fragmentation(command) => command.encode(versions.fragmentation, out),
            Request::FirmwareManagement(command) => command.encode(PackageVersion::V1, out),
        }
    }
    out.push(token & TOKEN_MASK);
}

/// Appends answers as a device buffers them, at most 128 bytes by the specification. A frame of all answers has the
/// token (0..=3) behind them.
pub fn encode_answers(versions: PackageVersions, answers: &[Answer], out: &mut Vec<u8>) {
    let mut package = super::PACKAGE_IDENTIFIER;
    for answer in answers {
        enter(&mut package, answer.package_identifier(), out);
        match answer {
            Answer::MultiPackage(command) => command.encode(PackageVersion::V1, out),
            Answer::ClockSync(command) => command.encode(versions.clock_sync, out),
            Answer::MulticastSetup(command) => command.encode(versions.multicast_setup, out),
            Answer::Fragmentation(command) => command.encode(versions.fragmentation, out),
            Answer::FirmwareManagement(command) => command.encode(PackageVersion::V1, out),
        }
    }
}

impl Request {
    /// `PackageIdentifier` of its package.
    pub fn package_identifier(&self) -> u8 {
        match self {
            Self::MultiPackage(_) => super::PACKAGE_IDENTIFIER,
            Self::ClockSync(_) => clock_sync::PACKAGE_IDENTIFIER,
            Self::MulticastSetup(_) => multicast_setup::PACKAGE_IDENTIFIER,
            Self::Fragmentation(_) => fragmentation::PACKAGE_IDENTIFIER,
            Self::FirmwareManagement(_) => firmware_management::PACKAGE_IDENTIFIER,
        }
    }
}

impl Answer {
    /// `PackageIdentifier` of its package.
    pub fn package_identifier(&self) -> u8 {
        match self {
            Self::MultiPackage(_) => super::PACKAGE_IDENTIFIER,
            Self::ClockSync(_) => clock_sync::PACKAGE_IDENTIFIER,
            Self::MulticastSetup(_) => multicast_setup::PACKAGE_IDENTIFIER,
            Self::Fragmentation(_) => fragmentation::PACKAGE_IDENTIFIER,
            Self::FirmwareManagement(_) => firmware_management::PACKAGE_IDENTIFIER,
        }
    }

    /// Reads answers as a device buffers them, without token.
    ///
    /// A device may leave an identifier without answers behind it, and repeat one.
    pub fn decode_all(versions: PackageVersions, bytes: &[u8]) -> Decoded<Self> {
        decode_runs(bytes, |package, cid, rest| {
            read_answer(versions, package, cid, rest, |from_status| {
                !reads_to_end(versions, package, from_status.get(4..))
                    && reads_to_end(versions, package, from_status.get(1..))
            })
        })
    }
}

impl MultiPackBufferReq {
    /// Appends the whole frame.
    pub fn encode(self, out: &mut Vec<u8>) {
        out.extend([CID_MULTI_PACK_BUFFER, self.start_byte, self.stop_byte]);
    }
}

impl MultiPackBufferFrag {
    /// Appends the whole frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend([CID_MULTI_PACK_BUFFER, self.base_byte]);
        out.extend(&self.bytes);
        out.push(self.token & TOKEN_MASK);
    }
}

impl DownlinkFrame {
    /// Reads what a server sent on port 225.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if there is no token; [`DecodeError::InvalidField`] for a `MultiPackBufferReq` that
    /// is not alone, which devices discard with all beside it.
    pub fn decode(versions: PackageVersions, bytes: &[u8]) -> Result<Self, DecodeError> {
        // One byte is a token without commands.
        if let [CID_MULTI_PACK_BUFFER, start_byte, behind @ ..] = strip_own_identifier(bytes) {
            let (&start_byte, &[stop_byte]) = (start_byte, behind) else {
                return Err(DecodeError::InvalidField {
                    command: "MultiPackBufferReq",
                    field: "length",
                    value: u32::try_from(1 + behind.len()).unwrap_or(u32::MAX),
                });
            };
            return Ok(Self::BufferReq(MultiPackBufferReq {
                start_byte,
                stop_byte,
            }));
        }
        let (token, bytes) = split_token(bytes)?;
        let requests = decode_runs(bytes, |package, cid, rest| {
            read_request(versions, package, cid, rest)
        });
        Ok(Self::Requests { requests, token })
    }
}

impl UplinkFrame {
    /// Reads what a device sent on port 225.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if there is no token, or a fragment has no bytes; [`DecodeError::InvalidField`] for a
    /// fragment that begins behind the largest buffer.
    pub fn decode(versions: PackageVersions, bytes: &[u8]) -> Result<Self, DecodeError> {
        if let [CID_MULTI_PACK_BUFFER, base_byte, behind @ ..] = strip_own_identifier(bytes) {
            let (command, base_byte) = ("MultiPackBufferFrag", *base_byte);
            if base_byte == BUFFER_ERROR {
                return Ok(Self::BufferError);
            }
            if base_byte >= PACKAGE_ID {
                return Err(DecodeError::InvalidField {
                    command,
                    field: "BaseByte",
                    value: base_byte.into(),
                });
            }
            let (token, part) = split_token(behind)?;
            if part.is_empty() {
                return Err(DecodeError::Truncated {
                    command,
                    need: 3,
                    have: 2,
                });
            }
            return Ok(Self::BufferFrag(MultiPackBufferFrag {
                base_byte,
                bytes: part.to_vec(),
                token,
            }));
        }
        let (token, bytes) = split_token(bytes)?;
        let answers = Answer::decode_all(versions, bytes);
        Ok(Self::Answers { answers, token })
    }
}

/// Writes the identifier of a package where it changes. A frame begins in this package, number 0.
fn enter(package: &mut u8, next: u8, out: &mut Vec<u8>) {
    if *package != next {
        *package = next;
        out.push(PACKAGE_ID | next);
    }
}

/// The own identifier may be written before the first command, too.
fn strip_own_identifier(bytes: &[u8]) -> &[u8] {
    match bytes {
        [first, rest @ ..] if *first == PACKAGE_ID | super::PACKAGE_IDENTIFIER => rest,
        _ => bytes,
    }
}

fn split_token(bytes: &[u8]) -> Result<(u8, &[u8]), DecodeError> {
    let (token, rest) = bytes.split_last().ok_or(DecodeError::Truncated {
        command: "CommandToken",
        need: 1,
        have: 0,
    })?;
    Ok((token & TOKEN_MASK, rest))
}

/// Reads commands and identifiers until the end or to one that cannot be read. Each turn consumes a byte at least.
fn decode_runs<T>(
    bytes: &[u8],
    mut read_command: impl FnMut(u8, u8, &mut &[u8]) -> Result<T, DecodeError>,
) -> Decoded<T> {
    let mut package = super::PACKAGE_IDENTIFIER;
    let mut commands = Vec::new();
    let mut rest = bytes;
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first & PACKAGE_ID != 0 {
            package = first & !PACKAGE_ID;
            continue;
        }
        match read_command(package, first, &mut rest) {
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

fn read_request(
    versions: PackageVersions,
    package: u8,
    cid: u8,
    rest: &mut &[u8],
) -> Result<Request, DecodeError> {
    match package {
        super::PACKAGE_IDENTIFIER => super::read_downlink(cid, rest).map(Request::MultiPackage),
        clock_sync::PACKAGE_IDENTIFIER => {
            clock_sync::read_downlink(cid, rest).map(Request::ClockSync)
        }
        multicast_setup::PACKAGE_IDENTIFIER => {
            multicast_setup::read_downlink(cid, rest).map(Request::MulticastSetup)
        }
        fragmentation::PACKAGE_IDENTIFIER => {
            fragmentation::read_downlink(versions.fragmentation, cid, rest)
                .map(Request::Fragmentation)
        }
        firmware_management::PACKAGE_IDENTIFIER => {
            firmware_management::read_downlink(cid, rest).map(Request::FirmwareManagement)
        }
        other => Err(unknown_package(other)),
    }
}

fn read_answer(
    versions: PackageVersions,
    package: u8,
    cid: u8,
    rest: &mut &[u8],
    prefers_short: impl FnOnce(&[u8]) -> bool,
) -> Result<Answer, DecodeError> {
    match package {
        super::PACKAGE_IDENTIFIER => super::read_uplink(cid, rest).map(Answer::MultiPackage),
        clock_sync::PACKAGE_IDENTIFIER => clock_sync::read_uplink(cid, rest).map(Answer::ClockSync),
        multicast_setup::PACKAGE_IDENTIFIER => {
            multicast_setup::read_uplink(versions.multicast_setup, cid, rest)
                .map(Answer::MulticastSetup)
        }
        fragmentation::PACKAGE_IDENTIFIER => {
            fragmentation::read_uplink(versions.fragmentation, cid, rest, prefers_short)
                .map(Answer::Fragmentation)
        }
        firmware_management::PACKAGE_IDENTIFIER => {
            firmware_management::read_uplink(cid, rest).map(Answer::FirmwareManagement)
        }
        other => Err(unknown_package(other)),
    }
}

/// Whether answers of this package and others can be read to the end, absent sessions in their long form: which form
/// one has is decided by looking ahead once, so that the work stays quadratic in a frame at most.
fn reads_to_end(versions: PackageVersions, package: u8, bytes: Option<&[u8]>) -> bool {
    let Some(mut rest) = bytes else {
        return false;
    };
    let mut package = package;
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first & PACKAGE_ID != 0 {
            package = first & !PACKAGE_ID;
        } else if read_answer(versions, package, first, &mut rest, |_| false).is_err() {
            return false;
        }
    }
    true
}

fn unknown_package(package: u8) -> DecodeError {
    DecodeError::InvalidField {
        command: "PackageID",
        field: "PackageIdentifier",
        value: package.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::PackageVersionAns;
    use super::super::{DevPackage, DevPackageAns};
    use super::*;

    const V2: PackageVersions = PackageVersions {
        clock_sync: PackageVersion::V2,
        multicast_setup: PackageVersion::V2,
        fragmentation: PackageVersion::V2,
    };

    fn answers(bytes: &[u8]) -> (Vec<Answer>, u8) {
        match UplinkFrame::decode(V2, bytes) {
            Ok(UplinkFrame::Answers { answers, token }) => {
                assert_eq!(answers.rest, None);
                (answers.commands, token)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_of_several_packages_share_a_frame() {
        let requests = [
            Request::MultiPackage(DownlinkCommand::DevPackageReq),
            Request::MulticastSetup(multicast_setup::DownlinkCommand::PackageVersionReq),
            Request::MulticastSetup(multicast_setup::DownlinkCommand::McGroupDeleteReq(
                multicast_setup::McGroupDeleteReq { mc_group_id: 2 },
            )),
            Request::Fragmentation(fragmentation::DownlinkCommand::FragSessionDeleteReq(
                fragmentation::FragSessionDeleteReq { frag_index: 1 },
            )),
            Request::MultiPackage(DownlinkCommand::PackageVersionReq),
        ];
        let mut bytes = Vec::new();
        encode_requests(V2, &requests, 3, &mut bytes);
        assert_eq!(
            bytes,
            [
                0x01, 0x82, 0x00, 0x03, 0x02, 0x83, 0x03, 0x01, 0x80, 0x00, 0x03
            ]
        );
        let decoded = DownlinkFrame::decode(V2, &bytes);
        let requests = Decoded {
            commands: requests.to_vec(),
            rest: None,
        };
        assert_eq!(decoded, Ok(DownlinkFrame::Requests { requests, token: 3 }));
    }

    /// As the SWL2001 stack answers: it copies every identifier of the request, also where no answer follows.
    #[test]
    fn answers_with_identifiers_repeated_and_left_over_are_read() {
        let version = |package_identifier| PackageVersionAns {
            package_identifier,
            package_version: 2,
        };
        let (commands, token) = answers(&[
            0x80, 0x01, 0x02, 0, 1, 225, 3, 2, 201, 0x83, 0x00, 3, 2, 0x83, 0x84, 0x82, 0x00, 2, 2,
            0x81, 0xfd,
        ]);
        let packages =
            [(0, 1, 225), (3, 2, 201)].map(|(package_identifier, package_version, f_port)| {
                DevPackage {
                    package_identifier,
                    package_version,
                    f_port,
                }
            });
        let expected = [
            Answer::MultiPackage(UplinkCommand::DevPackageAns(DevPackageAns {
                packages: packages.to_vec(),
            })),
            Answer::Fragmentation(fragmentation::UplinkCommand::PackageVersionAns(version(3))),
            Answer::MulticastSetup(multicast_setup::UplinkCommand::PackageVersionAns(version(
                2,
            ))),
        ];
        assert_eq!((&commands[..], token), (&expected[..], 1));
        // No answers at all are a token alone, also where it looks like a command.
        assert_eq!(answers(&[0x02]), (vec![], 2));
    }

    #[test]
    fn reserved_bits_of_the_package_count_are_ignored() {
        let (commands, _) = answers(&[0x01, 0xf1, 0, 1, 225, 0]);
        assert!(
            matches!(&commands[..], [Answer::MultiPackage(UplinkCommand::DevPackageAns(answer))]
            if answer.packages.len() == 1)
        );
    }

    #[test]
    fn absent_sessions_are_read_in_both_forms_before_other_packages() {
        let version = [0x82, 0x00, 2, 2];
        for status in [&[0x01, 0x04][..], &[0x01, 0x04, 0x00, 0x00, 0x00]] {
            for before in [&[0x83][..], &[0x83, 0x02, 0x01]] {
                let bytes = [before, status, &version, &[0x00]].concat();
                let (commands, _) = answers(&bytes);
                assert!(matches!(commands.last(), Some(Answer::MulticastSetup(_))));
                let is_absent = |answer: &Answer| {
                    matches!(answer, Answer::Fragmentation(fragmentation::UplinkCommand::FragSessionStatusAns(answer))
                        if answer.session_absent)
                };
                assert!(commands.iter().any(is_absent));
            }
        }
    }

    /// The example of TS007-1.0.0 §4.3: twenty bytes of answers at eleven bytes a frame.
    #[test]
    fn fragments_of_answers() {
        let whole: Vec<u8> = (0x60..0x74).collect();
        let frames = [(0, 8), (8, 16), (16, 20)].map(|(from, to)| {
            let fragment = MultiPackBufferFrag {
                base_byte: u8::try_from(from).unwrap(),
                bytes: whole[from..to].to_vec(),
                token: 3,
            };
            let mut bytes = Vec::new();
            fragment.encode(&mut bytes);
            let decoded = UplinkFrame::decode(V2, &bytes);
            assert_eq!(decoded, Ok(UplinkFrame::BufferFrag(fragment)));
            bytes
        });
        assert_eq!(frames.each_ref().map(Vec::len), [11, 11, 7]);
        assert_eq!(frames[2], [0x02, 16, 0x70, 0x71, 0x72, 0x73, 0x03]);
        for error in [
            &[0x02, 0xff][..],
            &[0x02, 0xff, 0x01],
            &[0x80, 0x02, 0xff, 0x01],
        ] {
            assert_eq!(UplinkFrame::decode(V2, error), Ok(UplinkFrame::BufferError));
        }
        for bad in [
            &[][..],
            &[0x02, 0x80, 1, 0],
            &[0x02, 0x00],
            &[0x02, 0x00, 0x03],
        ] {
            assert!(UplinkFrame::decode(V2, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_buffer_request_is_alone_and_has_no_token() {
        let request = MultiPackBufferReq {
            start_byte: 8,
            stop_byte: 200,
        };
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        assert_eq!(bytes, [0x02, 8, 200]);
        let decoded = DownlinkFrame::decode(V2, &bytes);
        assert_eq!(decoded, Ok(DownlinkFrame::BufferReq(request)));
        for bad in [&[0x02, 8][..], &[0x02, 8, 200, 0x01, 0x03]] {
            assert!(DownlinkFrame::decode(V2, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn unknown_packages_end_the_reading_and_what_came_before_is_kept() {
        let frame = [0x81, 0x00, 0x85, 0x00, 0x81, 0x00, 0x02];
        let Ok(DownlinkFrame::Requests { requests, token: 2 }) = DownlinkFrame::decode(V2, &frame)
        else {
            panic!("no requests")
        };
        assert_eq!(
            requests.commands,
            [Request::ClockSync(
                clock_sync::DownlinkCommand::PackageVersionReq
            )]
        );
        assert_eq!(requests.rest, Some(unknown_package(5)));
    }
}
