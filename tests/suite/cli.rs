//! The `fuota` binary as a user meets it, against a server with canned answers: exit statuses, JSON, secrets.
//!
//! What the server is asked is recorded and checked.

mod server;

use std::process::Stdio;

use lorawan_fuota::proto::v1;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use self::server::{SHA, Server};

/// A key; its bytes must never be seen in an output.
const KEY: &str = "a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7";
const TOKEN: &str = "t0ken-of-the-test";

/// What a run of the binary left.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Server {
    async fn run(&self, args: &[&str]) -> Run {
        self.run_with(args, "", &[]).await
    }

    async fn run_with(&self, args: &[&str], input: &str, env: &[(&str, &str)]) -> Run {
        fuota(&self.address, args, input, env).await
    }
}

/// Runs the client against a server.
pub(crate) async fn fuota(address: &str, args: &[&str], input: &str, env: &[(&str, &str)]) -> Run {
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_fuota"))
        .args(args)
        .env_clear()
        .env("FUOTA_SERVER", address)
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that reads no input may be gone already.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    let run = Run {
        status: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    };
    for text in [&run.out, &run.err] {
        let lower = text.to_lowercase();
        assert!(
            !lower.contains("a7a7") && !lower.contains("167, 167"),
            "a key in {text}"
        );
        assert!(!text.contains(TOKEN), "the token in {text}");
        assert!(!text.contains('\u{1b}'), "a control character in {text}");
    }
    run
}

#[tokio::test]
async fn exit_statuses_are_for_scripts() {
    let server = Server::start().await;
    for (args, status) in [
        (&["task", "get", "good"][..], 0),
        (&["task", "watch", "good"], 0),
        (&["task", "watch", "bad"], 1),
        (&["task", "plan", "good"], 0),
        (&["task", "plan", "blocked"], 1),
        (&["task", "gte", "good"], 2),
        (&["task", "create", "--image", SHA, "--watch"], 2),
        (&["task", "create", "--image", SHA, "--deadline", "soon"], 2),
        (&["device", "update", "70b3d57ed0000001"], 2),
        (&["image", "upload", "/no/such/file"], 2),
        (&["task", "get", "missing"], 3),
        (&["task", "watch", "missing"], 3),
        (&["task", "start", "blocked"], 3),
        (&["task", "get", "good", "--server", "127.0.0.1:1"], 4),
        (&["task", "watch", "good", "--server", "127.0.0.1:1"], 4),
    ] {
        let run = server.run(args).await;
        assert_eq!(run.status, status, "{args:?}: {run:?}");
        assert_eq!(
            run.err.is_empty(),
            matches!(status, 0 | 1) && args[1] != "watch",
            "{run:?}"
        );
    }
}

#[tokio::test]
async fn json_is_one_document_or_one_object_a_line() {
    let server = Server::start().await;
    for (args, pointer, expected) in [
        (&["task", "get", "good"][..], "/state", "COMPLETED"),
        (&["task", "list"], "/tasks/0/name", "tasks/good"),
        (
            &["task", "plan", "blocked"],
            "/problems/0/reason",
            "DEADLINE_TOO_SHORT",
        ),
        (
            &["task", "plan", "good"],
            "/gateway_air/0/gateway",
            "gateways/0016c001f0000001",
        ),
        (
            &["task", "devices", "good"],
            "/task_devices/1/verdict",
            "SUCCEEDED",
        ),
        (
            &["device", "get", "70B3D57ED0000001"],
            "/key_kind",
            "GEN_APP_KEY",
        ),
        (&["device", "list"], "/devices/0/tags/site", "north"),
        (&["image", "list"], "/images/0/container", "MCUBOOT"),
    ] {
        let run = server.run(&[&["--json"], args].concat()).await;
        let json: Value = serde_json::from_str(&run.out).unwrap();
        assert_eq!(
            json.pointer(pointer),
            Some(&Value::from(expected)),
            "{args:?}: {}",
            run.out
        );
    }
    for (args, lines) in [
        (&["uplinks", "--count", "3", "--json"][..], 3),
        (&["task", "watch", "good", "--json"], 6),
    ] {
        let run = server.run(args).await;
        let parsed: Vec<Value> = run
            .out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!((run.status, parsed.len()), (0, lines), "{}", run.out);
        assert!(parsed.iter().all(Value::is_object));
    }
}

