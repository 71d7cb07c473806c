//! Virtual time: the production loop, engine, native network server and campaigns, driven by simulated gateways and
//! devices.
//!
//! A run is a function of its lab, seed and [`Faults`]: one seed, one history. Nothing waits for real time; the loop's
//! future is polled by hand, and time jumps to the next event of clock or lab. Faults strike between any two steps: the
//! store can fail before or after it wrote, and the server can die there, which drops its future and starts it again
//! from the store.

mod aside;
mod faults;
mod ports;
mod trouble;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lorawan_fuota::campaign::AddressSpace;
use lorawan_fuota::lorawan::identifiers::DevEui;
use lorawan_fuota::network::native::{GatewayMessage, Native, NativeConfig};
use lorawan_fuota::record::{
    Change, DeviceSettings, DistributionSession, Snapshot, Task, TaskDevice, TaskId, Wave,
};
use lorawan_fuota::runtime::{Command, CommandError, Engine, Handle, drive};
use lorawan_fuota::store::{MemoryStore, Store as _, StoreError};
use lorawan_fuota::time::Timestamp;
use tokio::sync::{mpsc, oneshot};

use crate::checkers::{Checker, Checkers, Expected, Violation, verdicts};
use crate::device::EndDevice;
use crate::lab::Lab;
use crate::random::Random;

pub use faults::{Faults, Outages};
pub use trouble::Strike;

use aside::Aside;
use ports::{Locked, Shared, WorldClock, WorldStore, WorldTransport};
use trouble::Trouble;

/// A network server with its gateways and devices, in virtual time.
pub struct World {
    shared: Arc<Shared>,
    native: NativeConfig,
    server: Option<Server>,
    restart_at: Option<Timestamp>,
    faults: Faults,
    crashes: u32,
    alive_at: Timestamp,
    /// When time has to stop for that.
    alive_next: Option<Timestamp>,
    trouble: Trouble,
    /// Draws what `trouble` needs, apart from faults at the ports, so that one kind does not change another.
    random: Random,
    /// The loop is beyond help.
    stuck: bool,
}

struct Server {
    ring: Pin<Box<dyn Future<Output = Result<(), StoreError>>>>,
    commands: mpsc::Sender<lorawan_fuota::runtime::command::CommandRequest>,
}

/// How often a gateway asks for downlinks.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Steps at one moment beyond which the machines are taken to spin.
const STEPS_PER_MOMENT: u32 = 10_000;

impl World {
    /// A world around a lab. The server starts at once, with an empty store.
    pub fn new(lab: Lab, start: Timestamp, seed: u64, faults: Faults) -> Self {
        let shared = Arc::new(Shared {
            now: Locked::new(start),
            server_ahead_us: Locked::default(),
            sleeps_until: Locked::default(),
            inbox: Locked::default(),
            in_transit: Locked::default(),
            set_out: Locked::default(),
            lab: Locked::new(lab),
            store: MemoryStore::new(),
            checkers: Arc::default(),
            aside: Locked::default(),
            over: Locked::default(),
            random: Locked::new(Random::of(seed, 0xfa17)),
            faults: Locked::new(Faults::default()),
            crash: Locked::new(false),
            progress: Locked::default(),
        });
        let tolerated = faults.server_step * 2;
        shared.checkers().tolerate_clock(tolerated);
        if faults.outages.is_some_and(|outages| outages.power) {
            shared.checkers().tolerate_late();
        }
        if faults.misleads_about_gateways() {
            shared.checkers().tolerate_order();
        }
        Self {
            shared,
            native: NativeConfig::default(),
            server: None,
            restart_at: Some(start),
            faults,
            crashes: 0,
            alive_at: start,
            alive_next: None,
            trouble: Trouble::default(),
            random: Random::of(seed, 0x7b0b1e),
            stuck: false,
        }
    }

    /// From now on store and checkers work on a thread of their own. A commit that the store refuses breaks a property
    /// then, and the loop does not hear of it.
    pub fn watch_aside(&mut self) {
        let (store, checkers) = (self.shared.store.clone(), Arc::clone(&self.shared.checkers));
        self.shared.aside.set(Some(Aside::start(store, checkers)));
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        self.shared.now.get()
    }

    /// Times the server died.
    pub fn crashes(&self) -> u32 {
        self.crashes
    }

    /// Transactions committed.
    pub fn commits(&self) -> u64 {
        self.checkers(|c| c.records.commits)
    }

