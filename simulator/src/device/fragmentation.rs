//! TS004 on the device: sessions, fragments, status answers, and the data block at the end.

use lorawan_fuota::erasure::{BlockLayout, Ignored, Progress};
use lorawan_fuota::lorawan::PackageVersion;
use lorawan_fuota::lorawan::fragmentation::{
    DEFAULT_F_PORT, DataFragment, DownlinkCommand, FragDataBlockReceivedReq, FragSessionDeleteAns,
    FragSessionSetupAns, FragSessionSetupReq, FragSessionStatusReq, PACKAGE_IDENTIFIER,
    UplinkCommand, block_ack_delay_max, decode_downlink,
};
use lorawan_fuota::lorawan::keys::{data_block_int_key, data_block_mic};
use lorawan_fuota::time::Timestamp;

use super::decoding::{self, Block as Whole, Completed, Decoding};
use super::environment::Environment;
use super::outbox::{Content, Entry, Tag};
use super::reading::read_commands;
use super::stack::Decoders;
use super::status::Counts;

/// How far a session is, for tests and verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderProgress {
    /// Uncoded fragments of the block.
    pub nb_frag: u16,
    /// Fragments received, of any kind, until completion.
    pub received: u16,
    /// Independent fragments still needed; 0 when complete.
    pub missing: u16,
    /// More were lost than the decoder holds.
    pub memory_error: bool,
    /// The block is complete but its MIC is wrong (version 2).
    pub mic_error: bool,
}

/// The package's memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Fragmentation {
    sessions: [Option<Session>; 4],
    /// `SessionCntPrev` of each index; kept over reboots (TS004-2.0.0 §3.3).
    session_cnt_prev: [Option<u16>; 4],
    completed: Option<Completed>,
    completed_at: Option<Timestamp>,
    /// The index set up last: whose counts a stack with one decoder reports.
    latest: u8,
    /// The counter of the last fragment, kept over set-ups.
    last_n: u16,
    /// Too many fragments were lost since the last reboot.
    had_memory_error: bool,
}

#[derive(Clone, Debug)]
struct Session {
    setup: FragSessionSetupReq,
    block: Block,
    /// It was neither deleted nor closed.
    exists: bool,
    started: bool,
    received: u16,
    /// Fragments for any session since this one was set up.
    heard: u16,
    /// The counter of the last fragment, dropped ones included.
    last_n: u16,
    highest_n: u16,
    /// Uncoded fragments that were lost, set at completion.
    lost: u16,
    memory_error: bool,
    mic_error: bool,
    /// Transmissions of `FragDataBlockReceivedReq` still allowed.
    announcements_left: u8,
}

#[derive(Clone, Debug)]
enum Block {
    Open(Box<Decoding>),
    Complete,
    /// Another session took the decoder.
    Lost,
}

impl Fragmentation {
    /// Where a fragment came from.
    pub(super) const UNICAST: Option<u8> = None;

    pub(super) fn progress(&self, frag_index: u8) -> Option<DecoderProgress> {
        let session = self.sessions.get(usize::from(frag_index))?.as_ref()?;
        session.exists.then(|| session.progress())
    }

    /// Independent fragments missing in the session that is nearest to its end; `None` if none is open.
    pub(super) fn least_missing(&self) -> Option<u16> {
        let open = self.sessions.iter().flatten().filter(|s| s.exists);
        let missing = open.filter_map(|session| match &session.block {
            Block::Open(decoder) if !session.memory_error => Some(decoder.missing()),
            _ => None,
        });
        missing.min()
    }

    /// When the last data block was complete.
    pub(super) fn completed_at(&self) -> Option<Timestamp> {
        self.completed_at
    }

    /// The data block completed since the last call.
    pub(super) fn take_completed(&mut self) -> Option<Completed> {
        self.completed.take()
    }

    /// RAM is lost. The counters stay, except where the stack keeps them there.
    pub(super) fn reboot(&mut self, forgets_counters: bool) {
        let kept = (!forgets_counters).then_some(self.session_cnt_prev);
        *self = Self {
            session_cnt_prev: kept.unwrap_or_default(),
            completed_at: self.completed_at,
            ..Self::default()
        };
    }

