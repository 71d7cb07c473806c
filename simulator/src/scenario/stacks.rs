//! Stacks of a scenario: the public ones by name, and stacks of the writer's own (`[stack.NAME]`), which start from a
//! public one and change quirks by their names.

use std::collections::BTreeMap;
use std::time::Duration;

use lorawan_fuota::lorawan::PackageVersion;
use lorawan_fuota::record::StatusInterpretation;

use crate::device::{
    AbsentStatus, AnswerRoom, BadParameters, BeforeData, ClassB, Decoders, GroupStatus, LateStart,
    Missing, Overflow, Packages, Received, StackProfile, StackQuirks, Unreadable,
};

use super::kinds::{identifier, time, whole, word, yes};
use super::reading::{Fields, File};

/// A stack that devices run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stack {
    /// The public stack it is, or starts from.
    pub based_on: StackProfile,
    /// The packages it has.
    pub packages: Packages,
    /// How they behave.
    pub quirks: StackQuirks,
    /// How the operator tells the server to read its status answers.
    pub status_interpretation: StatusInterpretation,
    /// It takes the time of `DeviceTimeAns`.
    pub time_from_mac: bool,
}

impl Stack {
    /// A public stack.
    pub fn public(profile: StackProfile) -> Self {
        Self {
            based_on: profile,
            packages: profile.packages(),
            quirks: profile.quirks(),
            status_interpretation: match profile {
                StackProfile::SpecV1 | StackProfile::SpecV2 => StatusInterpretation::Spec,
                StackProfile::LoramacNode => StatusInterpretation::LoramacNode,
                StackProfile::BasicsModemV1 | StackProfile::BasicsModemV2 => {
                    StatusInterpretation::LoraBasicsModem
                }
                StackProfile::Zephyr => StatusInterpretation::Zephyr,
            },
            time_from_mac: profile.takes_time_from_mac(),
        }
    }
}

/// Reads the stacks of the file: all names that groups may use.
pub(super) fn read(file: &File<'_>, root: &mut Fields<'_>) -> BTreeMap<String, Stack> {
    let public = StackProfile::ALL.map(|stack| (stack.name().to_owned(), Stack::public(stack)));
    let mut stacks = BTreeMap::from(public);
    for (name, mut table) in root.named_tables("stack") {
        let taken = StackProfile::from_name(&name.value).is_some();
        let named = toml::de::DeValue::String(name.value.as_str().into());
        if let Err(allowed) = identifier(&named) {
            file.wrong(
                &name.span,
                "stack",
                format!("{:?} is no name: {allowed}", name.value),
            );
        } else if taken {
            file.wrong(
                &name.span,
                "stack",
                format!("{:?} is a public stack; take another name", name.value),
            );
        }
        let words = StackProfile::ALL.map(|stack| (stack.name(), stack));
        let based_on = table.needed("based_on", word(&words));
        let mut stack = Stack::public(based_on.unwrap_or(StackProfile::SpecV2));
        stack.time_from_mac = table.or("time_from_mac", yes, stack.time_from_mac);
        let reading = [
            ("spec", StatusInterpretation::Spec),
            ("loramac-node", StatusInterpretation::LoramacNode),
            ("basics-modem", StatusInterpretation::LoraBasicsModem),
            ("zephyr", StatusInterpretation::Zephyr),
        ];
        let read_as = table.get("status_read_as", word(&reading));
        stack.status_interpretation = read_as.unwrap_or(stack.status_interpretation);
        packages(&mut table, &mut stack.packages);
        status(&mut table, &mut stack.quirks);
        sessions(&mut table, &mut stack.quirks);
        multicast(&mut table, &mut stack.quirks);
        clock(&mut table, &mut stack.quirks);
        answers(&mut table, &mut stack.quirks);
        table.finish();
        stacks.insert(name.value, stack);
    }
    stacks
}

