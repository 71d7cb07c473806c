//! Records for the store tests: every field filled, every optional one present, numbers that are hard to write in
//! decimal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lorawan_fuota::firmware::KeyKind;
use lorawan_fuota::lorawan::PackageVersion;
use lorawan_fuota::lorawan::class_b::PingSlotPeriodicity;
use lorawan_fuota::lorawan::identifiers::{DevAddr, DevEui, GatewayEui, JoinEui};
use lorawan_fuota::lorawan::keys::{Key128, KeyDerivation};
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::record::*;
use lorawan_fuota::time::Timestamp;

pub(crate) fn tenant() -> TenantId {
    TenantId::default()
}

pub(crate) fn other_tenant() -> TenantId {
    TenantId("other".to_owned())
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(1_790_000_000_000_001 + seconds * 1_000_000)
}

/// No run of bytes that another record could hold by chance.
pub(crate) fn key(byte: u8) -> Key128 {
    Key128::from_bytes(std::array::from_fn(|n| {
        let n = u8::try_from(n).unwrap();
        byte.wrapping_add(n.wrapping_mul(n).wrapping_mul(37))
    }))
}

pub(crate) fn eui(n: u64) -> DevEui {
    DevEui(0xa0b3_d57e_d000_0000 + n)
}

pub(crate) fn gateway_eui(n: u64) -> GatewayEui {
    GatewayEui(0xf000_0000_0000_0000 + n)
}

pub(crate) fn task_id(text: &str) -> TaskId {
    TaskId(text.to_owned())
}

pub(crate) fn session_id(task: &str, number: u16) -> SessionId {
    SessionId {
        task: task_id(task),
        number,
    }
}

pub(crate) fn profile(tenant: &TenantId, id: &str) -> DeviceProfile {
    let package = |version, f_port| Some(Package { version, f_port });
    DeviceProfile {
        tenant: tenant.clone(),
        id: id.to_owned(),
        display_name: "Wasserzähler \"M\" 水 \u{0}\n".to_owned(),
        lorawan_version: LorawanVersion::V1_0_4,
        region: Region::Eu868,
        supports_class_b: true,
        supports_class_c: true,
        always_class_c: true,
        packages: Packages {
            clock_sync: package(PackageVersion::V1, 202),
            multicast_setup: package(PackageVersion::V2, 200),
            fragmentation: package(PackageVersion::V2, 201),
            firmware_management: package(PackageVersion::V1, 203),
        },
        limits: DecoderLimits {
            max_nb_frag: 16_383,
            max_frag_size: 239,
            max_lost: Some(800),
            max_groups: 4,
            max_frag_sessions: 3,
            reed_solomon: true,
            keeps_blocks: true,
        },
        status_interpretation: StatusInterpretation::LoraBasicsModem,
        uplink_interval: Duration::new(3600, 123_456_789),
        after_reboot: AfterReboot {
            rejoins: true,
            f_cnt_reset: FCntReset::AllowAfterReboot,
            loses_groups: true,
        },
        version_source: VersionSource::UplinkField(UplinkField {
            f_port: 7,
            offset: 3,
            length: 4,
            big_endian: true,
        }),
        created_at: at(-4),
        updated_at: at(-3),
        application_reboot: Some(ApplicationReboot {
            f_port: 9,
            payload: vec![1, 2],
        }),
        components: vec![Component {
            name: "main".to_owned(),
            number: 3,
            max_image_bytes: Some(99_000),
            applies_deltas: true,
            version_field: Some(UplinkField {
                f_port: 8,
                offset: 241,
                length: 2,
                big_endian: false,
            }),
        }],
        descriptor: DescriptorRule::Fixed([4, 3, 2, 1]),
    }
}

pub(crate) fn settings(tenant: &TenantId, n: u64) -> DeviceSettings {
    DeviceSettings {
        tenant: tenant.clone(),
        dev_eui: eui(n),
        profile: "meter".to_owned(),
        display_name: format!("device {n}"),
        model: "m1".to_owned(),
        tags: BTreeMap::from([
            ("site".to_owned(), "north".to_owned()),
            ("it's \"odd\" $.".to_owned(), "50 %_".to_owned()),
        ]),
        created_at: at(-5),
        updated_at: at(-2),
    }
}

