//! TS003 on the device: asks for the time, applies corrections, keeps a period.

use std::time::Duration;

use lorawan_fuota::lorawan::PackageVersion;
use lorawan_fuota::lorawan::clock_sync::{
    AppTimeAns, DEFAULT_F_PORT, DeviceAppTimePeriodicityAns, DownlinkCommand, PACKAGE_IDENTIFIER,
    UplinkCommand, decode_downlink,
};

use super::environment::Environment;
use super::outbox::{Content, Entry, Tag};

/// Time between the requests of one `ForceDeviceResync`.
const RESYNC_SPACING: Duration = Duration::from_secs(20);

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
    /// Asks after `delay`.
    pub(super) fn ask(
        &self,
        environment: &mut Environment<'_>,
        delay: Duration,
        ans_required: bool,
    ) {
        environment.outbox.push(Entry {
            due: environment.now + delay,
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
        if self.resyncs_left > 0 {
            self.resyncs_left -= 1;
            self.ask(environment, RESYNC_SPACING, false);
        } else if !environment.clock.is_set() {
            let interval = environment.config.uplinks.interval;
            let delay = environment.random.around(interval, 20);
            self.ask(environment, delay, true);
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
        let decoded = decode_downlink(version, payload);
        for command in decoded.commands {
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
                    let period = Duration::from_secs(128 << (request.period & 0x0f));
                    self.period = Some(period);
                    let answer = DeviceAppTimePeriodicityAns {
                        not_supported: false,
                        time: environment.clock.gps_seconds(environment.now),
                    };
                    let mut bytes = Vec::new();
                    UplinkCommand::DeviceAppTimePeriodicityAns(answer).encode(version, &mut bytes);
                    environment.answer(DEFAULT_F_PORT, bytes);
                    let delay = environment.random.around(period, 5);
                    self.ask(environment, delay, false);
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
        environment.note_unread(decoded.rest);
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
            self.ask(environment, Duration::ZERO, true);
        } else if let Some(period) = self.period {
            let delay = environment.random.around(period, 5);
            self.ask(environment, delay, false);
        }
    }
}