/// Reads versions of packages over those of the stack.
pub(super) fn packages(outer: &mut Fields<'_>, packages: &mut Packages) {
    let mut table = outer.table("packages");
    let version = |table: &mut Fields<'_>, name: &str, now: Option<PackageVersion>| match table
        .get(name, whole(0..=2_u8))
    {
        Some(0) => None,
        Some(1) => Some(PackageVersion::V1),
        Some(_) => Some(PackageVersion::V2),
        None => now,
    };
    packages.clock_sync = version(&mut table, "clock_sync", packages.clock_sync);
    packages.multicast_setup = version(&mut table, "multicast_setup", packages.multicast_setup);
    packages.fragmentation = version(&mut table, "fragmentation", packages.fragmentation);
    packages.firmware_management =
        table.or("firmware_management", yes, packages.firmware_management);
    table.finish();
}

/// Takes a value over, if the file has one.
fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn status(outer: &mut Fields<'_>, quirks: &mut StackQuirks) {
    let (mut table, quirks) = (outer.table("status"), &mut quirks.status);
    let received = [
        ("fragments", Received::Fragments),
        (
            "fragments-for-any-session",
            Received::FragmentsForAnySession,
        ),
        ("last-counter", Received::LastCounter),
        ("last-counter-less-lost", Received::LastCounterLessLost),
    ];
    set(&mut quirks.received, table.get("received", word(&received)));
    let missing = [
        ("independent", Missing::Independent),
        ("uncoded", Missing::Uncoded),
        ("lost-so-far", Missing::LostSoFar),
        ("independent-or-one", Missing::IndependentOrOne),
        ("less-received", Missing::LessReceived),
    ];
    set(&mut quirks.missing, table.get("missing", word(&missing)));
    let before = [("counts", BeforeData::Counts), ("zeros", BeforeData::Zeros)];
    set(
        &mut quirks.before_data,
        table.get("before_data", word(&before)),
    );
    let overflow = [
        ("saturates", Overflow::Saturates),
        ("wraps", Overflow::Wraps),
    ];
    set(&mut quirks.overflow, table.get("overflow", word(&overflow)));
    let absent = [
        ("zeros", AbsentStatus::Zeros),
        ("one-byte", AbsentStatus::OneByte),
        ("decoder-counts", AbsentStatus::DecoderCounts),
    ];
    set(&mut quirks.absent, table.get("absent", word(&absent)));
    set(&mut quirks.stale_received, table.get("stale_received", yes));
    let without_block = table.get("mic_error_without_block", yes);
    set(&mut quirks.mic_error_without_block, without_block);
    table.finish();
}

fn sessions(outer: &mut Fields<'_>, quirks: &mut StackQuirks) {
    let (mut table, quirks) = (outer.table("sessions"), &mut quirks.sessions);
    let decoders = [
        ("per-index", Decoders::PerIndex),
        ("shared", Decoders::Shared),
        ("one", Decoders::One),
    ];
    set(&mut quirks.decoders, table.get("decoders", word(&decoders)));
    set(&mut quirks.checks_mask, table.get("checks_mask", yes));
    set(
        &mut quirks.commands_by_multicast,
        table.get("commands_by_multicast", yes),
    );
    set(
        &mut quirks.closes_when_complete,
        table.get("closes_when_complete", yes),
    );
    set(
        &mut quirks.memory_error_stays,
        table.get("memory_error_stays", yes),
    );
    set(
        &mut quirks.memory_error_completes,
        table.get("memory_error_completes", yes),
    );
    set(
        &mut quirks.forgets_session_cnt,
        table.get("forgets_session_cnt", yes),
    );
    let sends = table.get("block_received_sends", whole(0..=20_u8));
    set(&mut quirks.block_received_sends, sends);
    let once_more = table.get("block_received_sent_once_more", yes);
    set(&mut quirks.block_received_sent_once_more, once_more);
    table.finish();
}

