//! The command codecs against those of `lrwn`, on random commands: both write the same bytes for what `lrwn` reads from
//! ours, and it reads everything but the forms listed in [`is_beyond_lrwn_multicast`] and
//! [`is_beyond_lrwn_fragmentation`].
//!
//! Which bits a field has is the golden vectors' part; this is about sizes, ranges and reserved bits. `lrwn` reads one
//! command a frame.

use lorawan_fuota::lorawan::PackageVersion::{self, V1, V2};
use lorawan_fuota::lorawan::{clock_sync, fragmentation, multicast_setup};
use lrwn::applayer::{clocksync, fragmentation as frag, multicastsetup};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::properties_commands::{
    clock_sync_commands, config, fragmentation_commands, multicast_setup_commands, version,
};

/// A foreign decoder and encoder in a row; `None` when it cannot read the bytes.
type Recode = fn(PackageVersion, bool, &[u8]) -> Option<Vec<u8>>;

/// The two versions of a package of `lrwn` have the same shape but are different types.
macro_rules! recode {
    ($name:ident, $package:ident) => {
        fn $name(version: PackageVersion, is_uplink: bool, bytes: &[u8]) -> Option<Vec<u8>> {
            match version {
                V1 => $package::v1::Payload::from_slice(is_uplink, bytes)
                    .ok()?
                    .to_vec()
                    .ok(),
                V2 => $package::v2::Payload::from_slice(is_uplink, bytes)
                    .ok()?
                    .to_vec()
                    .ok(),
            }
        }
    };
}
recode!(recode_clock_sync, clocksync);
recode!(recode_fragmentation, frag);
recode!(recode_multicast_setup, multicastsetup);

/// Answers that end before the fields `lrwn` insists on, and the status bits it reads them without.
fn is_beyond_lrwn_multicast(command: &multicast_setup::UplinkCommand) -> bool {
    use multicast_setup::UplinkCommand::*;
    match command {
        // Takes StartMissed or a reserved error alone for no error, and looks for TimeToStart behind it; next to
        // another error it keeps StartMissed in version 2 and drops the rest.
        McClassCSessionAns(answer) | McClassBSessionAns(answer) => {
            answer.start_missed || answer.reserved_error
        }
        // Has no bare answers.
        McClassCSessionAnsWithoutStatus | McClassBSessionAnsWithoutStatus => true,
        _ => false,
    }
}

fn is_beyond_lrwn_fragmentation(command: &fragmentation::UplinkCommand) -> bool {
    // Insists on all four bytes, which the specification says are not there when the session is absent.
    matches!(command, fragmentation::UplinkCommand::FragSessionStatusAns(answer) if answer.frag_index.is_none())
}

/// Checks one command: `lrwn` reads and writes it as it is, or it is one of the known forms it cannot read.
macro_rules! assert_same {
    ($version:expr, $is_uplink:literal, $recode:expr, $command:expr, $is_beyond:expr) => {{
        let recode: Recode = $recode;
        let mut bytes = Vec::new();
        $command.encode($version, &mut bytes);
        let recoded = recode($version, $is_uplink, &bytes);
        if !$is_beyond(&$command) {
            prop_assert_eq!(recoded, Some(bytes), "{:?}", $command);
        }
    }};
}

/// Checks any bytes that `lrwn` takes for one command: ours reads one command, too, and writes the same. Not for
/// `PackageVersionReq`, behind which `lrwn` ignores bytes.
macro_rules! assert_same_reading {
    ($version:expr, $is_uplink:literal, $recode:expr, $decode:path, $bytes:expr) => {{
        let recode: Recode = $recode;
        if let Some(expected) = recode($version, $is_uplink, &$bytes) {
            let decoded = $decode($version, &$bytes);
            prop_assert_eq!(
                (decoded.commands.len(), decoded.rest),
                (1, None),
                "{:02x?}",
                $bytes
            );
            let mut recoded = Vec::new();
            decoded.commands[0].encode($version, &mut recoded);
            prop_assert_eq!(recoded, expected, "{:02x?}", $bytes);
        }
    }};
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn clock_sync_commands_are_the_same(
        (version, uplink, downlink) in version().prop_flat_map(|version| {
            (Just(version), clock_sync_commands::uplink(version), clock_sync_commands::downlink(version))
        })
    ) {
        assert_same!(version, true, recode_clock_sync, uplink, |_| false);
        assert_same!(version, false, recode_clock_sync, downlink, |_| false);
    }

    #[test]
    fn fragmentation_commands_are_the_same(
        (version, uplink, downlink) in version().prop_flat_map(|version| {
            (Just(version), fragmentation_commands::uplink(version), fragmentation_commands::downlink(version))
        })
    ) {
        assert_same!(version, true, recode_fragmentation, uplink, is_beyond_lrwn_fragmentation);
        assert_same!(version, false, recode_fragmentation, downlink, |_| false);
    }

    #[test]
    fn multicast_setup_commands_are_the_same(
        (version, uplink, downlink) in version().prop_flat_map(|version| {
            (Just(version), multicast_setup_commands::uplink(version), multicast_setup_commands::downlink(version))
        })
    ) {
        assert_same!(version, true, recode_multicast_setup, uplink, is_beyond_lrwn_multicast);
        assert_same!(version, false, recode_multicast_setup, downlink, |_| false);
    }

    #[test]
    fn bytes_are_read_the_same(version in version(), cid in 1..6_u8, payload in vec(any::<u8>(), 0..30)) {
        let mut bytes: Vec<u8> = std::iter::once(cid).chain(payload).collect();
        // `lrwn` keeps the reserved bits of a session's data rate.
        if cid >= 4 && let Some(dr) = bytes.get_mut(10) {
            *dr &= 0x0f;
        }
        assert_same_reading!(version, true, recode_clock_sync, clock_sync::decode_uplink, bytes);
        assert_same_reading!(version, false, recode_clock_sync, clock_sync::decode_downlink, bytes);
        assert_same_reading!(version, true, recode_fragmentation, fragmentation::decode_uplink, bytes);
        assert_same_reading!(version, false, recode_fragmentation, fragmentation::decode_downlink, bytes);
        assert_same_reading!(version, false, recode_multicast_setup, multicast_setup::decode_downlink, bytes);
    }
}

#[test]
fn lrwn_cannot_read_what_real_devices_and_the_specification_send() {
    let absent_session = [0x01, 0x04];
    assert_eq!(recode_fragmentation(V2, true, &absent_session), None);
    let start_missed = [0x04, 0x20];
    assert_eq!(recode_multicast_setup(V1, true, &start_missed), None);
    assert_eq!(recode_multicast_setup(V2, true, &start_missed), None);
    let refusal_without_status = [0x04];
    assert_eq!(
        recode_multicast_setup(V1, true, &refusal_without_status),
        None
    );
    let two_answers = [0x04, 0x00, 0x01, 0x00, 0x14, 0x00, 0x01];
    assert_eq!(recode_fragmentation(V2, true, &two_answers), None);
    assert_eq!(
        fragmentation::decode_uplink(V2, &two_answers)
            .commands
            .len(),
        2
    );
}
