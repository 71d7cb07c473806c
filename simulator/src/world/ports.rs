//! The world's side of the server's ports: clock, transport and store, with the faults that strike there.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{pending, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use lorawan_fuota::lorawan::identifiers::{DevEui, GatewayEui};
use lorawan_fuota::network::native::{
    GatewayCommand, GatewayMessage, ReceivedFrame, TransmissionId, When,
};
use lorawan_fuota::network::{Transport, TransportCounters};
use lorawan_fuota::record::{Change, DeviceState, Refusal, Snapshot, TaskId};
use lorawan_fuota::runtime::Clock;
use lorawan_fuota::store::{MemoryStore, Store, StoreError};
use lorawan_fuota::time::Timestamp;

use crate::checkers::{Checker, Checkers};
use crate::gateway::{OnAir, Received, TxError, TxRequest, TxWhen};
use crate::lab::Lab;
use crate::random::Random;

use super::aside::{Aside, Seen};
use super::faults::Faults;

/// What the loop's clock, transport and store share with the world.
pub(super) struct Shared {
    /// True time.
    pub(super) now: Locked<Timestamp>,
    /// How far the server's clock is ahead of it, microseconds.
    pub(super) server_ahead_us: Locked<i64>,
    /// When the loop wants to be woken, true time: it sleeps once at a time.
    pub(super) sleeps_until: Locked<Option<Timestamp>>,
    pub(super) inbox: Locked<Vec<GatewayMessage>>,
    /// Frames on their way from gateways, by arrival.
    pub(super) in_transit: Locked<BTreeMap<(Timestamp, u64), (GatewayEui, Received)>>,
    pub(super) set_out: Locked<u64>,
    pub(super) lab: Locked<Lab>,
    pub(super) store: MemoryStore,
    pub(super) checkers: Arc<Locked<Checkers>>,
    /// Where store and checkers are on a thread of their own.
    pub(super) aside: Locked<Option<Aside>>,
    /// Tasks that have ended, as they were committed last.
    pub(super) over: Locked<BTreeSet<TaskId>>,
    pub(super) random: Locked<Random>,
    pub(super) faults: Locked<Faults>,
    pub(super) crash: Locked<bool>,
    /// The loop did something since it was polled.
    pub(super) progress: Locked<bool>,
}

/// A cell that futures may carry between threads, as the store's port asks; here only one thread ever looks.
#[derive(Default)]
pub(super) struct Locked<T>(Mutex<T>);

impl<T> Locked<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub(super) fn borrow_mut(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn borrow(&self) -> MutexGuard<'_, T> {
        self.borrow_mut()
    }

    pub(super) fn set(&self, value: T) {
        *self.borrow_mut() = value;
    }
}

impl<T: Copy> Locked<T> {
    pub(super) fn get(&self) -> T {
        *self.borrow_mut()
    }
}

impl Shared {
    /// The time by the server's clock.
    pub(super) fn server_now(&self) -> Timestamp {
        self.server_time(self.now.get())
    }

    fn server_time(&self, at: Timestamp) -> Timestamp {
        Timestamp::from_micros(at.as_micros().saturating_add(self.server_ahead_us.get()))
    }

