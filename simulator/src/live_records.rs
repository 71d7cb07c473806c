//! A scenario as an operator enters it over gRPC: gateways, device profiles, devices, task.

use std::time::Duration;

use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::proto::v1;
use lorawan_fuota::record::{
    Approval, DeviceClass, DeviceProfile, FragAlgo, GatewaySettings, LorawanVersion, Package,
    RebootMode, StatusInterpretation, SuccessCriterion, Task, ThresholdAction, VersionSource,
};
use lorawan_fuota::time::Timestamp;

use crate::device::DeviceConfig;
use crate::fleet::{MODEL, activation_record};

/// Longest fragment the API takes for a limit, in bytes.
const FRAG_SIZE_MAX: u8 = 239;

pub(crate) fn gateway(settings: &GatewaySettings) -> v1::Gateway {
    v1::Gateway {
        eui: settings.eui.to_string(),
        display_name: settings.display_name.clone(),
        region: region(settings.region),
        antenna_gain_dbi: settings.antenna_gain_dbi.into(),
        has_gps: settings.gps,
        beaconing: settings.beaconing,
        air_share_percent: u32::from(settings.air_share_permille.div_ceil(10)),
        ..v1::Gateway::default()
    }
}

pub(crate) fn profile(profile: &DeviceProfile) -> v1::DeviceProfile {
    let package = |package: Option<Package>| {
        package.map(|package| v1::Package {
            version: package.version.number().into(),
            f_port: package.f_port.into(),
        })
    };
    let source = match profile.version_source {
        VersionSource::FirmwareManagement => v1::version_source::Source::FirmwareManagement(()),
        VersionSource::UplinkField(field) => {
            let order = if field.big_endian {
                v1::ByteOrder::BigEndian
            } else {
                v1::ByteOrder::LittleEndian
            };
            v1::version_source::Source::UplinkField(v1::UplinkField {
                f_port: field.f_port.into(),
                offset_bytes: field.offset.into(),
                length_bytes: field.length.into(),
                byte_order: order.into(),
            })
        }
    };
    let limits = &profile.limits;
    v1::DeviceProfile {
        display_name: format!("scenario, {}", profile.id),
        lorawan_version: match profile.lorawan_version {
            LorawanVersion::V1_0_0 => v1::LorawanVersion::LorawanVersion100,
            LorawanVersion::V1_0_1 => v1::LorawanVersion::LorawanVersion101,
            LorawanVersion::V1_0_2 => v1::LorawanVersion::LorawanVersion102,
            LorawanVersion::V1_0_3 => v1::LorawanVersion::LorawanVersion103,
            LorawanVersion::V1_0_4 => v1::LorawanVersion::LorawanVersion104,
            LorawanVersion::V1_1 => v1::LorawanVersion::LorawanVersion11,
        }
        .into(),
        region: region(profile.region),
        supports_class_b: profile.supports_class_b,
        supports_class_c: profile.supports_class_c,
        clock_sync: package(profile.packages.clock_sync),
        multicast_setup: package(profile.packages.multicast_setup),
        fragmentation: package(profile.packages.fragmentation),
        firmware_management: package(profile.packages.firmware_management),
        decoder_limits: Some(v1::DecoderLimits {
            max_nb_frag: limits.max_nb_frag.into(),
            max_frag_size: limits.max_frag_size.min(FRAG_SIZE_MAX).into(),
            max_lost_fragments: limits.max_lost.map_or(0, u32::from),
            max_multicast_groups: limits.max_groups.into(),
            max_frag_sessions: limits.max_frag_sessions.into(),
            reed_solomon: limits.reed_solomon,
            keeps_finished_blocks: limits.keeps_blocks,
        }),
        status_interpretation: match profile.status_interpretation {
            StatusInterpretation::Spec => v1::StatusInterpretation::Spec,
            StatusInterpretation::LoramacNode => v1::StatusInterpretation::LoramacNode,
            StatusInterpretation::LoraBasicsModem => v1::StatusInterpretation::Lbm,
            StatusInterpretation::Zephyr => v1::StatusInterpretation::Zephyr,
        }
        .into(),
        uplink_interval: duration(profile.uplink_interval),
        multicast_root_key: v1::MulticastRootKey::GenAppKey.into(),
        after_reboot: Some(v1::AfterReboot {
            rejoins: profile.after_reboot.rejoins,
            loses_multicast_groups: profile.after_reboot.loses_groups,
            ..v1::AfterReboot::default()
        }),
        version_source: Some(v1::VersionSource {
            source: Some(source),
        }),
        ..v1::DeviceProfile::default()
    }
}

pub(crate) fn device(device: &DeviceConfig, profile: &str) -> v1::EndDevice {
    let activation = activation_record(&device.activation);
    v1::EndDevice {
        dev_eui: device.dev_eui.to_string(),
        device_profile: profile.to_owned(),
        model: MODEL.to_owned(),
        keys: Some(v1::end_device::Keys::RootKeys(v1::RootKeys {
            source: Some(v1::root_keys::Source::GenAppKey(bytes(&device.gen_app_key))),
        })),
        activation,
        ..v1::EndDevice::default()
    }
}