#[tokio::test]
async fn refusals_name_every_field_and_reason() {
    let server = Server::start().await;
    let run = server
        .run(&["task", "create", "--id", "refused", "--image", SHA])
        .await;
    assert_eq!(run.status, 3);
    assert_eq!(
        run.err,
        "error: INVALID_ARGUMENT: bad task\n  task.deadline: lies before window_start\n  \
         task.data_rate: must be 0 to 15\n"
    );
    let run = server.run(&["task", "start", "blocked"]).await;
    assert_eq!(
        run.err,
        "error: FAILED_PRECONDITION: cannot start\n  DEADLINE_TOO_SHORT deadline: needs 3 h, has 2 h\n  \
         reason: PLAN_BLOCKED\n"
    );
    let run = server.run(&["task", "get", "missing", "--json"]).await;
    assert_eq!(run.out, "");
    let error: Value = serde_json::from_str(&run.err).unwrap();
    assert_eq!(error["error"]["code"], "NOT_FOUND");
}

#[tokio::test]
async fn watch_goes_on_where_the_stream_broke() {
    let server = Server::start().await;
    let run = server.run(&["task", "watch", "good"]).await;
    assert_eq!(server.fake.seen().resumes, [0, 2]);
    assert!(run.err.contains("trying again"), "{run:?}");
    let lines: Vec<&str> = run.out.lines().collect();
    assert!(lines[0].contains("tasks/good DISTRIBUTING"), "{run:?}");
    assert!(lines[1].contains("70b3d57ed0000001 RECEIVING"), "{run:?}");
    let table = lines
        .iter()
        .position(|line| line.starts_with("DEVICE"))
        .unwrap();
    assert!(
        lines[table + 2].contains("70b3d57ed0000002  SUCCEEDED"),
        "{run:?}"
    );
    assert!(run.out.contains("2 of 2 devices succeeded"), "{run:?}");
}

/// Passes connections on; the first one is cut as soon as the server says so.
async fn cutting_proxy(server: &Server) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (target, cut) = (server.address.clone(), server.fake.cut.clone());
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut upstream = tokio::net::TcpStream::connect(&target).await.unwrap();
            let cut = cut.clone();
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    () = cut.notified() => {}
                    _ = tokio::io::copy_bidirectional(&mut client, &mut upstream) => {}
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn watch_survives_a_connection_that_breaks() {
    let server = Server::start().await;
    let address = cutting_proxy(&server).await;
    let run = fuota(&address, &["task", "watch", "cut"], "", &[]).await;
    assert_eq!(run.status, 0, "{run:?}");
    assert_eq!(server.fake.seen().resumes, [0, 0, 2]);
    assert!(run.err.contains("trying again"), "{run:?}");
}

#[tokio::test]
async fn create_start_and_watch_in_one_command() {
    let server = Server::start().await;
    let args = [
        "task",
        "create",
        "--id",
        "good",
        "--image",
        "3f1a09",
        "--device",
        "70-B3-D5-7E-D0-00-00-01",
        "--devices-from",
        "-",
        "--group",
        "north",
        "--deadline",
        "+2h",
        "--criterion",
        "verified",
        "--frag-algo",
        "reed-solomon",
        "--keep-groups",
        "--max-retries",
        "2",
        "--weekly-window",
        "mon-fri 22:00-06:00",
        "--tag-on-success",
        "firmware=2",
        "--start",
        "--queue",
        "--watch",
        "--request-id",
        "r1",
    ];
    let run = server
        .run_with(&args, "# list\n70b3d57ed0000002 # second\n\n", &[])
        .await;
    assert_eq!(run.status, 0, "{run:?}");
    let seen = server.fake.seen();
    let request = &seen.tasks[0];
    assert_eq!(
        request.devices,
        ["devices/70b3d57ed0000001", "devices/70b3d57ed0000002"]
    );
    assert_eq!(request.multicast_groups, ["multicastGroups/north"]);
    let task = request.task.as_ref().unwrap();
    assert_eq!(task.images, [format!("images/{SHA}")]);
    assert_eq!(task.success_criterion(), v1::SuccessCriterion::Verified);
    assert_eq!(task.frag_algo(), v1::FragAlgo::ReedSolomon);
    assert!(task.keep_groups);
    assert!(task.deadline.is_some() && task.window_start.is_none());
    assert_eq!(task.retry.as_ref().unwrap().max_retries, 2);
    let windows = &task.calendar.as_ref().unwrap().weekly_windows;
    assert_eq!(windows[0].days, [1, 2, 3, 4, 5]);
    assert_eq!(task.tags_on_success["firmware"], "2");
    let start = &seen.starts[0];
    assert!(start.queue);
    assert_eq!(
        (start.etag.as_str(), start.request_id.as_str()),
        ("e1", "r1.start")
    );
    assert_eq!(request.request_id, "r1");
}

