//! Virtual time: the production loop, engine, native network server and campaigns, driven by simulated gateways and
//! devices.
//!
//! A run is a function of its lab, seed and [`Faults`]: one seed, one history. Nothing waits for real time; the loop's
//! future is polled by hand, and time jumps to the next event of clock or lab. Faults strike between any two steps: the
//! store can fail before or after it wrote, and the server can die there, which drops its future and starts it again
//! from the store.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lorawan_fuota::campaign::AddressSpace;
use lorawan_fuota::lorawan::frame::{Direction, Frame};
use lorawan_fuota::lorawan::identifiers::{DevAddr, DevEui, GatewayEui};
use lorawan_fuota::network::native::{
    GatewayCommand, GatewayMessage, Native, NativeConfig, ReceivedFrame, TransmissionId, When,
};
use lorawan_fuota::network::{Transport, TransportCounters};
use lorawan_fuota::record::{
    Change, DeviceState, DistributionSession, McGroup, Refusal, SessionId, Snapshot, Task,
    TaskDevice, TaskId,
};
use lorawan_fuota::runtime::{Clock, Command, CommandError, Engine, Handle, drive};
use lorawan_fuota::store::{MemoryStore, Store, StoreError};
use lorawan_fuota::time::Timestamp;
use tokio::sync::{mpsc, oneshot};

use crate::counter_watch::CounterWatch;
use crate::gateway::{OnAir, Received, TxError, TxRequest, TxWhen};
use crate::lab::Lab;
use crate::random::Random;

/// What can go wrong in a world, apart from the radio.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Probability that a commit fails without having written.
    pub commit_fails: f64,
    /// Probability that a commit fails although it has written.
    pub commit_fails_late: f64,
    /// Probability that the server dies before a commit.
    pub crash_before_commit: f64,
    /// Probability that the server dies after a commit, before anything of its step has left.
    pub crash_after_commit: f64,
    /// Probability that a gateway's `TX_ACK` is lost on its way.
    pub ack_lost: f64,
    /// How long a server that died is away.
    pub restart_after: Duration,
}

/// A property of the product that a run has broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When.
    pub at: Timestamp,
    /// Which property, and how.
    pub what: String,
}

/// A network server with its gateways and devices, in virtual time.
pub struct World {
    shared: Arc<Shared>,
    native: NativeConfig,
    server: Option<Server>,
    restart_at: Option<Timestamp>,
    faults: Faults,
    crashes: u32,
    alive_at: Timestamp,
}

struct Server {
    ring: Pin<Box<dyn Future<Output = Result<(), StoreError>>>>,
    commands: mpsc::Sender<lorawan_fuota::runtime::command::CommandRequest>,
}

/// What the loop's clock, transport and store share with the world.
struct Shared {
    now: Locked<Timestamp>,
    wakes: Locked<BTreeSet<Timestamp>>,
    inbox: Locked<Vec<GatewayMessage>>,
    lab: Locked<Lab>,
    store: MemoryStore,
    seen: Locked<Seen>,
    random: Locked<Random>,
    faults: Locked<Faults>,
    crash: Locked<bool>,
    /// The loop did something since it was polled.
    progress: Locked<bool>,
}

/// A cell that futures may carry between threads, as the store's port asks; here only one thread ever looks.
#[derive(Default)]
struct Locked<T>(Mutex<T>);

impl<T> Locked<T> {
    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    fn borrow_mut(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn borrow(&self) -> MutexGuard<'_, T> {
        self.borrow_mut()
    }

    fn set(&self, value: T) {
        *self.borrow_mut() = value;
    }
}

impl<T: Copy> Locked<T> {
    fn get(&self) -> T {
        *self.borrow_mut()
    }
}

/// What was committed and what was on air, for the checks.
#[derive(Default)]
struct Seen {
    tasks: BTreeMap<TaskId, Task>,
    devices: BTreeMap<(TaskId, DevEui), TaskDevice>,
    sessions: BTreeMap<SessionId, DistributionSession>,
    groups: BTreeMap<DevAddr, SessionId>,
    windows: BTreeMap<SessionId, Vec<(Timestamp, Timestamp)>>,
    counters: CounterWatch,
    /// When each frame of a group was on air to its end.
    group_frames: BTreeMap<SessionId, Vec<Timestamp>>,
    commits: u64,
    violations: Vec<Violation>,
}