/// The task; `name` makes the name of a device of the server.
pub(crate) fn task(task: &Task, image: String, name: impl Fn(&str) -> String) -> v1::FuotaTask {
    let options = &task.options;
    let (reboot_mode, reboot_time) = match task.reboot {
        RebootMode::None => (v1::RebootMode::None, None),
        RebootMode::Countdown { .. } => (v1::RebootMode::WhenReady, None),
        RebootMode::AtTime { at } => (v1::RebootMode::AtTime, Some(at)),
    };
    let canary = task
        .waves
        .canary
        .iter()
        .map(|dev_eui| name(&dev_eui.to_string()));
    v1::FuotaTask {
        display_name: task.display_name.clone(),
        images: vec![image],
        success_criterion: match task.success {
            SuccessCriterion::Running => v1::SuccessCriterion::Running,
            SuccessCriterion::Verified => v1::SuccessCriterion::Verified,
            SuccessCriterion::ReportedReceived => v1::SuccessCriterion::ReportedReceived,
        }
        .into(),
        reboot_mode: reboot_mode.into(),
        reboot_time: reboot_time.map(moment),
        prepare_after: task.prepare_after.map(moment),
        window_start: task.window_start.map(moment),
        deadline: task.deadline.map(moment),
        max_redundancy_percent: Some(options.max_redundancy_percent.into()),
        device_class: match options.class {
            None => v1::DeviceClass::Unspecified,
            Some(DeviceClass::A) => v1::DeviceClass::A,
            Some(DeviceClass::B) => v1::DeviceClass::B,
            Some(DeviceClass::C) => v1::DeviceClass::C,
        }
        .into(),
        data_rate: options.data_rate.map(u32::from),
        frequency_hz: options.frequency_hz.unwrap_or(0),
        frag_size: options.frag_size.map_or(0, u32::from),
        frag_algo: match options.frag_algo {
            FragAlgo::Ts004 => v1::FragAlgo::Ts004,
            FragAlgo::ReedSolomon => v1::FragAlgo::ReedSolomon,
        }
        .into(),
        ping_slot_periodicity: options.ping_slots.map(|slots| u8::from(slots).into()),
        waves: Some(v1::WavePolicy {
            canary_devices: canary.collect(),
            cumulative_percent: task
                .waves
                .cumulative_percent
                .iter()
                .map(|p| (*p).into())
                .collect(),
            approval: match task.waves.approval {
                Approval::None => v1::WaveApproval::None,
                Approval::AfterFirst => v1::WaveApproval::AfterFirst,
                Approval::AfterEach => v1::WaveApproval::AfterEach,
            }
            .into(),
            pause_between: duration(task.waves.pause_between),
        }),
        thresholds: Some(v1::Thresholds {
            max_failed_percent: task.thresholds.max_failed_percent.map(u32::from),
            min_ended: task.thresholds.min_ended,
            max_failed_count: task.thresholds.max_failed_count,
            min_succeeded_percent: task.thresholds.min_succeeded_percent.map(u32::from),
            action: match task.thresholds.action {
                ThresholdAction::Pause => v1::ThresholdAction::Pause,
                ThresholdAction::Abort => v1::ThresholdAction::Abort,
            }
            .into(),
        }),
        retry: (task.rules.retry.max_retries > 0).then(|| retry(task)),
        calendar: Some(calendar(task)),
        ..v1::FuotaTask::default()
    }
}

fn retry(task: &Task) -> v1::RetryPolicy {
    let retry = &task.rules.retry;
    let reasons = retry.reasons.iter().filter_map(|reason| {
        let mut name = String::from("DEVICE_REASON");
        for letter in format!("{reason:?}").chars() {
            if letter.is_uppercase() {
                name.push('_');
            }
            name.extend(letter.to_uppercase());
        }
        v1::DeviceReason::from_str_name(&name).map(i32::from)
    });
    v1::RetryPolicy {
        max_retries: retry.max_retries.into(),
        pause: duration(retry.pause),
        reasons: reasons.collect(),
    }
}

fn calendar(task: &Task) -> v1::Calendar {
    let calendar = &task.rules.calendar;
    let weekly = calendar.weekly.iter().map(|window| v1::WeeklyWindow {
        // Monday is bit 0 there and 1 here.
        days: (0..7)
            .filter(|day| window.days >> day & 1 == 1)
            .map(|day| day + 1)
            .collect(),
        from_minute: window.from_minute.into(),
        to_minute: window.to_minute.into(),
    });
    let blackouts = calendar.blackouts.iter().map(|blackout| v1::Blackout {
        from_time: Some(moment(blackout.from)),
        to_time: Some(moment(blackout.to)),
    });
    v1::Calendar {
        weekly_windows: weekly.collect(),
        utc_offset_minutes: calendar.utc_offset_minutes.into(),
        blackouts: blackouts.collect(),
    }
}

fn moment(at: Timestamp) -> prost_types::Timestamp {
    let micros = at.as_micros();
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or(0),
    }
}

fn duration(length: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(length).ok()
}

fn region(region: Region) -> i32 {
    let name = format!("REGION_{}", region.name().replace('-', "_"));
    v1::Region::from_str_name(&name).unwrap_or_default().into()
}

fn bytes(key: &Key128) -> prost::bytes::Bytes {
    key.as_bytes().to_vec().into()
}
