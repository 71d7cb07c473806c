//! TS003 on the device: asks for the time, applies corrections, keeps a period.

use std::time::Duration;

use lorawan_fuota::lorawan::PackageVersion;
use lorawan_fuota::lorawan::clock_sync::{
    AppTimeAns, DEFAULT_F_PORT, DeviceAppTimePeriodicityAns, DownlinkCommand, PACKAGE_IDENTIFIER,
    UplinkCommand, decode_downlink,
};

use super::environment::Environment;
use super::outbox::{Content, Entry, Tag};
use super::reading::read_commands;

/// The package's memory.
#[derive(Clone, Debug, Default)]
pub(super) struct ClockSync {
    /// Counts accepted answers, modulo 16.
    token: u8,
    period: Option<Duration>,
    /// Requests of a `ForceDeviceResync` still to be sent.
    resyncs_left: u8,
}

impl ClockSync {
    /// Decides after `delay` to ask.
    pub(super) fn ask(
        &self,
        environment: &mut Environment<'_>,
        delay: Duration,
        ans_required: bool,
    ) {
        environment.outbox.push(Entry {
            due: environment.now + delay + environment.quirks().clock.send_delay,
            f_port: DEFAULT_F_PORT,
            content: Content::AppTimeReq {
                ans_required,
                token_req: self.token,
            },
            tag: Tag::AppTimeReq,
        });
    }

    /// A request has just left: arranges the next one.
    pub(super) fn asked(&mut self, environment: &mut Environment<'_>) {
        let quirks = environment.quirks().clock;
        if self.resyncs_left > 0 {
            self.resyncs_left -= 1;
            self.ask(environment, quirks.resync_spacing, false);
        } else if !environment.clock.is_set() && quirks.asks_until_set {
            let interval = environment.config.uplinks.interval;
            let delay = environment.random.around(interval, 20);
            self.ask(environment, delay, quirks.sets_ans_required);
        } else if let Some(period) = self.period {
            let delay = environment.random.around(period, 5);
            self.ask(environment, delay, false);
        }
    }

    pub(super) fn handle(
        &mut self,
        version: PackageVersion,
        payload: &[u8],
        environment: &mut Environment<'_>,
    ) {
        let quirks = environment.quirks();
        let read = read_commands(
            payload,
            quirks.answers.unreadable,
            None,
            |bytes| decode_downlink(version, bytes),
            |command, out| command.encode(version, out),
        );
        for command in read.commands {
            if !environment.takes_another() {
                break;
            }
            match command {
                DownlinkCommand::PackageVersionReq => {
                    environment.answer_version(
                        DEFAULT_F_PORT,
                        PACKAGE_IDENTIFIER,
                        version.number(),
                    );
                }
                DownlinkCommand::AppTimeAns(answer) => self.apply(version, answer, environment),
                DownlinkCommand::DeviceAppTimePeriodicityReq(request) => {
                    self.set_period(version, request.period, environment);
                }
                DownlinkCommand::ForceDeviceResyncCmd(command) => {
                    environment.note("told to ask for the time");
                    if let Some(left) = command.nb_transmissions.checked_sub(1) {
                        self.resyncs_left = left;
                        let delay = environment.answer_delay();
                        self.ask(environment, delay, false);
                    }
                }
            }
        }
        environment.note_unread(read.rest);
        if read.loses_answers {
            environment.lose_answers();
        }
        let delay = quirks.clock.send_delay;
        environment.send_answers((delay, delay));
    }

    /// `DeviceAppTimePeriodicityReq`; the answer tells the time of its sending.
    fn set_period(
        &mut self,
        version: PackageVersion,
        exponent: u8,
        environment: &mut Environment<'_>,
    ) {
        let quirks = environment.quirks().clock;
        let answer = DeviceAppTimePeriodicityAns {
            not_supported: !quirks.has_periodicity,
            time: environment
                .clock
                .gps_seconds(environment.now + quirks.send_delay),
        };
        let mut bytes = Vec::new();
        UplinkCommand::DeviceAppTimePeriodicityAns(answer).encode(version, &mut bytes);
        environment.answer(DEFAULT_F_PORT, bytes);
        if quirks.has_periodicity {
            let period = Duration::from_secs(128 << (exponent & 0x0f));
            self.period = Some(period);
            let delay = environment.random.around(period, 5);
            self.ask(environment, delay, false);
        }
    }

    /// Applies a correction that answers the token in use.
    fn apply(
        &mut self,
        version: PackageVersion,
        answer: AppTimeAns,
        environment: &mut Environment<'_>,
    ) {
        if answer.token_ans != self.token {
            environment.note("time correction for another request");
            return;
        }
        self.token = (self.token + 1) & 0x0f;
        self.resyncs_left = 0;
        let correction = answer.time_correction;
        environment.clock.correct(environment.now, correction);
        environment.note(format_args!("clock corrected by {correction} s"));
        environment.outbox.withdraw(Tag::AppTimeReq);
        let saturated = matches!(correction, i32::MIN | i32::MAX);
        if version == PackageVersion::V2 && saturated {
            let required = environment.quirks().clock.sets_ans_required;
            self.ask(environment, Duration::ZERO, required);
        } else if let Some(period) = self.period {
            let delay = environment.random.around(period, 5);
            self.ask(environment, delay, false);
        }
    }
}