/// How often a gateway asks for downlinks.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Steps at one moment beyond which the machines are taken to spin.
const STEPS_PER_MOMENT: u32 = 10_000;
/// Devices' clocks and the end of a window: a frame may start this much earlier or later than the window says.
const WINDOW_TOLERANCE: Duration = Duration::from_millis(500);

impl World {
    /// A world around a lab. The server starts at once, with an empty store.
    pub fn new(lab: Lab, start: Timestamp, seed: u64, faults: Faults) -> Self {
        let shared = Arc::new(Shared {
            now: Locked::new(start),
            wakes: Locked::default(),
            inbox: Locked::default(),
            lab: Locked::new(lab),
            store: MemoryStore::new(),
            seen: Locked::default(),
            random: Locked::new(Random::of(seed, 0xfa17)),
            faults: Locked::new(Faults::default()),
            crash: Locked::new(false),
            progress: Locked::default(),
        });
        let native = NativeConfig::default();
        Self {
            shared,
            native,
            server: None,
            restart_at: Some(start),
            faults,
            crashes: 0,
            alive_at: start,
        }
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
        self.shared.seen.borrow().commits
    }

    /// Properties broken so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.shared.seen.borrow().violations.clone()
    }

    /// A task as it was committed last.
    pub fn task(&self, id: &TaskId) -> Option<Task> {
        self.shared.seen.borrow().tasks.get(id).cloned()
    }

    /// The devices of a task as they were committed last.
    pub fn task_devices(&self, id: &TaskId) -> Vec<TaskDevice> {
        let seen = self.shared.seen.borrow();
        seen.devices
            .iter()
            .filter(|((task, _), _)| task == id)
            .map(|(_, d)| d.clone())
            .collect()
    }

    /// When each frame of a task's groups ended on air, in order: fragments and polls, each transmission.
    pub fn group_frames(&self, id: &TaskId) -> Vec<Timestamp> {
        let seen = self.shared.seen.borrow();
        let of_task = seen.group_frames.iter().filter(|(s, _)| s.task == *id);
        let mut frames: Vec<Timestamp> = of_task.flat_map(|(_, f)| f.iter().copied()).collect();
        frames.sort_unstable();
        frames
    }

    /// The sessions of a task as they were committed last.
    pub fn sessions(&self, id: &TaskId) -> Vec<DistributionSession> {
        let seen = self.shared.seen.borrow();
        let of_task = seen.sessions.iter().filter(|(s, _)| s.task == *id);
        of_task.map(|(_, session)| session.clone()).collect()
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
        self.shared.faults.set(self.faults);
    }

    /// Writes records past the loop, as the API does with images and drafts.
    ///
    /// # Panics
    /// The store refuses them.
    pub fn commit(&mut self, changes: &[Change]) {
        let mut commit = Box::pin(self.shared.store.commit(changes));
        let mut context = Context::from_waker(Waker::noop());
        let written = commit.as_mut().poll(&mut context);
        assert!(matches!(written, Poll::Ready(Ok(()))), "{written:?}");
    }

    /// Has a command carried out; repeats it when a fault swallowed it.
    ///
    /// # Errors
    /// The command is refused.
    ///
    /// # Panics
    /// The server does not answer within an hour of virtual time.
    pub fn command(&mut self, command: &Command) -> Result<(), CommandError> {
        let give_up = self.now() + Duration::from_secs(3600);
        while self.now() < give_up {
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
                    Ok(result) => return result,
                    Err(oneshot::error::TryRecvError::Closed) => break,
                    Err(oneshot::error::TryRecvError::Empty) if sent => self.jump(),
                    Err(oneshot::error::TryRecvError::Empty) => break,
                }
            }
            self.jump();
        }
        panic!("no answer to {command:?}");
    }

    /// Runs until `done` or the end of `within`; true when it was done.
    pub fn run_until(&mut self, within: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now() + within;
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            if self.now() >= end {
                return false;
            }
            self.jump();
        }
    }

    /// Lets everything happen that happens now.
    fn settle(&mut self) {
        for turn in 0.. {
            if self.restart_at.is_some_and(|at| at <= self.now()) {
                self.restart_at = None;
                self.server = Some(self.boot());
            }
            let Some(server) = &mut self.server else {
                return;
            };
            let mut context = Context::from_waker(Waker::noop());
            let ended = server.ring.as_mut().poll(&mut context).is_ready();
            if std::mem::take(&mut *self.shared.crash.borrow_mut()) {
                self.crashes += 1;
                self.server = None;
                self.restart_at = Some(self.now() + self.faults.restart_after);
                self.shared.inbox.borrow_mut().clear();
                return;
            }
            assert!(!ended, "the loop ended by itself");
            // The loop went on if it took something in, slept enough or wrote; otherwise it waits for a later moment.
            if !std::mem::take(&mut *self.shared.progress.borrow_mut()) {
                return;
            }
            if turn > STEPS_PER_MOMENT {
                self.shared
                    .violation("the machines spin: they are due again and again".to_owned());
                panic!("the machines spin at {}", self.now());
            }
        }
    }

    /// Moves time to the next event.
    fn jump(&mut self) {
        let wakes = self.shared.wakes.borrow().first().copied();
        let lab = self.shared.lab.borrow().next_event();
        let next = [
            wakes.filter(|_| self.server.is_some()),
            lab,
            self.restart_at,
        ]
        .into_iter()
        .flatten()
        .min();
        let now = next
            .unwrap_or_else(|| self.now() + Duration::from_secs(1))
            .max(self.now());
        self.shared.now.set(now);
        self.shared.wakes.borrow_mut().retain(|at| *at > now);
        let (received, on_air) = {
            let mut lab = self.shared.lab.borrow_mut();
            (lab.advance(now), lab.take_downlinks())
        };
        for (_, frame) in on_air {
            self.shared.check_frame(&frame);
        }
        if self.server.is_some() {
            let messages = received
                .into_iter()
                .map(|(gateway, frame)| message(gateway, frame));
            self.shared.inbox.borrow_mut().extend(messages);
            self.keep_alive(now);
        }
    }

    /// Gateways ask for downlinks every few seconds, which is how the server knows that they are there.
    fn keep_alive(&mut self, now: Timestamp) {
        if now < self.alive_at {
            self.shared.wakes.borrow_mut().insert(self.alive_at);
            return;
        }
        self.alive_at = now + KEEP_ALIVE;
        self.shared.wakes.borrow_mut().insert(self.alive_at);
        let gateways: Vec<GatewayEui> = self
            .shared
            .lab
            .borrow()
            .gateways()
            .iter()
            .map(crate::gateway::Gateway::eui)
            .collect();
        let alive = gateways
            .into_iter()
            .map(|gateway| GatewayMessage::Alive { gateway, at: now });
        self.shared.inbox.borrow_mut().extend(alive);
    }

    fn boot(&self) -> Server {
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
        self.shared.wakes.borrow_mut().clear();
        Server {
            ring,
            commands: sender,
        }
    }
}