#[tokio::test]
async fn keys_come_from_file_or_environment_and_never_go_out() {
    let server = Server::start().await;
    let create = ["device", "create", "70b3d57ed0000001", "--profile", "p"];
    let keys = format!("app_key = {KEY}\n");
    let otaa = ["--join-eui", "0000000000000001", "--same-as-app-key"];
    let from_input = [&create[..], &otaa, &["--key-file", "-"]].concat();
    let token = [("FUOTA_TOKEN", TOKEN)];
    let run = server.run_with(&from_input, &keys, &token).await;
    assert_eq!(run.status, 0, "{run:?}");
    let from_environment = [&create[..], &otaa, &["--keys-from-env"]].concat();
    let run = server
        .run_with(&from_environment, "", &[("FUOTA_APP_KEY", KEY)])
        .await;
    assert_eq!(run.status, 0, "{run:?}");
    {
        let seen = server.fake.seen();
        assert_eq!(seen.tokens, [format!("Bearer {TOKEN}")]);
        assert_eq!(seen.devices[0], seen.devices[1]);
        let Some(v1::end_device::Activation::Otaa(otaa)) = &seen.devices[0].activation else {
            panic!("no activation");
        };
        assert_eq!(otaa.app_key[..], [0xA7; 16]);
    }
    // Mistakes must not repeat what may be a key; nor help the token.
    for input in [
        KEY,
        &format!("app_key: {KEY}"),
        &format!("{KEY} = 1"),
        &format!("app_key = {KEY}zz"),
    ] {
        let run = server.run_with(&from_input, input, &[]).await;
        assert_eq!(run.status, 2, "{run:?}");
    }
    let run = server
        .run_with(&["task", "create", "--help"], "", &token)
        .await;
    assert_eq!(run.status, 0);
    let run = server
        .run_with(&["device", "get", "70b3d57ed0000001"], "", &token)
        .await;
    assert_eq!(run.status, 0);
}

#[tokio::test]
async fn a_batch_reports_each_refused_device() {
    let server = Server::start().await;
    let csv = format!(
        "dev_eui,gen_app_key,tags.site\n70b3d57ed0000001,{KEY},north\n70b3d57ed00000ff,{KEY},south\n"
    );
    let args = ["device", "batch", "-", "--profile", "p"];
    let run = server.run_with(&args, &csv, &[]).await;
    assert_eq!(run.status, 1, "{run:?}");
    assert!(
        run.out.contains("70b3d57ed00000ff  ALREADY_EXISTS: exists"),
        "{run:?}"
    );
    assert!(run.out.ends_with("1 of 2 devices created\n"), "{run:?}");
    assert_eq!(server.fake.seen().devices.len(), 2);

    let run = server
        .run_with(&[&args[..], &["--json"]].concat(), &csv, &[])
        .await;
    let json: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!((run.status, &json["created_count"]), (1, &Value::from(1)));
    assert_eq!(json["errors"][0]["dev_eui"], "70b3d57ed00000ff");

    let run = server
        .run_with(&args, &csv.replace("gen_app_key", "genappkey"), &[])
        .await;
    assert_eq!(run.status, 2, "{run:?}");
    assert_eq!(server.fake.seen().devices.len(), 4);
}