pub(crate) fn status() -> DeviceStatus {
    let version = |version| ComponentVersion {
        version,
        at: at(7),
        since: at(6),
        evidence: VersionEvidence::User,
    };
    DeviceStatus {
        last_seen: Some(at(10)),
        links: BTreeMap::from([(
            gateway_eui(1),
            Link {
                rssi_dbm: -120,
                snr_db: -7.3,
                at: at(9),
            },
        )]),
        versions: BTreeMap::from([
            ("main".to_owned(), version(u32::MAX)),
            ("radio".to_owned(), version(2)),
        ]),
        capabilities: BTreeMap::from([(
            3,
            Capability {
                version: 2,
                at: at(8),
            },
        )]),
        next_session_cnt: [1, 2, 3, u16::MAX],
        mc_slots: [
            None,
            Some(McSlot {
                session: session_id("t1", 0),
                group: Some("g1".to_owned()),
                confirmed: true,
                leftover: true,
                kept: true,
            }),
            None,
            None,
        ],
        frag_slots: [
            Some(FragSlot {
                task: task_id("t1"),
                confirmed: true,
                leftover: true,
            }),
            None,
            None,
            None,
        ],
        loss_permille: Some(77),
        reboot_expected: true,
        security_counters: BTreeMap::from([("main".to_owned(), 7)]),
        version_history: vec![VersionChange {
            component: "main".to_owned(),
            version: u32::MAX,
            since: at(6),
            evidence: VersionEvidence::User,
        }],
    }
}

pub(crate) fn root_keys(n: u64) -> DeviceKeys {
    DeviceKeys {
        dev_eui: eui(n),
        multicast: MulticastKeys::Root {
            key: key(0x11),
            derivation: KeyDerivation::GenAppKey,
        },
    }
}

pub(crate) fn derived_keys(n: u64) -> DeviceKeys {
    DeviceKeys {
        dev_eui: eui(n),
        multicast: MulticastKeys::Derived {
            mc_root_key: key(0x22),
            data_block_int_key: key(0x33),
        },
    }
}

pub(crate) fn join() -> JoinState {
    JoinState {
        join_eui: JoinEui(0x0102_0304_0506_0708),
        app_key: key(0x44),
        next_join_nonce: 0x00ff_ffff,
        dev_nonces: [0, 1, u16::MAX].into(),
        last_dev_nonce: Some(7),
    }
}

pub(crate) fn session(next_f_cnt_down: u32) -> Session {
    Session {
        dev_addr: DevAddr(0x2601_0a0b),
        nwk_s_key: key(0x55),
        app_s_key: key(0x66),
        f_cnt_up: Some(u32::MAX),
        next_f_cnt_down,
        rx1_delay_s: 5,
        rx1_dr_offset: 2,
        rx2_dr: 3,
        rx2_frequency_hz: 869_525_000,
        activated_at: at(-1),
        imported: true,
    }
}

pub(crate) fn gateway(n: u64) -> GatewaySettings {
    GatewaySettings {
        eui: gateway_eui(n),
        region: Region::Eu868,
        display_name: "roof".to_owned(),
        position: Some(Position {
            latitude: 52.520_006_599_999_995,
            longitude: -13.404_953_999_999_999,
            altitude_m: 34.1,
        }),
        antenna_gain_dbi: 2.15,
        cable_loss_db: 0.3,
        max_eirp_dbm: Some(27.1),
        gps: true,
        beaconing: true,
        lead_time: Duration::from_millis(1500),
        air_share_permille: 500,
        created_at: at(-9),
        tags: BTreeMap::from([("site".to_owned(), "roof".to_owned())]),
        updated_at: at(-8),
    }
}

pub(crate) fn gateway_status() -> GatewayStatus {
    GatewayStatus {
        last_seen: Some(at(11)),
        counters: GatewayCounters {
            received: u64::MAX,
            handed_over: 2,
            queued: 3,
            sent: 4,
            refused: BTreeMap::from([("TOO_LATE".to_owned(), 5)]),
            unknown: 6,
            malformed: 7,
            airtime_us: 8,
        },
        clock: Some(ClockReading {
            ahead_us: -9,
            at: at(12),
        }),
    }
}

pub(crate) fn ledger(n: u64, sub_band: u8) -> AirLedger {
    AirLedger {
        gateway: gateway_eui(n),
        sub_band,
        minutes: BTreeMap::from([(-1, 7), (29_833_333, u64::MAX)]),
    }
}

