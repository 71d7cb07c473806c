//! Image service: uploads are checked while they come in and stored only when everything is right.

use std::sync::Arc;

use prost::bytes::Bytes;
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};

use crate::firmware::{self, Container, ImageError};
use crate::proto::v1;
use crate::record::{Change, Image, ImageContainer, Sha256};
use crate::store::{Catalog, Page, TaskFilter};

use super::errors::{ApiError, check_size};
use super::fields::{Fields, show_moment, tenant};
use super::filter::Kind;
use super::idempotency::first_or_return;
use super::page::PageRequest;
use super::{Api, answer, carry_out, names};

/// Largest image, bytes.
const LARGEST_IMAGE: usize = 4 << 20;
/// Largest chunk, bytes.
const LARGEST_CHUNK: usize = 1 << 20;

const FILTER: [(&str, Kind); 5] = [
    ("model", Kind::Text),
    ("component", Kind::Text),
    ("target_version", Kind::Number),
    ("version", Kind::Text),
    ("annotations", Kind::Map),
];

#[tonic::async_trait]
impl<S: Catalog> v1::image_service_server::ImageService for Api<S> {
    async fn upload_image(
        &self,
        request: Request<Streaming<v1::UploadImageRequest>>,
    ) -> Result<Response<v1::Image>, Status> {
        let (metadata, bytes) = receive(request.into_inner()).await?;
        let api = self.clone();
        carry_out(async move { api.keep_image(metadata, bytes).await }).await
    }

    async fn get_image(
        &self,
        request: Request<v1::GetImageRequest>,
    ) -> Result<Response<v1::Image>, Status> {
        answer(self.find_image(&request.get_ref().name).await.map(show))
    }

    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        answer(self.page_of_images(request.get_ref()).await)
    }

    async fn delete_image(
        &self,
        request: Request<v1::DeleteImageRequest>,
    ) -> Result<Response<()>, Status> {
        let api = self.clone();
        carry_out(async move { api.drop_image(request.into_inner()).await }).await
    }
}

/// Takes in an upload: metadata once and first, then chunks.
async fn receive(
    mut messages: Streaming<v1::UploadImageRequest>,
) -> Result<(v1::ImageMetadata, Vec<u8>), Status> {
    use v1::upload_image_request::Data;

    let mut metadata = None;
    let mut bytes = Vec::new();
    while let Some(message) = messages.next().await {
        let message = message?;
        match (message.data, &metadata) {
            (Some(Data::Metadata(first)), None) => {
                check_size(&first)?;
                metadata = Some(first);
            }
            (Some(Data::Metadata(_)), Some(_)) => {
                return Err(ApiError::field("metadata", "given more than once").into());
            }
            (Some(Data::Chunk(_)), None) => {
                return Err(ApiError::field("metadata", "has to be the first message").into());
            }
            (Some(Data::Chunk(chunk)), Some(_)) => take_chunk(&mut bytes, &chunk)?,
            (None, _) => return Err(ApiError::field("data", "missing").into()),
        }
    }
    let metadata = metadata.ok_or_else(|| ApiError::field("metadata", "missing"))?;
    if bytes.is_empty() {
        return Err(ApiError::field("chunk", "the image has no bytes").into());
    }
    Ok((metadata, bytes))
}

fn take_chunk(bytes: &mut Vec<u8>, chunk: &Bytes) -> Result<(), ApiError> {
    if chunk.is_empty() || chunk.len() > LARGEST_CHUNK {
        let why = format!("{} bytes, not 1..={LARGEST_CHUNK}", chunk.len());
        return Err(ApiError::field("chunk", why));
    }
    if bytes.len() + chunk.len() > LARGEST_IMAGE {
        return Err(ApiError::TooMuch(format!(
            "the image has more than {LARGEST_IMAGE} bytes"
        )));
    }
    bytes.extend_from_slice(chunk);
    Ok(())
}

impl<S: Catalog> Api<S> {
    async fn keep_image(
        self,
        metadata: v1::ImageMetadata,
        bytes: Vec<u8>,
    ) -> Result<v1::Image, ApiError> {
        let _desk = self.desk().await;
        let sha256 = Sha256(firmware::sha256(&bytes));
        let call = self.once("UploadImage", &metadata, &sha256.0).await?;
        let ticket = first_or_return!(call);
        let image = read(&metadata, sha256, &bytes, self.now())?;
        if let Some(known) = self.store().image(&tenant(), sha256).await? {
            let same = known.container == image.container
                && known.model == image.model
                && known.component == image.component
                && known.target_version == image.target_version;
            if !same {
                return Err(ApiError::AlreadyExists {
                    resource: names::name("images", sha256),
                    reason: "IMAGE_METADATA_DIFFERS",
                });
            }
            let shown = show(known);
            let changes = ticket.answered(&shown);
            if !changes.is_empty() {
                self.commit(changes).await?;
            }
            return Ok(shown);
        }
        let shown = show(image.clone());
        let mut changes = vec![Change::PutImage(image, Arc::from(bytes))];
        changes.extend(ticket.answered(&shown));
        self.commit(changes).await?;
        Ok(shown)
    }

    /// The image of that name.
    async fn find_image(&self, name: &str) -> Result<Image, ApiError> {
        let sha256 = names::required("name", "images/{sha256}", name, names::image)?;
        let image = self.store().image(&tenant(), sha256).await?;
        image.ok_or_else(|| ApiError::NotFound(names::name("images", sha256)))
    }

