//! The command codecs against vectors of other implementations and the uplinks of real device stacks.

#![allow(
    clippy::unwrap_used,
    reason = "a vector that cannot be read fails the test"
)]

use lorawan_fuota::lorawan::clock_sync;
use lorawan_fuota::lorawan::firmware_management;
use lorawan_fuota::lorawan::fragmentation::{self, FragSessionStatusAns};
use lorawan_fuota::lorawan::identifiers::DevAddr;
use lorawan_fuota::lorawan::multicast_setup;
use lorawan_fuota::lorawan::{DecodeError, Decoded, PackageVersion, PackageVersionAns};
use serde_json::Value;

const TS003: &str = include_str!("../vectors/commands_ts003.json");
const TS004: &str = include_str!("../vectors/commands_ts004.json");
const TS005: &str = include_str!("../vectors/commands_ts005.json");
const TS006: &str = include_str!("../vectors/commands_ts006.json");
const DEVICE_BEHAVIOUR: &str = include_str!("../vectors/device_behaviour.json");

use PackageVersion::{V1, V2};

/// One command of a vector file.
struct Vector {
    version: PackageVersion,
    is_uplink: bool,
    name: String,
    fields: Value,
    bytes: Vec<u8>,
}

impl Vector {
    fn all(vectors: &Value) -> Vec<Self> {
        let read = |vector: &Value| Self {
            version: PackageVersion::from_number(narrow(vector["version"].as_u64().unwrap()))
                .unwrap(),
            is_uplink: vector["direction"] == "uplink",
            name: vector["name"].as_str().unwrap().to_owned(),
            fields: vector["fields"].clone(),
            bytes: bytes(vector["hex"].as_str().unwrap()),
        };
        vectors.as_array().unwrap().iter().map(read).collect()
    }

    fn int<T: TryFrom<i64, Error: std::fmt::Debug>>(&self, field: &str) -> T {
        narrow(
            self.fields[field]
                .as_i64()
                .unwrap_or_else(|| panic!("{} has no number {field}", self.name)),
        )
    }

    /// A flag, under the first of the names that the vector has. The versions call some flags differently.
    fn flag(&self, names: &[&str]) -> bool {
        names
            .iter()
            .find_map(|name| self.fields[name].as_bool())
            .unwrap_or(false)
    }

    fn array<const N: usize>(&self, field: &str) -> [u8; N] {
        bytes(self.fields[field].as_str().unwrap())
            .try_into()
            .unwrap()
    }

    fn package_version_ans(&self) -> PackageVersionAns {
        PackageVersionAns {
            package_identifier: self.int("package_identifier"),
            package_version: self.int("package_version"),
        }
    }
}

fn narrow<A, B: TryFrom<A, Error: std::fmt::Debug>>(value: A) -> B {
    B::try_from(value).unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "{hex}");
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn whole<T>(commands: impl IntoIterator<Item = T>) -> Decoded<T> {
    Decoded {
        commands: commands.into_iter().collect(),
        rest: None,
    }
}

/// Asserts that `command` is encoded to the vector's bytes and decoded from them.
macro_rules! assert_codec {
    ($vector:expr, $decode:path, $command:expr) => {{
        let (vector, command) = ($vector, $command);
        let mut out = Vec::new();
        command.encode(vector.version, &mut out);
        assert_eq!(
            out, vector.bytes,
            "encoding {:?} {}",
            vector.version, vector.name
        );
        assert_eq!(
            $decode(vector.version, &vector.bytes),
            whole([command]),
            "decoding {}",
            vector.name
        );
    }};
}

