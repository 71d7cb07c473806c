//! `request_id`: a repeat of a mutating call gets the first answer again.
//!
//! The answer is committed together with the change it reports, so either both are there or neither. The
//! fingerprint is
//! the SHA-256 of the encoded request without its `request_id`; maps are ordered, so equal requests encode equally.

use std::time::Duration;

use prost::Message;

use crate::firmware::sha256;
use crate::proto::v1;
use crate::record::{Change, RequestRecord, Sha256};
use crate::store::Catalog;

use super::Api;
use super::errors::ApiError;
use super::fields::tenant;

/// How long an answer is kept at least.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// A request that carries a `request_id`.
pub(super) trait Identified: Message + Clone {
    /// Takes the identifier out.
    fn take_request_id(&mut self) -> String;
}

macro_rules! identified {
    ($($request:ident),* $(,)?) => {$(
        impl Identified for v1::$request {
            fn take_request_id(&mut self) -> String {
                std::mem::take(&mut self.request_id)
            }
        }
    )*};
}

identified!(
    AddMulticastGroupDevicesRequest,
    AddTaskDevicesRequest,
    ActivateImageRequest,
    CreateDeltaRequest,
    DeleteImagePolicyRequest,
    ImportTrustedKeyRequest,
    RetireTrustedKeyRequest,
    SetImagePolicyRequest,
    UpdateImageRequest,
    WithdrawImageRequest,
    CreateRolloutRequest,
    DeleteRolloutRequest,
    DisableRolloutRequest,
    EnableRolloutRequest,
    PushRolloutRequest,
    UpdateRolloutRequest,
    WithdrawRolloutRequest,
    BatchCreateDevicesRequest,
    CancelTaskRequest,
    PauseTaskRequest,
    ResumeTaskRequest,
    RetryTaskRequest,
    CreateDeviceProfileRequest,
    CreateDeviceRequest,
    CreateGatewayRequest,
    CreateMulticastGroupRequest,
    CreateTaskRequest,
    DeleteDeviceProfileRequest,
    DeleteDeviceRequest,
    DeleteGatewayRequest,
    DeleteImageRequest,
    DeleteMulticastGroupRequest,
    DeleteTaskRequest,
    ImageMetadata,
    RemoveMulticastGroupDevicesRequest,
    RemoveTaskDevicesRequest,
    StartTaskRequest,
    UpdateDeviceProfileRequest,
    UpdateDeviceRequest,
    UpdateGatewayRequest,
    UpdateMulticastGroupRequest,
    UpdateTaskRequest,
);

/// Whether a call was made before.
pub(super) enum Call<Answer> {
    /// It was; this was its answer. `None`: it was carried out, and ended before its answer was written down.
    Again(Option<Answer>),
    /// It was not, as far as is known.
    First(Ticket),
}

/// What is needed to write the answer of a call down.
#[derive(Clone, Debug)]
pub(super) struct Ticket(Option<RequestRecord>);

impl Ticket {
    /// The write that makes `answer` the answer of every repeat.
    pub(super) fn answered(self, answer: &impl Message) -> Vec<Change> {
        self.0
            .map(|record| {
                Change::PutRequest(RequestRecord {
                    response: answer.encode_to_vec(),
                    ..record
                })
            })
            .into_iter()
            .collect()
    }

    /// The write that says the call is carried out, for calls whose answer is known only afterwards.
    pub(super) fn carried_out(&self) -> Vec<Change> {
        self.0.iter().cloned().map(Change::PutRequest).collect()
    }
}

impl<S: Catalog> Api<S> {
    /// Looks whether `request` was made before. Called with the desk held.
    ///
    /// `more` counts as part of the request: what a stream brought besides its first message.
    pub(super) async fn once<R: Identified, Answer: Message + Default>(
        &self,
        method: &'static str,
        request: &R,
        more: &[u8],
    ) -> Result<Call<Answer>, ApiError> {
        let mut request = request.clone();
        let request_id = request.take_request_id();
        if request_id.is_empty() {
            return Ok(Call::First(Ticket(None)));
        }
        if request_id.len() > 64 || !request_id.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            return Err(ApiError::field(
                "request_id",
                "not 1 to 64 printable ASCII characters",
            ));
        }
        let mut encoded = request.encode_to_vec();
        encoded.extend_from_slice(more);
        let fingerprint = Sha256(sha256(&encoded));
        let now = self.now();
        let tenant = tenant();
        let known = self.store().request(&tenant, &request_id).await?;
        if let Some(known) = known.filter(|known| now.since(known.at) < KEPT) {
            if known.method != method || known.fingerprint != fingerprint {
                return Err(ApiError::refused(
                    "REQUEST_ID_REUSED",
                    "another request had this request_id",
                ));
            }
            if known.response.is_empty() {
                return Ok(Call::Again(None));
            }
            return match Answer::decode(known.response.as_slice()) {
                Ok(answer) => Ok(Call::Again(Some(answer))),
                Err(error) => Err(crate::store::StoreError::Corrupt(error.to_string()).into()),
            };
        }
        Ok(Call::First(Ticket(Some(RequestRecord {
            tenant,
            request_id,
            method: method.to_owned(),
            fingerprint,
            response: Vec::new(),
            at: now,
        }))))
    }
}

/// Returns the first answer from the handler if the call was made before.
macro_rules! first_or_return {
    ($call:expr) => {
        match $call {
            $crate::api::idempotency::Call::Again(answer) => {
                return Ok(answer.unwrap_or_default());
            }
            $crate::api::idempotency::Call::First(ticket) => ticket,
        }
    };
}
pub(super) use first_or_return;