    /// Commands or a fragment; `mc_group_id` if they came by multicast. False if the frame was not allowed there.
    pub(super) fn handle(
        &mut self,
        version: PackageVersion,
        payload: &[u8],
        mc_group_id: Option<u8>,
        environment: &mut Environment<'_>,
    ) -> bool {
        if let Ok(fragment) = DataFragment::decode(payload) {
            return self.take_fragment(version, fragment, mc_group_id, environment);
        }
        let quirks = environment.quirks();
        let read = read_commands(
            payload,
            quirks.answers.unreadable,
            None,
            |bytes| decode_downlink(version, bytes),
            |command, out| command.encode(version, out),
        );
        let by_multicast = mc_group_id.is_some();
        let mut allowed = true;
        for command in read.commands {
            let status = matches!(command, DownlinkCommand::FragSessionStatusReq(_));
            if by_multicast && !status && !quirks.sessions.commands_by_multicast {
                allowed = false;
            } else if environment.takes_another() {
                self.carry_out(version, command, environment);
            } else {
                break;
            }
        }
        environment.note_unread(read.rest);
        if read.loses_answers {
            environment.lose_answers();
        }
        environment.send_answers(quirks.answers.fragmentation_delay);
        allowed
    }

    fn carry_out(
        &mut self,
        version: PackageVersion,
        command: DownlinkCommand,
        environment: &mut Environment<'_>,
    ) {
        match command {
            DownlinkCommand::FragSessionStatusReq(request) => {
                self.status(version, request, environment);
            }
            DownlinkCommand::PackageVersionReq => {
                environment.answer_version(DEFAULT_F_PORT, PACKAGE_IDENTIFIER, version.number());
            }
            DownlinkCommand::FragSessionSetupReq(request) => {
                let answer = self.set_up(version, request, environment);
                let answer = UplinkCommand::FragSessionSetupAns(answer);
                answer_with(version, answer, environment);
            }
            DownlinkCommand::FragSessionDeleteReq(request) => {
                let answer = self.delete(request.frag_index, environment);
                let answer = UplinkCommand::FragSessionDeleteAns(answer);
                answer_with(version, answer, environment);
            }
            DownlinkCommand::FragDataBlockReceivedAns(answer) => {
                if let Some(session) = self.session(answer.frag_index) {
                    session.announcements_left = 0;
                }
                if !environment.quirks().sessions.block_received_sent_once_more {
                    let tag = Tag::BlockReceived(answer.frag_index);
                    environment.outbox.withdraw(tag);
                }
            }
        }
    }

    fn delete(
        &mut self,
        frag_index: u8,
        environment: &mut Environment<'_>,
    ) -> FragSessionDeleteAns {
        let existed = self.session(frag_index).is_some_and(|s| s.exists);
        if let Some(slot) = self.sessions.get_mut(usize::from(frag_index)) {
            match environment.quirks().sessions.decoders {
                Decoders::PerIndex => *slot = None,
                // The one decoder keeps its counts.
                Decoders::Shared | Decoders::One => {
                    slot.iter_mut().for_each(|session| session.exists = false);
                }
            }
        }
        withdraw(frag_index, environment);
        environment.note(format_args!("fragmentation session {frag_index} deleted"));
        FragSessionDeleteAns {
            frag_index,
            session_absent: !existed,
        }
    }

    /// `FragDataBlockReceivedReq` has just left: arranges the next transmission.
    pub(super) fn announced(&mut self, frag_index: u8, environment: &mut Environment<'_>) {
        if let Some(session) = self.session(frag_index) {
            session.announcements_left = session.announcements_left.saturating_sub(1);
            if session.announcements_left > 0 {
                session.announce(environment);
            }
        }
    }

    fn session(&mut self, frag_index: u8) -> Option<&mut Session> {
        self.sessions.get_mut(usize::from(frag_index))?.as_mut()
    }

    fn set_up(
        &mut self,
        version: PackageVersion,
        request: FragSessionSetupReq,
        environment: &mut Environment<'_>,
    ) -> FragSessionSetupAns {
        let quirks = environment.quirks().sessions;
        let limits = &environment.config.limits;
        let index = usize::from(request.frag_index);
        let previous = self.session_cnt_prev.get(index).copied().flatten();
        let layout = BlockLayout::from_parts(request.nb_frag, request.frag_size, request.padding);
        let answer = FragSessionSetupAns {
            frag_index: request.frag_index,
            session_cnt_replay: version == PackageVersion::V2
                && previous.is_some_and(|previous| request.session_cnt <= previous),
            wrong_descriptor: limits
                .descriptor
                .is_some_and(|accepted| accepted != request.descriptor),
            frag_index_unsupported: request.frag_index >= limits.frag_index_count
                || (quirks.decoders == Decoders::One && self.is_taken(request.frag_index)),
            not_enough_memory: layout.is_err()
                || request.nb_frag > limits.nb_frag_max
                || request.frag_size > limits.frag_size_max,
            frag_algo_unsupported: !decoding::knows(limits, request.frag_algo),
        };
        let decoder = Decoding::new(version, &request, limits, environment.config.payloads);
        if answer.is_accepted()
            && let Ok(decoder) = decoder
        {
            let stale = environment.quirks().status.stale_received;
            let last_n = if stale { self.last_n } else { 0 };
            self.put(Session::new(request, decoder, last_n), quirks.decoders);
            withdraw(request.frag_index, environment);
        }
        environment.note(format_args!(
            "fragmentation session {} of {} x {} bytes, FragAlgo {}: {}",
            request.frag_index,
            request.nb_frag,
            request.frag_size,
            request.frag_algo,
            if answer.is_accepted() {
                "accepted"
            } else {
                "refused"
            },
        ));
        answer
    }

