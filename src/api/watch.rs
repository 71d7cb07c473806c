//! WatchTask: state sync of one task. Notices only say that something changed; the store has the truth.

use std::pin::Pin;

use tokio::sync::{broadcast, mpsc, watch as change};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::proto::v1;
use crate::record::{Task, TaskId};
use crate::runtime::Notice;
use crate::store::{Catalog, Page, TaskDeviceFilter};

use super::errors::ApiError;
use super::fields::tenant;
use super::task_records::{handled, show_task, task_sequence};
use super::{Api, names};

/// Messages that may wait for the client before reading goes on.
const WAITING: usize = 64;
/// Devices read at once.
const BATCH: u32 = 256;

type Answers = mpsc::Sender<Result<v1::WatchTaskResponse, Status>>;
pub(super) type Watching =
    Pin<Box<dyn Stream<Item = Result<v1::WatchTaskResponse, Status>> + Send>>;

/// Why a watch ends early.
enum End {
    /// The client is gone.
    Gone,
    /// The client is to be told.
    Error(ApiError),
}

impl From<ApiError> for End {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

impl From<crate::store::StoreError> for End {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Error(error.into())
    }
}

/// A watch under way.
struct Watch<S> {
    api: Api<S>,
    task: TaskId,
    answers: Answers,
    /// Sequence on the wire of the last message sent.
    sent: i64,
    notices: broadcast::Receiver<Notice>,
    drafts: change::Receiver<u64>,
}

impl<S: Catalog> Api<S> {
    /// Checks where a watch is to begin, and begins it.
    pub(super) async fn watch(&self, request: &v1::WatchTaskRequest) -> Result<Watching, ApiError> {
        // Listening before reading: what changes in between is noticed.
        let notices = self.core.handle.subscribe();
        let drafts = self.core.drafts.subscribe();
        let task = self.find_task("name", &request.name).await?;
        let (after, present) = (request.resume_after_sequence, task_sequence(task.sequence));
        if !(0..=present).contains(&after) {
            return Err(ApiError::OutOfRange(format!(
                "resume_after_sequence {after} is not in 0..={present}"
            )));
        }
        let (answers, stream) = mpsc::channel(WAITING);
        let mut watch = Watch {
            api: self.clone(),
            task: task.id,
            answers,
            sent: after,
            notices,
            drafts,
        };
        tokio::spawn(async move {
            if let Err(End::Error(error)) = watch.run().await {
                // If the client is gone there is nobody to tell.
                let _ = watch.answers.send(Err(error.into())).await;
            }
        });
        Ok(Box::pin(ReceiverStream::new(stream)))
    }
}

impl<S: Catalog> Watch<S> {
    async fn run(&mut self) -> Result<(), End> {
        loop {
            let task = self.sync().await?;
            if task.state.is_terminal() {
                return Ok(());
            }
            self.wait(task.sequence).await?;
        }
    }

    /// Sends everything up to the task's present sequence, and returns the task as it was sent.
    async fn sync(&mut self) -> Result<Task, End> {
        let api = self.api.clone();
        let store = api.store();
        let task = store.task(&tenant(), &self.task).await?;
        let Some(task) = task else {
            let name = names::name("tasks", &self.task);
            return Err(ApiError::NotFound(name).into());
        };
        let counts = store.task_counts(&task.id).await?;
        let components = api.components(&task).await?;
        let context = api.context(task.clone()).await?;
        let mut after = handled(self.sent);
        'devices: loop {
            let filter = TaskDeviceFilter {
                after_sequence: Some(after),
                ..TaskDeviceFilter::default()
            };
            let page = Page {
                size: BATCH,
                after: None,
            };
            let devices = store.task_devices(&task.id, &filter, &page).await?;
            let last = u32::try_from(devices.len()).is_ok_and(|count| count < BATCH);
            for device in devices {
                // What changed after the task was read comes with its next reading.
                if device.sequence > task.sequence {
                    break 'devices;
                }
                after = after.max(device.sequence);
                let shown = api.show_task_device(&context, &components, &device).await?;
                let sequence = shown.sequence;
                let record = v1::watch_task_response::Record::TaskDevice(shown);
                self.send(sequence, record).await?;
            }
            if last {
                break;
            }
        }
        let sequence = task_sequence(task.sequence);
        if sequence > self.sent {
            let record = v1::watch_task_response::Record::Task(show_task(&task, &counts));
            self.send(sequence, record).await?;
        }
        Ok(task)
    }

    async fn send(
        &mut self,
        sequence: i64,
        record: v1::watch_task_response::Record,
    ) -> Result<(), End> {
        let message = v1::WatchTaskResponse {
            sequence,
            record: Some(record),
        };
        self.answers
            .send(Ok(message))
            .await
            .map_err(|_| End::Gone)?;
        self.sent = sequence;
        Ok(())
    }

    /// Waits until the task may have changed since `sequence`, or the client is gone.
    async fn wait(&mut self, sequence: u64) -> Result<(), End> {
        loop {
            tokio::select! {
                biased;
                () = self.answers.closed() => return Err(End::Gone),
                changed = self.drafts.changed() => {
                    return changed.map_err(|_| ApiError::Stopped.into());
                }
                notice = self.notices.recv() => match notice {
                    Ok(Notice::Task { task, sequence: now }) if task == self.task && now > sequence => {
                        return Ok(());
                    }
                    Ok(Notice::Task { .. } | Notice::Uplink(_)) => {}
                    Err(broadcast::error::RecvError::Lagged(_)) => return Ok(()),
                    Err(broadcast::error::RecvError::Closed) => return Err(ApiError::Stopped.into()),
                },
            }
        }
    }
}