#[test]
fn ts003_vectors() {
    use clock_sync::*;
    let vectors = Vector::all(&json(TS003));
    assert_eq!(vectors.len(), 26);
    for v in &vectors {
        if v.is_uplink {
            let command = match v.name.as_str() {
                "PackageVersionAns" => UplinkCommand::PackageVersionAns(v.package_version_ans()),
                "AppTimeReq" => UplinkCommand::AppTimeReq(AppTimeReq {
                    device_time: v.int("device_time"),
                    ans_required: v.flag(&["ans_required"]),
                    token_req: v.int("token_req"),
                }),
                "DeviceAppTimePeriodicityAns" => {
                    UplinkCommand::DeviceAppTimePeriodicityAns(DeviceAppTimePeriodicityAns {
                        not_supported: v.flag(&["not_supported"]),
                        time: v.int("time"),
                    })
                }
                name => panic!("unexpected {name}"),
            };
            assert_codec!(v, decode_uplink, command);
        } else {
            let command = match v.name.as_str() {
                "PackageVersionReq" => DownlinkCommand::PackageVersionReq,
                "AppTimeAns" => DownlinkCommand::AppTimeAns(AppTimeAns {
                    time_correction: v.int("time_correction"),
                    token_ans: v.int("token_ans"),
                }),
                "DeviceAppTimePeriodicityReq" => {
                    DownlinkCommand::DeviceAppTimePeriodicityReq(DeviceAppTimePeriodicityReq {
                        period: v.int("period"),
                    })
                }
                "ForceDeviceResyncReq" | "ForceDeviceResyncCmd" => {
                    DownlinkCommand::ForceDeviceResyncCmd(ForceDeviceResyncCmd {
                        nb_transmissions: v.int("nb_transmissions"),
                    })
                }
                name => panic!("unexpected {name}"),
            };
            assert_codec!(v, decode_downlink, command);
        }
    }
}

#[test]
fn ts004_vectors() {
    use fragmentation::DataFragment;
    let vectors = Vector::all(&json(TS004));
    assert_eq!(vectors.len(), 36);
    for v in &vectors {
        if v.is_uplink {
            assert_codec!(v, fragmentation::decode_uplink, ts004_uplink(v));
        } else if v.name == "DataFragment" {
            let data = bytes(v.fields["data"].as_str().unwrap());
            let fragment = DataFragment {
                frag_index: v.int("frag_index"),
                n: v.int("n"),
                fragment: &data,
            };
            let mut out = Vec::new();
            fragment.encode(&mut out);
            assert_eq!(out, v.bytes);
            assert_eq!(DataFragment::decode(&v.bytes), Ok(fragment));
        } else {
            assert_codec!(v, fragmentation::decode_downlink, ts004_downlink(v));
        }
    }
}

fn ts004_uplink(v: &Vector) -> fragmentation::UplinkCommand {
    use fragmentation::*;
    let session_absent = v.flag(&["session_does_not_exist"]);
    match v.name.as_str() {
        "PackageVersionAns" => UplinkCommand::PackageVersionAns(v.package_version_ans()),
        "FragSessionStatusAns" => UplinkCommand::FragSessionStatusAns(FragSessionStatusAns {
            frag_index: Some(v.int("frag_index")),
            nb_frag_received: v.int("nb_frag_received"),
            missing_frag: v.int("missing_frag"),
            memory_error: v.flag(&["memory_error", "not_enough_matrix_memory"]),
            mic_error: v.flag(&["mic_error"]),
            session_absent,
        }),
        "FragSessionSetupAns" => UplinkCommand::FragSessionSetupAns(FragSessionSetupAns {
            frag_index: v.int("frag_index"),
            session_cnt_replay: v.flag(&["session_cnt_replay"]),
            wrong_descriptor: v.flag(&["wrong_descriptor"]),
            frag_index_unsupported: v
                .flag(&["frag_index_unsupported", "frag_session_index_not_supported"]),
            not_enough_memory: v.flag(&["not_enough_memory"]),
            frag_algo_unsupported: v.flag(&["frag_algo_unsupported", "encoding_unsupported"]),
        }),
        "FragSessionDeleteAns" => {
            let frag_index = v.int("frag_index");
            UplinkCommand::FragSessionDeleteAns(FragSessionDeleteAns {
                frag_index,
                session_absent,
            })
        }
        "FragDataBlockReceivedReq" => {
            UplinkCommand::FragDataBlockReceivedReq(FragDataBlockReceivedReq {
                frag_index: v.int("frag_index"),
                mic_error: v.flag(&["mic_error"]),
            })
        }
        name => panic!("unexpected {name}"),
    }
}

