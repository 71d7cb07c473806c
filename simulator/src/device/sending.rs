//! How a device makes its next uplink: a join-request, or what waits in the outbox with MAC commands beside it.

use std::time::Duration;

use lorawan_fuota::lorawan::airtime::DataRate;
use lorawan_fuota::lorawan::frame::Direction;
use lorawan_fuota::time::Timestamp;

use super::link::{Channel, UplinkParts};
use super::outbox::{Content, Entry, Tag};
use super::{EndDevice, Uplink};

impl EndDevice {
    pub(super) fn transmit(&mut self, now: Timestamp) -> Option<Uplink> {
        let channel = self.link.draw_channel(&self.config, now, &mut self.random);
        let is_join = self.link.session.is_none();
        let phy_payload = match channel {
            Some(channel) if is_join => self.build_join(now).map(|bytes| (channel, bytes)),
            Some(channel) => self.build_data(now, channel).map(|bytes| (channel, bytes)),
            None => None,
        };
        let Some((channel, phy_payload)) = phy_payload else {
            // Nothing can be sent this way: wait for the next occasion, lest this one comes again at once.
            self.log.note(now, "nothing can be sent");
            self.outbox.clear();
            self.empty_at = None;
            self.application_at = now + self.config.uplinks.interval.max(Duration::from_secs(1));
            let next_join = now + self.config.uplinks.interval.max(Duration::from_secs(1));
            if is_join {
                self.link.leave(&self.config, next_join);
            }
            return None;
        };
        let airtime = air_time(channel.data_rate, phy_payload.len());
        self.link.sent(&self.config, channel, now, airtime, is_join);
        self.meter.sent(airtime, self.link.radio.windows());
        self.counts.sent += 1;
        Some(Uplink {
            frequency_hz: channel.frequency_hz,
            data_rate: channel.data_rate,
            phy_payload,
            airtime,
        })
    }

    fn build_join(&mut self, now: Timestamp) -> Option<Vec<u8>> {
        let bytes = self.link.build_join(&self.config, now, &mut self.random)?;
        self.log.note(now, "join-request");
        Some(bytes)
    }

    fn build_data(&mut self, now: Timestamp, channel: Channel) -> Option<Vec<u8>> {
        let region = self.config.region;
        let room = region.max_payload(channel.dr, Direction::Uplink, false);
        self.queue_application(now, room.unwrap_or(0).into());
        self.empty_at = None;
        let room = room?;
        let every = self.config.uplinks.link_check_every;
        if every != 0 && (self.counts.sent + 1).is_multiple_of(every.into()) {
            self.mac.want_link_check();
        }
        let room = usize::from(room);
        let needed = self.outbox.needs(now, room);
        let f_opts = self.mac.take_f_opts(room - needed);
        let size = room - f_opts.len();
        let pending = self.outbox.pending();
        let taken = self.outbox.take(now, size, &self.clock);
        self.arrange_repeats(now, &pending);
        let (f_port, payload) = match &taken {
            Some((f_port, payload)) => (Some(*f_port), payload.as_slice()),
            None => (None, &[][..]),
        };
        let application = f_port == Some(self.config.uplinks.application_f_port);
        let phy_payload = self.link.build(UplinkParts {
            confirmed: application && self.config.uplinks.confirmed,
            adr: self.config.uplinks.adr,
            f_opts: &f_opts,
            f_port,
            payload,
        })?;
        let end = now + air_time(channel.data_rate, phy_payload.len());
        self.mac.sent_until(end);
        if self.mac.has_answers() {
            self.empty_at = Some(now);
        }
        Some(phy_payload)
    }

    /// Application data is due. Versions of parts that the frame does not hold are left out.
    fn queue_application(&mut self, now: Timestamp, room: usize) {
        if self.application_at > now {
            return;
        }
        let mut payload = self.running_version().to_be_bytes().to_vec();
        for version in self.firmware.flash().part_versions() {
            let version = version.to_be_bytes();
            if payload.len() + version.len() < room {
                payload.extend(version);
            }
        }
        let [count, ..] = self.counts.sent.to_le_bytes();
        payload.push(count);
        self.outbox.push(Entry {
            due: now,
            f_port: self.config.uplinks.application_f_port,
            content: Content::Bytes(payload),
            tag: Tag::Application,
        });
        let interval = self.config.uplinks.interval.max(Duration::from_millis(100));
        self.application_at = now + self.random.around(interval, 5);
    }

    /// What was pending and has left may have to be said again.
    pub(super) fn arrange_repeats(&mut self, now: Timestamp, pending: &[Tag]) {
        let left = self.outbox.pending();
        for tag in pending.iter().filter(|tag| !left.contains(tag)) {
            let (mut environment, packages) = self.split(now);
            match tag {
                Tag::AppTimeReq => packages.clock_sync.asked(&mut environment),
                Tag::BlockReceived(frag_index) => packages
                    .fragmentation
                    .announced(*frag_index, &mut environment),
                Tag::Plain | Tag::Application | Tag::FragStatus(_) => {}
            }
        }
    }
}

fn air_time(data_rate: DataRate, phy_length: usize) -> Duration {
    let length = u8::try_from(phy_length).unwrap_or(u8::MAX);
    Duration::from_micros(data_rate.time_on_air_us(length, Direction::Uplink).into())
}
