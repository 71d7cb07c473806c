//! Devices of a scenario, by groups that are alike (`[[group]]`): how many, where, what they are and run.

use std::collections::BTreeMap;
use std::time::Duration;

use lorawan_fuota::firmware::ImageVersion;
use lorawan_fuota::lorawan::frame::Direction;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::record::LorawanVersion;

use crate::device::{FragmentationLimits, SessionAfterReboot, StackProfile};

use super::kinds::{
    identifier, number, numbers, share, signed_time_us, text, time_in, whole, word, yes,
};
use super::reading::{Fields, File};
use super::site::GatewayPlan;
use super::stacks::{self, Stack};

/// Devices that are alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its name in the file; the server's device profile has it too.
    pub name: String,
    /// How many devices.
    pub count: u32,
    /// Where they are, or how well they hear.
    pub placement: Placement,
    /// What walls take from every signal, in dB.
    pub indoor_loss_db: f64,
    /// Share of downlinks that interference destroys at these devices, 0 to 1.
    pub interference: f64,
    /// Which windows they take part in beside class C sessions.
    pub class: GroupClass,
    /// Link-layer version, as the server is told.
    pub lorawan_version: LorawanVersion,
    /// Name of their stack.
    pub stack_name: String,
    /// Their stack, with the packages of this group.
    pub stack: Stack,
    /// Between two application uplinks.
    pub uplink_interval: Duration,
    /// Data rate of uplinks; chosen by what each device's position allows if `None`.
    pub uplink_data_rate: Option<u8>,
    /// They ask for acknowledgements.
    pub confirmed: bool,
    /// They keep the duty cycle of their sub-band.
    pub keeps_duty_cycle: bool,
    /// Longest time between a command and its answer.
    pub answers_within: Duration,
    /// Their clocks run fast or slow by up to so many microseconds per second.
    pub drift_ppm: i32,
    /// Their clocks are set from the start, and wrong by so many microseconds; not set if `None`.
    pub clock_offset_us: Option<i64>,
    /// What their decoders hold.
    pub limits: FragmentationLimits,
    /// The server is told these limits; otherwise it believes they hold anything.
    pub limits_known: bool,
    /// What a battery holds, in mWh, for reports on energy.
    pub battery_mwh: Option<f64>,
    /// What they check of an image; as the image allows if `None`.
    pub image_check: Option<ImageCheckKind>,
    /// The version they run at first.
    pub version: ImageVersion,
    /// The new firmware fails its self-test on so many of them, and the old one comes back.
    pub rolls_back: f64,
    /// How long a reboot takes.
    pub reboot_duration: Duration,
    /// What becomes of the session over a reboot.
    pub session_after_reboot: SessionAfterReboot,
    /// They are part of the task.
    pub in_task: bool,
}

/// Where the devices of a group are.
#[derive(Clone, Debug, PartialEq)]
pub enum Placement {
    /// Nowhere: the quality of their links is fixed.
    Link(FixedLink),
    /// Evenly in a ring around a gateway: its index, inner and outer radius in metres.
    Around(usize, f64, f64),
    /// Evenly in a rectangle: west, south, east, north, in metres.
    Area([f64; 4]),
    /// All at one place.
    At([f64; 2]),
}

/// Links whose quality is fixed.
#[derive(Clone, Debug, PartialEq)]
pub struct FixedLink {
    /// Share of uplinks lost at each gateway in reach.
    pub uplink_loss: f64,
    /// Share of downlinks lost.
    pub downlink_loss: f64,
    /// Strength at the gateways, in dBm; drawn for each link if `None`.
    pub rssi_dbm: Option<i16>,
    /// Signal-to-noise ratio at the gateways, in dB.
    pub snr_db: Option<f32>,
    /// Which gateways are in reach.
    pub reach: Reach,
}

/// Which gateways a device reaches.
#[derive(Clone, Debug, PartialEq)]
pub enum Reach {
    /// All.
    All,
    /// These, by their index.
    Named(Vec<usize>),
    /// So many of them, in turn from device to device.
    Some(usize),
}

/// Which class a group's devices are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupClass {
    /// Class A, and class C while a session lasts.
    A,
    /// As class A, and class B sessions too.
    B,
    /// Class C all the time.
    C,
}

/// What devices check of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageCheckKind {
    /// Its form.
    None,
    /// Its digest.
    Digest,
    /// Its digest and signature.
    Signature,
}

/// What the file has named before its groups.
pub(super) struct Named<'a> {
    pub(super) region: Region,
    pub(super) gateways: &'a [GatewayPlan],
    pub(super) stacks: &'a BTreeMap<String, Stack>,
}

pub(super) fn read(file: &File<'_>, root: &mut Fields<'_>, named: &Named<'_>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for mut table in root.tables("group") {
        let group = group(file, &mut table, named, groups.len());
        if groups.iter().any(|other| other.name == group.name) {
            table.wrong("name", format!("there are two groups {:?}", group.name));
        }
        table.finish();
        groups.push(group);
    }
    if groups.is_empty() && !root.has("group") {
        root.wrong(
            "group",
            "there are no devices: write at least one [[group]]",
        );
    }
    let all: u64 = groups.iter().map(|group| u64::from(group.count)).sum();
    if all > 2_000_000 {
        root.wrong(
            "group",
            format!("{all} devices are too many: at most 2000000 in all groups"),
        );
    }
    groups
}