impl Shared {
    fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && self.random.borrow_mut().chance(probability)
    }

    fn violation(&self, what: String) {
        self.seen.borrow_mut().violations.push(Violation {
            at: self.now.get(),
            what,
        });
    }

    /// A counter is never used twice for different frames, and multicast stays in its window.
    fn check_frame(&self, sent: &OnAir) {
        let Ok(Frame::Data(frame)) = Frame::parse(&sent.phy_payload) else {
            return;
        };
        if frame.direction != Direction::Downlink {
            return;
        }
        let mut problems = Vec::new();
        {
            let mut seen = self.seen.borrow_mut();
            if let Some((dev_addr, f_cnt)) = seen.counters.see(&sent.phy_payload) {
                problems.push(format!("counter {f_cnt} of {dev_addr} used twice"));
            }
            if let Some(session) = seen.groups.get(&frame.dev_addr).cloned() {
                let frames = seen.group_frames.entry(session.clone()).or_default();
                frames.push(sent.end);
                let inside = seen.windows.get(&session).is_some_and(|windows| {
                    windows.iter().any(|(from, to)| {
                        sent.start + WINDOW_TOLERANCE >= *from && sent.end <= *to + WINDOW_TOLERANCE
                    })
                });
                if !inside {
                    problems.push(format!("a frame of {session:?} outside of its windows"));
                }
            }
        }
        problems
            .into_iter()
            .for_each(|problem| self.violation(problem));
    }

    /// What is committed is true, and what has ended stays as it is.
    fn check_changes(&self, changes: &[Change]) {
        let mut problems = Vec::new();
        let mut seen = self.seen.borrow_mut();
        seen.commits += 1;
        for change in changes {
            match change {
                Change::PutTask(task) => {
                    if let Some(before) = seen.tasks.get(&task.id) {
                        if before.state.is_terminal() && before.state != task.state {
                            problems.push(format!("task {} left {:?}", task.id, before.state));
                        }
                        if task.sequence < before.sequence {
                            problems.push(format!("task {}: sequence went back", task.id));
                        }
                    }
                    seen.tasks.insert(task.id.clone(), task.clone());
                }
                Change::PutTaskDevice(device) => {
                    let key = (device.task.clone(), device.dev_eui);
                    if let Some(before) = seen.devices.get(&key) {
                        let ended =
                            before.state.is_failure() || before.state == DeviceState::Running;
                        if ended && before.state != device.state {
                            problems.push(format!(
                                "device {} left {:?} for {:?}",
                                device.dev_eui, before.state, device.state
                            ));
                        }
                    }
                    if device.state == DeviceState::Running {
                        problems.extend(self.check_running(device));
                    }
                    seen.devices.insert(key, device.clone());
                }
                Change::PutDistributionSession(session) => {
                    let window = (session.window.start, session.window.end());
                    let windows = seen.windows.entry(session.id.clone()).or_default();
                    if !windows.contains(&window) {
                        windows.push(window);
                    }
                    if let Some(before) = seen.sessions.insert(session.id.clone(), session.clone())
                        && (session.uncoded_sent < before.uncoded_sent
                            || session.coded_sent < before.coded_sent)
                    {
                        problems.push(format!("progress of {:?} went back", session.id));
                    }
                }
                Change::PutMcGroup(McGroup {
                    session, mc_addr, ..
                }) => {
                    seen.groups.insert(*mc_addr, session.clone());
                }
                _ => {}
            }
        }
        drop(seen);
        problems
            .into_iter()
            .for_each(|problem| self.violation(problem));
    }

    fn check_running(&self, device: &TaskDevice) -> Option<String> {
        let lab = self.lab.borrow();
        let really = lab.device(device.dev_eui).map(|d| d.running_version());
        let claimed = device.evidence.clone();
        let fits = really.is_some_and(|version| claimed.contains(&format!("{version:#010x}")));
        (!fits).then(|| {
            format!(
                "device {} is RUNNING ({claimed}), but runs {really:?}",
                device.dev_eui
            )
        })
    }
}