pub(crate) fn group(tenant: &TenantId, id: &str) -> MulticastGroup {
    MulticastGroup {
        tenant: tenant.clone(),
        id: id.to_owned(),
        display_name: "hall 3".to_owned(),
        region: Region::Us915,
        class: DeviceClass::C,
        data_rate: Some(13),
        frequency_hz: Some(923_300_000),
        devices: [eui(1), eui(2)].into(),
        created_at: at(1),
        tags: BTreeMap::from([("hall".to_owned(), "3".to_owned())]),
        updated_at: at(2),
    }
}

pub(crate) fn sha(byte: u8) -> Sha256 {
    Sha256([byte; 32])
}

pub(crate) fn image(tenant: &TenantId, byte: u8) -> (Image, Arc<[u8]>) {
    let bytes: Vec<u8> = (0..=255).cycle().take(20_000).collect();
    let image = Image {
        tenant: tenant.clone(),
        sha256: sha(byte),
        size_bytes: 20_000,
        container: ImageContainer::Mcuboot,
        file_name: "app.bin".to_owned(),
        model: "m1".to_owned(),
        component: "main".to_owned(),
        target_version: 0x0102_0003,
        version_text: "1.2.3".to_owned(),
        annotations: BTreeMap::from([("build".to_owned(), "7".to_owned())]),
        created_at: at(2),
        facts: ImageFacts {
            version: "1.2.3+4".parse().ok(),
            signature: Some(ImageSignature {
                key: sha(5),
                detached: true,
            }),
            security_counter: Some(4),
            source_versions: [1, u32::MAX].into(),
            md5: "d41d8cd98f00b204e9800998ecf8427e".to_owned(),
            delta: None,
        },
        release: Release {
            state: ReleaseState::Active,
            allowed_devices: [eui(1)].into(),
            restricted: true,
            notes: "two\nlines".to_owned(),
            changed_at: at(3),
        },
    };
    (image, bytes.into())
}

pub(crate) fn delta(tenant: &TenantId, byte: u8) -> (Image, Arc<[u8]>) {
    let (mut image, bytes) = image(tenant, byte);
    image.container = ImageContainer::Delta;
    image.facts.delta = Some(Delta {
        base: sha(8),
        base_version: 1,
        target: sha(1),
        target_size_bytes: 20_000,
    });
    (image, bytes)
}

pub(crate) fn put_delta(tenant: &TenantId, byte: u8) -> Change {
    let (image, bytes) = delta(tenant, byte);
    Change::PutImage(image, bytes)
}

pub(crate) fn trusted_key(tenant: &TenantId, byte: u8) -> TrustedKey {
    TrustedKey {
        tenant: tenant.clone(),
        id: sha(byte),
        display_name: "release".to_owned(),
        kind: KeyKind::EcdsaP256,
        der: vec![0, 255, byte],
        model: "m1".to_owned(),
        created_at: at(1),
        retired_at: Some(at(2)),
    }
}

pub(crate) fn policy(tenant: &TenantId, model: &str) -> ImagePolicy {
    ImagePolicy {
        tenant: tenant.clone(),
        model: model.to_owned(),
        allow_unsigned: true,
        embedded_only: true,
        created_at: at(1),
        updated_at: at(2),
    }
}

pub(crate) fn rollout(tenant: &TenantId, id: &str) -> Rollout {
    let template = Task {
        images: vec![],
        install: InstallMode::InTurn,
        seed: None,
        ..task(tenant, "", TaskState::Draft)
    };
    Rollout {
        tenant: tenant.clone(),
        id: id.to_owned(),
        order: RolloutOrder {
            display_name: "nightly".to_owned(),
            selector: RolloutSelector {
                model: "m1".to_owned(),
                component: "main".to_owned(),
                profile: Some("meter".to_owned()),
                group: Some("g1".to_owned()),
                tags: BTreeMap::from([("site".to_owned(), "north".to_owned())]),
                from_versions: [1, u32::MAX].into(),
                include_unknown: true,
            },
            image: Some(sha(1)),
            template: Box::new(template),
            schedule: RolloutSchedule {
                not_before: Some(at(3)),
                repeat_interval: Some(Duration::from_secs(86_400)),
                start_within: Some(Duration::from_secs(60)),
                min_devices: 2,
                max_wait: Some(Duration::from_secs(61)),
            },
            validation: RolloutValidation {
                test_devices: [eui(1)].into(),
                required_percent: 50,
            },
            max_failures: 3,
            retry_after: Duration::from_secs(62),
        },
        switch: RolloutSwitch::Enabled,
        next_number: 7,
        tasks: vec![RolloutTask {
            task: task_id("nightly-6"),
            image: sha(1),
            purpose: RolloutPurpose::Validation,
            created_at: at(4),
            started: true,
            ended: Some(RolloutTaskEnd {
                at: at(5),
                succeeded: 1,
                failed: 2,
            }),
        }],
        last_start: Some(at(6)),
        gathering_since: Some(at(7)),
        tries_of: Some(sha(1)),
        tries: BTreeMap::from([(
            eui(2),
            DeviceTries {
                count: 1,
                succeeded: true,
                at: at(8),
            },
        )]),
        validated: Some(sha(1)),
        not_validated: Some(sha(2)),
        refused: Some(RefusedStart {
            why: "unsigned".to_owned(),
            times: 2,
            retry_at: at(9),
        }),
        status: RolloutStatus {
            state: RolloutState::Blocked,
            message: "unsigned".to_owned(),
            counts: RolloutCounts {
                up_to_date: 1,
                behind: 2,
                in_task: 3,
                failed: 4,
                unknown: 5,
                left_alone: 6,
            },
            image: Some(sha(1)),
            next_start: Some(at(10)),
        },
        created_at: at(1),
        updated_at: at(2),
    }
}