fn ts004_downlink(v: &Vector) -> fragmentation::DownlinkCommand {
    use fragmentation::*;
    match v.name.as_str() {
        "PackageVersionReq" => DownlinkCommand::PackageVersionReq,
        "FragSessionStatusReq" => DownlinkCommand::FragSessionStatusReq(FragSessionStatusReq {
            frag_index: v.int("frag_index"),
            participants: v.flag(&["participants"]),
        }),
        "FragSessionSetupReq" => DownlinkCommand::FragSessionSetupReq(FragSessionSetupReq {
            frag_index: v.int("frag_index"),
            mc_group_bit_mask: v.int("mc_group_bit_mask"),
            nb_frag: v.int("nb_frag"),
            frag_size: v.int("frag_size"),
            ack_reception: v.flag(&["ack_reception"]),
            frag_algo: v.int("frag_algo"),
            block_ack_delay: v.int("block_ack_delay"),
            padding: v.int("padding"),
            descriptor: v.array("descriptor"),
            session_cnt: if v.version == V2 {
                v.int("session_cnt")
            } else {
                0
            },
            mic: if v.version == V2 {
                v.array("mic")
            } else {
                [0; 4]
            },
        }),
        "FragSessionDeleteReq" => DownlinkCommand::FragSessionDeleteReq(FragSessionDeleteReq {
            frag_index: v.int("frag_index"),
        }),
        "FragDataBlockReceivedAns" => {
            let frag_index = v.int("frag_index");
            DownlinkCommand::FragDataBlockReceivedAns(FragDataBlockReceivedAns { frag_index })
        }
        name => panic!("unexpected {name}"),
    }
}

#[test]
fn ts005_vectors() {
    let vectors = Vector::all(&json(TS005));
    assert_eq!(vectors.len(), 34);
    for v in &vectors {
        if v.is_uplink {
            assert_codec!(v, multicast_setup::decode_uplink, ts005_uplink(v));
        } else {
            assert_codec!(v, multicast_setup::decode_downlink, ts005_downlink(v));
        }
    }
}

fn dev_addr(big_endian: &Value) -> DevAddr {
    DevAddr(u32::from_str_radix(big_endian.as_str().unwrap(), 16).unwrap())
}

fn ts005_uplink(v: &Vector) -> multicast_setup::UplinkCommand {
    use multicast_setup::*;
    let session = || McSessionAns {
        mc_group_id: v.int("mc_group_id"),
        mc_group_undefined: v.flag(&["mc_group_undefined"]),
        freq_error: v.flag(&["freq_error"]),
        dr_error: v.flag(&["dr_error"]),
        start_missed: v.flag(&["start_missed"]),
        reserved_error: false,
        time_to_start: v.fields["time_to_start"].as_u64().map(narrow),
    };
    match v.name.as_str() {
        "PackageVersionAns" => UplinkCommand::PackageVersionAns(v.package_version_ans()),
        "McGroupStatusAns" => {
            let mut mc_addr = [None; 4];
            for item in v.fields["items"].as_array().unwrap() {
                let id: usize = narrow(item["mc_group_id"].as_u64().unwrap());
                mc_addr[id] = Some(dev_addr(&item["mc_addr_be"]));
            }
            let answer = McGroupStatusAns {
                nb_total_groups: v.int("nb_total_groups"),
                mc_addr,
            };
            assert_eq!(answer.ans_group_mask(), v.int::<u8>("ans_group_mask"));
            UplinkCommand::McGroupStatusAns(answer)
        }
        "McGroupSetupAns" => UplinkCommand::McGroupSetupAns(McGroupSetupAns {
            mc_group_id: v.int("mc_group_id"),
            id_error: v.flag(&["id_error"]),
        }),
        "McGroupDeleteAns" => UplinkCommand::McGroupDeleteAns(McGroupDeleteAns {
            mc_group_id: v.int("mc_group_id"),
            mc_group_undefined: v.flag(&["mc_group_undefined"]),
        }),
        "McClassCSessionAns" => UplinkCommand::McClassCSessionAns(session()),
        "McClassBSessionAns" => UplinkCommand::McClassBSessionAns(session()),
        name => panic!("unexpected {name}"),
    }
}

