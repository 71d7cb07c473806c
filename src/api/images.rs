//! Image service: uploads are checked while they come in and stored only when everything is right.

use std::pin::Pin;
use std::sync::Arc;

use prost::bytes::Bytes;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::firmware;
use crate::proto::v1;
use crate::record::{Change, Image, Sha256};
use crate::store::{Catalog, Page, TaskFilter};

use super::errors::{ApiError, check_size};
use super::fields::{Fields, tenant};
use super::filter::Kind;
use super::idempotency::first_or_return;
use super::image_records::{self, container_word, release_word, show};
use super::page::{PageRequest, everything};
use super::{Api, answer, carry_out, names};

/// Largest image, bytes.
const LARGEST_IMAGE: usize = 4 << 20;
/// Largest chunk, bytes.
const LARGEST_CHUNK: usize = 1 << 20;

const FILTER: [(&str, Kind); 7] = [
    ("model", Kind::Text),
    ("component", Kind::Text),
    ("target_version", Kind::Number),
    ("version", Kind::Text),
    ("container", Kind::Word(image_records::is_container)),
    ("release_state", Kind::Word(image_records::is_release_state)),
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

    async fn update_image(
        &self,
        request: Request<v1::UpdateImageRequest>,
    ) -> Result<Response<v1::Image>, Status> {
        let api = self.clone();
        carry_out(async move { api.change_release(request.into_inner()).await }).await
    }

    async fn activate_image(
        &self,
        request: Request<v1::ActivateImageRequest>,
    ) -> Result<Response<v1::Image>, Status> {
        let api = self.clone();
        carry_out(async move { api.activate(request.into_inner()).await }).await
    }

    async fn withdraw_image(
        &self,
        request: Request<v1::WithdrawImageRequest>,
    ) -> Result<Response<v1::WithdrawImageResponse>, Status> {
        let api = self.clone();
        carry_out(async move { api.withdraw(request.into_inner()).await }).await
    }

    async fn create_delta(
        &self,
        request: Request<v1::CreateDeltaRequest>,
    ) -> Result<Response<v1::Image>, Status> {
        let api = self.clone();
        carry_out(async move { api.make_delta(request.into_inner()).await }).await
    }

    type DownloadImageStream =
        Pin<Box<dyn Stream<Item = Result<v1::DownloadImageResponse, Status>> + Send>>;

    async fn download_image(
        &self,
        request: Request<v1::DownloadImageRequest>,
    ) -> Result<Response<Self::DownloadImageStream>, Status> {
        answer(self.download(&request.get_ref().name).await)
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
        let keys = self.keys_in_use().await?;
        let image = image_records::read(&metadata, sha256, &bytes, &keys, self.now())?;
        if let Some(mut known) = self.store().image(&tenant(), sha256).await? {
            let same = known.container == image.container
                && known.model == image.model
                && known.component == image.component
                && known.target_version == image.target_version
                && known.facts.source_versions == image.facts.source_versions;
            if !same {
                return Err(ApiError::AlreadyExists {
                    resource: names::name("images", sha256),
                    reason: "IMAGE_METADATA_DIFFERS",
                });
            }
            // The key may have come since, or the signature beside the image.
            let mut changes = Vec::new();
            let signature = image.facts.signature;
            if signature.is_some() && signature != known.facts.signature {
                known.facts.signature = signature;
                changes.push(Change::PutImageRecord(known.clone()));
            }
            let shown = show(known);
            changes.extend(ticket.answered(&shown));
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
    pub(super) async fn find_image(&self, name: &str) -> Result<Image, ApiError> {
        let sha256 = names::required("name", "images/{sha256}", name, names::image)?;
        self.image(sha256).await
    }

    pub(super) async fn image(&self, sha256: Sha256) -> Result<Image, ApiError> {
        let image = self.store().image(&tenant(), sha256).await?;
        image.ok_or_else(|| ApiError::NotFound(names::name("images", sha256)))
    }

    /// All images.
    pub(super) async fn all_images(&self) -> Result<Vec<Image>, ApiError> {
        let (store, tenant) = (self.store(), &tenant());
        let fetch = |page: Page| async move { store.images(tenant, &page).await };
        everything(|image: &Image| image.sha256.to_string(), fetch).await
    }

    /// The bytes of an image that is there.
    pub(super) async fn bytes_of(&self, sha256: Sha256) -> Result<Arc<[u8]>, ApiError> {
        let bytes = self.store().image_bytes(&tenant(), sha256).await?;
        bytes.ok_or_else(|| ApiError::NotFound(names::name("images", sha256)))
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
                "container" => Some(container_word(image.container)),
                "release_state" => Some(release_word(image.release.state)),
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
        let filter = TaskFilter::of_image(image.sha256);
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
