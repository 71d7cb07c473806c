//! Properties of the command codecs: what is encoded is decoded, no bytes make a decoder panic or lose what came
//! before.

use lorawan_fuota::lorawan::clock_sync::{self, time_correction};
use lorawan_fuota::lorawan::firmware_management;
use lorawan_fuota::lorawan::fragmentation::{self, DataFragment};
use lorawan_fuota::lorawan::identifiers::DevAddr;
use lorawan_fuota::lorawan::multi_package;
use lorawan_fuota::lorawan::multicast_setup::{self, dl_freq_from_wire, dl_freq_to_wire};
use lorawan_fuota::lorawan::{Decoded, PackageVersion, PackageVersionAns};
use proptest::collection::vec;
use proptest::prelude::*;

use PackageVersion::{V1, V2};

/// As many cases as `PROPTEST_CASES` says; a failure is told, not written to a file.
pub(crate) fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Up to 300 bytes, half of them below `limit`, so that many are identifiers. Drawn at once: a choice for each byte
/// would take most of the time of a long run.
pub(crate) fn bytes_often_below(limit: u8) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<[u8; 2]>(), 0..300).prop_map(move |drawn| {
        let byte = |[byte, choice]: [u8; 2]| if choice < 128 { byte % limit } else { byte };
        drawn.into_iter().map(byte).collect()
    })
}

pub(crate) fn version() -> impl Strategy<Value = PackageVersion> {
    prop_oneof![Just(V1), Just(V2)]
}

fn package_version_ans() -> impl Strategy<Value = PackageVersionAns> {
    any::<(u8, u8)>().prop_map(|(package_identifier, package_version)| PackageVersionAns {
        package_identifier,
        package_version,
    })
}

pub(crate) mod clock_sync_commands {
    use super::*;
    use clock_sync::*;

    pub(crate) fn uplink(_version: PackageVersion) -> impl Strategy<Value = UplinkCommand> {
        prop_oneof![
            package_version_ans().prop_map(UplinkCommand::PackageVersionAns),
            (any::<u32>(), any::<bool>(), 0..16_u8).prop_map(
                |(device_time, ans_required, token_req)| {
                    UplinkCommand::AppTimeReq(AppTimeReq {
                        device_time,
                        ans_required,
                        token_req,
                    })
                }
            ),
            any::<(bool, u32)>().prop_map(|(not_supported, time)| {
                UplinkCommand::DeviceAppTimePeriodicityAns(DeviceAppTimePeriodicityAns {
                    not_supported,
                    time,
                })
            }),
        ]
    }

    pub(crate) fn downlink(_version: PackageVersion) -> impl Strategy<Value = DownlinkCommand> {
        prop_oneof![
            Just(DownlinkCommand::PackageVersionReq),
            (any::<i32>(), 0..16_u8).prop_map(|(time_correction, token_ans)| {
                DownlinkCommand::AppTimeAns(AppTimeAns {
                    time_correction,
                    token_ans,
                })
            }),
            (0..16_u8).prop_map(|period| {
                DownlinkCommand::DeviceAppTimePeriodicityReq(DeviceAppTimePeriodicityReq { period })
            }),
            (0..8_u8).prop_map(|nb_transmissions| {
                DownlinkCommand::ForceDeviceResyncCmd(ForceDeviceResyncCmd { nb_transmissions })
            }),
        ]
    }
}

pub(crate) mod fragmentation_commands {
    use super::*;
    use fragmentation::*;

    fn status(version: PackageVersion) -> impl Strategy<Value = FragSessionStatusAns> {
        let is_v2 = version == V2;
        (0..4_u8, 0..=N_MAX, any::<(u8, bool, bool, bool)>()).prop_map(
            move |(
                frag_index,
                nb_frag_received,
                (missing_frag, memory_error, mic_error, session_absent),
            )| {
                FragSessionStatusAns {
                    frag_index: Some(frag_index),
                    nb_frag_received,
                    missing_frag,
                    memory_error,
                    mic_error: is_v2 && mic_error,
                    session_absent: is_v2 && session_absent,
                }
            },
        )
    }

    fn short_status() -> impl Strategy<Value = FragSessionStatusAns> {
        any::<(bool, bool)>().prop_map(|(memory_error, mic_error)| FragSessionStatusAns {
            memory_error,
            mic_error,
            ..FragSessionStatusAns::SESSION_ABSENT
        })
    }

    pub(crate) fn is_absent_status(command: &UplinkCommand) -> bool {
        matches!(command, UplinkCommand::FragSessionStatusAns(answer) if answer.session_absent)
    }

