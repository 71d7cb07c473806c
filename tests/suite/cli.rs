//! The `fuota` binary as a user meets it, against a server with canned answers: exit statuses, JSON, secrets.
//!
//! The server here keeps no rules; what it is asked is recorded and checked.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use lorawan_fuota::proto::v1;
use prost::bytes::Bytes;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

const KEY: &str = "a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7";
const SHA: &str = "3f1a09c2d4e5f60718293a4b5c6d7e8f3f1a09c2d4e5f60718293a4b5c6d7e8f";
const TOKEN: &str = "t0ken-of-the-test";

type BoxStream<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the server was asked.
#[derive(Default)]
struct Seen {
    devices: Vec<v1::EndDevice>,
    masks: Vec<Vec<String>>,
    uploads: Vec<(v1::ImageMetadata, Vec<u8>)>,
    tasks: Vec<v1::CreateTaskRequest>,
    starts: Vec<v1::StartTaskRequest>,
    resumes: Vec<i64>,
    tokens: Vec<String>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Seen>>);

impl Fake {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }
}

/// A service with some methods, the others unimplemented.
macro_rules! service {
    ($module:ident :: $service:ident { $($body:tt)* } $($method:ident($request:ty) -> $answer:ty;)*) => {
        #[tonic::async_trait]
        impl v1::$module::$service for Fake {
            $($body)*
            $(async fn $method(&self, _: Request<$request>) -> Result<Response<$answer>, Status> {
                Err(Status::unimplemented(stringify!($method)))
            })*
        }
    };
}

fn device(dev_eui: &str) -> v1::EndDevice {
    let key = || Bytes::from_static(&[0xA7; 16]);
    v1::EndDevice {
        name: format!("devices/{dev_eui}"),
        dev_eui: dev_eui.into(),
        device_profile: "deviceProfiles/p".into(),
        display_name: "evil \u{1b}[2J name".into(),
        // A careless server: the client must not print these.
        keys: Some(v1::end_device::Keys::RootKeys(v1::RootKeys {
            source: Some(v1::root_keys::Source::GenAppKey(key())),
        })),
        activation: Some(v1::end_device::Activation::Abp(v1::AbpActivation {
            dev_addr: "26011234".into(),
            nwk_s_key: key(),
            app_s_key: key(),
            ..Default::default()
        })),
        tags: [("site".into(), "north".into())].into(),
        ..Default::default()
    }
}

fn image() -> v1::Image {
    v1::Image {
        name: format!("images/{SHA}"),
        sha256: SHA.into(),
        size_bytes: 20_480,
        container: v1::ImageContainer::Mcuboot.into(),
        target_version: 0x0102_0003,
        ..Default::default()
    }
}

/// `tasks/good` ends well, `tasks/bad` does not, `tasks/blocked` cannot start, others do not exist.
fn task(name: &str, state: v1::TaskState) -> Result<v1::FuotaTask, Status> {
    let succeeded = match name {
        "tasks/good" => 2,
        "tasks/bad" | "tasks/blocked" => 1,
        _ => {
            return Err(Status::with_error_details(
                Code::NotFound,
                "no such task",
                ErrorDetails::with_error_info("NOT_FOUND", "fuota", []),
            ));
        }
    };
    Ok(v1::FuotaTask {
        name: name.into(),
        images: vec![image().name],
        state: state.into(),
        device_counts: Some(v1::TaskDeviceCounts {
            total: 2,
            ended: 2,
            succeeded,
            ..Default::default()
        }),
        etag: "e1".into(),
        ..Default::default()
    })
}

fn task_device(number: u32, state: v1::TaskDeviceState) -> v1::TaskDevice {
    v1::TaskDevice {
        device: format!("devices/70b3d57ed000000{number}"),
        state: state.into(),
        verdict: v1::Verdict::Succeeded.into(),
        nb_frag: 240,
        fragments_received: Some(240),
        ..Default::default()
    }
}

