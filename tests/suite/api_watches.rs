//! Watching tasks over the API: everything first, then each change, in order and up to the end.

use lorawan_fuota::proto::v1;
use lorawan_fuota::proto::v1::watch_task_response::Record;
use lorawan_fuota::record::{DeviceState, TaskState};
use lorawan_fuota::store::Catalog;
use tokio_stream::StreamExt;
use tonic::{Code, Status, Streaming};

use crate::api_support::{Server, mask, reason};
use crate::api_tasks::{create, names, server, start};

async fn watch(
    server: &Server,
    name: &str,
    after: i64,
) -> Result<Streaming<v1::WatchTaskResponse>, Status> {
    let request = v1::WatchTaskRequest {
        name: name.to_owned(),
        resume_after_sequence: after,
    };
    Ok(server.tasks().watch_task(request).await?.into_inner())
}

#[tokio::test]
async fn a_watch_brings_everything_then_every_change_and_ends_with_the_task() {
    let (server, task) = server(2).await;
    create(&server, "a", &task, names([1, 2])).await.unwrap();
    start(&server, "tasks/a", "").await.unwrap();
    let mut stream = watch(&server, "tasks/a", 0).await.unwrap();
    let mut last = 0;
    let mut seen = vec![];
    for _ in 0..3 {
        let message = stream.next().await.unwrap().unwrap();
        assert!(message.sequence > last);
        last = message.sequence;
        seen.push(match message.record.unwrap() {
            Record::Task(task) => task.name,
            Record::TaskDevice(device) => device.name,
        });
    }
    assert_eq!(
        seen,
        [
            "tasks/a/devices/0000000000000001",
            "tasks/a/devices/0000000000000002",
            "tasks/a"
        ]
    );

    server
        .change_task("a", |_, devices| devices[1].state = DeviceState::Receiving)
        .await;
    let change = stream.next().await.unwrap().unwrap();
    let Some(Record::TaskDevice(device)) = change.record else {
        panic!("{change:?}");
    };
    assert_eq!(device.state(), v1::TaskDeviceState::Receiving);
    assert!(change.sequence > last);

    // A client that handled all of it but the task that follows misses nothing.
    let mut resumed = watch(&server, "tasks/a", change.sequence).await.unwrap();
    let message = resumed.next().await.unwrap().unwrap();
    let Some(Record::Task(task)) = &message.record else {
        panic!("{message:?}");
    };
    assert_eq!(task.device_counts.unwrap().receiving, 1);
    assert_eq!(task.sequence, message.sequence);

    server
        .change_task("a", |task, devices| {
            task.state = TaskState::Completed;
            devices[0].state = DeviceState::Running;
            devices[1].state = DeviceState::Silent;
        })
        .await;
    let rest: Vec<v1::WatchTaskResponse> = resumed.map(Result::unwrap).collect().await;
    assert_eq!(rest.len(), 3);
    let Some(Record::Task(task)) = &rest[2].record else {
        panic!("{rest:?}");
    };
    assert_eq!(task.state(), v1::TaskState::Completed);
    let last = rest[2].sequence;
    let mut nothing = watch(&server, "tasks/a", last).await.unwrap();
    assert!(nothing.next().await.is_none());
}

#[tokio::test]
async fn a_watch_begins_and_ends_where_it_can() {
    let (server, task) = server(0).await;
    let draft = create(&server, "a", &task, vec![]).await.unwrap();
    for after in [-1, draft.sequence + 1, i64::MAX] {
        let refused = watch(&server, "tasks/a", after).await.map(|_| ());
        assert_eq!(reason(refused, Code::OutOfRange), "OUT_OF_RANGE", "{after}");
    }
    let missing = watch(&server, "tasks/none", 0).await.map(|_| ());
    assert_eq!(reason(missing, Code::NotFound), "NOT_FOUND");
    let mut stream = watch(&server, "tasks/a", draft.sequence).await.unwrap();
    let request = v1::UpdateTaskRequest {
        task: Some(v1::FuotaTask {
            name: "tasks/a".to_owned(),
            display_name: "Spring".to_owned(),
            ..Default::default()
        }),
        update_mask: mask(&["display_name"]),
        request_id: String::new(),
    };
    server.tasks().update_task(request).await.unwrap();
    let message = stream.next().await.unwrap().unwrap();
    let Some(Record::Task(task)) = message.record else {
        panic!("{message:?}");
    };
    assert_eq!(task.display_name, "Spring");
    let request = v1::DeleteTaskRequest {
        name: "tasks/a".to_owned(),
        request_id: String::new(),
    };
    server.tasks().delete_task(request).await.unwrap();
    assert_eq!(
        stream.next().await.unwrap().unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn many_devices_arrive_once_each_and_in_order() {
    let (server, task) = server(1000).await;
    create(&server, "a", &task, names(1..=1000)).await.unwrap();
    start(&server, "tasks/a", "").await.unwrap();
    let mut stream = watch(&server, "tasks/a", 0).await.unwrap();
    let (mut devices, mut last) = (0, 0);
    loop {
        let message = stream.next().await.unwrap().unwrap();
        assert!(message.sequence > last, "{} after {last}", message.sequence);
        last = message.sequence;
        match message.record.unwrap() {
            Record::TaskDevice(_) => devices += 1,
            Record::Task(task) => break assert_eq!(task.sequence, last),
        }
    }
    assert_eq!(devices, 1000);
    let snapshot = server
        .store
        .task_counts(&lorawan_fuota::record::TaskId("a".to_owned()))
        .await;
    assert_eq!(snapshot.unwrap()[&DeviceState::Pending], 1000);
}
