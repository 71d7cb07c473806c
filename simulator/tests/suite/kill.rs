//! A real server is killed, again and again, in the middle of a real task.
//!
//! The demo is run as a user would; whenever the task reaches its next state, the server process gets SIGKILL. The demo
//! starts it again. In the end every device runs the new version, no counter was used twice and no radio rule was
//! broken, or the demo's exit status says otherwise.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// States at whose first sight the server dies.
const DEADLY: [&str; 3] = ["PREPARING", "DISTRIBUTING", "COMPLETING"];

#[test]
fn killing_the_server_three_times_changes_nothing() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_fuota-sim"))
        .args(["demo", "--json", "--devices", "4", "--loss", "5"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stderr.take().unwrap()).lines();
    let mut pid = String::new();
    let mut deadly: Vec<&str> = DEADLY.to_vec();
    let mut told = String::new();
    while let Some(Ok(line)) = lines.next() {
        told += &format!("{line}\n");
        if let Some((_, rest)) = line.split_once("pid ") {
            pid = rest.split(',').next().unwrap().to_owned();
        }
        if let Some(state) = deadly
            .iter()
            .position(|state| line.ends_with(&format!("task {state}")))
        {
            deadly.remove(state);
            let process = Pid::from_raw(pid.parse().unwrap()).unwrap();
            let killed = kill_process(process, Signal::KILL);
            assert!(
                killed.is_ok(),
                "process {pid} was not there to be killed\n{told}"
            );
        }
    }
    let mut summary = String::new();
    demo.stdout
        .take()
        .unwrap()
        .read_to_string(&mut summary)
        .unwrap();
    let status = demo.wait().unwrap();
    assert!(status.success(), "{status}\n{told}\n{summary}");
    assert!(deadly.is_empty(), "never reached {deadly:?}\n{told}");
    let summary: serde_json::Value = serde_json::from_str(summary.lines().last().unwrap()).unwrap();
    assert_eq!(summary["updated"], 4, "{told}");
    assert_eq!(summary["server_restarts"], 3, "{told}");
}