service! {
    device_service_server::DeviceService {
        async fn create_device(&self, request: Request<v1::CreateDeviceRequest>) -> Result<Response<v1::EndDevice>, Status> {
            let token = request.metadata().get("authorization").map(|it| it.to_str().unwrap().to_owned());
            self.seen().tokens.extend(token);
            let asked = request.into_inner().device.unwrap();
            let answer = device(&asked.dev_eui);
            self.seen().devices.push(asked);
            Ok(Response::new(answer))
        }

        async fn get_device(&self, request: Request<v1::GetDeviceRequest>) -> Result<Response<v1::EndDevice>, Status> {
            Ok(Response::new(device(request.into_inner().name.trim_start_matches("devices/"))))
        }

        async fn update_device(&self, request: Request<v1::UpdateDeviceRequest>) -> Result<Response<v1::EndDevice>, Status> {
            let request = request.into_inner();
            let asked = request.device.unwrap();
            self.seen().masks.push(request.update_mask.unwrap().paths);
            self.seen().devices.push(asked.clone());
            Ok(Response::new(asked))
        }

        async fn list_devices(&self, _: Request<v1::ListDevicesRequest>) -> Result<Response<v1::ListDevicesResponse>, Status> {
            Ok(Response::new(v1::ListDevicesResponse {
                devices: vec![device("70b3d57ed0000001")],
                next_page_token: String::new(),
                total_size: 1,
            }))
        }

        async fn batch_create_devices(&self, request: Request<v1::BatchCreateDevicesRequest>) -> Result<Response<v1::BatchCreateDevicesResponse>, Status> {
            use v1::batch_create_devices_result::Result as Item;
            let results = request.into_inner().requests.into_iter().map(|request| {
                let device = request.device.unwrap();
                let result = if device.dev_eui.ends_with("ff") {
                    Item::Error(v1::ItemError { code: 6, message: "exists".into(), ..Default::default() })
                } else {
                    Item::Device(device.clone())
                };
                self.seen().devices.push(device);
                v1::BatchCreateDevicesResult { result: Some(result) }
            });
            let results: Vec<_> = results.collect();
            Ok(Response::new(v1::BatchCreateDevicesResponse { results, created_count: 0 }))
        }
    }
    delete_device(v1::DeleteDeviceRequest) -> ();
}

service! {
    image_service_server::ImageService {
        async fn upload_image(&self, request: Request<Streaming<v1::UploadImageRequest>>) -> Result<Response<v1::Image>, Status> {
            use v1::upload_image_request::Data;
            let mut stream = request.into_inner();
            let Some(Data::Metadata(metadata)) = stream.message().await?.unwrap().data else {
                return Err(Status::invalid_argument("metadata comes first"));
            };
            let mut bytes = Vec::new();
            while let Some(message) = stream.message().await? {
                let Some(Data::Chunk(chunk)) = message.data else {
                    return Err(Status::invalid_argument("no chunk"));
                };
                bytes.extend_from_slice(&chunk);
            }
            self.seen().uploads.push((metadata, bytes));
            Ok(Response::new(image()))
        }

        async fn list_images(&self, _: Request<v1::ListImagesRequest>) -> Result<Response<v1::ListImagesResponse>, Status> {
            Ok(Response::new(v1::ListImagesResponse {
                images: vec![image()],
                next_page_token: String::new(),
                total_size: 7,
            }))
        }

        async fn get_image(&self, request: Request<v1::GetImageRequest>) -> Result<Response<v1::Image>, Status> {
            assert_eq!(request.into_inner().name, image().name);
            Ok(Response::new(image()))
        }
    }
    delete_image(v1::DeleteImageRequest) -> ();
}

