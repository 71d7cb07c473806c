//! Where the calendar of a task meets its windows: they start and end within allowed times only.
//!
//! A window knows when the calendar closes it ([`SessionWindow::end`]), so that whoever sends keeps to it; what is left
//! then is announced for the next allowed time like anything a window ends too early for.

use crate::record::{Calendar, SessionWindow};
use crate::task::{calendar, sizing};
use crate::time::Timestamp;

use super::Campaign;
use super::windows::MAX_WINDOWS;

/// Windows a session may open after the first where the calendar decides how short they are.
const MAX_SHORT_WINDOWS: u8 = 200;

impl Campaign {
    /// No window that begins at `start` or later is allowed before the deadline.
    pub(super) fn is_beyond(&self, start: Timestamp) -> bool {
        let opens = calendar::next_open(&self.task.rules.calendar, start);
        opens.is_none_or(|span| {
            self.task
                .deadline
                .is_some_and(|deadline| span.start >= deadline)
        })
    }

    /// The window as the calendar allows it. One that it never allows stays as it is: who asks looked before.
    pub(super) fn allowed_or_asked(&self, window: SessionWindow) -> SessionWindow {
        let fitted = calendar::fit(&self.task.rules.calendar, window).unwrap_or(window);
        // Where the calendar opens no beacon may begin.
        SessionWindow {
            start: sizing::window_at(fitted.class, fitted.start),
            ..fitted
        }
    }

    /// Windows a session may open after the first.
    pub(super) fn most_windows(&self) -> u8 {
        if self.task.rules.calendar == Calendar::default() {
            MAX_WINDOWS
        } else {
            MAX_SHORT_WINDOWS
        }
    }
}
