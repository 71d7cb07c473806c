//! The one loop: receive, step, commit, transmit.
//!
//! Generic over clock, transport, network and store; it spawns nothing and knows no runtime, so that the simulator
//! drives it in virtual time. All waiting inputs are taken before a commit, so a burst of answers is one transaction.
//! Nothing leaves before the commit of its step. Any commit error means that nobody knows what was written: the
//! machines are dropped and restored, and that is the only way of recovery.

use std::future::Future;
use std::time::Duration;

use tracing::{debug, warn};

use crate::network::{Network, NetworkCounters, Transport};
use crate::record::{Change, Snapshot};
use crate::store::{Store, StoreError};
use crate::time::Timestamp;

pub use super::command::Edges;
use super::command::{CommandError, Counters};
use super::engine::Engine;

/// Commands taken into one step.
const COMMANDS_PER_STEP: usize = 64;
/// Before a store that failed is asked again.
const STORE_PAUSE: Duration = Duration::from_millis(500);
/// A step sleeps no longer than this, so that a clock that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Where the time comes from.
pub trait Clock {
    /// The present moment. Never goes back.
    fn now(&self) -> Timestamp;

    /// Waits until then; returns at once when it has passed.
    fn sleep_until(&self, at: Timestamp) -> impl Future<Output = ()>;
}

/// Runs one network until the last [`Handle`](super::Handle) is dropped. `restore` builds the machines from a snapshot.
///
/// # Errors
/// [`StoreError::Fenced`] when another server took over, [`StoreError::Corrupt`] when the records cannot be read: going
/// on would do harm in both cases. Every other error is waited out.
pub async fn drive<C, T, N, S>(
    clock: &C,
    transport: &mut T,
    store: &S,
    edges: &mut Edges,
    restore: impl Fn(Snapshot) -> Engine<N>,
) -> Result<(), StoreError>
where
    C: Clock,
    T: Transport<Inbound = N::Inbound, Outbound = N::Outbound>,
    N: Network,
    S: Store,
{
    let mut before = (NetworkCounters::default(), 0);
    loop {
        let mut engine = match store.snapshot().await {
            Ok(snapshot) => restore(snapshot),
            Err(error @ (StoreError::Fenced | StoreError::Corrupt(_))) => return Err(error),
            Err(error) => {
                warn!(%error, "store has no snapshot, asking again");
                clock.sleep_until(clock.now() + STORE_PAUSE).await;
                continue;
            }
        };
        debug!("machines restored");
        transport.allow(engine.gateways());
        let ended = turn(clock, transport, store, edges, &mut engine, before).await;
        before = counted(&engine, before);
        match ended {
            Ok(()) => return Ok(()),
            Err(StoreError::Fenced) => return Err(StoreError::Fenced),
            Err(error) => {
                warn!(%error, "commit of unknown fate, restoring");
                clock.sleep_until(clock.now() + STORE_PAUSE).await;
            }
        }
    }
}

/// Turns the ring until the edges are gone (`Ok`) or a commit did not succeed.
async fn turn<C, T, N, S>(
    clock: &C,
    transport: &mut T,
    store: &S,
    edges: &mut Edges,
    engine: &mut Engine<N>,
    before: (NetworkCounters, u64),
) -> Result<(), StoreError>
where
    C: Clock,
    T: Transport<Inbound = N::Inbound, Outbound = N::Outbound>,
    N: Network,
    S: Store,
{
    loop {
        let mut inbound = Vec::new();
        let mut requests = Vec::new();
        let longest = clock.now() + LONGEST_SLEEP;
        let wake = engine.wake().map_or(longest, |at| at.min(longest));
        tokio::select! {
            biased;
            request = edges.commands.recv() => match request {
                Some(request) => requests.push(request),
                None => return Ok(()),
            },
            received = transport.receive() => inbound = received,
            () = clock.sleep_until(wake) => {}
        }
        while requests.len() < COMMANDS_PER_STEP {
            let Ok(request) = edges.commands.try_recv() else {
                break;
            };
            requests.push(request);
        }
        let now = clock.now();
        let (commands, answers): (Vec<_>, Vec<_>) = requests
            .into_iter()
            .map(|r| (r.command, (r.with, r.reply)))
            .unzip();
        let step = engine.step(now, inbound, commands);
        let mut changes = step.changes;
        for ((with, _), reply) in answers.iter().zip(&step.replies) {
            if reply.is_ok() {
                changes.extend(with.iter().cloned());
            }
        }
        if let Err(error) = commit(store, &changes).await {
            for (_, reply) in answers {
                // A caller that went away needs no answer.
                let _ = reply.send(Err(CommandError::Unavailable(error.to_string())));
            }
            return Err(error);
        }
        if !answers.is_empty() {
            transport.allow(engine.gateways());
        }
        if !step.outbound.is_empty() {
            transport.transmit(step.outbound).await;
        }
        for ((_, reply), result) in answers.into_iter().zip(step.replies) {
            let _ = reply.send(result);
        }
        for notice in step.notices {
            // Nobody may be listening.
            let _ = edges.notices.send(notice);
        }
        let (network, commands_malformed) = counted(engine, before);
        let transport = transport.counts();
        edges.counters.send_replace(Counters {
            network,
            transport,
            commands_malformed,
        });
    }
}

/// What this engine and those before it counted.
fn counted<N: Network>(
    engine: &Engine<N>,
    (network, commands_malformed): (NetworkCounters, u64),
) -> (NetworkCounters, u64) {
    (
        network.plus(engine.network().counts()),
        commands_malformed + engine.commands_malformed(),
    )
}

async fn commit<S: Store>(store: &S, changes: &[Change]) -> Result<(), StoreError> {
    if changes.is_empty() {
        Ok(())
    } else {
        store.commit(changes).await
    }
}
