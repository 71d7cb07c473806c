//! Checkers and store on a thread of their own: large networks have them beside the loop instead of in its way.
//!
//! They take in what the loop committed and what was on air in the order it happened, and nothing in the world waits
//! for what they find. So a history is the same with them and without; who looks at them waits until they have seen
//! all.

use std::future::Future as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;

use lorawan_fuota::lorawan::identifiers::{DevEui, GatewayEui};
use lorawan_fuota::record::Change;
use lorawan_fuota::store::{MemoryStore, Result, Store as _};
use lorawan_fuota::time::Timestamp;

use crate::checkers::{Checker, Checkers};
use crate::gateway::OnAir;

use super::ports::Locked;

/// Handed over together.
const TOGETHER: usize = 256;
/// Batches that wait before the loop has to.
const WAITING: usize = 64;

/// Something to be stored and checked.
pub(super) enum Seen {
    /// A commit, and what the devices really run that it says run something.
    Commit {
        at: Timestamp,
        changes: Vec<Change>,
        running: Vec<(DevEui, u32)>,
    },
    /// A frame that a gateway began to send.
    OnAir { gateway: GatewayEui, frame: OnAir },
}

enum Message {
    Batch(Vec<Seen>),
    /// All that came before has been seen once this is answered.
    Flush(SyncSender<()>),
}

/// The thread, and what it has not been told yet.
pub(super) struct Aside {
    pending: Vec<Seen>,
    to: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
}

impl Aside {
    pub(super) fn start(store: MemoryStore, checkers: Arc<Locked<Checkers>>) -> Self {
        let (to, from) = sync_channel(WAITING);
        let thread = std::thread::spawn(move || look_on(&from, &store, &checkers));
        Self {
            pending: Vec::with_capacity(TOGETHER),
            to: Some(to),
            thread: Some(thread),
        }
    }

    pub(super) fn see(&mut self, seen: Seen) {
        self.pending.push(seen);
        if self.pending.len() >= TOGETHER {
            self.hand_over();
        }
    }

    /// Waits until all is stored and checked.
    pub(super) fn flush(&mut self) {
        self.hand_over();
        let (answer, answered) = sync_channel(1);
        self.send(Message::Flush(answer));
        answered
            .recv()
            .expect("the thread ends with its panic only");
    }

    fn hand_over(&mut self) {
        let batch = std::mem::replace(&mut self.pending, Vec::with_capacity(TOGETHER));
        self.send(Message::Batch(batch));
    }

    fn send(&self, message: Message) {
        let sent = self.to.as_ref().is_some_and(|to| to.send(message).is_ok());
        assert!(sent, "the thread ends with its panic only");
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.to = None;
        if let Some(thread) = self.thread.take() {
            // Its panic was somebody's who waited for it.
            let _ = thread.join();
        }
    }
}

fn look_on(from: &Receiver<Message>, store: &MemoryStore, checkers: &Locked<Checkers>) {
    for message in from {
        match message {
            Message::Batch(batch) => {
                let mut checkers = checkers.borrow_mut();
                batch
                    .into_iter()
                    .for_each(|seen| take_in(seen, store, &mut checkers));
            }
            Message::Flush(answer) => {
                // Who asked may have given up.
                let _ = answer.send(());
            }
        }
    }
}

fn take_in(seen: Seen, store: &MemoryStore, checkers: &mut Checkers) {
    match seen {
        Seen::Commit {
            at,
            changes,
            running,
        } => match commit(store, &changes) {
            Ok(()) => checkers.commit_apart(at, &changes, &running),
            Err(error) => {
                let what = format!("the store refuses a commit: {error}");
                checkers.broken(at, Checker::Errors, None, what);
            }
        },
        Seen::OnAir { gateway, frame } => checkers.on_air(gateway, &frame),
    }
}

/// A store in memory waits for nothing.
fn commit(store: &MemoryStore, changes: &[Change]) -> Result<()> {
    let mut commit = std::pin::pin!(store.commit(changes));
    match commit
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(written) => written,
        Poll::Pending => unreachable!("a store in memory waits for nothing"),
    }
}
