//! What a package of a device works with while it handles one downlink or event.

use std::fmt;
use std::time::Duration;

use lorawan_fuota::lorawan::DecodeError;
use lorawan_fuota::lorawan::firmware_management::DEFAULT_F_PORT as TS006_PORT;
use lorawan_fuota::time::Timestamp;

use crate::random::Random;

use super::clock::DeviceClock;
use super::config::DeviceConfig;
use super::log::EventLog;
use super::outbox::{Content, Entry, Outbox, Tag};
use super::stack::{ANSWER_SIZE_MAX, AnswerRoom, StackQuirks};

/// The parts of the device a package may touch.
pub(super) struct Environment<'a> {
    pub(super) now: Timestamp,
    pub(super) config: &'a DeviceConfig,
    pub(super) clock: &'a mut DeviceClock,
    pub(super) random: &'a mut Random,
    pub(super) log: &'a mut EventLog,
    pub(super) outbox: &'a mut Outbox,
    /// Answers to this downlink so far.
    pub(super) answers: Answers,
}

/// Answers to one downlink, before they are sent.
#[derive(Debug, Default)]
pub(super) struct Answers {
    entries: Vec<(u8, Content, Tag)>,
    /// Bytes they take.
    size: usize,
    /// How long the status answer among them is held up by its `BlockAckDelay`.
    block_ack_delay: Duration,
}

impl Environment<'_> {
    pub(super) fn note(&mut self, text: impl fmt::Display) {
        self.log.note(self.now, text);
    }

    /// Notes why the rest of a frame could not be read.
    pub(super) fn note_unread(&mut self, rest: Option<DecodeError>) {
        if let Some(error) = rest {
            self.note(error);
        }
    }

    /// How its stack behaves.
    pub(super) fn quirks(&self) -> StackQuirks {
        self.config.stack
    }

    /// How long to wait before an answer, where the package sets no delay.
    pub(super) fn answer_delay(&mut self) -> Duration {
        self.random.up_to(self.config.answer_delay_max)
    }

    /// A time between these two.
    pub(super) fn between(&mut self, (least, most): (Duration, Duration)) -> Duration {
        least + self.random.up_to(most.saturating_sub(least))
    }

    /// Whether another command of this downlink is carried out.
    pub(super) fn takes_another(&mut self) -> bool {
        let AnswerRoom::Answers(count) = self.quirks().answers.room else {
            return true;
        };
        let takes = self.answers.size + ANSWER_SIZE_MAX <= count * ANSWER_SIZE_MAX;
        if !takes {
            self.note("no room for more answers: the rest is left undone");
        }
        takes
    }

    /// Adds an answer to the downlink being handled.
    pub(super) fn answer(&mut self, f_port: u8, bytes: Vec<u8>) {
        let size = bytes.len();
        self.answer_with(f_port, Content::Bytes(bytes), size);
    }

    /// Adds an answer that takes `size` bytes of the room there is.
    pub(super) fn answer_with(&mut self, f_port: u8, content: Content, size: usize) {
        self.add(f_port, content, size, Tag::Plain);
    }

    /// Adds a status answer, which waits for its `BlockAckDelay`.
    pub(super) fn answer_status(
        &mut self,
        f_port: u8,
        bytes: Vec<u8>,
        frag_index: u8,
        max: Duration,
    ) {
        let size = bytes.len();
        if self.add(
            f_port,
            Content::Bytes(bytes),
            size,
            Tag::FragStatus(frag_index),
        ) {
            self.answers.block_ack_delay = self.random.up_to(max);
        }
    }

    fn add(&mut self, f_port: u8, content: Content, size: usize, tag: Tag) -> bool {
        let room = match self.quirks().answers.room {
            AnswerRoom::Bytes { firmware, .. } if f_port == TS006_PORT => firmware,
            AnswerRoom::Bytes { other, .. } => other,
            AnswerRoom::Frame | AnswerRoom::Answers(_) => usize::MAX,
        };
        let fits = self.answers.size + size <= room;
        if fits {
            self.answers.size += size;
            self.answers.entries.push((f_port, content, tag));
        } else {
            self.note("answer left out: the buffer is full");
        }
        fits
    }

    /// Adds a `PackageVersionAns`, which is the same in every package.
    pub(super) fn answer_version(&mut self, f_port: u8, identifier: u8, version: u8) {
        self.answer(f_port, vec![0x00, identifier, version]);
    }

    /// The downlink is handled: its answers leave together after the package's delay.
    pub(super) fn send_answers(&mut self, delay: (Duration, Duration)) {
        let answers = std::mem::take(&mut self.answers);
        if answers.entries.is_empty() {
            return;
        }
        let quirks = self.quirks().answers;
        let due = self.now + self.answer_delay() + self.between(delay);
        if quirks.status_is_overwritten {
            let mut bytes = Vec::new();
            for (_, content, _) in &answers.entries {
                content.render(due, self.clock, &mut bytes);
            }
            self.outbox.overwrite_status(&bytes);
        }
        let has_status = |tag: &Tag| matches!(tag, Tag::FragStatus(_));
        let held_up = answers.entries.iter().any(|(_, _, tag)| has_status(tag));
        for (f_port, content, tag) in answers.entries {
            let waits = has_status(&tag) || (quirks.status_delays_all && held_up);
            let due = if waits {
                due + answers.block_ack_delay
            } else {
                due
            };
            self.outbox.push(Entry {
                due,
                f_port,
                content,
                tag,
            });
        }
    }

    /// Nothing in this downlink is answered.
    pub(super) fn lose_answers(&mut self) {
        self.answers = Answers::default();
        self.note("answers lost over an unreadable command");
    }
}