service! {
    network_service_server::NetworkService {
        type StreamUplinksStream = BoxStream<v1::StreamUplinksResponse>;

        async fn stream_uplinks(&self, _: Request<v1::StreamUplinksRequest>) -> Result<Response<Self::StreamUplinksStream>, Status> {
            let uplink = |f_cnt_up| Ok(v1::StreamUplinksResponse {
                uplink: Some(v1::ApplicationUplink {
                    device: "devices/70b3d57ed0000001".into(),
                    f_port: 10,
                    payload: Bytes::from_static(&[1, 2]),
                    f_cnt_up,
                    ..Default::default()
                }),
                lost_count: 0,
            });
            let uplinks = tokio_stream::iter([uplink(1), uplink(2), uplink(3)]);
            Ok(Response::new(Box::pin(uplinks.chain(tokio_stream::pending()))))
        }
    }
    get_network(v1::GetNetworkRequest) -> v1::Network;
}

service! {
    task_service_server::TaskService {
        type WatchTaskStream = BoxStream<v1::WatchTaskResponse>;

        async fn create_task(&self, request: Request<v1::CreateTaskRequest>) -> Result<Response<v1::FuotaTask>, Status> {
            let request = request.into_inner();
            if request.task_id == "refused" {
                let mut details = ErrorDetails::new();
                details
                    .add_bad_request_violation("task.deadline", "lies before window_start")
                    .add_bad_request_violation("task.data_rate", "must be 0 to 15");
                return Err(Status::with_error_details(Code::InvalidArgument, "bad task", details));
            }
            let answer = task(&format!("tasks/{}", request.task_id), v1::TaskState::Draft)?;
            self.seen().tasks.push(request);
            Ok(Response::new(answer))
        }

        async fn get_task(&self, request: Request<v1::GetTaskRequest>) -> Result<Response<v1::FuotaTask>, Status> {
            task(&request.into_inner().name, v1::TaskState::Completed).map(Response::new)
        }

        async fn list_tasks(&self, _: Request<v1::ListTasksRequest>) -> Result<Response<v1::ListTasksResponse>, Status> {
            Ok(Response::new(v1::ListTasksResponse {
                tasks: vec![task("tasks/good", v1::TaskState::Draft)?],
                next_page_token: String::new(),
                total_size: 1,
            }))
        }

        async fn list_task_devices(&self, request: Request<v1::ListTaskDevicesRequest>) -> Result<Response<v1::ListTaskDevicesResponse>, Status> {
            let (number, next) = match request.into_inner().page_token.as_str() {
                "" => (1, "two"),
                _ => (2, ""),
            };
            Ok(Response::new(v1::ListTaskDevicesResponse {
                task_devices: vec![task_device(number, v1::TaskDeviceState::Running)],
                next_page_token: next.into(),
                total_size: 2,
            }))
        }

        async fn plan_task(&self, request: Request<v1::PlanTaskRequest>) -> Result<Response<v1::Plan>, Status> {
            let name = request.into_inner().name;
            let blocked = name == "tasks/blocked";
            Ok(Response::new(v1::Plan {
                task: name,
                startable: !blocked,
                device_count: 2,
                problems: vec![v1::PlanProblem {
                    field: "deadline".into(),
                    reason: v1::PlanProblemReason::DeadlineTooShort.into(),
                    message: "needs 3 h, has 2 h".into(),
                    blocking: blocked,
                }],
                ..Default::default()
            }))
        }

        async fn start_task(&self, request: Request<v1::StartTaskRequest>) -> Result<Response<v1::FuotaTask>, Status> {
            let request = request.into_inner();
            if request.name == "tasks/blocked" {
                let mut details = ErrorDetails::with_error_info("PLAN_BLOCKED", "fuota", []);
                details.set_precondition_failure(vec![tonic_types::PreconditionViolation::new(
                    "DEADLINE_TOO_SHORT", "deadline", "needs 3 h, has 2 h",
                )]);
                return Err(Status::with_error_details(Code::FailedPrecondition, "cannot start", details));
            }
            let answer = task(&request.name, v1::TaskState::Scheduled)?;
            self.seen().starts.push(request);
            Ok(Response::new(answer))
        }

        /// The first stream breaks after two changes, as when the server dies; the next goes on.
        async fn watch_task(&self, request: Request<v1::WatchTaskRequest>) -> Result<Response<Self::WatchTaskStream>, Status> {
            use v1::watch_task_response::Record;
            let request = request.into_inner();
            let after = request.resume_after_sequence;
            self.seen().resumes.push(after);
            let change = |sequence, record| Ok(v1::WatchTaskResponse { sequence, record: Some(record) });
            let all = [
                change(1, Record::Task(task(&request.name, v1::TaskState::Distributing)?)),
                change(2, Record::TaskDevice(task_device(1, v1::TaskDeviceState::Receiving))),
                change(3, Record::TaskDevice(task_device(1, v1::TaskDeviceState::Running))),
                change(4, Record::TaskDevice(task_device(2, v1::TaskDeviceState::Running))),
                change(5, Record::Task(task(&request.name, v1::TaskState::Completed)?)),
            ];
            let mut left: Vec<_> = all.into_iter().skip(usize::try_from(after).unwrap()).collect();
            if after == 0 {
                left.truncate(2);
                left.push(Err(Status::unavailable("going down")));
            }
            Ok(Response::new(Box::pin(tokio_stream::iter(left))))
        }
    }
    update_task(v1::UpdateTaskRequest) -> v1::FuotaTask;
    delete_task(v1::DeleteTaskRequest) -> ();
    add_task_devices(v1::AddTaskDevicesRequest) -> v1::AddTaskDevicesResponse;
    remove_task_devices(v1::RemoveTaskDevicesRequest) -> v1::RemoveTaskDevicesResponse;
    get_task_device(v1::GetTaskDeviceRequest) -> v1::TaskDevice;
    get_wave(v1::GetWaveRequest) -> v1::Wave;
    list_waves(v1::ListWavesRequest) -> v1::ListWavesResponse;
    get_distribution_session(v1::GetDistributionSessionRequest) -> v1::DistributionSession;
    list_distribution_sessions(v1::ListDistributionSessionsRequest) -> v1::ListDistributionSessionsResponse;
    cancel_task(v1::CancelTaskRequest) -> v1::FuotaTask;
}

