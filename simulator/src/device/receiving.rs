//! What a device does with a good downlink: to whom it is, and which package handles it.

use lorawan_fuota::lorawan::clock_sync as ts003;
use lorawan_fuota::lorawan::firmware_management as ts006;
use lorawan_fuota::lorawan::fragmentation as ts004;
use lorawan_fuota::lorawan::frame::DataFrame;
use lorawan_fuota::lorawan::multicast_setup as ts005;
use lorawan_fuota::time::Timestamp;

use super::EndDevice;
use super::fragmentation::Fragmentation;
use super::link::Rejection;
use super::multicast::McRejection;
use super::shared_frame::Opened;

impl EndDevice {
    pub(super) fn joined(&mut self, now: Timestamp) {
        self.counts.joins += 1;
        if let Some(session) = &self.link.session {
            self.log
                .note(now, format_args!("joined as {}", session.dev_addr));
        }
        self.application_at = now + self.random.up_to(self.config.uplinks.start_spread);
    }

    pub(super) fn receive_data(&mut self, now: Timestamp, frame: &DataFrame, opened: &mut Opened) {
        let unicast = self
            .link
            .session
            .as_ref()
            .is_some_and(|session| session.dev_addr == frame.dev_addr);
        if !unicast {
            self.receive_multicast(now, frame, opened);
            return;
        }
        match self.link.open(frame) {
            Ok(payload) => {
                self.counts.unicast += 1;
                self.link.radio.answered();
                self.handle_unicast(now, frame, &payload);
            }
            Err(Rejection::Replayed) => self.counts.replayed += 1,
            Err(Rejection::WrongMic) => self.counts.wrong_mic += 1,
        }
    }

    fn handle_unicast(&mut self, now: Timestamp, frame: &DataFrame, payload: &[u8]) {
        let (mut environment, packages) = self.split(now);
        packages
            .mac
            .handle(&frame.f_opts, packages.parameters, &mut environment);
        let configured = environment.config.packages;
        match frame.f_port {
            Some(0) => packages
                .mac
                .handle(payload, packages.parameters, &mut environment),
            Some(ts003::DEFAULT_F_PORT) => {
                if let Some(version) = configured.clock_sync {
                    packages
                        .clock_sync
                        .handle(version, payload, &mut environment);
                }
            }
            Some(ts005::DEFAULT_F_PORT) => {
                if let Some(version) = configured.multicast_setup {
                    packages
                        .multicast
                        .handle(version, payload, &mut environment);
                }
            }
            Some(ts004::DEFAULT_F_PORT) => {
                if let Some(version) = configured.fragmentation {
                    packages.fragmentation.handle(
                        version,
                        payload,
                        Fragmentation::UNICAST,
                        &mut environment,
                    );
                }
            }
            Some(ts006::DEFAULT_F_PORT) if configured.firmware_management => {
                packages.firmware.handle(payload, &mut environment);
            }
            Some(f_port) => packages
                .firmware
                .hear_application(f_port, payload, &mut environment),
            None => {}
        }
        let wants_uplink = frame.confirmed || frame.f_ctrl.f_pending_or_class_b;
        if wants_uplink || self.mac.has_answers() {
            let delay = self.random.up_to(self.config.answer_delay_max);
            self.empty_at = Some(now + delay);
        }
        self.store_image(now);
    }

    fn receive_multicast(&mut self, now: Timestamp, frame: &DataFrame, opened: &mut Opened) {
        // LoRaWAN 1.0.4 §4.3: multicast is never confirmed and carries no MAC commands.
        let plain = !frame.confirmed && !frame.f_ctrl.ack && frame.f_opts.is_empty();
        match self.multicast.open(frame, opened, &self.clock, now) {
            Ok(_) if !plain => self.counts.not_allowed += 1,
            Ok((mc_group_id, payload)) => {
                self.counts.multicast += 1;
                self.handle_multicast(now, frame.f_port, mc_group_id, &payload);
            }
            Err(McRejection::NotForUs) => self.counts.not_for_us += 1,
            Err(McRejection::NoSession) => self.counts.no_session += 1,
            Err(McRejection::CounterOutOfRange) => self.counts.counter_out_of_range += 1,
            Err(McRejection::Replayed) => self.counts.replayed += 1,
            Err(McRejection::WrongMic) => self.counts.wrong_mic += 1,
        }
    }

    fn handle_multicast(
        &mut self,
        now: Timestamp,
        f_port: Option<u8>,
        mc_group_id: u8,
        payload: &[u8],
    ) {
        let packages = self.config.packages;
        let by_multicast = self.config.stack.multicast.commands_by_multicast;
        let allowed = match (f_port, packages.fragmentation, packages.multicast_setup) {
            (Some(ts005::DEFAULT_F_PORT), _, Some(version)) if by_multicast => {
                let (mut environment, packages) = self.split(now);
                packages
                    .multicast
                    .handle(version, payload, &mut environment);
                true
            }
            (Some(ts004::DEFAULT_F_PORT), Some(version), _) => {
                let (mut environment, packages) = self.split(now);
                packages
                    .fragmentation
                    .handle(version, payload, Some(mc_group_id), &mut environment)
            }
            _ => false,
        };
        if !allowed {
            self.counts.not_allowed += 1;
        }
        self.store_image(now);
    }

    fn store_image(&mut self, now: Timestamp) {
        if let Some(completed) = self.fragmentation.take_completed() {
            let (mut environment, packages) = self.split(now);
            packages.firmware.store(completed, &mut environment);
        }
    }
}