fn group(file: &File<'_>, table: &mut Fields<'_>, named: &Named<'_>, index: usize) -> Group {
    let name = table.needed("name", identifier);
    let count = table.needed("count", whole(1..=1_000_000_u32)).unwrap_or(1);
    let placement = placement(file, table, named);
    let class = [
        ("A", GroupClass::A),
        ("B", GroupClass::B),
        ("C", GroupClass::C),
    ];
    let versions = [
        ("1.0.0", LorawanVersion::V1_0_0),
        ("1.0.1", LorawanVersion::V1_0_1),
        ("1.0.2", LorawanVersion::V1_0_2),
        ("1.0.3", LorawanVersion::V1_0_3),
        ("1.0.4", LorawanVersion::V1_0_4),
    ];
    let (stack_name, stack) = stack(file, table, named);
    let data_rate = table.at("uplink_data_rate", whole(0..=15_u8));
    let rate_of = |dr: u8| named.region.data_rate(dr, Direction::Uplink);
    if let Some(rate) = data_rate
        .as_ref()
        .filter(|rate| rate_of(rate.value).is_none())
    {
        let all: Vec<String> = (0..=15)
            .filter(|dr| rate_of(*dr).is_some())
            .map(|dr| dr.to_string())
            .collect();
        let message = format!(
            "{} has no uplink data rate {}; it has {}",
            named.region,
            rate.value,
            all.join(", ")
        );
        file.wrong(&rate.span, "group.uplink_data_rate", message);
    }
    let checks = [
        ("none", ImageCheckKind::None),
        ("digest", ImageCheckKind::Digest),
        ("signature", ImageCheckKind::Signature),
    ];
    let after = [
        ("rejoin", SessionAfterReboot::Rejoin),
        ("keep", SessionAfterReboot::Keep),
    ];
    let second = Duration::from_secs(1);
    let interval = time_in(second..=second * 7 * 86_400);
    Group {
        name: name.unwrap_or_else(|| format!("group-{}", index + 1)),
        count,
        placement,
        indoor_loss_db: table.or("indoor_loss", number(0.0..=60.0), 0.0),
        interference: table.or("interference", share, 0.0),
        class: table.or("class", word(&class), GroupClass::A),
        lorawan_version: table.or("lorawan_version", word(&versions), LorawanVersion::V1_0_4),
        stack_name,
        stack,
        uplink_interval: table.or("uplink_interval", interval, second * 60),
        uplink_data_rate: data_rate.map(|rate| rate.value),
        confirmed: table.or("confirmed", yes, false),
        keeps_duty_cycle: table.or("keeps_duty_cycle", yes, true),
        answers_within: table.or(
            "answers_within",
            time_in(Duration::ZERO..=second * 60),
            second / 2,
        ),
        drift_ppm: table.or("drift_ppm", whole(0..=1000_i32), 0),
        clock_offset_us: table.get("clock_offset", signed_time_us),
        limits: limits(table),
        limits_known: table.or("limits_known", yes, true),
        battery_mwh: table.get("battery_mwh", number(1.0..=1e9)),
        image_check: table.get("image_check", word(&checks)),
        version: table.or(
            "version",
            version,
            ImageVersion {
                major: 1,
                ..ImageVersion::default()
            },
        ),
        rolls_back: table.or("rolls_back", share, 0.0),
        reboot_duration: table.or(
            "reboot_duration",
            time_in(second..=second * 3600),
            second * 5,
        ),
        session_after_reboot: table.or(
            "session_after_reboot",
            word(&after),
            SessionAfterReboot::Rejoin,
        ),
        in_task: table.or("in_task", yes, true),
    }
}

/// A version as `1.2.3` or `1.2.3+4`.
pub(super) fn version(value: &toml::de::DeValue<'_>) -> Result<ImageVersion, String> {
    let allowed = || "a version in quotes, as \"2.0.1\"".to_owned();
    let version = text(value).map_err(|_| allowed())?;
    version.parse().map_err(|_| allowed())
}

fn stack(file: &File<'_>, table: &mut Fields<'_>, named: &Named<'_>) -> (String, Stack) {
    let wanted = table.at("stack", text);
    let name = wanted
        .as_ref()
        .map_or("spec-v2", |wanted| wanted.value.as_str())
        .to_owned();
    let mut stack = match named.stacks.get(&name) {
        Some(stack) => *stack,
        None => {
            if let Some(wanted) = &wanted {
                let all: Vec<&str> = named.stacks.keys().map(String::as_str).collect();
                let message = format!(
                    "there is no stack {name:?}; there are {}; write [stack.{name}] to make it",
                    all.join(", ")
                );
                file.wrong(&wanted.span, "group.stack", message);
            }
            Stack::public(StackProfile::SpecV2)
        }
    };
    stacks::packages(table, &mut stack.packages);
    (name, stack)
}