    /// Whether the one decoder is busy with a session of another index.
    fn is_taken(&self, frag_index: u8) -> bool {
        let others = self.sessions.iter().flatten();
        others
            .filter(|session| session.setup.frag_index != frag_index)
            .any(|session| session.exists)
    }

    fn put(&mut self, session: Session, decoders: Decoders) {
        if decoders != Decoders::PerIndex {
            for other in self.sessions.iter_mut().flatten() {
                other.block = Block::Lost;
            }
        }
        self.latest = session.setup.frag_index;
        if let Some(slot) = self.sessions.get_mut(usize::from(self.latest)) {
            *slot = Some(session);
        }
    }

    fn take_fragment(
        &mut self,
        version: PackageVersion,
        fragment: DataFragment<'_>,
        mc_group_id: Option<u8>,
        environment: &mut Environment<'_>,
    ) -> bool {
        let quirks = environment.quirks().sessions;
        if let Some(latest) = self.session(self.latest) {
            latest.heard = latest.heard.saturating_add(1);
        }
        let index = usize::from(fragment.frag_index);
        let Some(session) = self.sessions.get_mut(index).and_then(Option::as_mut) else {
            return true;
        };
        let barred = mc_group_id.is_some_and(|id| session.setup.mc_group_bit_mask >> id & 1 == 0);
        if barred && quirks.checks_mask {
            return false;
        }
        let Block::Open(decoder) = &mut session.block else {
            return true;
        };
        if !session.exists || session.memory_error {
            return true;
        }
        session.started = true;
        if version == PackageVersion::V2
            && let Some(previous) = self.session_cnt_prev.get_mut(index)
        {
            *previous = Some(session.setup.session_cnt);
        }
        let progress = decoder.push(fragment.n, fragment.fragment);
        if !matches!(progress, Progress::Ignored(Ignored::Size)) {
            session.last_n = fragment.n;
            session.highest_n = session.highest_n.max(fragment.n);
            self.last_n = fragment.n;
        }
        session.received = decoder.received();
        match progress {
            Progress::TooManyLost { lost } => {
                session.memory_error = true;
                self.had_memory_error = true;
                environment.note(format_args!("{lost} fragments lost: too many"));
                if quirks.memory_error_completes {
                    self.completed = Some(session.unsolved());
                    session.exists &= !quirks.closes_when_complete;
                }
            }
            Progress::Complete => {
                self.completed = session.complete(version, environment);
                self.completed_at = Some(environment.now);
                session.exists &= !quirks.closes_when_complete;
            }
            Progress::Incomplete { .. } | Progress::Ignored(_) => {}
        }
        true
    }

    fn status(
        &mut self,
        version: PackageVersion,
        request: FragSessionStatusReq,
        environment: &mut Environment<'_>,
    ) {
        let quirks = environment.quirks();
        let frag_index = request.frag_index;
        let own = self.session(frag_index).map(|session| session.counts());
        let exists = self.session(frag_index).is_some_and(|s| s.exists);
        let delay = self
            .session(frag_index)
            .map_or(0, |session| session.setup.block_ack_delay);
        let counted = match quirks.sessions.decoders {
            Decoders::PerIndex => own,
            Decoders::Shared | Decoders::One => {
                self.session(self.latest).map(|session| session.counts())
            }
        };
        let mut counts = counted.unwrap_or_default();
        counts.started = own.is_some_and(|own| own.started);
        if quirks.sessions.memory_error_stays {
            counts.memory_error = self.had_memory_error;
        }
        let asked = (frag_index, request.participants);
        let Some(bytes) = counts.answer(version, &quirks.status, asked, exists) else {
            return;
        };
        let waits = exists || quirks.answers.status_delays_all;
        let max = block_ack_delay_max(delay) * u32::from(waits);
        environment.answer_status(DEFAULT_F_PORT, bytes, frag_index, max);
    }
}

