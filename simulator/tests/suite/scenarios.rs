//! The scenarios that ship hold what they promise, and the same run comes out the same.

use std::fs;
use std::path::PathBuf;

use fuota_simulator::scenario::{Outcome, Running, Scenario, junit, summary};

/// Too large for every test run.
const ON_REQUEST: [&str; 1] = ["hundred-thousand.toml"];

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../scenarios"))
}

fn scenario(name: &str) -> Scenario {
    let path = folder().join(name);
    Scenario::read_file(&path).unwrap_or_else(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        panic!("{}", errors.join("\n"))
    })
}

fn run(name: &str) -> Outcome {
    let scenario = scenario(name);
    scenario.run(scenario.seed)
}

#[test]
fn scenarios_that_ship_hold_what_they_promise() {
    let mut names: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    names.sort();
    assert!(names.len() >= 12, "{names:?}");
    for name in names {
        let text = fs::read_to_string(folder().join(&name)).unwrap();
        assert!(
            text.starts_with("# "),
            "{name} does not open with what it shows"
        );
        let scenario = scenario(&name);
        if ON_REQUEST.contains(&name.as_str()) {
            continue;
        }
        let outcome = scenario.run(scenario.seed);
        assert!(outcome.passed, "{name}:\n{}", summary(&outcome));
    }
}

#[test]
fn a_seed_is_a_run_and_another_seed_another() {
    let scenario = scenario("city-ten-gateways.toml");
    let outcome = scenario.run(9);
    assert_eq!(outcome, scenario.run(9));
    assert_ne!(outcome.frames, scenario.run(10).frames);
}

#[test]
fn expectations_can_fail() {
    let path = folder().join("first-steps.toml");
    let text = fs::read_to_string(path).unwrap();
    let text = text.replace(
        "frames_max = 120",
        "frames_max = 12\nlongest_frame_max = \"1 ms\"",
    );
    let scenario = Scenario::read(&text, "harder.toml").unwrap();
    let outcome = scenario.run(1);
    assert!(!outcome.passed);
    let failed: Vec<&str> = outcome
        .expectations
        .iter()
        .filter(|judged| !judged.held)
        .map(|judged| judged.name.as_str())
        .collect();
    assert_eq!(failed, ["frames_max", "longest_frame_max"]);
    let xml = junit(&[outcome.clone(), run("first-steps.toml")]);
    assert_eq!(xml.matches("<testsuite ").count(), 2);
    assert_eq!(xml.matches("<failure ").count(), 2);
    assert_eq!(xml.matches("<testcase ").count(), 6 + 5);
    assert!(xml.contains("name=\"First steps (seed 1)\""), "{xml}");
    assert!(summary(&outcome).contains("FAILED"));
}

/// Reads lines around a fleet of four devices.
fn small(lines: &str) -> Outcome {
    let text = format!("name = \"small\"\nregion = \"US915\"\n[image]\nsize = 800\n{lines}\n");
    let scenario = Scenario::read(&text, "small.toml");
    scenario
        .unwrap_or_else(|errors| panic!("{errors:#?}"))
        .run(1)
}

fn ends(outcome: &Outcome, group: usize) -> String {
    outcome.groups[group].ends_in_words()
}

#[test]
fn faults_strike_when_they_are_told_to() {
    let gone = small(
        "[[group]]\nname = \"here\"\ncount = 2\n[[group]]\nname = \"gone\"\ncount = 2\n\
         [[fault]]\nat = \"20 s\"\nkind = \"vanish\"\ngroup = \"gone\"\n\
         [task]\ndeadline = \"8 h\"\n",
    );
    assert_eq!(ends(&gone, 0), "2 running");
    assert_eq!(ends(&gone, 1), "2 silent (no-answer)");
    assert!(!gone.passed, "without [expect] all are to be updated");
    let crashed = small(
        "[[group]]\nname = \"g\"\ncount = 4\n[[fault]]\nat = \"1 min\"\nkind = \"server-crash\"\n",
    );
    assert_eq!((crashed.server_crashes, crashed.passed), (1, true));
    let quiet = small("[[group]]\nname = \"g\"\ncount = 4\n");
    let jammed = small(
        "[[group]]\nname = \"g\"\ncount = 4\n\
         [[fault]]\nat = \"0 s\"\nkind = \"interference\"\nlasts = \"30 min\"\n",
    );
    assert!(quiet.duration_s < Some(1500.0), "{:?}", quiet.duration_s);
    assert!(jammed.duration_s > Some(1800.0), "{:?}", jammed.duration_s);
}

