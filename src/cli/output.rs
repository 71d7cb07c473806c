//! What reaches the terminal: tables for people, JSON for programs, errors with their details.
//!
//! Results go to standard output, notes and errors to standard error. Control characters that come
//! from the server are shown as `?`: a name of a device must not move the cursor.

use std::io::{self, IsTerminal, Write};

use comfy_table::{Table, presets};
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(super) enum Failure {
    /// The request itself is wrong: a flag, a file.
    Usage(String),
    /// The server said no, or could not be reached.
    Refused(Box<Status>),
    /// The result could not be written.
    Output(io::Error),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// The server is not there, or went away: another try may help.
pub(super) fn is_disconnected(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => true,
        // A status the server sent has no source; one that was made from a broken connection has.
        Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded => {
            std::error::Error::source(status).is_some()
        }
        _ => false,
    }
}

/// Writes results, as tables or as JSON.
pub(super) struct Output {
    json: bool,
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    live: bool,
}

impl Output {
    /// To standard output and standard error.
    pub(super) fn standard(json: bool) -> Self {
        let stdout = io::stdout();
        Self {
            json,
            live: stdout.is_terminal() && !json,
            out: Box::new(stdout),
            err: Box::new(io::stderr()),
        }
    }

    /// Programs read the output.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// A person sees the output as it comes.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// A JSON document, or else a text for people.
    pub(super) fn show(
        &mut self,
        json: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
    ) -> io::Result<()> {
        if self.json {
            self.document(&json())
        } else {
            self.text(&text())
        }
    }

    /// A whole JSON document.
    pub(super) fn document(&mut self, value: &Value) -> io::Result<()> {
        writeln!(self.out, "{value:#}")?;
        self.out.flush()
    }

    /// One JSON object on a line of its own.
    pub(super) fn json_line(&mut self, value: &Value) -> io::Result<()> {
        writeln!(self.out, "{value}")?;
        self.out.flush()
    }

    /// Lines for people.
    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        writeln!(self.out, "{}", text.trim_end())?;
        self.out.flush()
    }

    /// A remark beside the result. Not worth failing for.
    pub(super) fn note(&mut self, text: &str) {
        let _ = writeln!(self.err, "{}", printable(text));
    }

    /// An error, with its details one per line.
    pub(super) fn failure(&mut self, failure: &Failure, server: &str) {
        let text = if self.json {
            failure_json(failure, server).to_string()
        } else {
            failure_text(failure, server)
        };
        let _ = writeln!(self.err, "{text}");
    }
}

/// An aligned table without lines.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)).collect::<Vec<_>>());
    }
    lines(&mut table)
}

/// An aligned list of names and values; those without value are left out.
pub(super) fn fields(fields: &[(&str, String)]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        table.add_row(vec![format!("{name}:"), printable(value)]);
    }
    lines(&mut table)
}

fn lines(table: &mut Table) -> String {
    table.force_no_tty();
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().into()).collect();
    lines.join("\n")
}

/// The text without control characters.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\n' { '?' } else { c })
        .collect()
}

/// A count with its noun.
pub(super) fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// `yes` or nothing.
pub(super) fn yes(flag: bool) -> String {
    if flag { "yes".into() } else { String::new() }
}

/// The number, or nothing for 0, which means "default" throughout the API.
pub(super) fn nonzero(number: impl Into<u64>) -> String {
    match number.into() {
        0 => String::new(),
        number => number.to_string(),
    }
}

/// The name of a gRPC code as its specification writes it.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The innermost cause of a broken connection, which is the one that helps.
fn cause(status: &Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if std::ptr::addr_eq(cause, std::ptr::from_ref(status)) {
        status.message().to_owned()
    } else {
        cause.to_string()
    }
}

