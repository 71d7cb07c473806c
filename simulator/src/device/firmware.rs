//! TS006 on the device: the commands, and the reboot that is due. What runs and what waits lies in `boot`.

use std::time::Duration;

use lorawan_fuota::lorawan::PackageVersion;
use lorawan_fuota::lorawan::firmware_management::{
    COUNTDOWN_CANCEL, COUNTDOWN_NOW, DEFAULT_F_PORT, DevRebootCountdownAns, DevRebootCountdownReq,
    DevRebootTimeAns, DevRebootTimeReq, DevUpgradeImageAns, DevVersionAns, DownlinkCommand,
    PACKAGE_IDENTIFIER, REBOOT_TIME_CANCEL, REBOOT_TIME_NOW, UpImageStatus, UplinkCommand,
    decode_downlink,
};
use lorawan_fuota::time::Timestamp;

use super::boot::{Cause, Flash};
use super::clock::micros;
use super::config::FirmwareConfig;
use super::decoding::Completed;
use super::environment::Environment;
use super::outbox::Content;
use super::reading::read_commands;

/// The package's memory.
#[derive(Clone, Debug)]
pub(super) struct FirmwareManagement {
    flash: Flash,
    /// Lost when the power fails.
    reboot_at: Option<Timestamp>,
}

impl FirmwareManagement {
    pub(super) fn new(config: &FirmwareConfig) -> Self {
        Self {
            flash: Flash::new(config),
            reboot_at: None,
        }
    }

    /// What runs.
    pub(super) fn flash(&self) -> &Flash {
        &self.flash
    }

    /// The image received last and what the check said of it.
    pub(super) fn image(&self) -> Option<(&[u8], UpImageStatus)> {
        Some((self.flash.latest_image()?, self.flash.status()))
    }

    pub(super) fn reboot_at(&self) -> Option<Timestamp> {
        self.reboot_at
    }

    /// Takes a data block as the next image.
    pub(super) fn store(&mut self, completed: Completed, environment: &mut Environment<'_>) {
        let good = self.flash.store(completed, environment);
        let config = &environment.config.firmware;
        // With further parts it cannot know whether another image is to come.
        if good && config.installs_by_itself && config.parts.is_empty() {
            let delay = environment.answer_delay() + Duration::from_secs(1);
            self.reboot_at = Some(environment.now + delay);
        }
    }

    /// The device goes down.
    pub(super) fn go_down(&mut self, cause: Cause, environment: &mut Environment<'_>) {
        self.reboot_at = None;
        self.flash.install(cause, environment);
    }

    /// A downlink to the application, which may be the order to reboot.
    pub(super) fn hear_application(
        &mut self,
        f_port: u8,
        payload: &[u8],
        environment: &mut Environment<'_>,
    ) {
        let order = &environment.config.firmware.reboots_on;
        if order
            .as_ref()
            .is_some_and(|(port, bytes)| (*port, bytes.as_slice()) == (f_port, payload))
        {
            environment.note("the application orders a reboot");
            self.reboot_at = Some(environment.now + Duration::from_secs(1));
        }
    }

    pub(super) fn handle(&mut self, payload: &[u8], environment: &mut Environment<'_>) {
        let version = PackageVersion::V1;
        let read = read_commands(
            payload,
            environment.quirks().answers.unreadable,
            None,
            |bytes| decode_downlink(version, bytes),
            |command, out| command.encode(version, out),
        );
        for command in read.commands {
            if !environment.takes_another() {
                break;
            }
            let answer = match command {
                DownlinkCommand::PackageVersionReq => {
                    environment.answer_version(
                        DEFAULT_F_PORT,
                        PACKAGE_IDENTIFIER,
                        version.number(),
                    );
                    continue;
                }
                DownlinkCommand::DevVersionReq => UplinkCommand::DevVersionAns(DevVersionAns {
                    fw_version: self.flash.running_version(),
                    hw_version: environment.config.firmware.hw_version,
                }),
                DownlinkCommand::DevRebootTimeReq(request) => {
                    match self.reboot_at_time(request, environment) {
                        Some(answer) => UplinkCommand::DevRebootTimeAns(answer),
                        None => continue,
                    }
                }
                DownlinkCommand::DevRebootCountdownReq(request) => {
                    match self.reboot_after(request, environment) {
                        Some(answer) => UplinkCommand::DevRebootCountdownAns(answer),
                        None => continue,
                    }
                }
                DownlinkCommand::DevUpgradeImageReq => {
                    UplinkCommand::DevUpgradeImageAns(DevUpgradeImageAns {
                        up_image_status: self.flash.status(),
                    })
                }
                DownlinkCommand::DevDeleteImageReq(request) => {
                    let version = request.firmware_to_delete_version;
                    UplinkCommand::DevDeleteImageAns(self.flash.delete(version))
                }
            };
            let mut bytes = Vec::new();
            answer.encode(version, &mut bytes);
            // LoRa Basics Modem looks for the two bytes of the short form only.
            let size = match answer {
                UplinkCommand::DevUpgradeImageAns(_) => 2,
                _ => bytes.len(),
            };
            environment.answer_with(DEFAULT_F_PORT, Content::Bytes(bytes), size);
        }
        environment.note_unread(read.rest);
        if read.loses_answers {
            environment.lose_answers();
        }
        environment.send_answers((Duration::ZERO, Duration::ZERO));
    }

    /// No answer to "now": the device goes down instead.
    fn reboot_at_time(
        &mut self,
        request: DevRebootTimeReq,
        environment: &mut Environment<'_>,
    ) -> Option<DevRebootTimeAns> {
        let (now, clock) = (environment.now, &environment.clock);
        let ahead_us = clock
            .read_wire(request.reboot_time, now)
            .saturating_sub(clock.gps_us(now));
        let reboot_time = match request.reboot_time {
            REBOOT_TIME_NOW => {
                self.reboot_at = Some(now);
                return None;
            }
            REBOOT_TIME_CANCEL => {
                self.reboot_at = None;
                REBOOT_TIME_CANCEL
            }
            _ if !clock.is_set() || ahead_us <= 0 => 0,
            wire => {
                self.reboot_at = Some(clock.when(clock.read_wire(wire, now)));
                u32::try_from(ahead_us / 1_000_000).unwrap_or(u32::MAX - 1)
            }
        };
        environment.note(format_args!(
            "reboot at {}: {reboot_time} s",
            request.reboot_time
        ));
        Some(DevRebootTimeAns { reboot_time })
    }

    fn reboot_after(
        &mut self,
        request: DevRebootCountdownReq,
        environment: &mut Environment<'_>,
    ) -> Option<DevRebootCountdownAns> {
        match request.countdown {
            COUNTDOWN_NOW => {
                self.reboot_at = Some(environment.now);
                return None;
            }
            COUNTDOWN_CANCEL => self.reboot_at = None,
            seconds => {
                self.reboot_at = Some(environment.now + micros(i64::from(seconds) * 1_000_000));
            }
        }
        environment.note(format_args!("reboot in {} s", request.countdown));
        Some(DevRebootCountdownAns {
            countdown: request.countdown,
        })
    }
}
