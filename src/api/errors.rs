//! What a call can go wrong with, and the one place where that becomes a gRPC status with `google.rpc` details.

use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::proto::v1;
use crate::runtime::CommandError;
use crate::store::StoreError;
use crate::task::PlanError;

use super::plan::blocking_problems;

/// Domain of every `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "fuota.v1";

/// Bytes the details of a status may take: they travel in a trailer, and clients refuse trailers over 8 KiB.
const DETAILS_LIMIT: usize = 4096;

/// A field that was refused: its path in the request and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadField {
    pub(super) field: String,
    pub(super) why: String,
}

/// Something that has to change before a call can succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blocker {
    /// A constant for programs.
    pub(super) kind: String,
    /// What it is about: a resource name or a field.
    pub(super) subject: String,
    /// A sentence for people.
    pub(super) description: String,
}

/// Why a call was not answered.
#[derive(Debug)]
pub(super) enum ApiError {
    /// Fields of the request are wrong: all of them.
    Invalid(Vec<BadField>),
    /// There is no such resource.
    NotFound(String),
    /// There is such a resource already.
    AlreadyExists {
        resource: String,
        reason: &'static str,
    },
    /// The state of things does not allow it.
    Refused {
        reason: &'static str,
        message: String,
        blockers: Vec<Blocker>,
    },
    /// The `etag` is not the present one.
    EtagDiffers(String),
    /// A position that does not exist.
    OutOfRange(String),
    /// More than the call takes.
    TooMuch(String),
    /// The store.
    Store(StoreError),
    /// The writer; the reason is that of a refusal.
    Command(&'static str, CommandError),
    /// The server ended before the answer, or a handler did.
    Stopped,
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl ApiError {
    /// A refusal without blockers.
    pub(super) fn refused(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Refused {
            reason,
            message: message.into(),
            blockers: Vec::new(),
        }
    }

    /// One bad field.
    pub(super) fn field(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid(vec![BadField {
            field: field.into(),
            why: why.into(),
        }])
    }

    /// The same error as a sentence for people.
    pub(super) fn into_words(self) -> String {
        let outline = self.outline();
        // The first blocker is the plan's own problem, those after it are devices.
        match outline.blockers.get(1) {
            None => outline.message,
            Some(first) => format!(
                "{}; the first: {}: {}",
                outline.message, first.subject, first.description
            ),
        }
    }

    /// The same error as the result of one item of a batch.
    pub(super) fn into_item(self) -> v1::ItemError {
        let outline = self.outline();
        v1::ItemError {
            code: outline.code.into(),
            reason: outline.reason.to_owned(),
            message: outline.message,
            field_violations: outline
                .fields
                .into_iter()
                .map(|bad| v1::FieldViolation {
                    field: bad.field,
                    description: bad.why,
                })
                .collect(),
        }
    }

    /// The one match from what went wrong to what a client is told.
    fn outline(self) -> Outline {
        let plain = |code, reason, message| Outline {
            code,
            reason,
            message,
            fields: Vec::new(),
            blockers: Vec::new(),
        };
        match self {
            Self::Invalid(fields) => Outline {
                code: Code::InvalidArgument,
                reason: "INVALID_FIELDS",
                message: invalid_message(&fields),
                fields,
                blockers: Vec::new(),
            },
            Self::NotFound(resource) | Self::Command(_, CommandError::NotFound(resource)) => plain(
                Code::NotFound,
                "NOT_FOUND",
                format!("{resource} does not exist"),
            ),
            Self::AlreadyExists { resource, reason } => plain(
                Code::AlreadyExists,
                reason,
                format!("{resource} exists already"),
            ),
            Self::Refused {
                reason,
                message,
                blockers,
            } => Outline {
                code: Code::FailedPrecondition,
                reason,
                message,
                fields: Vec::new(),
                blockers,
            },
            Self::EtagDiffers(resource) => plain(
                Code::Aborted,
                "ETAG_DIFFERS",
                format!("{resource} was changed meanwhile"),
            ),
            Self::OutOfRange(message) => plain(Code::OutOfRange, "OUT_OF_RANGE", message),
            Self::TooMuch(message) => plain(Code::ResourceExhausted, "TOO_LARGE", message),
            Self::Command(_, CommandError::Plan(error)) => plan_outline(&error),
            Self::Command(reason, CommandError::Conflict(message)) => {
                plain(Code::FailedPrecondition, reason, message)
            }
            Self::Command(_, CommandError::Unavailable(message)) => {
                plain(Code::Unavailable, "UNAVAILABLE", message)
            }
            Self::Store(StoreError::NotFound(what)) => plain(
                Code::NotFound,
                "NOT_FOUND",
                format!("{what} does not exist"),
            ),
            Self::Store(StoreError::Conflict(what)) => plain(
                Code::Aborted,
                "CONFLICT",
                format!("{what} stands in the way"),
            ),
            Self::Store(error @ (StoreError::Fenced | StoreError::Unavailable(_))) => {
                plain(Code::Unavailable, "UNAVAILABLE", error.to_string())
            }
            Self::Store(error @ StoreError::Corrupt(_)) => {
                plain(Code::DataLoss, "CORRUPT_RECORD", error.to_string())
            }
            Self::Stopped => plain(
                Code::Unavailable,
                "UNAVAILABLE",
                "the server is stopping".to_owned(),
            ),
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let outline = error.outline();
        let mut details = ErrorDetails::new();
        details.set_error_info(outline.reason, ERROR_DOMAIN, []);
        let mut room = DETAILS_LIMIT;
        let mut left_out = 0usize;
        let mut fits = |one: &str, other: &str, third: &str| {
            let need = one.len() + other.len() + third.len() + 16;
            let fits = need <= room;
            room = if fits { room - need } else { 0 };
            left_out += usize::from(!fits);
            fits
        };
        for bad in &outline.fields {
            if fits(&bad.field, &bad.why, "") {
                details.add_bad_request_violation(&bad.field, &bad.why);
            }
        }
        for blocker in &outline.blockers {
            if fits(&blocker.kind, &blocker.subject, &blocker.description) {
                details.add_precondition_failure_violation(
                    &blocker.kind,
                    &blocker.subject,
                    &blocker.description,
                );
            }
        }
        let mut message = clipped(outline.message);
        if left_out > 0 {
            message.push_str(&format!(" ({left_out} more not listed)"));
        }
        Self::with_error_details(outline.code, message, details)
    }
}

/// A status is small; a message quotes what the caller sent.
fn clipped(message: String) -> String {
    const LONGEST: usize = 512;
    match message.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", message.get(..end).unwrap_or_default()),
        None => message,
    }
}

struct Outline {
    code: Code,
    reason: &'static str,
    message: String,
    fields: Vec<BadField>,
    blockers: Vec<Blocker>,
}

fn invalid_message(fields: &[BadField]) -> String {
    match fields {
        [] => "invalid request".to_owned(),
        [one] => format!("{}: {}", one.field, one.why),
        [first, rest @ ..] => format!(
            "{}: {}; and {} more invalid fields",
            first.field,
            first.why,
            rest.len()
        ),
    }
}

fn plan_outline(error: &PlanError) -> Outline {
    Outline {
        code: Code::FailedPrecondition,
        reason: "PLAN_BLOCKED",
        message: error.to_string(),
        fields: Vec::new(),
        blockers: blocking_problems(error),
    }
}

/// More than 4 MiB in one request.
pub(super) fn check_size(message: &impl Message) -> Result<(), ApiError> {
    const LARGEST: usize = 4 << 20;
    let size = message.encoded_len();
    if size > LARGEST {
        return Err(ApiError::TooMuch(format!(
            "request of {size} bytes is over {LARGEST}"
        )));
    }
    Ok(())
}