fn failure_text(failure: &Failure, server: &str) -> String {
    match failure {
        Failure::Usage(message) => format!("error: {}", printable(message)),
        Failure::Output(error) => format!("error: output: {error}"),
        Failure::Refused(status) if is_disconnected(status) => {
            format!(
                "error: no answer from {server}: {}",
                printable(&cause(status))
            )
        }
        Failure::Refused(status) => {
            let mut lines = vec![format!(
                "error: {}: {}",
                code_name(status.code()),
                status.message()
            )];
            let details = status.get_error_details();
            if let Some(bad_request) = details.bad_request() {
                for violation in &bad_request.field_violations {
                    lines.push(format!("  {}: {}", violation.field, violation.description));
                }
            }
            if let Some(failure) = details.precondition_failure() {
                for violation in &failure.violations {
                    lines.push(format!(
                        "  {} {}: {}",
                        violation.r#type, violation.subject, violation.description
                    ));
                }
            }
            if let Some(info) = details.error_info() {
                lines.push(format!("  reason: {}", info.reason));
            }
            printable(&lines.join("\n"))
        }
    }
}

fn failure_json(failure: &Failure, server: &str) -> Value {
    let error = match failure {
        Failure::Usage(message) => json!({"code": "USAGE", "message": message}),
        Failure::Output(error) => json!({"code": "OUTPUT", "message": error.to_string()}),
        Failure::Refused(status) if is_disconnected(status) => json!({
            "code": "UNAVAILABLE",
            "message": format!("no answer from {server}: {}", cause(status)),
        }),
        Failure::Refused(status) => {
            let details = status.get_error_details();
            let violations = details
                .bad_request()
                .map_or(&[][..], |it| &it.field_violations);
            let unmet = details
                .precondition_failure()
                .map_or(&[][..], |it| &it.violations);
            json!({
                "code": code_name(status.code()),
                "message": status.message(),
                "reason": details.error_info().map(|info| info.reason.as_str()),
                "field_violations": violations.iter().map(|violation| json!({
                    "field": violation.field,
                    "description": violation.description,
                })).collect::<Vec<_>>(),
                "precondition_violations": unmet.iter().map(|violation| json!({
                    "type": violation.r#type,
                    "subject": violation.subject,
                    "description": violation.description,
                })).collect::<Vec<_>>(),
            })
        }
    };
    json!({ "error": error })
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn tables_are_aligned_and_cannot_move_the_cursor() {
        let text = table(
            &["DEVICE", "STATE"],
            [
                vec!["a".into(), "RUNNING".into()],
                vec!["long\u{1b}[2J".into(), String::new()],
            ],
        );
        assert_eq!(text, "DEVICE    STATE\na         RUNNING\nlong?[2J");
    }

    #[test]
    fn fields_without_value_are_left_out() {
        let text = fields(&[
            ("name", "x".into()),
            ("tags", String::new()),
            ("id", "7".into()),
        ]);
        assert_eq!(text, "name:  x\nid:    7");
    }

    #[test]
    fn refusals_show_fields_and_reasons_one_per_line() {
        let mut details = ErrorDetails::new();
        details
            .add_bad_request_violation("device.dev_eui", "must be 16 hex digits")
            .set_error_info("REQUEST_ID_REUSED", "fuota", []);
        let status = Status::with_error_details(Code::InvalidArgument, "bad device", details);
        let failure = Failure::from(status);
        assert_eq!(
            failure_text(&failure, "here"),
            "error: INVALID_ARGUMENT: bad device\n  device.dev_eui: must be 16 hex digits\n  \
             reason: REQUEST_ID_REUSED"
        );
        let json = failure_json(&failure, "here");
        assert_eq!(json["error"]["reason"], "REQUEST_ID_REUSED");
        assert_eq!(
            json["error"]["field_violations"][0]["field"],
            "device.dev_eui"
        );
    }

    #[test]
    fn a_status_of_the_server_is_no_broken_connection() {
        assert!(!is_disconnected(&Status::unknown("a bug")));
        assert!(is_disconnected(&Status::unavailable("no store")));
        assert!(is_disconnected(&Status::from_error(Box::new(
            io::Error::other("gone")
        ))));
    }
}