fn ts005_downlink(v: &Vector) -> multicast_setup::DownlinkCommand {
    use multicast_setup::*;
    match v.name.as_str() {
        "PackageVersionReq" => DownlinkCommand::PackageVersionReq,
        "McGroupStatusReq" => DownlinkCommand::McGroupStatusReq(McGroupStatusReq {
            req_group_mask: v.int("req_group_mask"),
        }),
        "McGroupSetupReq" => DownlinkCommand::McGroupSetupReq(McGroupSetupReq {
            mc_group_id: v.int("mc_group_id"),
            mc_addr: dev_addr(&v.fields["mc_addr_be"]),
            mc_key_encrypted: v.array("mc_key_encrypted"),
            min_mc_f_cnt: v.int("min_mc_f_count"),
            max_mc_f_cnt: v.int("max_mc_f_count"),
        }),
        "McGroupDeleteReq" => DownlinkCommand::McGroupDeleteReq(McGroupDeleteReq {
            mc_group_id: v.int("mc_group_id"),
        }),
        "McClassCSessionReq" => DownlinkCommand::McClassCSessionReq(McClassCSessionReq {
            mc_group_id: v.int("mc_group_id"),
            session_time: v.int("session_time"),
            session_time_out: v.int("time_out"),
            dl_freq_hz: v.int("dl_frequency_hz"),
            dr: v.int("dr"),
        }),
        "McClassBSessionReq" => DownlinkCommand::McClassBSessionReq(McClassBSessionReq {
            mc_group_id: v.int("mc_group_id"),
            session_time: v.int("session_time"),
            periodicity: v.int("periodicity"),
            session_time_out: v.int("time_out"),
            dl_freq_hz: v.int("dl_frequency_hz"),
            dr: v.int("dr"),
        }),
        name => panic!("unexpected {name}"),
    }
}

#[test]
fn ts006_vectors() {
    let file = json(TS006);
    let vectors = Vector::all(&file["encoded"]);
    assert_eq!(vectors.len(), 22);
    for v in &vectors {
        if v.is_uplink {
            assert_codec!(v, firmware_management::decode_uplink, ts006_uplink(v));
        } else {
            assert_codec!(v, firmware_management::decode_downlink, ts006_downlink(v));
        }
    }
}

fn ts006_uplink(v: &Vector) -> firmware_management::UplinkCommand {
    use firmware_management::*;
    match v.name.as_str() {
        "PackageVersionAns" => UplinkCommand::PackageVersionAns(v.package_version_ans()),
        "DevVersionAns" => UplinkCommand::DevVersionAns(DevVersionAns {
            fw_version: v.int("fw_version"),
            hw_version: v.int("hw_version"),
        }),
        "DevRebootTimeAns" => UplinkCommand::DevRebootTimeAns(DevRebootTimeAns {
            reboot_time: v.int("reboot_time"),
        }),
        "DevRebootCountdownAns" => UplinkCommand::DevRebootCountdownAns(DevRebootCountdownAns {
            countdown: v.int("countdown"),
        }),
        "DevUpgradeImageAns" => {
            let up_image_status = match v.int("up_image_status") {
                0 => UpImageStatus::NoImage,
                1 => UpImageStatus::Corrupt,
                2 => UpImageStatus::WrongHardware,
                status => panic!("unexpected status {status}"),
            };
            UplinkCommand::DevUpgradeImageAns(DevUpgradeImageAns { up_image_status })
        }
        "DevDeleteImageAns" => UplinkCommand::DevDeleteImageAns(DevDeleteImageAns {
            error_invalid_version: v.flag(&["error_invalid_version"]),
            error_no_valid_image: v.flag(&["error_no_valid_image"]),
        }),
        name => panic!("unexpected {name}"),
    }
}

fn ts006_downlink(v: &Vector) -> firmware_management::DownlinkCommand {
    use firmware_management::*;
    match v.name.as_str() {
        "PackageVersionReq" => DownlinkCommand::PackageVersionReq,
        "DevVersionReq" => DownlinkCommand::DevVersionReq,
        "DevRebootTimeReq" => DownlinkCommand::DevRebootTimeReq(DevRebootTimeReq {
            reboot_time: v.int("reboot_time"),
        }),
        "DevRebootCountdownReq" => DownlinkCommand::DevRebootCountdownReq(DevRebootCountdownReq {
            countdown: v.int("countdown"),
        }),
        "DevUpgradeImageReq" => DownlinkCommand::DevUpgradeImageReq,
        "DevDeleteImageReq" => DownlinkCommand::DevDeleteImageReq(DevDeleteImageReq {
            firmware_to_delete_version: v.int("firmware_to_delete_version"),
        }),
        name => panic!("unexpected {name}"),
    }
}