fn multicast(outer: &mut Fields<'_>, quirks: &mut StackQuirks) {
    let (mut table, quirks) = (outer.table("multicast"), &mut quirks.multicast);
    let group_status = [
        ("answered", GroupStatus::Answered { records: 4 }),
        ("mask-is-command", GroupStatus::MaskIsCommand),
        ("loses-answers", GroupStatus::LosesAnswers),
    ];
    set(
        &mut quirks.group_status,
        table.get("group_status", word(&group_status)),
    );
    if let Some(records) = table.get("group_status_records", whole(0..=4_u8)) {
        match &mut quirks.group_status {
            GroupStatus::Answered { records: most } => *most = records.into(),
            _ => table.wrong(
                "group_status_records",
                "only where `group_status` is \"answered\"",
            ),
        }
    }
    let late = [
        ("accepted", LateStart::Accepted),
        ("start-missed", LateStart::StartMissed),
        ("group-undefined", LateStart::GroupUndefined),
    ];
    set(&mut quirks.late_start, table.get("late_start", word(&late)));
    set(&mut quirks.now_is_late, table.get("now_is_late", yes));
    set(
        &mut quirks.undefined_sets_all,
        table.get("undefined_sets_all", yes),
    );
    let bad = [
        ("flags", BadParameters::Flags),
        ("bare-cid", BadParameters::BareCid),
    ];
    set(
        &mut quirks.bad_parameters,
        table.get("bad_parameters", word(&bad)),
    );
    let class_b = [
        ("refused", ClassB::Refused),
        ("accepted", ClassB::Accepted),
        ("runs-as-class-c", ClassB::RunsAsClassC),
        ("loses-answers", ClassB::LosesAnswers),
    ];
    set(&mut quirks.class_b, table.get("class_b", word(&class_b)));
    let once_set = table.get("starts_once_clock_is_set", yes);
    set(&mut quirks.starts_once_clock_is_set, once_set);
    let at_request = table.get("time_to_start_at_request", yes);
    set(&mut quirks.time_to_start_at_request, at_request);
    set(
        &mut quirks.one_session_timer,
        table.get("one_session_timer", yes),
    );
    set(
        &mut quirks.commands_by_multicast,
        table.get("commands_by_multicast", yes),
    );
    table.finish();
}

fn clock(outer: &mut Fields<'_>, quirks: &mut StackQuirks) {
    let (mut table, quirks) = (outer.table("clock"), &mut quirks.clock);
    set(
        &mut quirks.has_periodicity,
        table.get("has_periodicity", yes),
    );
    set(
        &mut quirks.sets_ans_required,
        table.get("sets_ans_required", yes),
    );
    set(&mut quirks.send_delay, table.get("send_delay", time));
    set(
        &mut quirks.resync_spacing,
        table.get("resync_spacing", time),
    );
    set(&mut quirks.asks_until_set, table.get("asks_until_set", yes));
    table.finish();
}

fn answers(outer: &mut Fields<'_>, quirks: &mut StackQuirks) {
    let (mut table, quirks) = (outer.table("answers"), &mut quirks.answers);
    let unreadable = [
        ("ends-reading", Unreadable::EndsReading),
        ("loses-answers", Unreadable::LosesAnswers),
        ("skips-byte", Unreadable::SkipsByte),
    ];
    set(
        &mut quirks.unreadable,
        table.get("unreadable", word(&unreadable)),
    );
    let bytes = table.get("room_bytes", whole(5..=242_usize));
    let firmware = table.get("room_bytes_firmware", whole(5..=242_usize));
    let most = table.get("room_answers", whole(1..=48_usize));
    let given = [bytes.is_some(), most.is_some()];
    if given == [true, true] {
        table.wrong("room_answers", "`room_bytes` is given too: one of them");
    }
    if firmware.is_some() && bytes.is_none() {
        table.wrong(
            "room_bytes_firmware",
            "needs `room_bytes`, for the other packages",
        );
    }
    if let Some(other) = bytes {
        let firmware = firmware.unwrap_or(other);
        quirks.room = AnswerRoom::Bytes { other, firmware };
    }
    if let Some(most) = most {
        quirks.room = AnswerRoom::Answers(most);
    }
    set(
        &mut quirks.status_delays_all,
        table.get("status_delays_all", yes),
    );
    set(
        &mut quirks.status_is_overwritten,
        table.get("status_is_overwritten", yes),
    );
    delay(
        &mut table,
        "fragmentation_delay",
        &mut quirks.fragmentation_delay,
    );
    delay(&mut table, "multicast_delay", &mut quirks.multicast_delay);
    table.finish();
}

/// Reads the least and the most of a delay.
fn delay(table: &mut Fields<'_>, name: &str, place: &mut (Duration, Duration)) {
    let Some(list) = table.list(name, time) else {
        return;
    };
    match &list[..] {
        [least, most] if least.value <= most.value => *place = (least.value, most.value),
        _ => table.wrong(name, "the least and the most: [\"0 s\", \"3 s\"]"),
    }
}
