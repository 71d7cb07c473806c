//! `fuota image`: upload, get, list, delete; what needs no server is in `image_offline`.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};
use tonic::Code;

use super::connection::{ListArgs, pages};
use super::image_offline::{self, InspectArgs, SignArgs};
use super::image_release::{ReleaseCommand, ScopeArgs, release};
use super::moment::{distance_text, now, time_json, time_text};
use super::names::{enum_parser, id, pairs_text, parse_pair, resource, word, word_json};
use super::output::{Failure, counted, fields, table};
use super::settings::read_bytes;
use super::{Context, Outcome, delta};
use crate::proto::v1;

/// Bytes of an image per message.
const CHUNK_BYTES: usize = 256 * 1024;
/// Hex digits of a SHA-256 that tables show.
const SHORT_DIGITS: usize = 12;

/// What to do with images.
#[derive(Subcommand)]
pub enum ImageCommand {
    /// Upload a file; the same bytes twice give the same image
    ///
    /// The image is named by the SHA-256 of its bytes and never changes. An MCUboot image is known by its
    /// content; the server checks its structure, its hash and its signature, and reads the version from its
    /// header. It is a draft until it is activated.
    #[command(
        after_help = "Example:\n  fuota image upload app.signed.bin --model sensor-2 --activate"
    )]
    Upload(UploadArgs),
    /// Show one image
    Get {
        /// SHA-256 or its beginning
        image: String,
    },
    /// List images
    ///
    /// Filter fields: model, component, target_version, version, annotations.KEY.
    List(ListArgs),
    #[command(flatten)]
    Release(ReleaseCommand),
    /// Delete an image; refused while a task names it
    Delete {
        /// SHA-256 or its beginning
        image: String,
    },
    /// Make a delta: what turns one image into another, in few bytes
    ///
    /// Works on files, without a server. The delta is applied before it is written.
    #[command(
        after_help = "Example:\n  fuota image delta app-1.2.0.bin app-1.3.0.bin -o app-1.2.0-1.3.0.delta"
    )]
    Delta(delta::DeltaArgs),
    /// Apply a delta, as a device does
    ///
    /// Works on files, without a server.
    ApplyDelta(delta::ApplyArgs),
    /// Describe an image and check its signature; needs no server for a file
    ///
    /// Shows what the bytes say: container, header, TLVs, digests, and for a plain file what it seems to be. With
    /// --key also whether the signature holds, the one in the image or the one beside it. Exit status 1 if it does
    /// not, or if the image is damaged.
    #[command(after_help = "Example:\n  fuota image inspect app.signed.bin --key release.pub.pem")]
    Inspect(InspectArgs),
    /// Sign a file: as an MCUboot image, or with a signature beside it; needs no server
    #[command(after_help = "Examples:\n  \
        fuota image sign app.bin --key release.pem --version 1.2.3 --header-size 0x200 -o app.signed.bin\n  \
        fuota image sign app.bin --key release.pem --detached")]
    Sign(Box<SignArgs>),
}

/// Arguments of `fuota image upload`.
#[derive(clap::Args)]
pub struct UploadArgs {
    /// The file; - reads standard input
    file: PathBuf,

    /// What stands around the code [default: known by its content]
    #[arg(long, value_parser = enum_parser::<v1::ImageContainer>())]
    container: Option<v1::ImageContainer>,

    /// Hardware model it is made for; unset fits every model
    #[arg(long, default_value = "", hide_default_value = true)]
    model: String,

    /// Part of the device it is made for
    #[arg(long, default_value = "main")]
    component: String,

    /// Number a device reports when it runs this image (TS006 FWversion), decimal or 0x...; default: from the
    /// MCUboot header
    #[arg(long, value_name = "NUMBER", value_parser = parse_number)]
    target_version: Option<u32>,

    /// Version as people write it; default: from the MCUboot header
    #[arg(long, default_value = "", hide_default_value = true)]
    version: String,

    /// Free note KEY=VALUE; may be repeated
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = parse_pair)]
    annotations: Vec<(String, String)>,

    /// SHA-256 the bytes must have
    #[arg(
        long,
        value_name = "HEX",
        default_value = "",
        hide_default_value = true
    )]
    sha256: String,

    /// Signature over all bytes of the file, made beside it
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,

    /// Version a device must run for this image to be of use to it, decimal or 0x...; may be repeated
    #[arg(long = "source-version", value_name = "NUMBER", value_parser = parse_number)]
    source_versions: Vec<u32>,

    /// Let it out to all devices it fits at once
    #[arg(long)]
    activate: bool,

    #[command(flatten)]
    scope: ScopeArgs,
}

/// A number in decimal or, after `0x`, hexadecimal digits.
pub(super) fn parse_number(text: &str) -> Result<u32, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| "expected a number from 0 to 4294967295, or 0x...".into())
}