#[tokio::test]
async fn an_update_names_what_it_changes() {
    let server = Server::start().await;
    let args = [
        "device",
        "update",
        "70b3d57ed0000001",
        "--tag",
        "floor=2",
        "--name",
        "x",
        "--clear",
        "model",
    ];
    let run = server.run(&args).await;
    assert_eq!(run.status, 0, "{run:?}");
    let seen = server.fake.seen();
    assert_eq!(seen.masks, [["display_name", "tags", "model"]]);
    assert_eq!(seen.devices[0].tags.len(), 2);
    assert!(seen.devices[0].keys.is_none() && seen.devices[0].activation.is_none());
}

#[tokio::test]
async fn a_profile_claims_the_code_and_keeps_its_other_limits() {
    let server = Server::start().await;
    let args = ["--json", "profile", "update", "p", "--reed-solomon"];
    let run = server.run(&args).await;
    assert_eq!(run.status, 0, "{run:?}");
    let shown: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(shown["decoder_limits"]["reed_solomon"], true);
    let run = server
        .run(&["profile", "update", "p", "--reed-solomon=false"])
        .await;
    assert_eq!(run.status, 0, "{run:?}");
    let seen = server.fake.seen();
    assert_eq!(seen.masks, [["decoder_limits"], ["decoder_limits"]]);
    let limits = seen.profiles.iter().map(|p| p.decoder_limits.unwrap());
    let limits: Vec<_> = limits.map(|l| (l.reed_solomon, l.max_nb_frag)).collect();
    assert_eq!(limits, [(true, 500), (false, 500)]);
}

#[tokio::test]
async fn a_profile_tells_where_versions_of_components_are_and_that_blocks_are_kept() {
    let server = Server::start().await;
    let args = [
        "--json",
        "profile",
        "update",
        "p",
        "--keeps-finished-blocks",
        "--component",
        "main:0",
        "--component",
        "radio:1:98304@10:4:2:big",
    ];
    let run = server.run(&args).await;
    assert_eq!(run.status, 0, "{run:?}");
    let shown: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(shown["decoder_limits"]["keeps_finished_blocks"], true);
    assert_eq!(shown["decoder_limits"]["max_nb_frag"], 500);
    assert_eq!(shown["components"][0]["version_field"], Value::Null);
    assert_eq!(
        shown["components"][1]["version_field"],
        json!({"f_port": 10, "offset_bytes": 4, "length_bytes": 2, "byte_order": "BIG_ENDIAN"})
    );
    let seen = server.fake.seen();
    assert_eq!(seen.masks, [["components", "decoder_limits"]]);
    let told = seen.profiles[0].components[1].version_field.unwrap();
    assert_eq!(
        (told.f_port, told.offset_bytes, told.length_bytes),
        (10, 4, 2)
    );
    assert!(
        seen.profiles[0]
            .decoder_limits
            .unwrap()
            .keeps_finished_blocks
    );
}

#[tokio::test]
async fn an_image_goes_up_in_chunks() {
    let server = Server::start().await;
    let bytes: String = ('a'..='z').cycle().take(600_000).collect();
    let args = [
        "image",
        "upload",
        "-",
        "--container",
        "mcuboot",
        "--target-version",
        "0x01020003",
    ];
    let run = server.run_with(&args, &bytes, &[]).await;
    assert_eq!(run.status, 0, "{run:?}");
    let seen = server.fake.seen();
    let (metadata, received) = &seen.uploads[0];
    assert_eq!(received.len(), bytes.len());
    assert!(received == bytes.as_bytes());
    assert_eq!(metadata.container(), v1::ImageContainer::Mcuboot);
    assert_eq!(metadata.target_version, Some(0x0102_0003));
}

#[tokio::test]
async fn a_cut_list_says_so_and_a_prefix_finds_its_image() {
    let server = Server::start().await;
    let run = server.run(&["image", "list", "--limit", "1"]).await;
    assert!(run.out.starts_with("IMAGE"), "{run:?}");
    assert_eq!(run.err, "1 of 7 images shown: --limit 0 shows all\n");
    assert_eq!(server.run(&["image", "get", "3F1A"]).await.status, 0);
    assert_eq!(server.run(&["image", "get", "4f"]).await.status, 3);
}
