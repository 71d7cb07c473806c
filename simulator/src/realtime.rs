//! A lab in real time: virtual time follows the wall clock, gateways talk UDP to a server.
//!
//! The only file of the simulator that reads a clock. A late step changes nothing in the lab but what comes from
//! outside: its events keep their own times.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use lorawan_fuota::lorawan::identifiers::{DevEui, GatewayEui};
use lorawan_fuota::time::Timestamp;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::counter_watch::CounterWatch;
use crate::device::EndDevice;
use crate::gateway::Gateway;
use crate::lab::{Lab, LabCounts};
use crate::semtech::DatagramError;
use crate::udp::{Uplinks, Wanted};

/// How often gateways say that they are there.
const KEEP_OPEN: Duration = Duration::from_secs(2);
/// How often gateways tell what they did.
const STATISTICS: Duration = Duration::from_secs(30);
/// How often observers get a new view.
const OBSERVE: Duration = Duration::from_millis(500);
/// Longest sleep, so that steps of the lab are never far apart.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// Time of the wall clock at the start, carried on by the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    started: Instant,
    started_at: Timestamp,
}

impl WallClock {
    /// Starts it.
    #[expect(
        clippy::disallowed_methods,
        reason = "real time enters the simulator here and nowhere else"
    )]
    pub fn start() -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            started: Instant::now(),
            started_at: Timestamp::from_unix_seconds(0) + since_epoch,
        }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        self.started_at + self.started.elapsed()
    }
}

/// What can be seen of a lab from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabView {
    /// Each device, in the lab's order.
    pub devices: Vec<DeviceView>,
    /// What happened on air.
    pub counts: LabCounts,
    /// Datagrams of the server that made no sense.
    pub bad_datagrams: u64,
    /// Rules of the region that gateways broke.
    pub breaches: usize,
    /// Gateways' frames that the lab refused or dropped.
    pub frames_refused: u64,
    /// Downlink counters the server used for two different frames.
    pub counters_reused: u64,
}

/// What can be seen of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceView {
    /// Who.
    pub dev_eui: DevEui,
    /// Version of the firmware that runs, as TS006 reports it.
    pub running_version: u32,
    /// It has a session.
    pub is_activated: bool,
    /// Fragments received in the session of the lowest index that exists.
    pub fragments_received: u16,
    /// Independent fragments that session still needs.
    pub fragments_missing: u16,
    /// A whole image came.
    pub has_image: bool,
}

/// A lab bound to wall clock and server.
#[derive(Debug)]
pub struct RealTime {
    lab: Lab,
    clock: WallClock,
    uplinks: Uplinks,
    views: watch::Sender<LabView>,
    bad_datagrams: u64,
    counters: CounterWatch,
}

impl RealTime {
    /// Opens the gateways' sockets. The lab's devices must have been started on the same clock.
    ///
    /// # Errors
    /// A socket cannot be opened.
    pub async fn open(lab: Lab, clock: WallClock, server: SocketAddr) -> io::Result<Self> {
        let euis: Vec<GatewayEui> = lab.gateways().iter().map(Gateway::eui).collect();
        Ok(Self {
            lab,
            clock,
            uplinks: Uplinks::open(&euis, server).await?,
            views: watch::Sender::default(),
            bad_datagrams: 0,
            counters: CounterWatch::default(),
        })
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The lab, to change it between two runs.
    pub fn lab_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }

    /// Views of the lab while it runs, a new one twice a second.
    pub fn observe(&self) -> watch::Receiver<LabView> {
        self.views.subscribe()
    }

    /// Runs until `stop` is ready, and returns what it said.
    pub async fn run_until<T>(&mut self, stop: impl Future<Output = T>) -> T {
        let mut stop = std::pin::pin!(stop);
        let mut keep_open = interval(KEEP_OPEN);
        let mut statistics = interval(STATISTICS);
        let mut observe = interval(OBSERVE);
        for ticker in [&mut keep_open, &mut statistics, &mut observe] {
            ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            self.step_to(self.clock.now()).await;
            let pause = self.until_next();
            tokio::select! {
                biased;
                said = &mut stop => return said,
                wanted = self.uplinks.next() => self.take(wanted).await,
                _ = keep_open.tick() => self.uplinks.keep_open().await,
                _ = statistics.tick() => self.tell_statistics().await,
                _ = observe.tick() => {
                    self.views.send_replace(self.view());
                }
                () = sleep(pause) => {}
            }
        }
    }

    /// A view of this moment.
    pub fn view(&self) -> LabView {
        let gateways = self.lab.gateways();
        let lost = |gateway: &Gateway| gateway.counts().refused + gateway.counts().dropped;
        LabView {
            devices: self.lab.devices().map(DeviceView::of).collect(),
            counts: *self.lab.counts(),
            bad_datagrams: self.bad_datagrams,
            breaches: gateways
                .iter()
                .map(|gateway| gateway.breaches().len())
                .sum(),
            frames_refused: gateways.iter().map(lost).sum(),
            counters_reused: self.counters.reused(),
        }
    }

    async fn step_to(&mut self, now: Timestamp) {
        let mut received = self.lab.advance(now);
        // A gateway whose line is cut hears for itself alone.
        received.retain(|(gateway, _)| !self.lab.gateway_is_down(*gateway));
        for (_, frame) in self.lab.take_downlinks() {
            self.counters.see(&frame.phy_payload);
        }
        for (gateway, received) in received {
            self.uplinks.push(gateway, &received).await;
        }
    }

    fn until_next(&self) -> Duration {
        let now = self.clock.now();
        self.lab
            .next_event()
            .map_or(SLEEP_MAX, |next| next.since(now).min(SLEEP_MAX))
    }

    async fn take(&mut self, wanted: Option<Result<Wanted, DatagramError>>) {
        let mut next = wanted;
        while let Some(wanted) = next {
            match wanted {
                Ok(wanted) => {
                    let now = self.clock.now();
                    self.step_to(now).await;
                    let result = self.lab.request(now, wanted.gateway, wanted.request);
                    self.uplinks
                        .acknowledge(wanted.gateway, wanted.token, result)
                        .await;
                }
                Err(_) => self.bad_datagrams += 1,
            }
            next = self.uplinks.try_next();
        }
    }

    async fn tell_statistics(&mut self) {
        let time = forwarder_time(self.clock.now());
        let counts: Vec<_> = self
            .lab
            .gateways()
            .iter()
            .map(|gateway| (gateway.eui(), *gateway.counts()))
            .collect();
        for (gateway, counts) in counts {
            self.uplinks.push_statistics(gateway, &time, &counts).await;
        }
    }
}

impl DeviceView {
    fn of(device: &EndDevice) -> Self {
        let progress = (0..4).find_map(|frag_index| device.decoder_progress(frag_index));
        Self {
            dev_eui: device.dev_eui(),
            running_version: device.running_version(),
            is_activated: device.is_activated(),
            fragments_received: progress.map_or(0, |progress| progress.received),
            fragments_missing: progress.map_or(0, |progress| progress.missing),
            has_image: device.image_received().is_some(),
        }
    }
}

/// `2026-11-21 04:16:00 UTC`, as the forwarder writes it.
fn forwarder_time(at: Timestamp) -> String {
    let text = at.to_string();
    let (date, rest) = text.split_once('T').unwrap_or((&text, ""));
    let time = rest.split_once('.').map_or(rest, |(time, _)| time);
    format!("{date} {time} UTC")
}