/// Carries out one of the commands.
pub(super) async fn run(command: ImageCommand, context: &mut Context) -> Result<Outcome, Failure> {
    match command {
        ImageCommand::Upload(args) => {
            let requests = upload_requests(args, context.connection.request_id())?;
            let image = context
                .connection
                .images()
                .upload_image(tokio_stream::iter(requests))
                .await?
                .into_inner();
            context
                .output
                .show(|| image_json(&image), || image_text(&image))?;
        }
        ImageCommand::Get { image } => {
            let name = find(&image, context).await?;
            let request = v1::GetImageRequest { name };
            let image = context
                .connection
                .images()
                .get_image(request)
                .await?
                .into_inner();
            context
                .output
                .show(|| image_json(&image), || image_text(&image))?;
        }
        ImageCommand::List(args) => list(args, context).await?,
        ImageCommand::Release(command) => release(command, context).await?,
        ImageCommand::Delete { image } => {
            let name = find(&image, context).await?;
            let request = v1::DeleteImageRequest {
                name: name.clone(),
                request_id: context.connection.request_id(),
            };
            context.connection.images().delete_image(request).await?;
            context
                .output
                .show(|| json!({}), || format!("{name} deleted"))?;
        }
        ImageCommand::Delta(args) => return delta::make(&args, context),
        ImageCommand::ApplyDelta(args) => return delta::apply(&args, context),
        ImageCommand::Inspect(args) => return image_offline::inspect(&args, context).await,
        ImageCommand::Sign(args) => return image_offline::sign(&args, context),
    }
    Ok(Outcome::Done)
}

fn upload_requests(
    args: UploadArgs,
    request_id: String,
) -> Result<Vec<v1::UploadImageRequest>, Failure> {
    use v1::upload_image_request::Data;

    let bytes = prost::bytes::Bytes::from(read_bytes(&args.file)?);
    if bytes.is_empty() {
        return Err(Failure::Usage(format!("{}: is empty", args.file.display())));
    }
    let file_name = match args.file.file_name() {
        Some(name) if name != "-" => name.to_string_lossy().into_owned(),
        _ => String::new(),
    };
    let signature = args.signature.as_deref().map(read_bytes).transpose()?;
    let (allowed_devices, release_notes) = (args.scope.devices(), args.scope.notes()?);
    let metadata = v1::ImageMetadata {
        container: args.container.unwrap_or_default().into(),
        file_name,
        model: args.model,
        component: args.component,
        target_version: args.target_version,
        version: args.version,
        annotations: args.annotations.into_iter().collect(),
        expected_sha256: args.sha256.to_ascii_lowercase(),
        request_id,
        signature: signature.unwrap_or_default().into(),
        source_versions: args.source_versions,
        release_notes: release_notes.unwrap_or_default(),
        allowed_devices: allowed_devices.unwrap_or_default(),
        restricted: args.scope.restricted.unwrap_or_default(),
        activate: args.activate,
    };
    let chunks = (0..bytes.len())
        .step_by(CHUNK_BYTES)
        .map(|start| Data::Chunk(bytes.slice(start..bytes.len().min(start + CHUNK_BYTES))));
    Ok(std::iter::once(Data::Metadata(metadata))
        .chain(chunks)
        .map(|data| v1::UploadImageRequest { data: Some(data) })
        .collect())
}

async fn list(args: ListArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.connection.images();
    let listing = pages(args.limit, async |page_size, page_token| {
        let request = v1::ListImagesRequest {
            page_size,
            page_token,
            filter: args.filter.clone(),
        };
        let answer = client.list_images(request).await?.into_inner();
        Ok((answer.images, answer.next_page_token, answer.total_size))
    })
    .await?;
    context.show_list("images", "image", &listing, image_json, |images| {
        let now = now();
        let header = [
            "IMAGE",
            "FILE",
            "SIZE",
            "CONTAINER",
            "MODEL",
            "COMPONENT",
            "VERSION",
            "TARGET",
            "SIGNED",
            "RELEASE",
            "CREATED",
        ];
        table(
            &header,
            images.iter().map(|image| {
                vec![
                    short(&image.sha256).into(),
                    image.file_name.clone(),
                    image.size_bytes.to_string(),
                    word::<v1::ImageContainer>(image.container),
                    image.model.clone(),
                    image.component.clone(),
                    image.version.clone(),
                    format!("{:#010x}", image.target_version),
                    short(&image.signed_by).to_owned(),
                    word::<v1::ReleaseState>(image.release_state),
                    distance_text(image.create_time.as_ref(), &now),
                ]
            }),
        )
    })
}

/// The name of the image that `text` names by its SHA-256, whole or its unambiguous beginning.
///
/// # Errors
/// None or several begin so, or the server refuses.
pub(super) async fn find(text: &str, context: &Context) -> Result<String, Failure> {
    let name = resource("images", &text.to_ascii_lowercase());
    let digits = id(&name);
    if digits.len() == 64 {
        return Ok(name);
    }
    let mut client = context.connection.images();
    let listing = pages(0, async |page_size, page_token| {
        let request = v1::ListImagesRequest {
            page_size,
            page_token,
            filter: String::new(),
        };
        let answer = client.list_images(request).await?.into_inner();
        Ok((answer.images, answer.next_page_token, answer.total_size))
    })
    .await?;
    let mut matching = listing
        .items
        .into_iter()
        .filter(|it| it.sha256.starts_with(digits));
    match (matching.next(), matching.count()) {
        (Some(image), 0) => Ok(image.name),
        (None, _) => {
            Err(tonic::Status::new(Code::NotFound, format!("no image begins with {digits}")).into())
        }
        (Some(_), more) => Err(Failure::Usage(format!(
            "{} begin with {digits}: give more digits",
            counted(
                u64::try_from(more).unwrap_or(u64::MAX).saturating_add(1),
                "image"
            ),
        ))),
    }
}