    pub(super) fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && self.random.borrow_mut().chance(probability)
    }

    pub(super) fn broken(&self, checker: Checker, what: String) {
        let now = self.now.get();
        self.checkers().broken(now, checker, None, what);
    }

    pub(super) fn note(&self, device: Option<DevEui>, what: impl FnOnce() -> String) {
        if self.aside.borrow().is_some() {
            // Who looks on from there keeps no events.
            return;
        }
        let now = self.now.get();
        self.checkers().note(now, device, what);
    }

    /// The checkers, once they have seen all that happened.
    pub(super) fn checkers(&self) -> MutexGuard<'_, Checkers> {
        self.flush();
        self.checkers.borrow_mut()
    }

    /// Waits until all that happened is stored and checked.
    pub(super) fn flush(&self) {
        if let Some(aside) = &mut *self.aside.borrow_mut() {
            aside.flush();
        }
    }

    pub(super) fn on_air(&self, gateway: GatewayEui, frame: OnAir) {
        if let Some(aside) = &mut *self.aside.borrow_mut() {
            return aside.see(Seen::OnAir { gateway, frame });
        }
        self.checkers().on_air(gateway, &frame);
    }

    fn committed(&self, changes: &[Change]) {
        let (now, lab) = (self.now.get(), self.lab.borrow());
        self.checkers().commit(now, changes, &lab);
    }

    /// Has a commit stored and checked on the other thread; false if there is none, or the checkers need the lab.
    fn commit_aside(&self, changes: &[Change]) -> bool {
        let mut aside = self.aside.borrow_mut();
        let of_group = |change: &Change| matches!(change, Change::PutMcGroup(_));
        let Some(aside) = aside.as_mut() else {
            return false;
        };
        if changes.iter().any(of_group) {
            aside.flush();
            return false;
        }
        let lab = self.lab.borrow();
        let done = changes.iter().filter_map(|change| match change {
            Change::PutTaskDevice(d) if d.state == DeviceState::Running => Some(d.dev_eui),
            _ => None,
        });
        let real = |dev_eui| Some((dev_eui, lab.device(dev_eui)?.running_version()));
        aside.see(Seen::Commit {
            at: self.now.get(),
            changes: changes.to_vec(),
            running: done.filter_map(real).collect(),
        });
        true
    }

    /// Notes which tasks have ended.
    fn note_ends(&self, changes: &[Change]) {
        for change in changes {
            let Change::PutTask(task) = change else {
                continue;
            };
            let mut over = self.over.borrow_mut();
            if task.state.is_terminal() {
                over.insert(task.id.clone());
            } else if !over.is_empty() {
                over.remove(&task.id);
            }
        }
    }

    /// A frame of a gateway sets out for the server: at once, later, or twice.
    pub(super) fn set_out(&self, gateway: GatewayEui, frame: Received) {
        let (now, faults) = (self.now.get(), self.faults.get());
        let late = |strikes: bool| {
            if strikes {
                now + self.random.borrow_mut().up_to(faults.held_up_for)
            } else {
                now
            }
        };
        let mut arrivals = vec![late(self.chance(faults.held_up))];
        if self.chance(faults.repeated) {
            arrivals.push(late(self.chance(faults.held_up)));
        }
        for at in arrivals {
            let number = self.set_out.get() + 1;
            self.set_out.set(number);
            let mut in_transit = self.in_transit.borrow_mut();
            in_transit.insert((at, number), (gateway, frame.clone()));
        }
    }

    /// Frames that arrive by now; nobody hears them where the server is away.
    pub(super) fn arrive(&self, server_is_there: bool) {
        let now = self.now.get();
        let mut in_transit = self.in_transit.borrow_mut();
        while let Some(entry) = in_transit.first_entry().filter(|e| e.key().0 <= now) {
            let (gateway, frame) = entry.remove();
            if server_is_there {
                let message = message(gateway, frame, self.server_now());
                self.inbox.borrow_mut().push(message);
            }
        }
    }
}

pub(super) struct WorldClock(pub(super) Arc<Shared>);

impl Clock for WorldClock {
    fn now(&self) -> Timestamp {
        self.0.server_now()
    }

    async fn sleep_until(&self, at: Timestamp) {
        poll_fn(|_| {
            let ahead_us = self.0.server_ahead_us.get();
            let at = Timestamp::from_micros(at.as_micros().saturating_sub(ahead_us));
            if self.0.now.get() >= at {
                self.0.progress.set(true);
                return Poll::Ready(());
            }
            self.0.sleeps_until.set(Some(at));
            Poll::Pending
        })
        .await;
    }
}

pub(super) struct WorldTransport(pub(super) Arc<Shared>);

impl WorldTransport {
    /// What a gateway answers; `None` if it does not.
    fn request(&self, gateway: GatewayEui, request: TxRequest) -> Option<Result<(), Refusal>> {
        let (at, faults) = (self.0.now.get(), self.0.faults.get());
        let mut lab = self.0.lab.borrow_mut();
        if lab.gateway_is_down(gateway) {
            return None;
        }
        if self.0.chance(faults.refused) {
            let collides = self.0.chance(0.5);
            return Some(Err(if collides {
                Refusal::CollisionPacket
            } else {
                Refusal::TooLate
            }));
        }
        let result = lab.request(at, gateway, request);
        drop(lab);
        if let Err(
            error @ (TxError::TxFreq | TxError::TxPower | TxError::UnknownGateway | TxError::Size),
        ) = result
        {
            let what = format!("gateway {gateway} cannot send a frame at all: {error}");
            self.0.broken(Checker::Errors, what);
        }
        Some(result.map_err(refusal))
    }
}

