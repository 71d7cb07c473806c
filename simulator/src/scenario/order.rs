//! What a scenario distributes, and how: the image (`[image]`) and the task (`[task]`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lorawan_fuota::firmware::{Container, ImageVersion};
use lorawan_fuota::lorawan::class_b::PingSlotPeriodicity;
use lorawan_fuota::lorawan::frame::Direction;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::record::{
    Approval, DeviceClass, DeviceReason, FragAlgo, RetryPolicy, SuccessCriterion, TaskOptions,
    ThresholdAction, Thresholds, WeeklyWindow,
};

use super::groups::{Group, version};
use super::kinds::{bytes, minute, text, time, whole, word, yes};
use super::reading::{Fields, File};
use super::trouble::group;

/// The image of a scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct ImagePlan {
    /// What is in it.
    pub content: ImageContent,
    /// It is signed with the key the devices know.
    pub signed: bool,
    /// Its version.
    pub version: ImageVersion,
}

/// What is in an image.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageContent {
    /// So many random bytes of firmware; header, digest and signature come on top.
    Random(u32),
    /// The whole image, header and all, of so many bytes: the block that devices put together.
    Whole(u32),
    /// The bytes of a file, in a header of their own unless they have one.
    Body(Vec<u8>),
    /// A finished MCUboot image.
    Finished(Vec<u8>),
}

/// The task of a scenario; times are from its start.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskPlan {
    /// Radio and budget choices.
    pub options: TaskOptions,
    /// When a device counts as done.
    pub success: SuccessCriterion,
    /// How devices are brought to reboot.
    pub reboot: RebootPlan,
    /// Set-up does not begin before.
    pub prepare_after: Option<Duration>,
    /// The first window.
    pub window_after: Option<Duration>,
    /// The end.
    pub deadline: Option<Duration>,
    /// Groups in the first wave.
    pub canary: Vec<usize>,
    /// Shares served once each wave is over.
    pub cumulative_percent: Vec<u8>,
    /// Who lets the next wave begin.
    pub approval: Approval,
    /// Between two waves.
    pub pause_between: Duration,
    /// The operator lets a held task go on after so long; never if `None`.
    pub resumed_after: Option<Duration>,
    /// How much may go wrong.
    pub thresholds: Thresholds,
    /// Who is tried again.
    pub retry: RetryPolicy,
    /// Minutes that the calendar is ahead of UTC.
    pub utc_offset_minutes: i16,
    /// Allowed times of the week.
    pub weekly: Vec<WeeklyWindow>,
    /// Never within these.
    pub blackouts: Vec<(Duration, Duration)>,
}

/// How devices are brought to reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebootPlan {
    /// They do it by themselves.
    None,
    /// So long after they are told.
    Countdown(Duration),
    /// All at one moment, from the start of the task.
    At(Duration),
}

/// The largest image a scenario may make.
const IMAGE_MAX: u32 = 2_000_000;
/// Header, digest and signature of an image of ours are less than this.
const IMAGE_FRAME: u32 = 300;

pub(super) fn read_image(file: &File<'_>, root: &mut Fields<'_>, folder: &Path) -> ImagePlan {
    let mut table = root.table("image");
    let size = table.get("size", bytes(1..=IMAGE_MAX));
    let total = table.get("total_size", bytes(IMAGE_FRAME..=IMAGE_MAX));
    let path = table.at("file", text);
    let signed = table.or("signed", yes, true);
    let new = ImageVersion {
        major: 2,
        revision: 1,
        ..ImageVersion::default()
    };
    let wanted = table.get("version", version);
    let given: Vec<&str> = ["size", "total_size", "file"]
        .into_iter()
        .filter(|name| table.has(name))
        .collect();
    if let [first, second, ..] = given[..] {
        table.wrong(second, format!("`{first}` says it already: one of them"));
    }
    let content = match path {
        Some(path) => {
            let full: PathBuf = folder.join(&path.value);
            let read = std::fs::read(&full).unwrap_or_else(|error| {
                file.wrong(
                    &path.span,
                    "image.file",
                    format!("{}: {error}", full.display()),
                );
                Vec::new()
            });
            let too_long = u32::try_from(read.len()).map_or(true, |length| length > IMAGE_MAX);
            if too_long {
                file.wrong(
                    &path.span,
                    "image.file",
                    format!("is longer than {IMAGE_MAX} bytes"),
                );
            }
            match Container::recognise(&read) {
                Ok(Container::Mcuboot(_)) => ImageContent::Finished(read),
                _ => ImageContent::Body(read),
            }
        }
        None => match total {
            Some(total) => ImageContent::Whole(total),
            None => ImageContent::Random(size.unwrap_or(4096)),
        },
    };
    let mut version = wanted.unwrap_or(new);
    if let ImageContent::Finished(image) = &content {
        for name in ["signed", "version"] {
            if table.has(name) {
                table.wrong(name, "the file is a finished image, which says so itself");
            }
        }
        let own = Container::recognise(image)
            .ok()
            .and_then(|image| image.version());
        version = own.unwrap_or(version);
    }
    table.finish();
    ImagePlan {
        content,
        signed,
        version,
    }
}

