//! ERROR logs: none is written in a run.
//!
//! Deterministic code logs nothing; what logs is the shell around it, and the loop above all.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Runs `work`; what it logged as ERROR meanwhile comes with its result.
pub fn watch_errors<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    let errors = Arc::new(Mutex::new(Vec::new()));
    let watch = Watch {
        errors: Arc::clone(&errors),
    };
    let result = tracing::subscriber::with_default(watch, work);
    let errors = std::mem::take(&mut *errors.lock().unwrap_or_else(PoisonError::into_inner));
    (result, errors)
}

struct Watch {
    errors: Arc<Mutex<Vec<String>>>,
}

impl Subscriber for Watch {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(event.metadata().target().to_owned());
        event.record(&mut text);
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot go wrong.
        let _ = write!(self.0, " {field}={value:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_seen_and_warnings_are_not() {
        let ((), errors) = watch_errors(|| {
            tracing::warn!("a warning");
            tracing::error!(code = 7, "an error");
        });
        assert_eq!(errors.len(), 1);
        assert!(errors[0].contains("an error") && errors[0].contains("code=7"));
    }
}
