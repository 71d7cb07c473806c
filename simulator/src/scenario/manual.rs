//! The manual and the code agree on the fields of scenario files; errors are where they belong.

use std::collections::{BTreeMap, BTreeSet};

use super::reading::{Fields, File};
use super::{Scenario, ScenarioError};

use toml::de::DeTable;

/// A file with every table there is, and every kind of fault.
const EVERYTHING: &str = r#"
name = "everything"
region = "EU868"
start = 2027-03-01T06:30:00+01:00
[radio]
bursts = { every = "60 s", lasts = "2 s" }
[[gateway]]
name = "one"
beacons = true
[gateways]
layout = "ring"
count = 3
radius = 500
[stack.ours]
based_on = "zephyr"
packages = { fragmentation = 2 }
status = { missing = "lost-so-far" }
sessions = { decoders = "shared" }
multicast = { group_status = "answered", group_status_records = 2 }
clock = { send_delay = "3 s" }
answers = { room_bytes = 20, room_bytes_firmware = 9, multicast_delay = ["0 s", "1 s"] }
[[group]]
name = "some"
count = 2
stack = "ours"
packages = { firmware_management = true }
limits = { lost = 9 }
link = { loss = 0.1, gateways = ["one", "gateway-2"] }
[[group]]
name = "others"
count = 3
class = "B"
around = "one"
inner_radius = 10
radius = 20
[faults]
outages = { every = "1 h", lasts = "1 min" }
[[fault]]
at = "1 min"
kind = "gateway-outage"
gateway = "one"
[[fault]]
at = "1 min"
kind = "power-cut"
[[fault]]
at = "1 min"
kind = "server-crash"
lasts = "5 s"
[[fault]]
at = "1 min"
kind = "reboot"
share = "50 %"
[[fault]]
at = "1 min"
kind = "vanish"
[[fault]]
at = "1 min"
kind = "clock-step"
by = "-2 s"
[[fault]]
at = "1 min"
kind = "interference"
group = "some"
[image]
total_size = "2 KiB"
[task]
class = "B"
waves = { canary = ["some"], cumulative_percent = [10, 50] }
thresholds = { max_failed_percent = 5 }
retry = { max_retries = 1, reasons = ["no-answer"] }
[task.calendar]
weekly = [{ days = ["mon"], from = "22:00", to = "06:00" }]
blackout = [{ from = "1 h", to = "2 h" }]
[expect]
updated = 0.5
[[expect.group]]
name = "some"
state = "running"
"#;

const MANUAL: &str = include_str!("../../../docs/scenarios.md");

fn errors(text: &str) -> Vec<ScenarioError> {
    Scenario::read(text, "test.toml").err().unwrap_or_default()
}

/// A good file with some lines added.
fn with(lines: &str) -> Vec<ScenarioError> {
    errors(&format!(
        "name = \"x\"\nregion = \"EU868\"\n[[group]]\nname = \"g\"\ncount = 1\n{lines}"
    ))
}

/// The fields of the manual, by table: `group.link` has `loss`.
fn documented() -> BTreeSet<String> {
    let (mut table, mut fields) = (None, BTreeSet::new());
    for line in MANUAL.lines() {
        if line.starts_with('#') {
            table = match line.trim_start_matches('#').trim() {
                "Top of the file" => Some(String::new()),
                heading => heading.strip_prefix("`[").map(|name| {
                    let name = name.trim_matches(|c: char| "[]`".contains(c));
                    name.replace(".NAME", "") + "."
                }),
            };
        }
        // The table of the kinds of faults has no fields.
        let cell = line
            .strip_prefix("| `")
            .and_then(|rest| rest.split_once('`'));
        let is_field = line.matches('|').count() == 5;
        if let (Some(table), Some((field, _)), true) = (&table, cell, is_field) {
            fields.insert(format!("{table}{field}"));
        }
    }
    fields
}

#[test]
fn the_manual_has_every_field_and_no_other() {
    let file = File::new(EVERYTHING, "everything.toml");
    let (table, problems) = DeTable::parse_recoverable(EVERYTHING);
    assert!(problems.is_empty(), "{problems:?}");
    let mut root = Fields::root(&file, table.get_ref());
    let scenario = Scenario::read_tables(&file, &mut root, std::path::Path::new("."));
    root.finish();
    scenario.check(&file);
    let read = file.asked();
    let wrong = file.into_errors();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let documented = documented();
    let missing: Vec<_> = read.difference(&documented).collect();
    assert!(missing.is_empty(), "not in docs/scenarios.md: {missing:?}");
    let stale: Vec<_> = documented.difference(&read).collect();
    assert!(stale.is_empty(), "in docs/scenarios.md alone: {stale:?}");
}