/// Decodes an uplink of a port; gives the re-encoded commands and what stopped the decoder.
fn recode_uplink(
    port: &str,
    version: PackageVersion,
    bytes: &[u8],
) -> (Vec<u8>, Option<DecodeError>) {
    macro_rules! recode {
        ($decode:path) => {{
            let decoded = $decode(version, bytes);
            let mut out = Vec::new();
            decoded
                .commands
                .iter()
                .for_each(|command| command.encode(version, &mut out));
            (out, decoded.rest)
        }};
    }
    match port {
        "200" => recode!(multicast_setup::decode_uplink),
        "201" => recode!(fragmentation::decode_uplink),
        "202" => recode!(clock_sync::decode_uplink),
        "203" => recode!(firmware_management::decode_uplink),
        port => panic!("unexpected port {port}"),
    }
}

/// Port and bytes of a line that says that a device transmitted.
fn transmission(line: &Value) -> Option<(&str, Vec<u8>)> {
    let (port, rest) = line
        .as_str()
        .unwrap()
        .strip_prefix("TX port=")?
        .split_once(' ')?;
    Some((port, bytes(rest.rsplit(' ').next()?)))
}

#[test]
fn every_uplink_of_real_devices_is_read_whole() {
    // LoRaMac-node overwrites a delayed fragmentation answer with one of multicast setup.
    let corrupted = bytes("0002010000");
    let (mut read_count, mut corrupted_count) = (0, 0);
    for dialogue in json(DEVICE_BEHAVIOUR)["dialogues"].as_array().unwrap() {
        let version = if dialogue["implementation"]
            .as_str()
            .unwrap()
            .contains("v2.0.0")
        {
            V2
        } else {
            V1
        };
        for (port, uplink) in dialogue["output"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(transmission)
        {
            let (recoded, rest) = recode_uplink(port, version, &uplink);
            if uplink == corrupted {
                corrupted_count += 1;
                continue;
            }
            assert_eq!(
                (recoded, rest),
                (uplink, None),
                "port {port} of {}",
                dialogue["name"]
            );
            read_count += 1;
        }
    }
    assert_eq!((read_count, corrupted_count), (170, 1));
    let dialogue = json(TS006);
    let lines = dialogue["device_dialogue_swl2001"].as_array().unwrap();
    for (port, uplink) in lines.iter().filter_map(transmission) {
        assert_eq!(recode_uplink(port, V1, &uplink), (uplink, None));
    }
}

fn status(frag_index: u8, nb_frag_received: u16, missing_frag: u8) -> FragSessionStatusAns {
    FragSessionStatusAns {
        frag_index: Some(frag_index),
        nb_frag_received,
        missing_frag,
        memory_error: false,
        mic_error: false,
        session_absent: false,
    }
}

#[test]
fn fragmentation_uplinks_of_real_devices() {
    use fragmentation::*;
    let package_version = |package_identifier, package_version| {
        UplinkCommand::PackageVersionAns(PackageVersionAns {
            package_identifier,
            package_version,
        })
    };
    let delete_absent = UplinkCommand::FragSessionDeleteAns(FragSessionDeleteAns {
        frag_index: 0,
        session_absent: true,
    });
    let setup_accepted = FragSessionSetupAns {
        frag_index: 0,
        session_cnt_replay: false,
        wrong_descriptor: false,
        frag_index_unsupported: false,
        not_enough_memory: false,
        frag_algo_unsupported: false,
    };
    let memory_error = FragSessionStatusAns {
        memory_error: true,
        ..status(0, 21, 6)
    };
    // SWL2001 sets the MIC error, too, when there is no session, and sends all four bytes.
    let absent = FragSessionStatusAns {
        session_absent: true,
        mic_error: true,
        ..status(0, 0, 0)
    };
    let received = FragDataBlockReceivedReq {
        frag_index: 0,
        mic_error: false,
    };

    let cases = [
        (
            V1,
            "0115000601",
            vec![UplinkCommand::FragSessionStatusAns(memory_error)],
        ),
        // 398 fragments missing, modulo 256.
        (
            V1,
            "0190018e00",
            vec![UplinkCommand::FragSessionStatusAns(status(0, 400, 142))],
        ),
        (
            V1,
            "00030101000000000304",
            vec![
                package_version(3, 1),
                UplinkCommand::FragSessionStatusAns(status(0, 0, 0)),
                delete_absent,
            ],
        ),
        // LoRaMac-node takes the tail of a version 2 setup request for a PackageVersionReq.
        (
            V1,
            "0200000301",
            vec![
                UplinkCommand::FragSessionSetupAns(setup_accepted),
                package_version(3, 1),
            ],
        ),
        (
            V2,
            "00030201060000000304",
            vec![
                package_version(3, 2),
                UplinkCommand::FragSessionStatusAns(absent),
                delete_absent,
            ],
        ),
        (
            V2,
            "0106004000",
            vec![UplinkCommand::FragSessionStatusAns(FragSessionStatusAns {
                frag_index: Some(1),
                ..absent
            })],
        ),
        (
            V2,
            "04000100140001",
            vec![
                UplinkCommand::FragDataBlockReceivedReq(received),
                UplinkCommand::FragSessionStatusAns(status(0, 20, 1)),
            ],
        ),
        (
            V2,
            "0210",
            vec![UplinkCommand::FragSessionSetupAns(FragSessionSetupAns {
                session_cnt_replay: true,
                ..setup_accepted
            })],
        ),
    ];
    for (version, hex, commands) in cases {
        assert_eq!(
            decode_uplink(version, &bytes(hex)),
            whole(commands),
            "{hex}"
        );
    }
}

#[test]
fn absent_session_in_short_and_long_form() {
    use fragmentation::*;
    let short = UplinkCommand::FragSessionStatusAns(FragSessionStatusAns::SESSION_ABSENT);
    let long = |frag_index, nb_frag_received, missing_frag| {
        UplinkCommand::FragSessionStatusAns(FragSessionStatusAns {
            session_absent: true,
            ..status(frag_index, nb_frag_received, missing_frag)
        })
    };
    let deleted = UplinkCommand::FragSessionDeleteAns(FragSessionDeleteAns {
        frag_index: 0,
        session_absent: false,
    });
    let received = |frag_index| {
        UplinkCommand::FragDataBlockReceivedReq(FragDataBlockReceivedReq {
            frag_index,
            mic_error: false,
        })
    };
    let cases = [
        ("0104", vec![short]),
        ("01040300", vec![short, deleted]),
        ("0104014000", vec![long(1, 1, 0)]),
        // Four bytes behind the status: the long form would leave a lone 02.
        ("010403000402", vec![short, deleted, received(2)]),
        // Both forms can be read to the end: the long one it is.
        ("01040300040402", vec![long(0, 3, 4), received(2)]),
        // A status with all its bytes behind a short one.
        (
            "010403000100140001",
            vec![
                short,
                deleted,
                UplinkCommand::FragSessionStatusAns(status(0, 20, 1)),
            ],
        ),
        // Two short forms in a row.
        ("01040104", vec![short, short]),
    ];
    for (hex, commands) in cases {
        assert_eq!(decode_uplink(V2, &bytes(hex)), whole(commands), "{hex}");
    }
}

#[test]
fn session_answers_of_real_devices() {
    use multicast_setup::*;
    let accepted = McSessionAns {
        mc_group_id: 0,
        mc_group_undefined: false,
        freq_error: false,
        dr_error: false,
        start_missed: false,
        reserved_error: false,
        time_to_start: Some(100),
    };
    let refused = McSessionAns {
        time_to_start: None,
        ..accepted
    };
    let without_clock = McSessionAns {
        time_to_start: Some(TIME_TO_START_UNKNOWN),
        ..accepted
    };
    let missed = McSessionAns {
        start_missed: true,
        ..refused
    };
    let all_errors = McSessionAns {
        mc_group_id: 1,
        mc_group_undefined: true,
        freq_error: true,
        dr_error: true,
        ..refused
    };
    for version in [V1, V2] {
        let cases = [
            ("0400640000", accepted),
            ("0400ffffff", without_clock),
            ("0420", missed),
            ("041d", all_errors),
        ];
        for (hex, answer) in cases {
            let command = UplinkCommand::McClassCSessionAns(answer);
            assert_eq!(
                decode_uplink(version, &bytes(hex)),
                whole([command]),
                "{version:?} {hex}"
            );
            assert_eq!(answer.is_accepted(), answer.time_to_start.is_some());
        }
        // Refusals have no TimeToStart, so the next answer follows at once.
        let two = decode_uplink(version, &bytes("042005110420"));
        let undefined = McSessionAns {
            mc_group_id: 1,
            mc_group_undefined: true,
            ..refused
        };
        let expected = [
            UplinkCommand::McClassCSessionAns(missed),
            UplinkCommand::McClassBSessionAns(undefined),
            UplinkCommand::McClassCSessionAns(missed),
        ];
        assert_eq!(two, whole(expected));
        // Zephyr's refusal of a data rate or frequency.
        let bare = decode_uplink(version, &bytes("020104"));
        let setup = McGroupSetupAns {
            mc_group_id: 1,
            id_error: false,
        };
        let expected = [
            UplinkCommand::McGroupSetupAns(setup),
            UplinkCommand::McClassCSessionAnsWithoutStatus,
        ];
        assert_eq!(bare, whole(expected));
    }
    // The high bits are errors to come in version 2, nothing in version 1.
    let reserved = McSessionAns {
        reserved_error: true,
        ..refused
    };
    assert_eq!(
        decode_uplink(V2, &bytes("0480")),
        whole([UplinkCommand::McClassCSessionAns(reserved)])
    );
    assert_eq!(
        decode_uplink(V1, &bytes("04c0640000")),
        whole([UplinkCommand::McClassCSessionAns(accepted)])
    );
}

#[test]
fn good_answers_before_garbage_are_kept() {
    use fragmentation::*;
    // What LoRaMac-node makes of a delayed status answer: another package's version, and too few bytes of one more.
    let decoded = decode_uplink(V1, &bytes("0002010000"));
    let other = PackageVersionAns {
        package_identifier: 2,
        package_version: 1,
    };
    assert_ne!(other.package_identifier, PACKAGE_IDENTIFIER);
    assert_eq!(decoded.commands, [UplinkCommand::PackageVersionAns(other)]);
    assert_eq!(
        decoded.rest,
        Some(DecodeError::Truncated {
            command: "PackageVersionAns",
            need: 2,
            have: 1
        })
    );

    let decoded = decode_uplink(V1, &bytes("0114000000ff00"));
    assert_eq!(
        decoded.commands,
        [UplinkCommand::FragSessionStatusAns(status(0, 20, 0))]
    );
    let package = "fragmented data block transport";
    assert_eq!(
        decoded.rest,
        Some(DecodeError::UnknownCommand { package, cid: 0xff })
    );

    let decoded = decode_uplink(V2, &bytes("0100140000010014"));
    assert_eq!(
        decoded.commands,
        [UplinkCommand::FragSessionStatusAns(status(0, 20, 0))]
    );
    let truncated = DecodeError::Truncated {
        command: "FragSessionStatusAns",
        need: 4,
        have: 2,
    };
    assert_eq!(decoded.rest, Some(truncated));

    // The block acknowledgement is a command of version 2 only.
    assert!(decode_uplink(V1, &bytes("0400")).commands.is_empty());
}

#[test]
fn image_status_of_a_real_device() {
    use firmware_management::*;
    let status = UpImageStatus::Valid {
        next_firmware_version: 0x1701_1973,
    };
    let expected = [
        UplinkCommand::PackageVersionAns(PackageVersionAns {
            package_identifier: PACKAGE_IDENTIFIER,
            package_version: 1,
        }),
        UplinkCommand::DevUpgradeImageAns(DevUpgradeImageAns {
            up_image_status: status,
        }),
    ];
    assert_eq!(
        decode_uplink(V1, &bytes("000401040373190117")),
        whole(expected)
    );
}

#[test]
fn reserved_bits_are_ignored() {
    use fragmentation::*;
    let setup = |version, hex: &str| decode_uplink(version, &bytes(hex)).commands;
    assert_eq!(setup(V1, "0270"), setup(V1, "0240"));
    assert_eq!(setup(V2, "0260"), setup(V2, "0240"));
    assert_ne!(setup(V2, "0250"), setup(V2, "0240"));
    assert_eq!(setup(V1, "0114000cfe"), setup(V1, "0114000c00"));
    assert_eq!(setup(V2, "01f814000c"), setup(V2, "010014000c"));
    let request = |version, hex: &str| decode_downlink(version, &bytes(hex)).commands;
    assert_eq!(
        request(V1, "02f5e80232c50801020304"),
        request(V1, "0235e80232050801020304")
    );
    assert_eq!(
        request(V2, "02f5e80232c5080102030430003c6eae40"),
        request(V2, "0235e8023245080102030430003c6eae40")
    );
}
