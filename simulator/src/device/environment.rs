//! What a package of a device works with while it handles one downlink or event.

use std::fmt;
use std::time::Duration;

use lorawan_fuota::lorawan::DecodeError;
use lorawan_fuota::time::Timestamp;

use crate::random::Random;

use super::clock::DeviceClock;
use super::config::{DeviceConfig, StatusStyle};
use super::log::EventLog;
use super::outbox::{Content, Entry, Outbox, Tag};

/// The parts of the device a package may touch.
pub(super) struct Environment<'a> {
    pub(super) now: Timestamp,
    pub(super) config: &'a DeviceConfig,
    pub(super) clock: &'a mut DeviceClock,
    pub(super) random: &'a mut Random,
    pub(super) log: &'a mut EventLog,
    pub(super) outbox: &'a mut Outbox,
    /// When the answers to this downlink leave; drawn at the first, so that they share a frame.
    pub(super) answers_due: Option<Timestamp>,
    /// Bytes left for answers to this downlink, where the stack has a small buffer.
    pub(super) answer_room: Option<usize>,
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

    /// How long to wait before an answer, where the package sets no delay.
    pub(super) fn answer_delay(&mut self) -> Duration {
        self.random.up_to(self.config.answer_delay_max)
    }

    /// Queues an answer to the downlink being handled.
    pub(super) fn answer(&mut self, f_port: u8, bytes: Vec<u8>) {
        let size = bytes.len();
        self.answer_with(f_port, Content::Bytes(bytes), size);
    }

    pub(super) fn answer_with(&mut self, f_port: u8, content: Content, size: usize) {
        if let Some(room) = &mut self.answer_room {
            match room.checked_sub(size) {
                Some(left) => *room = left,
                None => {
                    self.note("answer left out: the buffer is full");
                    return;
                }
            }
        }
        let due = match self.answers_due {
            Some(due) => due,
            None => {
                let due = self.now + self.answer_delay();
                self.answers_due = Some(due);
                due
            }
        };
        self.outbox.push(Entry {
            due,
            f_port,
            content,
            tag: Tag::Plain,
        });
    }

    /// Queues a `PackageVersionAns`, which is the same in every package.
    pub(super) fn answer_version(&mut self, f_port: u8, identifier: u8, version: u8) {
        self.answer(f_port, vec![0x00, identifier, version]);
    }

    pub(super) fn is_lora_basics_modem(&self) -> bool {
        self.config.status_style == StatusStyle::LoraBasicsModem
    }
}