#[test]
fn errors_name_line_column_field_and_what_is_allowed() {
    let text = "name = \"x\"\nregoin = \"EU868\"\n\n[[group]]\nname = \"g\"\ncount = 0\n\
                link = { loss = \"110 %\", gateways = [\"rof\"] }\nstack = \"zephir\"\n\
                [task]\ndata_rate = 9\n[[fault]]\nat = 5\nkind = \"reboot\"\ngroup = \"h\"\n";
    let found: BTreeMap<(usize, usize), (String, String)> = errors(text)
        .into_iter()
        .map(|e| ((e.line, e.column), (e.field, e.message)))
        .collect();
    let expected = [
        ((1, 1), "region", "is missing"),
        ((2, 1), "regoin", "did you mean `region`?"),
        (
            (6, 9),
            "group.count",
            "0 is not allowed here: a whole number from 1 to 1000000",
        ),
        (
            (7, 17),
            "group.link.loss",
            "\"110 %\" is not allowed here: a share",
        ),
        (
            (7, 38),
            "group.link.gateways",
            "there is no gateway \"rof\"; there are gateway-1",
        ),
        (
            (8, 9),
            "group.stack",
            "there is no stack \"zephir\"; there are basics-modem-v1",
        ),
        (
            (10, 13),
            "task.data_rate",
            "EU868 has no downlink data rate 9; it has 0, 1, 2, 3, 4, 5",
        ),
        (
            (12, 6),
            "fault.at",
            "5 is not allowed here: a time with its unit",
        ),
        (
            (14, 9),
            "fault.group",
            "there is no group \"h\"; there are g",
        ),
    ];
    for (place, field, message) in expected {
        let (at, said) = found
            .get(&place)
            .unwrap_or_else(|| panic!("{place:?}: {found:#?}"));
        assert_eq!(at, field);
        assert!(said.contains(message), "{said:?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn an_error_shows_its_line_with_a_mark() {
    let shown = with("confirmed = 1\n")[0].to_string();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(
        lines[0],
        "test.toml:6:13: group.confirmed: 1 is not allowed here: true or false"
    );
    assert_eq!(lines[1], "  6 | confirmed = 1");
    assert_eq!(lines[2], "    |             ^");
}

#[test]
fn what_contradicts_itself_is_refused() {
    let cases = [
        (
            "position = [0, 0]\nlink = { loss = 0.1 }\n",
            "`position` says already",
        ),
        (
            "around = \"gateway-1\"\nradius = 5\ninner_radius = 9\n",
            "less than the radius",
        ),
        ("radius = 5\n", "needs `around`"),
        (
            "link = { gateways_in_reach = 3 }\n",
            "there are only 1 gateways",
        ),
        ("[image]\nsize = 5\ntotal_size = 500\n", "one of them"),
        ("[image]\nfile = \"no such file\"\n", "no such file: "),
        ("[task]\nclass = \"B\"\n", "send beacons"),
        (
            "[task]\nping_slot_periodicity = 3\n",
            "only sessions of class B",
        ),
        ("[task]\nreboot = \"at-time\"\n", "needs `reboot_after`"),
        (
            "[task]\nwindow_after = \"2 h\"\ndeadline = \"1 h\"\n",
            "before `deadline`",
        ),
        ("[task.retry]\npause = \"1 h\"\n", "nobody is tried again"),
        (
            "[task.waves]\ncumulative_percent = [50, 10]\n",
            "is to rise",
        ),
        (
            "[[expect.group]]\nname = \"g\"\n",
            "nothing is expected of this group",
        ),
        (
            "[[expect.group]]\nname = \"g\"\nat_least = 0.5\n",
            "write `state` or `reason`",
        ),
        ("in_task = false\n", "no group is part of the task"),
        (
            "[stack.zephyr]\nbased_on = \"zephyr\"\n",
            "is a public stack",
        ),
        (
            "[[gateway]]\nname = \"a\"\n[[gateway]]\nname = \"a\"\n",
            "two gateways",
        ),
        ("[group]\n", "this is no TOML"),
        ("class = \"B\n", "this is no TOML"),
    ];
    for (lines, message) in cases {
        let found = with(lines);
        assert!(
            found.iter().any(|error| error.message.contains(message)),
            "{lines:?}: {found:#?}"
        );
    }
}

#[test]
fn a_file_that_says_little_has_good_defaults() {
    let text = "name = \"x\"\nregion = \"US915\"\n[[group]]\nname = \"g\"\ncount = 40\n";
    let scenario = Scenario::read(text, "x.toml").unwrap();
    assert_eq!(scenario.gateways.len(), 1);
    assert_eq!(scenario.expect.updated, Some(1.0));
    assert_eq!(scenario.join_spread.as_secs(), 20);
    assert_eq!(scenario.longest.as_secs(), 86_400);
}

#[test]
fn the_tutorial_is_a_scenario_that_passes() {
    let begin = MANUAL.find("## A scenario from nothing").unwrap();
    let tutorial = &MANUAL[begin..];
    let tutorial = &tutorial[..tutorial.find("\n## ").unwrap()];
    let blocks = tutorial.split("```toml\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap());
    let text: String = blocks
        .flat_map(str::lines)
        .map(|line| format!("{}\n", line.trim()))
        .collect();
    let scenario = Scenario::read(&text, "tutorial.toml").unwrap_or_else(|e| panic!("{e:#?}"));
    let outcome = scenario.run(1);
    assert!(outcome.passed, "{}", super::summary(&outcome));
}

proptest::proptest! {
    /// Whatever becomes of a file, reading it ends with a scenario or with errors inside of the file.
    #[test]
    fn no_file_is_too_broken_to_be_read(
        cut in 0..EVERYTHING.len(),
        length in 0..60_usize,
        put in "[\\[\\]a-z0-9=\"{}\\-\\. \n]{0,12}",
    ) {
        let end = (cut + length).min(EVERYTHING.len());
        let (Some(before), Some(after)) = (EVERYTHING.get(..cut), EVERYTHING.get(end..)) else {
            return Ok(());
        };
        let text = format!("{before}{put}{after}");
        for error in errors(&text) {
            proptest::prop_assert!(error.line <= text.lines().count() + 1, "{error}");
            proptest::prop_assert!(!error.message.is_empty());
        }
    }
}