impl Transport for WorldTransport {
    type Inbound = GatewayMessage;
    type Outbound = GatewayCommand;

    async fn receive(&mut self) -> Vec<GatewayMessage> {
        poll_fn(|_| {
            let waiting = std::mem::take(&mut *self.0.inbox.borrow_mut());
            if waiting.is_empty() {
                return Poll::Pending;
            }
            self.0.progress.set(true);
            Poll::Ready(waiting)
        })
        .await
    }

    // The lab's gateways are all entered; whom to believe is the business of real sockets.
    fn allow(&mut self, _: BTreeSet<GatewayEui>) {}

    fn counts(&self) -> TransportCounters {
        TransportCounters::default()
    }

    async fn transmit(&mut self, outbound: Vec<GatewayCommand>) {
        let at = self.0.server_now();
        for command in outbound {
            let (gateway, id): (GatewayEui, TransmissionId) = (command.gateway, command.id);
            let request = TxRequest {
                when: match command.when {
                    When::Immediately => TxWhen::Immediately,
                    When::Counter(counter) => TxWhen::Counter(counter),
                    When::Gps(at) => TxWhen::Gps(at),
                },
                frequency_hz: command.frequency_hz,
                data_rate: command.data_rate,
                power_dbm: command.power_dbm,
                phy_payload: command.phy_payload,
            };
            let Some(result) = self.request(gateway, request) else {
                continue;
            };
            if let Err(reason) = &result {
                let reason = *reason;
                self.0.note(None, || {
                    format!("gateway {gateway} refuses a frame: {reason:?}")
                });
            }
            if !self.0.chance(self.0.faults.get().ack_lost) {
                self.0.inbox.borrow_mut().push(GatewayMessage::TxAck {
                    gateway,
                    id,
                    result,
                    at,
                });
            }
        }
    }
}

fn message(gateway: GatewayEui, frame: Received, arrives_at: Timestamp) -> GatewayMessage {
    GatewayMessage::Received(ReceivedFrame {
        gateway,
        at: arrives_at,
        counter_us: frame.counter_us,
        frequency_hz: frame.frequency_hz,
        data_rate: frame.data_rate,
        rssi_dbm: frame.rssi_dbm,
        snr_db: frame.snr_db,
        gps: frame.gps,
        phy_payload: frame.phy_payload,
    })
}

fn refusal(error: TxError) -> Refusal {
    match error {
        TxError::TooLate => Refusal::TooLate,
        TxError::TooEarly => Refusal::TooEarly,
        TxError::CollisionPacket => Refusal::CollisionPacket,
        TxError::CollisionBeacon => Refusal::CollisionBeacon,
        TxError::GpsUnlocked => Refusal::GpsUnlocked,
        TxError::QueueFull => Refusal::QueueFull,
        TxError::TxFreq => Refusal::TxFreq,
        TxError::TxPower => Refusal::TxPower,
        TxError::UnknownGateway => Refusal::NoGateway,
        TxError::Size => Refusal::Other,
    }
}

pub(super) struct WorldStore(pub(super) Arc<Shared>);

impl WorldStore {
    async fn die(&self) {
        self.0.crash.set(true);
        pending::<()>().await;
    }
}

impl Store for WorldStore {
    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let faults = self.0.faults.get();
        if self.0.chance(faults.crash_before_commit) {
            self.die().await;
        }
        let fault = || Err(StoreError::Unavailable("a fault of this world".to_owned()));
        if self.0.chance(faults.commit_fails) {
            self.0
                .note(None, || "a commit fails, nothing written".to_owned());
            return fault();
        }
        let aside = self.0.commit_aside(changes);
        if !aside && let Err(error) = self.0.store.commit(changes).await {
            // The loop recovers from this as from any fault, so that nobody else would notice.
            let what = format!("the store refuses a commit: {error}");
            self.0.broken(Checker::Errors, what);
            return Err(error);
        }
        if !aside {
            self.0.committed(changes);
        }
        self.0.note_ends(changes);
        if self.0.chance(faults.crash_after_commit) {
            self.die().await;
        }
        if self.0.chance(faults.commit_fails_late) {
            self.0
                .note(None, || "a commit fails after it was written".to_owned());
            fault()
        } else {
            Ok(())
        }
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.0.flush();
        self.0.store.snapshot().await
    }
}