#[test]
fn stacks_of_ones_own_behave_as_the_file_says() {
    let lines = |quirks: &str, group: &str| {
        format!(
            "[stack.ours]\nbased_on = \"spec-v1\"\n{quirks}\n[[group]]\nname = \"g\"\ncount = 3\n\
             stack = \"ours\"\nlink = {{ loss = \"30 %\" }}\n{group}\n\
             [task]\ndata_rate = 8\nfragment_size = 20\n"
        )
    };
    let honest = small(&lines("", ""));
    assert_eq!(ends(&honest, 0), "3 running");
    // Counts what was ever lost, and is read by the book: the server never hears that it is done.
    let stubborn = small(&lines("status = { missing = \"lost-so-far\" }", ""));
    assert!(
        2 * stubborn.frames.coded > 3 * honest.frames.coded,
        "{:?} {:?}",
        stubborn.frames,
        honest.frames
    );
    // A decoder that holds one lost fragment says so, and is believed.
    let small_decoder = small(&lines("", "limits = { lost = 1 }\nlimits_known = false"));
    let said = ends(&small_decoder, 0);
    assert!(said.contains("memory-error"), "{said}");
}

#[test]
fn positions_become_links() {
    let near = |distance: u32| {
        small(&format!(
            "[radio]\nshadowing = 0\n[[group]]\nname = \"g\"\ncount = 3\n\
             position = [{distance}, 0]\n[task]\ndeadline = \"6 h\"\n"
        ))
    };
    let close = near(200);
    assert_eq!(ends(&close, 0), "3 running");
    // 40 km are too far for SF10, the slowest uplink in the region.
    assert_eq!(near(40_000).groups[0].updated, 0);
}

#[test]
fn a_run_can_be_looked_at_before_and_after() {
    let scenario = scenario("class-b-meters.toml");
    let mut running = Running::new(&scenario, 1);
    running
        .world
        .checkers_mut(|checkers| checkers.keep_events());
    assert_eq!(running.site.gateways[1].name, "south");
    assert_eq!(running.site.gateways[1].position, [0.0, -1000.0]);
    assert_eq!(running.site.devices.len(), 20);
    assert!(running.begin() && running.follow());
    let outcome = running.outcome();
    assert!(outcome.passed, "{}", summary(&outcome));
    assert!(running.world.checkers(|checkers| checkers.events().len()) > 100);
    assert_eq!(running.world.task_devices(&running.task.id).len(), 20);
}

#[test]
fn the_command_has_an_exit_status_for_ci() {
    let scratch = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let fleet = "name = \"x\"\nregion = \"US915\"\njoined_within = \"1 s\"\n[image]\nsize = 500\n\
                 [[group]]\nname = \"g\"\ncount = 1\n";
    let good = file("good.toml", fleet);
    let hasty = file(
        "hasty.toml",
        &format!("{fleet}[expect]\nfinished_within = \"1 s\"\n"),
    );
    let wrong = file("wrong.toml", "name = 1\n");
    let report = scratch.path().join("report.xml");
    let call = |arguments: &[&str], path: &PathBuf| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fuota-sim"));
        let output = command.args(arguments).arg(path).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let junit = ["run", "--quiet", "--junit", report.to_str().unwrap()];
    assert_eq!(call(&junit, &good), (Some(0), String::new(), String::new()));
    assert!(
        fs::read_to_string(&report)
            .unwrap()
            .contains("failures=\"0\"")
    );
    let (status, json, _) = call(&["run", "--json", "--seed", "3"], &hasty);
    let outcome: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((status, &outcome["passed"]), (Some(1), &false.into()));
    assert_eq!(outcome["seed"], 3);
    assert_eq!(outcome["devices"][0]["state"], "running");
    let (status, _, said) = call(&["run"], &wrong);
    assert_eq!(status, Some(2));
    assert!(
        said.contains("wrong.toml:1:8: name: 1 is not allowed here"),
        "{said}"
    );
    let (status, said, _) = call(&["check", "--seeds", "3", "--scenario"], &good);
    assert_eq!((status, said.as_str()), (Some(0), "3 runs, 0 failed\n"));
    // Nobody listens there: the devices run what they ran.
    let nobody = ["run", "--json", "--real-time", "--server", "127.0.0.1:9"];
    let (status, lines, _) = call(&nobody, &hasty);
    let lines: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!((status, lines.len()), (Some(1), 2));
    assert_eq!(
        lines[0]["devices"][0]["app_key"].as_str().map(str::len),
        Some(32)
    );
    assert_eq!(lines[1]["groups"][0]["updated"], 0);
}