    /// Every uplink, the short form of an absent session too.
    pub(crate) fn uplink(version: PackageVersion) -> BoxedStrategy<UplinkCommand> {
        let setup = (0..4_u8, any::<(bool, bool, bool, bool, bool)>()).prop_map(
            move |(frag_index, (replay, descriptor, index, memory, algo))| {
                UplinkCommand::FragSessionSetupAns(FragSessionSetupAns {
                    frag_index,
                    session_cnt_replay: version == V2 && replay,
                    wrong_descriptor: descriptor,
                    frag_index_unsupported: index,
                    not_enough_memory: memory,
                    frag_algo_unsupported: algo,
                })
            },
        );
        let delete = (0..4_u8, any::<bool>()).prop_map(|(frag_index, session_absent)| {
            UplinkCommand::FragSessionDeleteAns(FragSessionDeleteAns {
                frag_index,
                session_absent,
            })
        });
        let both = prop_oneof![
            package_version_ans().prop_map(UplinkCommand::PackageVersionAns),
            status(version).prop_map(UplinkCommand::FragSessionStatusAns),
            setup,
            delete,
        ];
        if version == V1 {
            return both.boxed();
        }
        let received = (0..4_u8, any::<bool>()).prop_map(|(frag_index, mic_error)| {
            UplinkCommand::FragDataBlockReceivedReq(FragDataBlockReceivedReq {
                frag_index,
                mic_error,
            })
        });
        prop_oneof![
            4 => both,
            1 => received,
            1 => short_status().prop_map(UplinkCommand::FragSessionStatusAns),
        ]
        .boxed()
    }

    pub(crate) fn downlink(version: PackageVersion) -> BoxedStrategy<DownlinkCommand> {
        let head = (0..4_u8, 0..16_u8, any::<(u16, u8, u8)>(), 0..8_u8, 0..8_u8);
        let setup = (head, any::<([u8; 4], bool, u16, [u8; 4])>()).prop_map(move |(head, tail)| {
            let (
                frag_index,
                mc_group_bit_mask,
                (nb_frag, frag_size, padding),
                frag_algo,
                block_ack_delay,
            ) = head;
            let (descriptor, ack_reception, session_cnt, mic) = tail;
            DownlinkCommand::FragSessionSetupReq(FragSessionSetupReq {
                frag_index,
                mc_group_bit_mask,
                nb_frag,
                frag_size,
                ack_reception: version == V2 && ack_reception,
                frag_algo,
                block_ack_delay,
                padding,
                descriptor,
                session_cnt: if version == V2 { session_cnt } else { 0 },
                mic: if version == V2 { mic } else { [0; 4] },
            })
        });
        let both = prop_oneof![
            Just(DownlinkCommand::PackageVersionReq),
            (0..4_u8, any::<bool>()).prop_map(|(frag_index, participants)| {
                DownlinkCommand::FragSessionStatusReq(FragSessionStatusReq {
                    frag_index,
                    participants,
                })
            }),
            setup,
            (0..4_u8).prop_map(|frag_index| {
                DownlinkCommand::FragSessionDeleteReq(FragSessionDeleteReq { frag_index })
            }),
        ];
        if version == V1 {
            return both.boxed();
        }
        let received = (0..4_u8).prop_map(|frag_index| {
            DownlinkCommand::FragDataBlockReceivedAns(FragDataBlockReceivedAns { frag_index })
        });
        prop_oneof![4 => both, 1 => received].boxed()
    }
}

pub(crate) mod multicast_setup_commands {
    use super::*;
    use multicast_setup::*;

    fn session_ans(version: PackageVersion) -> impl Strategy<Value = McSessionAns> {
        let refused = (0..4_u8, any::<(bool, bool, bool, bool, bool)>()).prop_map(
            move |(mc_group_id, (undefined, freq, dr, missed, reserved))| McSessionAns {
                mc_group_id,
                mc_group_undefined: undefined,
                freq_error: freq,
                dr_error: dr,
                start_missed: missed,
                reserved_error: version == V2 && reserved,
                time_to_start: None,
            },
        );
        (refused, 0..=TIME_TO_START_UNKNOWN).prop_map(|(answer, time_to_start)| McSessionAns {
            time_to_start: answer.is_accepted().then_some(time_to_start),
            ..answer
        })
    }

    pub(crate) fn is_bare(command: &UplinkCommand) -> bool {
        use UplinkCommand::{McClassBSessionAnsWithoutStatus, McClassCSessionAnsWithoutStatus};
        matches!(
            command,
            McClassCSessionAnsWithoutStatus | McClassBSessionAnsWithoutStatus
        )
    }