pub(crate) fn put_image(tenant: &TenantId, byte: u8) -> Change {
    let (image, bytes) = image(tenant, byte);
    Change::PutImage(image, bytes)
}

pub(crate) fn task(tenant: &TenantId, id: &str, state: TaskState) -> Task {
    Task {
        tenant: tenant.clone(),
        id: task_id(id),
        display_name: "spring".to_owned(),
        images: vec![sha(1)],
        install: InstallMode::InTurn,
        deltas: vec![sha(9)],
        groups: vec!["g1".to_owned()],
        success: SuccessCriterion::Running,
        reboot: RebootMode::Countdown {
            after: Duration::from_secs(60),
        },
        prepare_after: Some(at(20)),
        window_start: Some(at(30)),
        deadline: Some(at(40)),
        options: TaskOptions {
            data_rate: Some(5),
            frequency_hz: Some(869_525_000),
            frag_size: Some(200),
            max_redundancy_percent: 150,
            frag_algo: FragAlgo::ReedSolomon,
            descriptor: Some([1, 2, 3, 4]),
            block_ack_delay: Some(7),
            max_attempts: 3,
            cleanup_within: Duration::from_secs(99),
            class: Some(DeviceClass::B),
            ping_slots: PingSlotPeriodicity::try_from(3).ok(),
            keep_groups: true,
            allow_downgrade: true,
            skip_unfit: true,
            no_deltas: true,
        },
        state,
        reason: Some(TaskReason::DeadlinePassed),
        reason_text: "too late".to_owned(),
        sequence: 1 << 60,
        counters: TaskCounters {
            uncoded_frames: 1,
            coded_frames: 2,
            poll_frames: 3,
            unicast_frames: 4,
            refused_frames: 5,
            airtime_us: 6,
            multicast_airtime_us: 7,
            undecodable_uplinks: 8,
        },
        created_at: at(3),
        started_at: Some(at(4)),
        ended_at: Some(at(5)),
        seed: Some(key(0x77)),
        tags: BTreeMap::from([("season".to_owned(), "spring".to_owned())]),
        updated_at: at(6),
        expected_end: Some(at(39)),
        retry_of: Some(TaskId("before".to_owned())),
        rules: Box::new(TaskRules {
            retry: RetryPolicy {
                max_retries: 2,
                pause: Duration::from_secs(9),
                reasons: [DeviceReason::MicError].into(),
            },
            calendar: Calendar {
                utc_offset_minutes: -60,
                weekly: vec![WeeklyWindow {
                    days: 3,
                    from_minute: 1,
                    to_minute: 2,
                }],
                blackouts: vec![Blackout {
                    from: at(1),
                    to: at(2),
                }],
            },
            tags_on_success: [("a".to_owned(), "b".to_owned())].into(),
        }),
        waiting: Some(Box::new(Waiting {
            place: 3,
            groups: vec![],
        })),
        waves: WavePolicy {
            canary: vec![DevEui(3)],
            cumulative_percent: vec![5, 50],
            approval: Approval::AfterFirst,
            pause_between: Duration::from_secs(60),
        },
        thresholds: Thresholds {
            max_failed_percent: Some(7),
            min_ended: 10,
            max_failed_count: Some(3),
            min_succeeded_percent: Some(90),
            action: ThresholdAction::Abort,
        },
        failures_accepted: FailuresAccepted {
            ended: 4,
            failed: 1,
            wave: Some(0),
        },
        held: Some(Held {
            from: TaskState::Distributing,
            since: at(38),
        }),
        resumed_at: Some(at(37)),
    }
}

