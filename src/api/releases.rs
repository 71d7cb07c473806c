//! How far images are let out, deltas between them, and their bytes on the way back.

use std::pin::Pin;
use std::sync::Arc;

use tokio_stream::Stream;
use tonic::Status;

use crate::firmware;
use crate::firmware::delta::{self, DeltaOptions, image_as_stored};
use crate::proto::v1;
use crate::record::{
    Change, Delta, Image, ImageContainer, ImageFacts, Release, ReleaseState, Sha256, Task,
    TaskState,
};
use crate::runtime::Command;
use crate::store::{Catalog, TaskFilter};

use super::errors::ApiError;
use super::fields::Fields;
use super::idempotency::{Call, first_or_return};
use super::image_records::{read_devices, read_notes, show};
use super::mask::Mask;
use super::{Api, names};

const WRITABLE: [&str; 3] = ["allowed_devices", "restricted", "release_notes"];
/// Bytes of an image per message.
const CHUNK: usize = 256 << 10;

type Chunks = Pin<Box<dyn Stream<Item = Result<v1::DownloadImageResponse, Status>> + Send>>;

impl<S: Catalog> Api<S> {
    pub(super) async fn change_release(
        self,
        request: v1::UpdateImageRequest,
    ) -> Result<v1::Image, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("UpdateImage", &request, &[]).await?);
        let mut fields = Fields::of("image");
        let mask = Mask::read(&mut fields, request.update_mask.as_ref(), &WRITABLE);
        let Some(given) = request.image else {
            return Err(ApiError::field("image", "missing"));
        };
        let devices = read_devices(&mut fields, &given.allowed_devices);
        let notes = read_notes(&mut fields, &given.release_notes);
        fields.finish()?;
        let sha256 = names::required("image.name", "images/{sha256}", &given.name, names::image)?;
        let mut image = self.image(sha256).await?;
        let release = &mut image.release;
        mask.take("allowed_devices", &mut release.allowed_devices, devices);
        mask.take("restricted", &mut release.restricted, given.restricted);
        mask.take("release_notes", &mut release.notes, notes);
        release.changed_at = self.now();
        let shown = show(image.clone());
        let mut changes = vec![Change::PutImageRecord(image)];
        changes.extend(ticket.answered(&shown));
        self.commit(changes).await?;
        Ok(shown)
    }

    pub(super) async fn activate(
        self,
        request: v1::ActivateImageRequest,
    ) -> Result<v1::Image, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("ActivateImage", &request, &[]).await?);
        let mut image = self.find_image(&request.name).await?;
        if image.release.state == ReleaseState::Withdrawn {
            let message = format!("{} is withdrawn", request.name);
            return Err(ApiError::refused("IMAGE_WITHDRAWN", message));
        }
        if image.release.state == ReleaseState::Draft {
            image.release.state = ReleaseState::Active;
            image.release.changed_at = self.now();
        }
        let shown = show(image.clone());
        let mut changes = vec![Change::PutImageRecord(image)];
        changes.extend(ticket.answered(&shown));
        self.commit(changes).await?;
        Ok(shown)
    }

    /// Each cancellation is a command of its own: a call that is cut short is made again under its `request_id` and
    /// goes on where it ended.
    pub(super) async fn withdraw(
        self,
        request: v1::WithdrawImageRequest,
    ) -> Result<v1::WithdrawImageResponse, ApiError> {
        let _desk = self.desk().await;
        let ticket = match self.once("WithdrawImage", &request, &[]).await? {
            Call::Again(Some(answer)) => return Ok(answer),
            Call::Again(None) => return Err(ApiError::Stopped),
            Call::First(ticket) => ticket,
        };
        let mut image = self.find_image(&request.name).await?;
        if image.release.state != ReleaseState::Withdrawn {
            image.release.state = ReleaseState::Withdrawn;
            image.release.changed_at = self.now();
            let change = Change::PutImageRecord(image.clone());
            self.commit(vec![change]).await?;
        }
        let mut cancelled = Vec::new();
        if request.cancel_tasks {
            for task in self.tasks_with(image.sha256).await? {
                let command = Command::CancelTask(task.id.clone());
                self.command("TASK_ENDED", command, Vec::new()).await?;
                cancelled.push(names::name("tasks", task.id));
            }
        }
        let answer = v1::WithdrawImageResponse {
            image: Some(show(image)),
            cancelled_tasks: cancelled,
        };
        let changes = ticket.answered(&answer);
        if !changes.is_empty() {
            self.commit(changes).await?;
        }
        Ok(answer)
    }

    /// Tasks that distribute an image and can be cancelled.
    async fn tasks_with(&self, image: Sha256) -> Result<Vec<Task>, ApiError> {
        let mut tasks = self.all_tasks(&TaskFilter::of_image(image)).await?;
        tasks.retain(|task| task.state.is_active() && task.state != TaskState::Cancelling);
        Ok(tasks)
    }

    pub(super) async fn make_delta(
        self,
        request: v1::CreateDeltaRequest,
    ) -> Result<v1::Image, ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("CreateDelta", &request, &[]).await?);
        let name = |field, name| names::required(field, "images/{sha256}", name, names::image);
        let base = self.image(name("base", &request.base)?).await?;
        let target = self.image(name("target", &request.target)?).await?;
        check_pair(&base, &target)?;
        let (old, new) = (
            self.bytes_of(base.sha256).await?,
            self.bytes_of(target.sha256).await?,
        );
        // Minutes of work would hold up every other call of this thread.
        let options = DeltaOptions {
            target_version: target.target_version,
            ..DeltaOptions::default()
        };
        let make = move || {
            let (old, new) = (image_as_stored(&old), image_as_stored(&new));
            delta::make(old, new, &options)
        };
        let made = tokio::task::spawn_blocking(make).await;
        let bytes = made
            .map_err(|_| ApiError::Stopped)?
            .map_err(|error| ApiError::field("target", error.to_string()))?;
        if bytes.len() >= usize::try_from(target.size_bytes).unwrap_or(usize::MAX) {
            let message = format!(
                "the delta would have {} bytes, the image has {}",
                bytes.len(),
                target.size_bytes
            );
            return Err(ApiError::refused("DELTA_NOT_SMALLER", message));
        }
        let image = self.delta_image(&base, &target, &bytes, request.activate);
        if self
            .store()
            .image(&image.tenant, image.sha256)
            .await?
            .is_some()
        {
            return Err(ApiError::AlreadyExists {
                resource: names::name("images", image.sha256),
                reason: "ALREADY_EXISTS",
            });
        }
        let shown = show(image.clone());
        let mut changes = vec![Change::PutImage(image, Arc::from(bytes))];
        changes.extend(ticket.answered(&shown));
        self.commit(changes).await?;
        Ok(shown)
    }

    /// A delta is believed for its target's sake: what comes out of it is checked by digest and signature.
    fn delta_image(&self, base: &Image, target: &Image, bytes: &[u8], activate: bool) -> Image {
        let now = self.now();
        Image {
            sha256: Sha256(firmware::sha256(bytes)),
            size_bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            container: ImageContainer::Delta,
            file_name: String::new(),
            created_at: now,
            facts: ImageFacts {
                source_versions: [base.target_version].into(),
                md5: firmware::md5_hex(bytes),
                delta: Some(Delta {
                    base: base.sha256,
                    base_version: base.target_version,
                    target: target.sha256,
                    target_size_bytes: target.size_bytes,
                }),
                ..target.facts.clone()
            },
            release: Release {
                state: match activate {
                    true => ReleaseState::Active,
                    false => ReleaseState::Draft,
                },
                changed_at: now,
                ..target.release.clone()
            },
            ..target.clone()
        }
    }

    pub(super) async fn download(&self, name: &str) -> Result<Chunks, ApiError> {
        let image = self.find_image(name).await?;
        let bytes = self.bytes_of(image.sha256).await?;
        let starts = (0..bytes.len()).step_by(CHUNK);
        let chunks = starts.map(move |start| {
            let end = bytes.len().min(start + CHUNK);
            Ok(v1::DownloadImageResponse {
                chunk: bytes[start..end].to_vec().into(),
            })
        });
        Ok(Box::pin(tokio_stream::iter(chunks)))
    }
}

fn check_pair(base: &Image, target: &Image) -> Result<(), ApiError> {
    let differ = |what: &str| Err(ApiError::refused("IMAGES_DIFFER", what));
    if base.facts.delta.is_some() || target.facts.delta.is_some() {
        return differ("one of the images is a delta itself");
    }
    if base.sha256 == target.sha256 {
        return differ("base and target are the same image");
    }
    if base.model != target.model || base.component != target.component {
        return differ("model or component of the images differ");
    }
    if base.target_version == target.target_version {
        return differ(
            "both images report the same version, so that no device could be told apart",
        );
    }
    Ok(())
}