/// The beginning of an image name that is enough for people.
pub(super) fn short(name: &str) -> &str {
    let digits = id(name);
    digits.get(..SHORT_DIGITS).unwrap_or(digits)
}

pub(super) fn image_json(image: &v1::Image) -> Value {
    json!({
        "name": image.name,
        "sha256": image.sha256,
        "size_bytes": image.size_bytes,
        "container": word_json::<v1::ImageContainer>(image.container),
        "file_name": image.file_name,
        "model": image.model,
        "component": image.component,
        "target_version": image.target_version,
        "version": image.version,
        "annotations": image.annotations,
        "create_time": time_json(image.create_time.as_ref()),
        "release_state": word_json::<v1::ReleaseState>(image.release_state),
        "allowed_devices": image.allowed_devices,
        "restricted": image.restricted,
        "release_notes": image.release_notes,
        "release_time": time_json(image.release_time.as_ref()),
        "source_versions": image.source_versions,
        "signed_by": image.signed_by,
        "detached_signature": image.detached_signature,
        "security_counter": image.security_counter,
        "container_version": image.container_version,
        "md5": image.md5,
        "delta": image.delta.as_ref().map(|delta| json!({
            "base": delta.base,
            "base_version": delta.base_version,
            "target": delta.target,
            "target_size_bytes": delta.target_size_bytes,
        })),
    })
}

pub(super) fn image_text(image: &v1::Image) -> String {
    fields(&[
        ("name", image.name.clone()),
        ("size", counted(image.size_bytes, "byte")),
        ("container", word::<v1::ImageContainer>(image.container)),
        ("file", image.file_name.clone()),
        ("model", image.model.clone()),
        ("component", image.component.clone()),
        ("version", image.version.clone()),
        (
            "target version",
            format!("{0:#010x} ({0})", image.target_version),
        ),
        ("source versions", numbers_text(&image.source_versions)),
        ("signed by", signer_text(image)),
        ("security counter", optional_text(image.security_counter)),
        ("delta", delta_text(image.delta.as_ref())),
        ("release", word::<v1::ReleaseState>(image.release_state)),
        ("allowed devices", allowed_text(image)),
        ("notes", image.release_notes.clone()),
        ("annotations", pairs_text(&image.annotations)),
        ("created", time_text(image.create_time.as_ref(), &now())),
    ])
}

fn numbers_text(numbers: &[u32]) -> String {
    let shown: Vec<String> = numbers.iter().map(|n| format!("{n:#010x}")).collect();
    shown.join(", ")
}

fn optional_text(number: Option<u32>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

fn signer_text(image: &v1::Image) -> String {
    match image.detached_signature {
        true => format!("{} (beside the image)", image.signed_by),
        false => image.signed_by.clone(),
    }
}

fn delta_text(delta: Option<&v1::DeltaInfo>) -> String {
    delta.map_or_else(String::new, |delta| {
        format!(
            "from {} ({:#010x}) to {} of {}",
            short(&delta.base),
            delta.base_version,
            short(&delta.target),
            counted(delta.target_size_bytes, "byte")
        )
    })
}

fn allowed_text(image: &v1::Image) -> String {
    let devices: Vec<&str> = image.allowed_devices.iter().map(|name| id(name)).collect();
    let mut text = devices.join(" ");
    if image.restricted {
        text.push_str(" (and no others)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_numbers_are_decimal_or_hexadecimal() {
        assert_eq!(parse_number("16"), Ok(16));
        assert_eq!(parse_number("0x01020003"), Ok(0x0102_0003));
        assert!(parse_number("1.2.3").is_err());
        assert!(parse_number("4294967296").is_err());
    }

    #[test]
    fn an_image_is_shown_whole() {
        let image = v1::Image {
            name: "images/abcdef0123456789".into(),
            sha256: "abcdef0123456789".into(),
            size_bytes: 1,
            container: v1::ImageContainer::Mcuboot.into(),
            target_version: 0x0102_0003,
            ..Default::default()
        };
        assert_eq!(
            image_text(&image),
            "name:            images/abcdef0123456789\nsize:            1 byte\n\
             container:       MCUBOOT\ntarget version:  0x01020003 (16908291)"
        );
        assert_eq!(image_json(&image)["container"], "MCUBOOT");
        assert_eq!(image_json(&image)["create_time"], Value::Null);
        assert_eq!(short(&image.name), "abcdef012345");
    }
}