/// What a task names.
pub(super) struct Named<'a> {
    pub(super) region: Region,
    pub(super) groups: &'a [Group],
}

pub(super) fn read_task(file: &File<'_>, root: &mut Fields<'_>, named: &Named<'_>) -> TaskPlan {
    let mut table = root.table("task");
    let criterion = [
        ("reported-received", SuccessCriterion::ReportedReceived),
        ("verified", SuccessCriterion::Verified),
        ("running", SuccessCriterion::Running),
    ];
    let options = options(file, &mut table, named);
    let success = table.or("success", word(&criterion), SuccessCriterion::Running);
    let prepare_after = table.get("prepare_after", time);
    let window_after = table.get("window_after", time);
    let deadline = table.get("deadline", time);
    for (name, before) in [
        ("prepare_after", prepare_after),
        ("window_after", window_after),
    ] {
        if let (Some(before), Some(deadline)) = (before, deadline)
            && before >= deadline
        {
            table.wrong(name, "is to be before `deadline`");
        }
    }
    let reboot = reboot(&mut table);
    let resumed_after = table.get("resumed_after", time);
    let (canary, cumulative_percent, approval, pause_between) = waves(file, &mut table, named);
    let thresholds = thresholds(&mut table);
    let retry = retry(&mut table);
    let (utc_offset_minutes, weekly, blackouts) = calendar(&mut table);
    table.finish();
    TaskPlan {
        options,
        success,
        reboot,
        prepare_after,
        window_after,
        deadline,
        canary,
        cumulative_percent,
        approval,
        pause_between,
        resumed_after,
        thresholds,
        retry,
        utc_offset_minutes,
        weekly,
        blackouts,
    }
}

fn options(file: &File<'_>, table: &mut Fields<'_>, named: &Named<'_>) -> TaskOptions {
    let default = TaskOptions::default();
    let data_rate = table.at("data_rate", whole(0..=15_u8));
    let rate_of = |dr: u8| named.region.data_rate(dr, Direction::Downlink);
    if let Some(rate) = data_rate
        .as_ref()
        .filter(|rate| rate_of(rate.value).is_none())
    {
        let all: Vec<String> = (0..=15)
            .filter(|dr| rate_of(*dr).is_some())
            .map(|dr| dr.to_string())
            .collect();
        let message = format!(
            "{} has no downlink data rate {}; it has {}",
            named.region,
            rate.value,
            all.join(", ")
        );
        file.wrong(&rate.span, "task.data_rate", message);
    }
    let classes = [
        ("A", DeviceClass::A),
        ("B", DeviceClass::B),
        ("C", DeviceClass::C),
    ];
    let codes = [
        ("ts004", FragAlgo::Ts004),
        ("reed-solomon", FragAlgo::ReedSolomon),
    ];
    let class = table.at("class", word(&classes));
    let ping_slots = table.get("ping_slot_periodicity", whole(0..=7_u8));
    if ping_slots.is_some()
        && class
            .as_ref()
            .is_none_or(|class| class.value != DeviceClass::B)
    {
        table.wrong(
            "ping_slot_periodicity",
            "only sessions of class B have ping slots: write class = \"B\"",
        );
    }
    TaskOptions {
        data_rate: data_rate.map(|rate| rate.value),
        frequency_hz: table.get("frequency_hz", whole(100_000_000..=2_500_000_000_u32)),
        frag_size: table.get("fragment_size", whole(1..=239_u8)),
        max_redundancy_percent: table.or(
            "max_redundancy_percent",
            whole(0..=1000_u16),
            default.max_redundancy_percent,
        ),
        frag_algo: table.or("code", word(&codes), FragAlgo::Ts004),
        descriptor: None,
        block_ack_delay: table.get("block_ack_delay", whole(0..=7_u8)),
        max_attempts: table.or("max_attempts", whole(1..=100_u8), default.max_attempts),
        cleanup_within: table.or("cleanup_within", time, default.cleanup_within),
        class: class.map(|class| class.value),
        ping_slots: ping_slots.and_then(|n| PingSlotPeriodicity::try_from(n).ok()),
        // A scenario has one task; there is none after it that could use them.
        keep_groups: false,
        // Whom the image does not fit shows in the outcome.
        skip_unfit: true,
        ..default
    }
}