fn limits(outer: &mut Fields<'_>) -> FragmentationLimits {
    let mut table = outer.table("limits");
    let all = FragmentationLimits::default();
    let limits = FragmentationLimits {
        nb_frag_max: table.or("fragments", whole(1..=16_383_u16), all.nb_frag_max),
        frag_size_max: table.or("fragment_size", whole(1..=242_u8), all.frag_size_max),
        lost_max: table.or("lost", whole(1..=16_383_u16), all.lost_max),
        frag_index_count: table.or("sessions", whole(1..=4_u8), all.frag_index_count),
        mc_group_count: table.or("groups", whole(1..=4_u8), all.mc_group_count),
        reed_solomon: table.or("reed_solomon", yes, false),
        descriptor: None,
    };
    table.finish();
    limits
}

fn placement(file: &File<'_>, table: &mut Fields<'_>, named: &Named<'_>) -> Placement {
    let around = table.at("around", text);
    let radius = table.get("radius", number(1.0..=100_000.0));
    let inner = table.get("inner_radius", number(0.0..=100_000.0));
    let area = table.get("area", numbers("four numbers, [west, south, east, north]"));
    let position = table.get("position", numbers("two numbers, [east, north]"));
    let link = link(file, table, named);
    let given: Vec<&str> = ["around", "area", "position", "link"]
        .into_iter()
        .filter(|name| table.has(name))
        .collect();
    if let [first, second, ..] = given[..] {
        table.wrong(
            second,
            format!("`{first}` says already where the devices are: one of them"),
        );
    }
    if around.is_none() && !table.has("around") {
        for name in ["radius", "inner_radius"] {
            if table.has(name) {
                table.wrong(name, "needs `around`: the gateway in the middle");
            }
        }
    }
    if let Some(around) = around {
        let Some(at) = gateway(
            file,
            "group.around",
            &around.value,
            &around.span,
            named.gateways,
        ) else {
            return Placement::Link(link);
        };
        let radius = radius.unwrap_or(1000.0);
        let inner = inner.unwrap_or(0.0);
        if inner >= radius {
            table.wrong(
                "inner_radius",
                format!("is to be less than the radius, {radius}"),
            );
        }
        return Placement::Around(at, inner, radius);
    }
    if let Some([west, south, east, north]) = area {
        if west > east || south > north {
            table.wrong(
                "area",
                "is [west, south, east, north]: west before east, south before north",
            );
        }
        return Placement::Area([west, south, east, north]);
    }
    position.map_or(Placement::Link(link), Placement::At)
}

fn link(file: &File<'_>, outer: &mut Fields<'_>, named: &Named<'_>) -> FixedLink {
    let mut table = outer.table("link");
    let both = table.or("loss", share, 0.0);
    let uplink_loss = table.or("uplink_loss", share, both);
    let downlink_loss = table.or("downlink_loss", share, both);
    let rssi_dbm = table.get("rssi", whole(-150..=0_i16));
    let snr = table.get("snr", number(-25.0..=20.0));
    let named_gateways = table.list("gateways", text);
    let count = table.get("gateways_in_reach", whole(1..=1000_u16));
    if named_gateways.is_some() && count.is_some() {
        table.wrong(
            "gateways_in_reach",
            "`gateways` names them already: one of them",
        );
    }
    let reach = match (named_gateways, count) {
        (Some(names), _) => {
            if names.is_empty() {
                table.wrong("gateways", "names no gateway");
            }
            let found = names.iter().filter_map(|name| {
                gateway(
                    file,
                    "group.link.gateways",
                    &name.value,
                    &name.span,
                    named.gateways,
                )
            });
            Reach::Named(found.collect())
        }
        (None, Some(count)) => {
            if usize::from(count) > named.gateways.len() {
                let message = format!("there are only {} gateways", named.gateways.len());
                table.wrong("gateways_in_reach", message);
            }
            Reach::Some(count.into())
        }
        (None, None) => Reach::All,
    };
    table.finish();
    FixedLink {
        uplink_loss,
        downlink_loss,
        rssi_dbm,
        snr_db: snr.and_then(|snr| format!("{snr}").parse().ok()),
        reach,
    }
}

/// The index of a gateway of this name; it is said if there is none.
pub(super) fn gateway(
    file: &File<'_>,
    field: &str,
    name: &str,
    span: &super::reading::Span,
    gateways: &[GatewayPlan],
) -> Option<usize> {
    let found = gateways.iter().position(|gateway| gateway.name == name);
    if found.is_none() {
        let all: Vec<&str> = gateways.iter().map(|g| g.name.as_str()).take(12).collect();
        let more = if gateways.len() > 12 { ", ..." } else { "" };
        let message = format!(
            "there is no gateway {name:?}; there are {}{more}",
            all.join(", ")
        );
        file.wrong(span, field, message);
    }
    found
}