    /// Every uplink, the ones without status too.
    pub(crate) fn uplink(version: PackageVersion) -> impl Strategy<Value = UplinkCommand> {
        let group_status =
            (0..8_u8, any::<[Option<u32>; 4]>()).prop_map(|(nb_total_groups, mc_addr)| {
                let mc_addr = mc_addr.map(|mc_addr| mc_addr.map(DevAddr));
                UplinkCommand::McGroupStatusAns(McGroupStatusAns {
                    nb_total_groups,
                    mc_addr,
                })
            });
        prop_oneof![
            package_version_ans().prop_map(UplinkCommand::PackageVersionAns),
            group_status,
            (0..4_u8, any::<bool>()).prop_map(|(mc_group_id, id_error)| {
                UplinkCommand::McGroupSetupAns(McGroupSetupAns {
                    mc_group_id,
                    id_error,
                })
            }),
            (0..4_u8, any::<bool>()).prop_map(|(mc_group_id, mc_group_undefined)| {
                UplinkCommand::McGroupDeleteAns(McGroupDeleteAns {
                    mc_group_id,
                    mc_group_undefined,
                })
            }),
            session_ans(version).prop_map(UplinkCommand::McClassCSessionAns),
            session_ans(version).prop_map(UplinkCommand::McClassBSessionAns),
            Just(UplinkCommand::McClassCSessionAnsWithoutStatus),
            Just(UplinkCommand::McClassBSessionAnsWithoutStatus),
        ]
    }

    pub(crate) fn downlink(_version: PackageVersion) -> impl Strategy<Value = DownlinkCommand> {
        let setup =
            (0..4_u8, any::<(u32, [u8; 16], u32, u32)>()).prop_map(|(mc_group_id, rest)| {
                let (mc_addr, mc_key_encrypted, min_mc_f_cnt, max_mc_f_cnt) = rest;
                DownlinkCommand::McGroupSetupReq(McGroupSetupReq {
                    mc_group_id,
                    mc_addr: DevAddr(mc_addr),
                    mc_key_encrypted,
                    min_mc_f_cnt,
                    max_mc_f_cnt,
                })
            });
        let frequency = (0..1_u32 << 24).prop_map(dl_freq_from_wire);
        let class_c = (0..4_u8, any::<u32>(), 0..16_u8, frequency, 0..16_u8).prop_map(
            |(mc_group_id, session_time, session_time_out, dl_freq_hz, dr)| McClassCSessionReq {
                mc_group_id,
                session_time,
                session_time_out,
                dl_freq_hz,
                dr,
            },
        );
        let class_b =
            (class_c.clone(), 0..8_u8).prop_map(|(session, periodicity)| McClassBSessionReq {
                mc_group_id: session.mc_group_id,
                session_time: session.session_time,
                periodicity,
                session_time_out: session.session_time_out,
                dl_freq_hz: session.dl_freq_hz,
                dr: session.dr,
            });
        prop_oneof![
            Just(DownlinkCommand::PackageVersionReq),
            (0..16_u8).prop_map(|req_group_mask| {
                DownlinkCommand::McGroupStatusReq(McGroupStatusReq { req_group_mask })
            }),
            setup,
            (0..4_u8).prop_map(|mc_group_id| {
                DownlinkCommand::McGroupDeleteReq(McGroupDeleteReq { mc_group_id })
            }),
            class_c.prop_map(DownlinkCommand::McClassCSessionReq),
            class_b.prop_map(DownlinkCommand::McClassBSessionReq),
        ]
    }
}

pub(crate) mod firmware_management_commands {
    use super::*;
    use firmware_management::*;

    pub(crate) fn uplink(_version: PackageVersion) -> impl Strategy<Value = UplinkCommand> {
        let up_image_status = prop_oneof![
            Just(UpImageStatus::NoImage),
            Just(UpImageStatus::Corrupt),
            Just(UpImageStatus::WrongHardware),
            any::<u32>().prop_map(|next_firmware_version| UpImageStatus::Valid {
                next_firmware_version
            }),
        ];
        prop_oneof![
            package_version_ans().prop_map(UplinkCommand::PackageVersionAns),
            any::<(u32, u32)>().prop_map(|(fw_version, hw_version)| {
                UplinkCommand::DevVersionAns(DevVersionAns {
                    fw_version,
                    hw_version,
                })
            }),
            any::<u32>().prop_map(|reboot_time| {
                UplinkCommand::DevRebootTimeAns(DevRebootTimeAns { reboot_time })
            }),
            (0..=COUNTDOWN_CANCEL).prop_map(|countdown| {
                UplinkCommand::DevRebootCountdownAns(DevRebootCountdownAns { countdown })
            }),
            up_image_status.prop_map(|up_image_status| {
                UplinkCommand::DevUpgradeImageAns(DevUpgradeImageAns { up_image_status })
            }),
            any::<(bool, bool)>().prop_map(|(error_invalid_version, error_no_valid_image)| {
                UplinkCommand::DevDeleteImageAns(DevDeleteImageAns {
                    error_invalid_version,
                    error_no_valid_image,
                })
            }),
        ]
    }

