//! A server with canned answers. It keeps no rules; what it is asked is recorded.

use std::sync::{Arc, Mutex};

use lorawan_fuota::proto::v1;
use prost::bytes::Bytes;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

/// The image that is there.
pub(super) const SHA: &str = "3f1a09c2d4e5f60718293a4b5c6d7e8f3f1a09c2d4e5f60718293a4b5c6d7e8f";

type BoxStream<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the server was asked.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) devices: Vec<v1::EndDevice>,
    pub(super) masks: Vec<Vec<String>>,
    pub(super) profiles: Vec<v1::DeviceProfile>,
    pub(super) uploads: Vec<(v1::ImageMetadata, Vec<u8>)>,
    pub(super) tasks: Vec<v1::CreateTaskRequest>,
    pub(super) starts: Vec<v1::StartTaskRequest>,
    pub(super) resumes: Vec<i64>,
    pub(super) tokens: Vec<String>,
}

#[derive(Clone, Default)]
pub(super) struct Fake {
    seen: Arc<Mutex<Seen>>,
    /// Told when `tasks/cut` is watched for the first time.
    pub(super) cut: Arc<tokio::sync::Notify>,
}

impl Fake {
    /// What it was asked so far.
    pub(super) fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
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

/// `tasks/good` and `tasks/cut` end well, `tasks/bad` does not, `tasks/blocked` cannot start, others do not exist.
fn task(name: &str, state: v1::TaskState) -> Result<v1::FuotaTask, Status> {
    let succeeded = match name {
        "tasks/good" | "tasks/cut" => 2,
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
    device_profile_service_server::DeviceProfileService {
        async fn get_device_profile(&self, request: Request<v1::GetDeviceProfileRequest>) -> Result<Response<v1::DeviceProfile>, Status> {
            Ok(Response::new(v1::DeviceProfile {
                name: request.into_inner().name,
                decoder_limits: Some(v1::DecoderLimits { max_nb_frag: 500, ..Default::default() }),
                ..Default::default()
            }))
        }

        async fn update_device_profile(&self, request: Request<v1::UpdateDeviceProfileRequest>) -> Result<Response<v1::DeviceProfile>, Status> {
            let request = request.into_inner();
            let asked = request.device_profile.unwrap();
            self.seen().masks.push(request.update_mask.unwrap().paths);
            self.seen().profiles.push(asked.clone());
            Ok(Response::new(asked))
        }
    }
    create_device_profile(v1::CreateDeviceProfileRequest) -> v1::DeviceProfile;
    list_device_profiles(v1::ListDeviceProfilesRequest) -> v1::ListDeviceProfilesResponse;
    delete_device_profile(v1::DeleteDeviceProfileRequest) -> ();
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

        type DownloadImageStream = BoxStream<v1::DownloadImageResponse>;

        async fn download_image(&self, request: Request<v1::DownloadImageRequest>) -> Result<Response<Self::DownloadImageStream>, Status> {
            assert_eq!(request.into_inner().name, image().name);
            let chunks = [&b"by"[..], b"tes"].map(|chunk| {
                Ok(v1::DownloadImageResponse { chunk: Bytes::from_static(chunk) })
            });
            Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
        }

        async fn withdraw_image(&self, request: Request<v1::WithdrawImageRequest>) -> Result<Response<v1::WithdrawImageResponse>, Status> {
            let cancelled_tasks = match request.into_inner().cancel_tasks {
                true => vec!["tasks/march".to_owned()],
                false => vec![],
            };
            Ok(Response::new(v1::WithdrawImageResponse { image: Some(image()), cancelled_tasks }))
        }

        async fn update_image(&self, request: Request<v1::UpdateImageRequest>) -> Result<Response<v1::Image>, Status> {
            let request = request.into_inner();
            let changed = request.image.unwrap();
            assert_eq!(request.update_mask.unwrap().paths, ["allowed_devices"]);
            assert_eq!(changed.allowed_devices, ["devices/0102030405060708"]);
            Ok(Response::new(image()))
        }
    }
    activate_image(v1::ActivateImageRequest) -> v1::Image;
    create_delta(v1::CreateDeltaRequest) -> v1::Image;
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
                success_percent: 99.5,
                sessions: vec![v1::PlannedSession {
                    device_count: 2,
                    data_rate: 5,
                    device_energy_joules: 29.0,
                    ..Default::default()
                }],
                gateway_air: vec![v1::GatewayAir {
                    gateway: "gateways/0016c001f0000001".into(),
                    from_hz: 869_400_000,
                    to_hz: 869_650_000,
                    duty_cycle_percent: 10.0,
                    spent_airtime_us: 1_000_000,
                    ..Default::default()
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
            if request.name == "tasks/cut" && self.seen().resumes.len() == 1 {
                self.cut.notify_one();
                return Ok(Response::new(Box::pin(tokio_stream::pending())));
            }
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
    pause_task(v1::PauseTaskRequest) -> v1::FuotaTask;
    resume_task(v1::ResumeTaskRequest) -> v1::FuotaTask;
    retry_task(v1::RetryTaskRequest) -> v1::FuotaTask;
    cancel_task(v1::CancelTaskRequest) -> v1::FuotaTask;
}

/// A running server and what it saw.
pub(super) struct Server {
    pub(super) fake: Fake,
    pub(super) address: String,
}

impl Server {
    /// Starts it on a free port.
    pub(super) async fn start() -> Self {
        let fake = Fake::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = tonic::transport::Server::builder()
            .add_service(v1::device_service_server::DeviceServiceServer::new(
                fake.clone(),
            ))
            .add_service(
                v1::device_profile_service_server::DeviceProfileServiceServer::new(fake.clone()),
            )
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
}
