//! How a device goes down and comes back: what is installed, what is lost, what it asks for first.

use lorawan_fuota::time::Timestamp;

use super::boot::Cause;
use super::clock_sync::ClockSync;
use super::mac::Mac;
use super::{Activation, EndDevice, SessionAfterReboot};

impl EndDevice {
    pub(super) fn go_down(&mut self, now: Timestamp, cause: Cause) {
        self.log.note(now, "reboots");
        let (mut environment, packages) = self.split(now);
        packages.firmware.go_down(cause, &mut environment);
        let config = &self.config;
        self.down_until = Some(now + config.reboot.duration);
        self.link.reboot();
        self.mac = Mac::default();
        self.outbox.clear();
        self.empty_at = None;
        self.clock_sync = ClockSync::default();
        self.fragmentation
            .reboot(config.stack.sessions.forgets_session_cnt);
        if config.reboot.loses_groups {
            self.multicast.clear();
        }
        if config.reboot.loses_clock {
            self.clock.unset(now);
        }
    }

    pub(super) fn boot(&mut self, now: Timestamp) {
        self.down_until = None;
        let running = self.running_version();
        self.log
            .note(now, format_args!("boots version {running:#010x}"));
        let first = now + self.random.up_to(self.config.uplinks.start_spread);
        self.application_at = first;
        let joins = matches!(self.config.activation, Activation::Otaa { .. });
        match self.config.reboot.session {
            SessionAfterReboot::Rejoin if joins => self.link.leave(&self.config, first),
            SessionAfterReboot::Rejoin | SessionAfterReboot::Keep => {}
            SessionAfterReboot::ResetCounters => {
                if let Some(session) = &mut self.link.session {
                    session.f_cnt_up = 0;
                    session.f_cnt_down = None;
                }
            }
        }
        self.want_time(now);
    }

    /// Asks for the time unless it has it: by MAC command with the first uplink, by TS003 if that does not help.
    pub(super) fn want_time(&mut self, now: Timestamp) {
        if self.clock.is_set() {
            return;
        }
        let by_mac = self.config.clock.device_time_req;
        if by_mac {
            self.mac.want_time();
        }
        if self.config.packages.clock_sync.is_some() {
            let patience = if by_mac { 2 } else { 0 };
            let spread = self.config.uplinks.start_spread;
            // Devices switched on together must not ask together.
            let delay = self.config.uplinks.interval * patience + self.random.up_to(spread);
            let (mut environment, packages) = self.split(now);
            let required = environment.quirks().clock.sets_ans_required;
            packages.clock_sync.ask(&mut environment, delay, required);
        }
    }
}