    /// Properties broken so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.checkers(|c| c.violations().to_vec())
    }

    /// What the checkers saw.
    pub fn checkers<T>(&self, look: impl FnOnce(&Checkers) -> T) -> T {
        look(&self.shared.checkers())
    }

    /// The checkers, to be told what this world is like.
    pub fn checkers_mut<T>(&self, tell: impl FnOnce(&mut Checkers) -> T) -> T {
        tell(&mut self.shared.checkers())
    }

    /// A task as it was committed last.
    pub fn task(&self, id: &TaskId) -> Option<Task> {
        self.checkers(|c| c.records.tasks.get(id).map(|task| Task::clone(task)))
    }

    /// Whether a task has ended, as it was committed last.
    pub fn is_over(&self, id: &TaskId) -> bool {
        self.shared.over.borrow().contains(id)
    }

    /// The devices of a task as they were committed last.
    pub fn task_devices(&self, id: &TaskId) -> Vec<TaskDevice> {
        self.checkers(|c| {
            let devices = c.records.devices.iter();
            devices
                .filter(|((_, task), _)| task == id)
                .map(|(_, d)| TaskDevice::clone(d))
                .collect()
        })
    }

    /// The sessions of a task as they were committed last.
    pub fn sessions(&self, id: &TaskId) -> Vec<DistributionSession> {
        self.checkers(|c| {
            let sessions = c.records.sessions.values();
            sessions.filter(|s| s.id.task == *id).cloned().collect()
        })
    }

    /// What is set of a device, as it was committed last.
    pub fn settings(&self, dev_eui: DevEui) -> Option<DeviceSettings> {
        self.checkers(|c| c.records.settings.get(&dev_eui).cloned())
    }

    /// The waves of a task as they were committed last.
    pub fn waves(&self, id: &TaskId) -> Vec<Wave> {
        self.checkers(|c| {
            let waves = c.records.waves.values();
            waves.filter(|wave| wave.task == *id).cloned().collect()
        })
    }

    /// Checks what a task came to. `expected` is told what struck.
    pub fn judge(&mut self, id: &TaskId, mut expected: Expected) {
        let Some(task) = self.task(id) else {
            return;
        };
        expected.vanished.clone_from(&self.trouble.vanished);
        let devices = self.task_devices(id);
        let lab = self.shared.lab.borrow();
        let mut checkers = self.shared.checkers();
        let now = self.shared.now.get();
        let broken = verdicts(now, &task, &devices, &checkers.records, &lab, &expected);
        for (checker, device, what) in broken {
            checkers.broken(now, checker, device, what);
        }
    }

    /// Devices whose clock was stepped.
    pub fn any_clock_stepped(&self) -> bool {
        !self.trouble.stepped.is_empty()
    }

    /// The gateways and devices.
    pub fn lab<T>(&self, look: impl FnOnce(&Lab) -> T) -> T {
        look(&self.shared.lab.borrow())
    }

    /// The gateways and devices, to be tampered with.
    pub fn lab_mut<T>(&self, touch: impl FnOnce(&mut Lab) -> T) -> T {
        touch(&mut self.shared.lab.borrow_mut())
    }

    /// From now on, the faults this world was made with strike.
    pub fn release_faults(&mut self) {
        let faults = self.faults;
        self.shared.faults.set(faults);
        let mut lab = self.shared.lab.borrow_mut();
        lab.channel_mut().set_bursts(faults.bursts);
        let devices: Vec<DevEui> = lab.devices().map(EndDevice::dev_eui).collect();
        let now = self.shared.now.get();
        for dev_eui in devices {
            let most = u64::from(faults.drift_ppm.unsigned_abs());
            let drift = i32::try_from(self.random.below(2 * most + 1)).unwrap_or(0);
            lab.change_device(dev_eui, |device| {
                if most > 0 {
                    device.set_drift(now, drift - faults.drift_ppm.abs());
                }
                if !faults.slow_answers.is_zero() {
                    device.set_answer_delay_max(faults.slow_answers);
                }
            });
        }
        self.trouble.release(now, &faults, &lab, &mut self.random);
    }

    /// Something is to strike at a moment, whatever the faults are.
    pub fn strike_at(&mut self, at: Timestamp, strike: Strike) {
        self.trouble.schedule(at, strike);
    }

    /// The server is killed, and started again after a while.
    pub fn kill(&mut self, away: Duration) {
        self.crashes += 1;
        self.server = None;
        self.restart_at = Some(self.now() + away);
        self.shared.inbox.borrow_mut().clear();
        self.shared
            .note(None, || format!("the server dies, back in {away:?}"));
    }

    /// Sets the server's clock so far ahead of true time, or behind it (microseconds). It never goes back while the
    /// server runs: the server has to be away then.
    pub fn set_server_clock(&mut self, ahead_us: i64) {
        self.shared.server_ahead_us.set(ahead_us);
    }

    /// Writes records past the loop, as the API does with images and drafts.
    ///
    /// # Panics
    /// The store refuses them.
    pub fn commit(&mut self, changes: &[Change]) {
        self.shared.flush();
        let mut commit = Box::pin(self.shared.store.commit(changes));
        let mut context = Context::from_waker(Waker::noop());
        let written = commit.as_mut().poll(&mut context);
        assert!(matches!(written, Poll::Ready(Ok(()))), "{written:?}");
    }

    /// All that the server would be restored from.
    ///
    /// # Panics
    /// The store does not answer.
    pub fn records(&self) -> Snapshot {
        self.shared.flush();
        let mut read = Box::pin(self.shared.store.snapshot());
        let mut context = Context::from_waker(Waker::noop());
        match read.as_mut().poll(&mut context) {
            Poll::Ready(Ok(records)) => records,
            other => panic!("{:?}", other.map_ok(|_| ())),
        }
    }

    /// Has a command carried out; repeats it when a fault swallowed it.
    ///
    /// # Errors
    /// The command is refused, or not answered within an hour of virtual time, which breaks a property.
    pub fn command(&mut self, command: &Command) -> Result<(), CommandError> {
        let give_up = self.now() + Duration::from_secs(3600);
        while self.now() < give_up && !self.stuck {
            let (reply, mut answer) = oneshot::channel();
            let request = lorawan_fuota::runtime::command::CommandRequest {
                command: command.clone(),
                with: Vec::new(),
                reply,
            };
            let sent = self
                .server
                .as_ref()
                .is_some_and(|s| s.commands.try_send(request).is_ok());
            loop {
                self.settle();
                match answer.try_recv() {
                    Ok(Err(CommandError::Unavailable(_))) => break,
                    Ok(result) => {
                        self.check_acknowledged(command, &result);
                        return result;
                    }
                    Err(oneshot::error::TryRecvError::Closed) => break,
                    Err(oneshot::error::TryRecvError::Empty) if sent => self.jump(),
                    Err(oneshot::error::TryRecvError::Empty) => break,
                }
            }
            self.jump();
        }
        self.give_up("a command has no answer within an hour".to_owned());
        Err(CommandError::Unavailable("no answer".to_owned()))
    }

    /// Runs until `done` or the end of `within`; true when it was done.
    pub fn run_until(&mut self, within: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now() + within;
        loop {
            self.settle();
            let is_done = done(self);
            if is_done || self.now() >= end || self.stuck {
                self.shared.lab.borrow_mut().settle();
                return is_done;
            }
            self.jump();
        }
    }

    /// What was answered with success is in the records.
    fn check_acknowledged(&self, command: &Command, result: &Result<(), CommandError>) {
        if let (Command::StartTask { task, .. }, Ok(())) = (command, result) {
            let begun = self.task(&task.id).is_some_and(|t| t.started_at.is_some());
            if !begun {
                let what = format!("the start of task {} was answered, not committed", task.id);
                self.shared.broken(Checker::Acknowledged, what);
            }
        }
    }

    /// Lets everything happen that happens now.
    fn settle(&mut self) {
        for turn in 0.. {
            if self.restart_at.is_some_and(|at| at <= self.now()) {
                self.restart_at = None;
                self.server = Some(self.boot());
                self.alive_next = None;
            }
            let Some(server) = &mut self.server else {
                return;
            };
            let mut context = Context::from_waker(Waker::noop());
            let ended = server.ring.as_mut().poll(&mut context);
            if std::mem::take(&mut *self.shared.crash.borrow_mut()) {
                self.kill(self.faults.restart_after);
                return;
            }
            if let Poll::Ready(result) = ended {
                self.give_up(format!("the loop ended by itself: {result:?}"));
                return;
            }
            // The loop went on if it took something in, slept enough or wrote; otherwise it waits for a later moment.
            if !std::mem::take(&mut *self.shared.progress.borrow_mut()) {
                return;
            }
            if turn > STEPS_PER_MOMENT {
                self.give_up("the machines spin: they are due again and again".to_owned());
                return;
            }
        }
    }

    fn give_up(&mut self, what: String) {
        self.shared.broken(Checker::Errors, what);
        self.server = None;
        self.stuck = true;
    }

    /// Moves time to the next event.
    fn jump(&mut self) {
        let sleeps_until = self.shared.sleeps_until.get();
        let lab = self.shared.lab.borrow().next_event();
        let arrival = self.shared.in_transit.borrow().keys().next().map(|k| k.0);
        let next = [
            sleeps_until.filter(|_| self.server.is_some()),
            self.alive_next.filter(|_| self.server.is_some()),
            lab,
            arrival,
            self.restart_at,
            self.trouble.next(),
        ]
        .into_iter()
        .flatten()
        .min();
        let now = next
            .unwrap_or_else(|| self.now() + Duration::from_secs(1))
            .max(self.now());
        self.shared.now.set(now);
        let later = |at: &Timestamp| *at > now;
        self.shared.sleeps_until.set(sleeps_until.filter(later));
        self.alive_next = self.alive_next.filter(later);
        let (received, on_air) = {
            let mut lab = self.shared.lab.borrow_mut();
            let mut received = lab.advance(now);
            received.retain(|(gateway, _)| !lab.gateway_is_down(*gateway));
            (received, lab.take_downlinks())
        };
        for (gateway, frame) in on_air {
            self.shared.on_air(gateway, frame);
        }
        for (gateway, frame) in received {
            self.shared.set_out(gateway, frame);
        }
        self.shared.arrive(self.server.is_some());
        self.strike(now);
        if self.server.is_some() {
            self.keep_alive(now);
        }
    }

    /// Lets strike what strikes by now.
    fn strike(&mut self, now: Timestamp) {
        let faults = self.shared.faults.get();
        while let Some(strike) = self.trouble.take(now, faults.outages, &mut self.random) {
            self.shared.note(None, || format!("{strike:?}"));
            let mut lab = self.shared.lab.borrow_mut();
            match strike {
                Strike::GatewayDown { gateway, power } => lab.set_down(now, gateway, true, power),
                Strike::GatewayUp { gateway } => lab.set_down(now, gateway, false, false),
                Strike::Reset(dev_eui) => lab.change_device(dev_eui, |d| d.reset(now)),
                Strike::Vanish(dev_eui) => {
                    lab.change_device(dev_eui, |d| d.set_silent_from(Some(now)));
                }
                Strike::StepDevice(dev_eui, by_us) => {
                    lab.change_device(dev_eui, |d| d.step_clock(now, by_us));
                }
                Strike::ServerAway(away) => {
                    drop(lab);
                    self.kill(away);
                }
                Strike::StepServer => {
                    drop(lab);
                    self.step_server(false);
                }
            }
        }
    }

    /// Moves the server's clock: forward while it runs, either way over a restart.
    fn step_server(&self, restarts: bool) {
        let most = i64::try_from(self.faults.server_step.as_micros()).unwrap_or(0);
        let ahead = self.shared.server_ahead_us.get();
        let from = if restarts { -most } else { ahead };
        let room = u64::try_from(most.saturating_sub(from)).unwrap_or(0);
        let drawn = self.shared.random.borrow_mut().below(room + 1);
        let to = from.saturating_add(i64::try_from(drawn).unwrap_or(0));
        self.shared.server_ahead_us.set(to);
    }

    /// Gateways ask for downlinks every few seconds, which is how the server knows that they are there.
    fn keep_alive(&mut self, now: Timestamp) {
        let is_due = now >= self.alive_at;
        if is_due {
            self.alive_at = now + KEEP_ALIVE;
        }
        self.alive_next = Some(self.alive_at);
        if !is_due {
            return;
        }
        let at = self.shared.server_now();
        let lab = self.shared.lab.borrow();
        let there = lab.gateways().iter().filter(|g| !g.is_down());
        let alive = there.map(|g| GatewayMessage::Alive {
            gateway: g.eui(),
            at,
        });
        self.shared.inbox.borrow_mut().extend(alive);
    }

    fn boot(&self) -> Server {
        if self.crashes > 0 && !self.faults.server_step.is_zero() {
            self.step_server(true);
        }
        let now = self.shared.now.get();
        self.shared.checkers().restarted(now);
        let (handle, mut edges) = Handle::new();
        let sender = handle.sender();
        let shared = Arc::clone(&self.shared);
        let native = self.native;
        let ring = Box::pin(async move {
            let clock = WorldClock(Arc::clone(&shared));
            let mut transport = WorldTransport(Arc::clone(&shared));
            let store = WorldStore(Arc::clone(&shared));
            let restore = |snapshot: Snapshot| {
                let network = Native::restore(native, &snapshot);
                Engine::restore(
                    network,
                    AddressSpace {
                        prefix: 0x0100_0000,
                        prefix_bits: 8,
                    },
                    snapshot,
                )
            };
            drive(&clock, &mut transport, &store, &mut edges, restore).await
        });
        self.shared.sleeps_until.set(None);
        Server {
            ring,
            commands: sender,
        }
    }
}