struct WorldClock(Arc<Shared>);

impl Clock for WorldClock {
    fn now(&self) -> Timestamp {
        self.0.now.get()
    }

    async fn sleep_until(&self, at: Timestamp) {
        poll_fn(|_| {
            if self.0.now.get() >= at {
                self.0.progress.set(true);
                return Poll::Ready(());
            }
            self.0.wakes.borrow_mut().insert(at);
            Poll::Pending
        })
        .await;
    }
}

struct WorldTransport(Arc<Shared>);

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
        let at = self.0.now.get();
        for command in outbound {
            let (gateway, id): (GatewayEui, TransmissionId) = (command.gateway, command.id);
            let request = TxRequest {
                when: match command.when {
                    When::Immediately => TxWhen::Immediately,
                    When::Counter(counter) => TxWhen::Counter(counter),
                },
                frequency_hz: command.frequency_hz,
                data_rate: command.data_rate,
                power_dbm: command.power_dbm,
                phy_payload: command.phy_payload,
            };
            let result = self
                .0
                .lab
                .borrow_mut()
                .request(at, gateway, request)
                .map_err(refusal);
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

fn message(gateway: GatewayEui, frame: Received) -> GatewayMessage {
    GatewayMessage::Received(ReceivedFrame {
        gateway,
        at: frame.at,
        counter_us: frame.counter_us,
        frequency_hz: frame.frequency_hz,
        data_rate: frame.data_rate,
        rssi_dbm: frame.rssi_dbm,
        snr_db: frame.snr_db,
        phy_payload: frame.phy_payload,
    })
}

fn refusal(error: TxError) -> Refusal {
    match error {
        TxError::TooLate => Refusal::TooLate,
        TxError::TooEarly => Refusal::TooEarly,
        TxError::CollisionPacket => Refusal::CollisionPacket,
        TxError::QueueFull => Refusal::QueueFull,
        TxError::TxFreq => Refusal::TxFreq,
        TxError::TxPower => Refusal::TxPower,
        TxError::UnknownGateway => Refusal::NoGateway,
        TxError::Size => Refusal::Other,
    }
}

struct WorldStore(Arc<Shared>);

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
            return fault();
        }
        self.0.store.commit(changes).await?;
        self.0.check_changes(changes);
        if self.0.chance(faults.crash_after_commit) {
            self.die().await;
        }
        if self.0.chance(faults.commit_fails_late) {
            fault()
        } else {
            Ok(())
        }
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.0.store.snapshot().await
    }
}