    async fn page_of_images(
        &self,
        request: &v1::ListImagesRequest,
    ) -> Result<v1::ListImagesResponse, ApiError> {
        let mut fields = Fields::default();
        let page = PageRequest::read(
            &mut fields,
            request.page_size,
            &request.page_token,
            &["ListImages", &request.filter],
        );
        let filter = fields.filter(&request.filter, &FILTER);
        fields.finish()?;
        let tenant = tenant();
        let keep = |image: &Image| {
            filter.holds(|field| match field {
                "model" => Some(image.model.clone()),
                "component" => Some(image.component.clone()),
                "target_version" => Some(image.target_version.to_string()),
                "version" => Some(image.version_text.clone()),
                _ => image
                    .annotations
                    .get(field.strip_prefix("annotations.")?)
                    .cloned(),
            })
        };
        let (store, tenant) = (self.store(), &tenant);
        let fetch = |page: Page| async move { store.images(tenant, &page).await };
        let listed = page
            .walk(|image| image.sha256.to_string(), keep, fetch)
            .await?;
        Ok(v1::ListImagesResponse {
            images: listed.items.into_iter().map(show).collect(),
            next_page_token: listed.next_page_token,
            total_size: listed.total_size,
        })
    }

    async fn drop_image(self, request: v1::DeleteImageRequest) -> Result<(), ApiError> {
        let _desk = self.desk().await;
        let ticket = first_or_return!(self.once("DeleteImage", &request, &[]).await?);
        let image = self.find_image(&request.name).await?;
        let filter = TaskFilter {
            image: Some(image.sha256),
            ..TaskFilter::default()
        };
        let one = Page {
            size: 1,
            after: None,
        };
        let users = self.store().tasks(&tenant(), &filter, &one).await?;
        if let Some(task) = users.first() {
            let message = format!("{} names it", names::name("tasks", &task.id));
            return Err(ApiError::refused("IMAGE_IN_USE", message));
        }
        let mut changes = vec![Change::DeleteImage(tenant(), image.sha256)];
        changes.extend(ticket.answered(&()));
        self.commit(changes).await
    }
}

/// The image that metadata and bytes make, once all of it is right.
fn read(
    metadata: &v1::ImageMetadata,
    sha256: Sha256,
    bytes: &[u8],
    now: crate::time::Timestamp,
) -> Result<Image, ApiError> {
    let mut fields = Fields::of("metadata");
    fields.text("file_name", &metadata.file_name, 255);
    fields.text("model", &metadata.model, 63);
    fields.text("version", &metadata.version, 63);
    if !metadata.component.is_empty() && !names::is_mark_key(&metadata.component) {
        fields.bad("component", "not 1 to 63 characters of [A-Za-z0-9_-]");
    }
    fields.marks("annotations", &metadata.annotations, 1023);
    if !metadata.expected_sha256.is_empty() {
        match names::sha256(&metadata.expected_sha256) {
            None => fields.bad("expected_sha256", "not 64 hex digits"),
            Some(expected) if expected != sha256 => {
                fields.bad("expected_sha256", format!("the bytes have {sha256}"));
            }
            Some(_) => {}
        }
    }
    let version = match v1::ImageContainer::try_from(metadata.container) {
        Ok(v1::ImageContainer::Unspecified | v1::ImageContainer::Raw) => None,
        Ok(v1::ImageContainer::Mcuboot) => match check_mcuboot(bytes) {
            Ok(version) => Some(version),
            Err(error) => {
                fields.bad_in_request("chunk", format!("no MCUboot image: {error}"));
                None
            }
        },
        Err(_) => {
            fields.bad("container", "a value this server does not know");
            None
        }
    };
    fields.finish()?;
    let written = version.map(|version| version.to_string());
    Ok(Image {
        tenant: tenant(),
        sha256,
        size_bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        container: match version {
            Some(_) => ImageContainer::Mcuboot,
            None => ImageContainer::Raw,
        },
        file_name: metadata.file_name.clone(),
        model: metadata.model.clone(),
        component: if metadata.component.is_empty() {
            "main".to_owned()
        } else {
            metadata.component.clone()
        },
        target_version: metadata
            .target_version
            .or_else(|| version.map(firmware::ImageVersion::to_ts006))
            .unwrap_or(0),
        version_text: if metadata.version.is_empty() {
            written.unwrap_or_default()
        } else {
            metadata.version.clone()
        },
        annotations: metadata.annotations.clone(),
        created_at: now,
    })
}

/// Checks structure and digest of an MCUboot image; its version. The digest of an encrypted image cannot be
/// checked here.
fn check_mcuboot(bytes: &[u8]) -> Result<firmware::ImageVersion, ImageError> {
    match Container::recognise(bytes)? {
        Container::Raw => Err(ImageError::Magic),
        Container::Mcuboot(image) => {
            if !image.is_encrypted() {
                image.verify_digest(bytes)?;
            }
            Ok(image.version)
        }
    }
}

fn show(image: Image) -> v1::Image {
    v1::Image {
        name: names::name("images", image.sha256),
        sha256: image.sha256.to_string(),
        size_bytes: image.size_bytes.into(),
        container: match image.container {
            ImageContainer::Raw => v1::ImageContainer::Raw,
            ImageContainer::Mcuboot => v1::ImageContainer::Mcuboot,
        }
        .into(),
        file_name: image.file_name,
        model: image.model,
        component: image.component,
        target_version: image.target_version,
        version: image.version_text,
        annotations: image.annotations,
        create_time: Some(show_moment(image.created_at)),
    }
}