    pub(crate) fn downlink(_version: PackageVersion) -> impl Strategy<Value = DownlinkCommand> {
        prop_oneof![
            Just(DownlinkCommand::PackageVersionReq),
            Just(DownlinkCommand::DevVersionReq),
            any::<u32>().prop_map(|reboot_time| {
                DownlinkCommand::DevRebootTimeReq(DevRebootTimeReq { reboot_time })
            }),
            (0..=COUNTDOWN_CANCEL).prop_map(|countdown| {
                DownlinkCommand::DevRebootCountdownReq(DevRebootCountdownReq { countdown })
            }),
            Just(DownlinkCommand::DevUpgradeImageReq),
            any::<u32>().prop_map(|firmware_to_delete_version| {
                DownlinkCommand::DevDeleteImageReq(DevDeleteImageReq {
                    firmware_to_delete_version,
                })
            }),
        ]
    }
}

pub(crate) mod multi_package_commands {
    use super::*;
    use multi_package::*;

    pub(crate) fn uplink(_version: PackageVersion) -> impl Strategy<Value = UplinkCommand> {
        let package =
            any::<(u8, u8, u8)>().prop_map(|(package_identifier, package_version, f_port)| {
                DevPackage {
                    package_identifier,
                    package_version,
                    f_port,
                }
            });
        prop_oneof![
            package_version_ans().prop_map(UplinkCommand::PackageVersionAns),
            vec(package, 0..=15)
                .prop_map(|packages| UplinkCommand::DevPackageAns(DevPackageAns { packages })),
        ]
    }

    pub(crate) fn downlink(_version: PackageVersion) -> impl Strategy<Value = DownlinkCommand> {
        prop_oneof![
            Just(DownlinkCommand::PackageVersionReq),
            Just(DownlinkCommand::DevPackageReq)
        ]
    }
}

/// A version and up to seven commands of it.
fn commands<C, S>(
    command: fn(PackageVersion) -> S,
) -> impl Strategy<Value = (PackageVersion, Vec<C>)>
where
    C: Clone + std::fmt::Debug + 'static,
    S: Strategy<Value = C> + 'static,
{
    version().prop_flat_map(move |version| (Just(version), vec(command(version), 0..8)))
}

/// Commands of one direction of a package, encoded and decoded alike by all tests.
macro_rules! properties {
    ($direction:ident, $package:ident, $commands:ident, $command:ident, $decode:ident, last: $must_be_last:expr) => {
        mod $direction {
            use super::*;
            use $commands::$direction as strategy;
            use $package::$command as Command;

            fn encode(version: PackageVersion, commands: &[Command]) -> Vec<u8> {
                let mut out = Vec::new();
                commands.iter().for_each(|command| command.encode(version, &mut out));
                out
            }

            proptest! {
                #![proptest_config(config())]

                /// Alone, every command is read as it was written.
                #[test]
                fn one_command((version, commands) in commands(strategy)) {
                    for command in commands {
                        let bytes = encode(version, std::slice::from_ref(&command));
                        let expected = Decoded { commands: vec![command], rest: None };
                        prop_assert_eq!($package::$decode(version, &bytes), expected);
                    }
                }

                /// So are several in a frame; and a frame cut anywhere still gives the commands that are whole.
                #[test]
                fn several_commands((version, mut commands) in commands(strategy), cut in any::<prop::sample::Index>()) {
                    let must_be_last: fn(&Command) -> bool = $must_be_last;
                    commands.retain(|command| !must_be_last(command));
                    let bytes = encode(version, &commands);
                    let expected = Decoded { commands: commands.clone(), rest: None };
                    prop_assert_eq!($package::$decode(version, &bytes), expected);

                    let cut = cut.index(bytes.len() + 1);
                    let whole_count =
                        (0..=commands.len()).rev().find(|&count| encode(version, &commands[..count]).len() <= cut);
                    let whole = &commands[..whole_count.unwrap_or(0)];
                    let mut decoded = $package::$decode(version, &bytes[..cut]);
                    decoded.commands.retain(|command| !must_be_last(command));
                    prop_assert_eq!(decoded.commands, whole);
                }

                /// No bytes are too much for the decoder, and what it reads is what its encoder can write.
                #[test]
                fn any_bytes(version in version(), bytes in bytes_often_below(9)) {
                    let decoded = $package::$decode(version, &bytes);
                    prop_assert!(decoded.commands.len() <= bytes.len());
                    for command in decoded.commands {
                        let bytes = encode(version, std::slice::from_ref(&command));
                        let expected = Decoded { commands: vec![command], rest: None };
                        prop_assert_eq!($package::$decode(version, &bytes), expected);
                    }
                }
            }
        }
    };
}