/// A running server and what it saw.
struct Server {
    fake: Fake,
    address: String,
}

/// What a run of the binary left.
#[derive(Debug)]
struct Run {
    status: i32,
    out: String,
    err: String,
}

impl Server {
    async fn start() -> Self {
        let fake = Fake::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = tonic::transport::Server::builder()
            .add_service(v1::device_service_server::DeviceServiceServer::new(
                fake.clone(),
            ))
            .add_service(v1::image_service_server::ImageServiceServer::new(
                fake.clone(),
            ))
            .add_service(v1::network_service_server::NetworkServiceServer::new(
                fake.clone(),
            ))
            .add_service(v1::task_service_server::TaskServiceServer::new(
                fake.clone(),
            ));
        tokio::spawn(router.serve_with_incoming(TcpIncoming::from(listener)));
        Self { fake, address }
    }

    async fn run(&self, args: &[&str]) -> Run {
        self.run_with(args, "", &[]).await
    }

    async fn run_with(&self, args: &[&str], input: &str, env: &[(&str, &str)]) -> Run {
        fuota(&self.address, args, input, env).await
    }
}

async fn fuota(address: &str, args: &[&str], input: &str, env: &[(&str, &str)]) -> Run {
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
        (
            &[
                "task",
                "watch",
                "good",
                "--server",
                "127.0.0.1:1",
                "--patience",
                "1ms",
            ],
            4,
        ),
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
        "--start",
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
    assert!(task.deadline.is_some() && task.window_start.is_none());
    let start = &seen.starts[0];
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