pub(crate) fn task_device(task: &str, n: u64, state: DeviceState, sequence: u64) -> TaskDevice {
    TaskDevice {
        task: task_id(task),
        dev_eui: eui(n),
        state,
        reason: Some(DeviceReason::MicError),
        evidence: "FragSessionStatusAns".to_owned(),
        session: Some(0),
        setup: SetupStage {
            group: true,
            window: Some(2),
            fragmentation: true,
            resync: true,
            late_start: Some(Timestamp::from_unix_seconds(1_800_000_077)),
            settles_at: Some(Timestamp::from_unix_seconds(1_800_000_078)),
            missed_before: 17,
            counted: true,
        },
        tries: 1,
        attempts: 9,
        commands_answered: 5,
        fragments: Some(FragmentReport {
            received: 100,
            missing: 255,
            deficit: 12,
            fragments_sent: 140,
            at: at(50),
        }),
        session_cnt: 4,
        version_before: Some(1),
        frag_cleanup: CleanupState::Left,
        group_cleanup: CleanupState::Confirmed,
        reboot_at: Some(at(51)),
        reboots_unanswered: 2,
        entered: BTreeMap::from([(DeviceState::Pending, at(45)), (state, at(46))]),
        sequence,
        group: Some("g1".to_owned()),
        changed_at: at(52),
        unicast: Some(UnicastFragments {
            uncoded_sent: 100,
            coded_sent: 3,
            coded_target: 9,
        }),
        retries: 1,
        retry_at: Some(at(8)),
        retried_at: Some(at(7)),
        whole: true,
        images: Some(Box::new(ImageCourse {
            ahead: vec![ImageAhead {
                image: 3,
                session: 7,
                version_before: Some(2),
            }],
            done: vec![ImageDone {
                image: 1,
                session: 2,
                version_before: None,
                at: at(53),
            }],
            frag_sessions: [(1, CleanupState::Confirmed), (3, CleanupState::Left)].into(),
            waits_since: Some(at(54)),
            managed: true,
            discard: [(0x0102_0304, CleanupState::Confirmed)].into(),
        })),
    }
}

pub(crate) fn wave(task: &str, number: u16) -> Wave {
    Wave {
        task: task_id(task),
        number,
        devices: vec![eui(2), eui(1)],
        started_at: Some(at(12)),
        ended_at: Some(at(13)),
    }
}

pub(crate) fn distribution(task: &str, number: u16) -> DistributionSession {
    DistributionSession {
        id: session_id(task, number),
        wave: 1,
        phase: SessionPhase::Polling {
            kind: PollKind::Individual,
            until: at(60),
        },
        region: Region::Eu868,
        class: DeviceClass::B,
        data_rate: 3,
        frequency_hz: 869_525_000,
        gateways: vec![gateway_eui(1)],
        mc_group_id: 1,
        multicast_version: PackageVersion::V2,
        frag_port: 201,
        block: BlockParameters {
            version: PackageVersion::V2,
            frag_algo: FragAlgo::ReedSolomon,
            frag_index: 1,
            nb_frag: 100,
            frag_size: 200,
            padding: 17,
            descriptor: [4, 3, 2, 1],
            block_ack_delay: 4,
        },
        window: SessionWindow {
            number: 2,
            start: at(55),
            closes_at: Some(at(9)),
            time_out: 12,
            class: DeviceClass::B,
        },
        uncoded_sent: 100,
        coded_sent: 40,
        coded_target: 50,
        resend: Some(139),
        round: 3,
        roll_calls: 1,
        rounds: vec![StatusRound {
            number: 1,
            at: at(59),
            coded_sent: 30,
            answers: 4,
            deficit_max: 9,
        }],
        airtime_us: BTreeMap::from([(gateway_eui(1), 77)]),
        ping_slots: PingSlotPeriodicity::try_from(7).ok(),
        turns: BTreeMap::from([(gateway_eui(1), 3)]),
        group_use: GroupUse {
            given: 7,
            spoiled: true,
            reused: Some(ReusedGroup {
                from: session_id("t0", 2),
                first_mc_f_cnt: 1234,
            }),
        },
        delta: Some(sha(9)),
        image: 2,
        follows: Some(1),
    }
}

