//! `fuota image`: how far an image is let out, deltas between images, and the bytes back.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use tokio_stream::StreamExt;

use super::Context;
use super::image::{find, image_json, image_text};
use super::names::eui_resource;
use super::output::{Failure, counted};
use super::settings::{Mask, read_text, write_new};
use crate::proto::v1;

/// What to do with the release of an image.
#[derive(Subcommand)]
pub enum ReleaseCommand {
    /// Let a draft out to all devices it fits
    Activate {
        /// SHA-256 or its beginning
        image: String,
    },
    /// Take an image back for good: no task starts with it any more
    Withdraw {
        /// SHA-256 or its beginning
        image: String,
        /// Cancel the tasks that distribute it
        #[arg(long)]
        cancel_tasks: bool,
    },
    /// Change for whom an image is, or its notes
    Update {
        /// SHA-256 or its beginning
        image: String,
        #[command(flatten)]
        scope: ScopeArgs,
    },
    /// Have the server make the delta from one stored image to another
    ///
    /// Devices whose profile says that they apply deltas, and that run the version of the first image, are sent it
    /// in place of the second one.
    CreateDelta {
        /// The image that devices hold
        base: String,
        /// The image they are to hold
        target: String,
        /// Let it out at once
        #[arg(long)]
        activate: bool,
    },
    /// Get the bytes of an image
    Download {
        /// SHA-256 or its beginning
        image: String,
        /// Where to write them; a file that is there is not replaced
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
}

/// For whom an image is.
#[derive(Args)]
pub struct ScopeArgs {
    /// A device it may go to while it is a draft, DevEUI; may be repeated
    #[arg(long = "allow", value_name = "DEVEUI")]
    allowed: Vec<String>,

    /// Allow no device by name
    #[arg(long, conflicts_with = "allowed")]
    allow_none: bool,

    /// The allowed devices are all it may go to, also once it is active
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(super) restricted: Option<bool>,

    /// What is new in it; @FILE reads it from a file
    #[arg(long, value_name = "TEXT|@FILE")]
    notes: Option<String>,
}

impl ScopeArgs {
    /// The devices, if they were given.
    pub(super) fn devices(&self) -> Option<Vec<String>> {
        let given = self.allow_none || !self.allowed.is_empty();
        given.then(|| {
            self.allowed
                .iter()
                .map(|eui| eui_resource("devices", eui))
                .collect()
        })
    }

    /// The notes, if they were given.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn notes(&self) -> Result<Option<String>, Failure> {
        let Some(notes) = &self.notes else {
            return Ok(None);
        };
        match notes.strip_prefix('@') {
            Some(path) => read_text(path.as_ref()).map(Some),
            None => Ok(Some(notes.clone())),
        }
    }
}

/// Carries out one of the commands.
pub(super) async fn release(command: ReleaseCommand, context: &mut Context) -> Result<(), Failure> {
    let request_id = context.connection.request_id();
    let mut client = context.connection.images();
    let image = match command {
        ReleaseCommand::Activate { image } => {
            let name = find(&image, context).await?;
            let request = v1::ActivateImageRequest { name, request_id };
            client.activate_image(request).await?.into_inner()
        }
        ReleaseCommand::Withdraw {
            image,
            cancel_tasks,
        } => return withdraw(&image, cancel_tasks, context).await,
        ReleaseCommand::Update { image, scope } => {
            let mut mask = Mask::default();
            let mut changed = v1::Image {
                name: find(&image, context).await?,
                ..v1::Image::default()
            };
            mask.put(
                "allowed_devices",
                &mut changed.allowed_devices,
                scope.devices(),
            );
            mask.put("restricted", &mut changed.restricted, scope.restricted);
            mask.put("release_notes", &mut changed.release_notes, scope.notes()?);
            let request = v1::UpdateImageRequest {
                image: Some(changed),
                update_mask: Some(mask.finish()?),
                request_id,
            };
            client.update_image(request).await?.into_inner()
        }
        ReleaseCommand::CreateDelta {
            base,
            target,
            activate,
        } => {
            let request = v1::CreateDeltaRequest {
                base: find(&base, context).await?,
                target: find(&target, context).await?,
                activate,
                request_id,
            };
            client.create_delta(request).await?.into_inner()
        }
        ReleaseCommand::Download { image, output } => {
            return download(&image, &output, context).await;
        }
    };
    context
        .output
        .show(|| image_json(&image), || image_text(&image))?;
    Ok(())
}

async fn withdraw(image: &str, cancel_tasks: bool, context: &mut Context) -> Result<(), Failure> {
    let request = v1::WithdrawImageRequest {
        name: find(image, context).await?,
        cancel_tasks,
        request_id: context.connection.request_id(),
    };
    let mut client = context.connection.images();
    let answer = client.withdraw_image(request).await?.into_inner();
    let image = answer.image.unwrap_or_default();
    let tasks = answer.cancelled_tasks;
    context.output.show(
        || json!({"image": image_json(&image), "cancelled_tasks": &tasks}),
        || {
            let mut text = format!("{} withdrawn", image.name);
            for task in &tasks {
                text.push_str(&format!("\n{task} is being cancelled"));
            }
            text
        },
    )?;
    Ok(())
}

/// The bytes of a stored image.
pub(super) async fn image_bytes(name: &str, context: &Context) -> Result<Vec<u8>, Failure> {
    let request = v1::DownloadImageRequest {
        name: name.to_owned(),
    };
    let mut client = context.connection.images();
    let mut chunks = client.download_image(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        bytes.extend_from_slice(&chunk?.chunk);
    }
    Ok(bytes)
}

async fn download(
    image: &str,
    path: &std::path::Path,
    context: &mut Context,
) -> Result<(), Failure> {
    let name = find(image, context).await?;
    let bytes = image_bytes(&name, context).await?;
    write_new(path, &bytes)?;
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    context.output.show(
        || json!({"name": name, "file": path.display().to_string(), "size_bytes": size}),
        || format!("{} written to {}", counted(size, "byte"), path.display()),
    )?;
    Ok(())
}