mod ts003 {
    use super::*;
    properties!(uplink, clock_sync, clock_sync_commands, UplinkCommand, decode_uplink,
        last: |_| false);
    properties!(downlink, clock_sync, clock_sync_commands, DownlinkCommand, decode_downlink,
        last: |_| false);
}

mod ts004 {
    use super::*;
    // An absent status followed by other bytes can be read in two ways; the golden tests say which one is taken.
    properties!(uplink, fragmentation, fragmentation_commands, UplinkCommand, decode_uplink,
        last: fragmentation_commands::is_absent_status);
    properties!(downlink, fragmentation, fragmentation_commands, DownlinkCommand, decode_downlink,
        last: |_| false);
}

mod ts005 {
    use super::*;
    properties!(uplink, multicast_setup, multicast_setup_commands, UplinkCommand, decode_uplink,
        last: multicast_setup_commands::is_bare);
    properties!(downlink, multicast_setup, multicast_setup_commands, DownlinkCommand, decode_downlink,
        last: |_| false);
}

mod ts006 {
    use super::*;
    properties!(uplink, firmware_management, firmware_management_commands, UplinkCommand, decode_uplink,
        last: |_| false);
    properties!(downlink, firmware_management, firmware_management_commands, DownlinkCommand, decode_downlink,
        last: |_| false);
}

mod ts007 {
    use super::*;
    properties!(uplink, multi_package, multi_package_commands, UplinkCommand, decode_uplink,
        last: |_| false);
    properties!(downlink, multi_package, multi_package_commands, DownlinkCommand, decode_downlink,
        last: |_| false);
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn data_fragment(frag_index in 0..4_u8, n in 1..=fragmentation::N_MAX, bytes in vec(any::<u8>(), 0..256)) {
        let fragment = DataFragment { frag_index, n, fragment: &bytes };
        let mut out = Vec::new();
        fragment.encode(&mut out);
        prop_assert_eq!(DataFragment::decode(&out), Ok(fragment));
    }

    #[test]
    fn data_fragment_of_any_bytes(mut bytes in vec(any::<u8>(), 0..300), is_fragment in any::<bool>()) {
        if let (Some(cid), true) = (bytes.first_mut(), is_fragment) {
            *cid = 0x08;
        }
        if let Ok(fragment) = DataFragment::decode(&bytes) {
            let mut out = Vec::new();
            fragment.encode(&mut out);
            prop_assert_eq!(out, bytes);
        }
    }

    /// A device that applies the correction has the right time: at once in version 1, after asking again in version 2.
    #[test]
    fn time_correction_converges(gps_seconds in 0..1_i64 << 34, device_time in any::<u32>()) {
        let right = gps_seconds.rem_euclid(1 << 32);
        let apply = |device_time: u32, version| {
            device_time.wrapping_add_signed(time_correction(gps_seconds, device_time, version))
        };
        prop_assert_eq!(i64::from(apply(device_time, V1)), right);
        let thrice = (0..3).fold(device_time, |device_time, _| apply(device_time, V2));
        prop_assert_eq!(i64::from(thrice), right);
    }

    #[test]
    fn dl_freq_of_any_hz(hz in prop_oneof![any::<u32>(), (0..42_949_673_u32).prop_map(|hz| hz * 100)]) {
        if let Some(raw) = dl_freq_to_wire(hz) {
            prop_assert!(raw < 1 << 24);
            prop_assert_eq!(dl_freq_from_wire(raw), hz);
        }
    }

    #[test]
    fn dl_freq_of_any_wire_value(raw in 0..1_u32 << 24) {
        prop_assert_eq!(dl_freq_to_wire(dl_freq_from_wire(raw)), Some(raw));
    }
}