pub(crate) fn mc_group(task: &str, number: u16) -> McGroup {
    McGroup {
        session: session_id(task, number),
        mc_addr: DevAddr(0xfe01_0203),
        mc_key: key(0x88),
        next_mc_f_cnt: 65_000,
        region: Region::Eu868,
        class: DeviceClass::B,
        frequency_hz: 869_525_000,
        data_rate: 3,
        gateways: vec![gateway_eui(1), gateway_eui(2)],
        ping_slots: PingSlotPeriodicity::try_from(2).ok(),
        turns: BTreeMap::from([(gateway_eui(2), 1)]),
        kept: Some(KeptGroup {
            mc_group_id: 3,
            holders: 9,
        }),
    }
}

pub(crate) fn request(tenant: &TenantId, id: &str, at: Timestamp) -> RequestRecord {
    RequestRecord {
        tenant: tenant.clone(),
        request_id: id.to_owned(),
        method: "/fuota.v1.Tasks/StartTask".to_owned(),
        fingerprint: sha(0xab),
        response: vec![0, 255, 1],
        at,
    }
}

/// Two devices, two gateways and one active task with everything that can belong to them, in an order every store
/// takes.
pub(crate) fn network() -> Vec<Change> {
    vec![
        Change::PutDeviceProfile(profile(&tenant(), "meter")),
        Change::PutDeviceSettings(settings(&tenant(), 1)),
        Change::PutDeviceSettings(settings(&tenant(), 2)),
        Change::PutDeviceStatus(eui(1), status().into()),
        Change::PutDeviceKeys(root_keys(1)),
        Change::PutDeviceKeys(derived_keys(2)),
        Change::PutJoinState(eui(1), join()),
        Change::PutSession(eui(1), session(0x8000_0000)),
        Change::PutSession(eui(2), session(1)),
        Change::PutGatewaySettings(gateway(1)),
        Change::PutGatewaySettings(gateway(2)),
        Change::PutGatewayStatus(gateway_eui(1), gateway_status()),
        Change::PutAirLedger(ledger(1, 0)),
        Change::PutAirLedger(ledger(1, 10)),
        Change::PutMulticastGroup(group(&tenant(), "g1")),
        put_image(&tenant(), 1),
        put_delta(&tenant(), 9),
        Change::PutTrustedKey(trusted_key(&tenant(), 5)),
        Change::PutImagePolicy(policy(&tenant(), "m1")),
        Change::PutTask(task(&tenant(), "t1", TaskState::Distributing).into()),
        Change::PutTaskDevice(task_device("t1", 1, DeviceState::Receiving, 8).into()),
        Change::PutTaskDevice(task_device("t1", 2, DeviceState::Failed, 7).into()),
        Change::PutWave(wave("t1", 0)),
        Change::PutDistributionSession(distribution("t1", 0)),
        Change::PutMcGroup(mc_group("t1", 0)),
        Change::PutRequest(request(&tenant(), "r1", at(0))),
    ]
}

/// What [`network`] is restored as.
pub(crate) fn network_snapshot() -> Snapshot {
    let device = |n, status| Device {
        settings: settings(&tenant(), n),
        status,
    };
    Snapshot {
        profiles: vec![profile(&tenant(), "meter")],
        devices: vec![device(1, status()), device(2, DeviceStatus::default())],
        keys: vec![root_keys(1), derived_keys(2)],
        joins: vec![(eui(1), join())],
        sessions: vec![(eui(1), session(0x8000_0000)), (eui(2), session(1))],
        gateways: vec![
            Gateway {
                settings: gateway(1),
                status: gateway_status(),
            },
            Gateway {
                settings: gateway(2),
                status: GatewayStatus::default(),
            },
        ],
        ledgers: vec![ledger(1, 0), ledger(1, 10)],
        mc_groups: vec![mc_group("t1", 0)],
        tasks: vec![TaskSnapshot {
            task: task(&tenant(), "t1", TaskState::Distributing),
            images: vec![image(&tenant(), 1)],
            deltas: vec![delta(&tenant(), 9)],
            devices: vec![
                task_device("t1", 1, DeviceState::Receiving, 8),
                task_device("t1", 2, DeviceState::Failed, 7),
            ],
            waves: vec![wave("t1", 0)],
            sessions: vec![distribution("t1", 0)],
        }],
    }
}