impl Session {
    fn new(setup: FragSessionSetupReq, decoder: Decoding, last_n: u16) -> Self {
        Self {
            setup,
            block: Block::Open(Box::new(decoder)),
            exists: true,
            started: false,
            received: 0,
            heard: 0,
            last_n,
            highest_n: 0,
            lost: 0,
            memory_error: false,
            mic_error: false,
            announcements_left: 0,
        }
    }

    fn progress(&self) -> DecoderProgress {
        DecoderProgress {
            nb_frag: self.setup.nb_frag,
            received: self.received,
            missing: match &self.block {
                Block::Open(decoder) => decoder.missing(),
                Block::Complete => 0,
                Block::Lost => self.setup.nb_frag,
            },
            memory_error: self.memory_error,
            mic_error: self.mic_error,
        }
    }

    fn counts(&self) -> Counts {
        let (missing_uncoded, missing_independent) = match &self.block {
            Block::Open(decoder) => (decoder.missing_uncoded(), decoder.missing()),
            Block::Complete => (self.lost, 0),
            Block::Lost => (self.setup.nb_frag, self.setup.nb_frag),
        };
        Counts {
            nb_frag: self.setup.nb_frag,
            received: self.received,
            heard: self.heard,
            last_n: self.last_n,
            highest_n: self.highest_n,
            missing_uncoded,
            missing_independent,
            started: self.started,
            complete: matches!(self.block, Block::Complete),
            memory_error: self.memory_error,
            mic_error: self.mic_error,
        }
    }

    /// What a stack hands over that takes a lost session for a complete one: fragments are missing in it.
    fn unsolved(&self) -> Completed {
        let size = usize::from(self.setup.nb_frag) * usize::from(self.setup.frag_size);
        let size = size.saturating_sub(usize::from(self.setup.padding));
        Completed {
            descriptor: self.setup.descriptor,
            block: Whole::Bytes(vec![0xff; size]),
        }
    }

    /// Takes the data block out of the decoder and checks it; returns it if it is good.
    fn complete(
        &mut self,
        version: PackageVersion,
        environment: &mut Environment<'_>,
    ) -> Option<Completed> {
        let Block::Open(decoder) = std::mem::replace(&mut self.block, Block::Complete) else {
            return None;
        };
        self.lost = decoder.missing_uncoded();
        let data = decoder.into_block(&self.setup)?;
        if version == PackageVersion::V2
            && let Whole::Bytes(data) = &data
        {
            let key = data_block_int_key(&environment.config.gen_app_key);
            let setup = &self.setup;
            let mic = data_block_mic(
                &key,
                setup.session_cnt,
                setup.frag_index,
                setup.descriptor,
                data,
            );
            self.mic_error = mic != setup.mic;
        }
        environment.note(format_args!(
            "data block of {} bytes complete after {} fragments, {} lost{}",
            data.len(),
            self.received,
            self.lost,
            if self.mic_error { ", MIC wrong" } else { "" },
        ));
        if version == PackageVersion::V2 && self.setup.ack_reception {
            self.announcements_left = environment.quirks().sessions.block_received_sends;
            if self.announcements_left > 0 {
                self.announce(environment);
            }
        }
        (!self.mic_error).then_some(Completed {
            descriptor: self.setup.descriptor,
            block: data,
        })
    }

    fn announce(&self, environment: &mut Environment<'_>) {
        let frag_index = self.setup.frag_index;
        let request = FragDataBlockReceivedReq {
            frag_index,
            mic_error: self.mic_error,
        };
        let mut bytes = Vec::new();
        UplinkCommand::FragDataBlockReceivedReq(request).encode(PackageVersion::V2, &mut bytes);
        let max = block_ack_delay_max(self.setup.block_ack_delay);
        let delay = environment.quirks().answers.fragmentation_delay;
        let delay = environment.between(delay) + environment.random.up_to(max);
        environment.outbox.push(Entry {
            due: environment.now + delay,
            f_port: DEFAULT_F_PORT,
            content: Content::Bytes(bytes),
            tag: Tag::BlockReceived(frag_index),
        });
    }
}

fn answer_with(version: PackageVersion, answer: UplinkCommand, environment: &mut Environment<'_>) {
    let mut bytes = Vec::new();
    answer.encode(version, &mut bytes);
    environment.answer(DEFAULT_F_PORT, bytes);
}

fn withdraw(frag_index: u8, environment: &mut Environment<'_>) {
    environment.outbox.withdraw(Tag::FragStatus(frag_index));
    environment.outbox.withdraw(Tag::BlockReceived(frag_index));
}