fn reboot(table: &mut Fields<'_>) -> RebootPlan {
    #[derive(Clone, Copy)]
    enum Word {
        None,
        Countdown,
        At,
    }
    let words = [
        ("none", Word::None),
        ("countdown", Word::Countdown),
        ("at-time", Word::At),
    ];
    let word = table.or("reboot", word(&words), Word::Countdown);
    let after = table.get("reboot_after", time);
    match (word, after) {
        (Word::None, None) => RebootPlan::None,
        (Word::None, Some(_)) => {
            table.wrong(
                "reboot_after",
                "with reboot = \"none\" nobody is told to reboot",
            );
            RebootPlan::None
        }
        (Word::Countdown, after) => RebootPlan::Countdown(after.unwrap_or(Duration::from_secs(10))),
        (Word::At, Some(after)) => RebootPlan::At(after),
        (Word::At, None) => {
            table.wrong(
                "reboot",
                "reboot = \"at-time\" needs `reboot_after`, from the start of the task",
            );
            RebootPlan::None
        }
    }
}

fn waves(
    file: &File<'_>,
    outer: &mut Fields<'_>,
    named: &Named<'_>,
) -> (Vec<usize>, Vec<u8>, Approval, Duration) {
    let mut table = outer.table("waves");
    let approvals = [
        ("none", Approval::None),
        ("after-first", Approval::AfterFirst),
        ("after-each", Approval::AfterEach),
    ];
    let canary = table.list("canary", text).unwrap_or_default();
    let canary = canary.iter().filter_map(|name| {
        group(
            file,
            "task.waves.canary",
            &name.value,
            &name.span,
            named.groups,
        )
    });
    let canary = canary.collect();
    let percent = table
        .list("cumulative_percent", whole(1..=100_u8))
        .unwrap_or_default();
    let percent: Vec<u8> = percent.into_iter().map(|at| at.value).collect();
    if percent.windows(2).any(|pair| pair[0] >= pair[1]) {
        table.wrong("cumulative_percent", "is to rise: [5, 25, 100]");
    }
    let approval = table.or("approval", word(&approvals), Approval::None);
    let pause = table.or("pause_between", time, Duration::ZERO);
    table.finish();
    (canary, percent, approval, pause)
}

fn thresholds(outer: &mut Fields<'_>) -> Thresholds {
    let mut table = outer.table("thresholds");
    let actions = [
        ("pause", ThresholdAction::Pause),
        ("abort", ThresholdAction::Abort),
    ];
    let thresholds = Thresholds {
        max_failed_percent: table.get("max_failed_percent", whole(0..=100_u8)),
        min_ended: table.or("min_ended", whole(0..=1_000_000_u32), 0),
        max_failed_count: table.get("max_failed_count", whole(0..=1_000_000_u32)),
        min_succeeded_percent: table.get("min_succeeded_percent", whole(0..=100_u8)),
        action: table.or("action", word(&actions), ThresholdAction::Pause),
    };
    table.finish();
    thresholds
}

fn retry(outer: &mut Fields<'_>) -> RetryPolicy {
    let mut table = outer.table("retry");
    let reasons = super::expectations::reasons();
    let listed = table.list("reasons", word(&reasons)).unwrap_or_default();
    let reasons: BTreeSet<DeviceReason> = listed.into_iter().map(|at| at.value).collect();
    let retry = RetryPolicy {
        max_retries: table.or("max_retries", whole(0..=10_u8), 0),
        pause: table.or("pause", time, Duration::ZERO),
        reasons,
    };
    if table.is_present() && retry.max_retries == 0 {
        table.wrong(
            "max_retries",
            "nobody is tried again unless `max_retries` is 1 to 10",
        );
    }
    table.finish();
    retry
}

type CalendarPlan = (i16, Vec<WeeklyWindow>, Vec<(Duration, Duration)>);

fn calendar(outer: &mut Fields<'_>) -> CalendarPlan {
    let mut table = outer.table("calendar");
    let offset = table.or("utc_offset_minutes", whole(-1440..=1440_i16), 0);
    let days = [
        ("mon", 0_u8),
        ("tue", 1),
        ("wed", 2),
        ("thu", 3),
        ("fri", 4),
        ("sat", 5),
        ("sun", 6),
    ];
    let mut weekly = Vec::new();
    for mut window in table.tables("weekly") {
        let listed = window.list("days", word(&days));
        let listed = listed.map_or(0x7f, |days| {
            days.iter().fold(0, |mask, day| mask | 1 << day.value)
        });
        let from = window.needed("from", minute);
        let to = window.needed("to", minute);
        window.finish();
        weekly.extend(from.zip(to).map(|(from_minute, to_minute)| WeeklyWindow {
            days: listed,
            from_minute: from_minute % 1440,
            to_minute,
        }));
    }
    let mut blackouts = Vec::new();
    for mut blackout in table.tables("blackout") {
        let from = blackout.needed("from", time);
        let to = blackout.needed("to", time);
        if let (Some(from), Some(to)) = (from, to) {
            if from >= to {
                blackout.wrong("to", "is to be after `from`");
            }
            blackouts.push((from, to));
        }
        blackout.finish();
    }
    table.finish();
    (offset, weekly, blackouts)
}
