//! Properties of the frames of port 225 (TS007), which carry commands of all packages.

use lorawan_fuota::lorawan::PackageVersion::V1;
use lorawan_fuota::lorawan::multi_package::{
    self, Answer, AnswerBuffer, DownlinkFrame, MultiPackBufferFrag, MultiPackBufferReq,
    PackageVersions, Request, UplinkFrame, encode_answers, encode_requests,
};
use lorawan_fuota::lorawan::{Decoded, fragmentation};
use proptest::collection::vec;
use proptest::prelude::*;

use super::properties_commands::{
    bytes_often_below, clock_sync_commands, config, firmware_management_commands,
    fragmentation_commands, multi_package_commands, multicast_setup_commands, version,
};

fn versions() -> impl Strategy<Value = PackageVersions> {
    (version(), version(), version()).prop_map(|(clock_sync, multicast_setup, fragmentation)| {
        PackageVersions {
            clock_sync,
            multicast_setup,
            fragmentation,
        }
    })
}

fn request(versions: PackageVersions) -> impl Strategy<Value = Request> {
    prop_oneof![
        multi_package_commands::downlink(V1).prop_map(Request::MultiPackage),
        clock_sync_commands::downlink(versions.clock_sync).prop_map(Request::ClockSync),
        multicast_setup_commands::downlink(versions.multicast_setup)
            .prop_map(Request::MulticastSetup),
        fragmentation_commands::downlink(versions.fragmentation).prop_map(Request::Fragmentation),
        firmware_management_commands::downlink(V1).prop_map(Request::FirmwareManagement),
    ]
}

/// Answers that may stand before others.
fn answer(versions: PackageVersions) -> impl Strategy<Value = Answer> {
    let answer = prop_oneof![
        multi_package_commands::uplink(V1).prop_map(Answer::MultiPackage),
        clock_sync_commands::uplink(versions.clock_sync).prop_map(Answer::ClockSync),
        multicast_setup_commands::uplink(versions.multicast_setup).prop_map(Answer::MulticastSetup),
        fragmentation_commands::uplink(versions.fragmentation).prop_map(Answer::Fragmentation),
        firmware_management_commands::uplink(V1).prop_map(Answer::FirmwareManagement),
    ];
    answer.prop_map(|answer| match answer {
        Answer::MulticastSetup(command) if multicast_setup_commands::is_bare(&command) => {
            Answer::MultiPackage(multi_package::UplinkCommand::DevPackageAns(
                multi_package::DevPackageAns { packages: vec![] },
            ))
        }
        Answer::Fragmentation(command) if fragmentation_commands::is_absent_status(&command) => {
            Answer::Fragmentation(fragmentation::UplinkCommand::FragSessionDeleteAns(
                fragmentation::FragSessionDeleteAns {
                    frag_index: 0,
                    session_absent: true,
                },
            ))
        }
        other => other,
    })
}

/// Often commands, and often identifiers of packages.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    (bytes_often_below(9), any::<u64>()).prop_map(|(mut bytes, places)| {
        for (at, byte) in bytes.iter_mut().enumerate() {
            if places >> (at % 64) & 7 == 0 {
                *byte = 0x80 | (*byte % 6);
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn requests((versions, commands) in versions().prop_flat_map(|v| (Just(v), vec(request(v), 0..12))), token in 0..4_u8) {
        let mut frame = Vec::new();
        encode_requests(versions, &commands, token, &mut frame);
        let requests = Decoded { commands, rest: None };
        prop_assert_eq!(DownlinkFrame::decode(versions, &frame), Ok(DownlinkFrame::Requests { requests, token }));
    }

    #[test]
    fn answers(
        (versions, commands) in versions().prop_flat_map(|v| (Just(v), vec(answer(v), 0..12))),
        token in 0..4_u8,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut frame = Vec::new();
        encode_answers(versions, &commands, &mut frame);
        let cut = cut.index(frame.len() + 1);
        let some = Answer::decode_all(versions, &frame[..cut]).commands;
        // The last one may have lost its end and be read as a shorter one.
        let whole = some.len().saturating_sub(1);
        prop_assert_eq!(&some[..whole], &commands[..whole]);
        frame.push(token);
        let answers = Decoded { commands, rest: None };
        prop_assert_eq!(UplinkFrame::decode(versions, &frame), Ok(UplinkFrame::Answers { answers, token }));
    }

    #[test]
    fn buffer_commands(base_byte in 0..128_u8, bytes in vec(any::<u8>(), 1..128), token in 0..4_u8, ends: (u8, u8)) {
        let fragment = MultiPackBufferFrag { base_byte, bytes, token };
        let mut frame = Vec::new();
        fragment.encode(&mut frame);
        let versions = PackageVersions { clock_sync: V1, multicast_setup: V1, fragmentation: V1 };
        prop_assert_eq!(UplinkFrame::decode(versions, &frame), Ok(UplinkFrame::BufferFrag(fragment)));
        let request = MultiPackBufferReq { start_byte: ends.0, stop_byte: ends.1 };
        frame.clear();
        request.encode(&mut frame);
        prop_assert_eq!(DownlinkFrame::decode(versions, &frame), Ok(DownlinkFrame::BufferReq(request)));
    }

    #[test]
    fn any_bytes_of_a_server(versions in versions(), bytes in bytes()) {
        if let Ok(DownlinkFrame::Requests { requests, token }) = DownlinkFrame::decode(versions, &bytes) {
            prop_assert!(requests.commands.len() < bytes.len() && token < 4);
            let mut again = Vec::new();
            encode_requests(versions, &requests.commands, token, &mut again);
            let requests = Decoded { rest: None, ..requests };
            prop_assert_eq!(DownlinkFrame::decode(versions, &again), Ok(DownlinkFrame::Requests { requests, token }));
        }
    }

    #[test]
    fn any_bytes_of_a_device(versions in versions(), frames in vec(bytes(), 1..3)) {
        let mut buffer = AnswerBuffer::new(0);
        for frame in &frames {
            match UplinkFrame::decode(versions, frame) {
                Ok(UplinkFrame::Answers { answers, token }) => {
                    prop_assert!(answers.commands.len() < frame.len() && token < 4);
                }
                Ok(UplinkFrame::BufferFrag(fragment)) => {
                    let mut again = Vec::new();
                    fragment.encode(&mut again);
                    prop_assert_eq!(UplinkFrame::decode(versions, &again), Ok(UplinkFrame::BufferFrag(fragment.clone())));
                    buffer.take(&fragment);
                }
                Ok(UplinkFrame::BufferError) | Err(_) => {}
            }
            let length = buffer.contiguous().len();
            prop_assert_eq!(buffer.missing().map(|request| usize::from(request.start_byte)).unwrap_or(128), length);
        }
    }
}
