//! TS004 on the device: sessions, fragments, status answers, and the data block at the end.

use std::time::Duration;

use lorawan_fuota::erasure::{BlockLayout, Ignored, Progress};
use lorawan_fuota::lorawan::PackageVersion;
use lorawan_fuota::lorawan::fragmentation::{
    DEFAULT_F_PORT, DataFragment, DownlinkCommand, FragDataBlockReceivedReq, FragSessionDeleteAns,
    FragSessionSetupAns, FragSessionSetupReq, FragSessionStatusAns, FragSessionStatusReq,
    PACKAGE_IDENTIFIER, UplinkCommand, block_ack_delay_max, decode_downlink,
};
use lorawan_fuota::lorawan::keys::{data_block_int_key, data_block_mic};

use super::decoding::{self, Decoding};
use super::environment::Environment;
use super::outbox::{Content, Entry, Tag};

/// How often `FragDataBlockReceivedReq` is sent without an answer.
const BLOCK_RECEIVED_REPEATS: u8 = 3;
/// LoRa Basics Modem runs the package's task up to so much later.
const TASK_DELAY_MAX: Duration = Duration::from_secs(3);

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
    completed: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
struct Session {
    setup: FragSessionSetupReq,
    block: Block,
    received: u16,
    /// The last counter seen, dropped fragments included.
    last_n: u16,
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
}

impl Fragmentation {
    /// Where a fragment came from.
    pub(super) const UNICAST: Option<u8> = None;

    pub(super) fn progress(&self, frag_index: u8) -> Option<DecoderProgress> {
        let session = self.sessions.get(usize::from(frag_index))?.as_ref()?;
        Some(session.progress())
    }

    /// The data block completed since the last call.
    pub(super) fn take_completed(&mut self) -> Option<Vec<u8>> {
        self.completed.take()
    }

    /// RAM is lost. The counters stay, except where the stack keeps them there.
    pub(super) fn reboot(&mut self, forgets_counters: bool) {
        self.sessions = Default::default();
        if forgets_counters {
            self.session_cnt_prev = [None; 4];
        }
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
        let decoded = decode_downlink(version, payload);
        let mut allowed = true;
        for command in decoded.commands {
            match command {
                DownlinkCommand::FragSessionStatusReq(request) => {
                    self.status(version, request, environment);
                }
                _ if mc_group_id.is_some() => allowed = false,
                DownlinkCommand::PackageVersionReq => {
                    environment.answer_version(
                        DEFAULT_F_PORT,
                        PACKAGE_IDENTIFIER,
                        version.number(),
                    );
                }
                DownlinkCommand::FragSessionSetupReq(request) => {
                    let answer = self.set_up(version, request, environment);
                    answer_with(
                        version,
                        UplinkCommand::FragSessionSetupAns(answer),
                        environment,
                    );
                }
                DownlinkCommand::FragSessionDeleteReq(request) => {
                    let slot = self.sessions.get_mut(usize::from(request.frag_index));
                    let existed = slot.and_then(Option::take).is_some();
                    withdraw(request.frag_index, environment);
                    environment.note(format_args!(
                        "fragmentation session {} deleted",
                        request.frag_index
                    ));
                    let answer = FragSessionDeleteAns {
                        frag_index: request.frag_index,
                        session_absent: !existed,
                    };
                    answer_with(
                        version,
                        UplinkCommand::FragSessionDeleteAns(answer),
                        environment,
                    );
                }
                DownlinkCommand::FragDataBlockReceivedAns(answer) => {
                    if let Some(session) = self.session(answer.frag_index) {
                        session.announcements_left = 0;
                    }
                    environment
                        .outbox
                        .withdraw(Tag::BlockReceived(answer.frag_index));
                }
            }
        }
        environment.note_unread(decoded.rest);
        allowed
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
            frag_index_unsupported: request.frag_index >= limits.frag_index_count,
            not_enough_memory: layout.is_err()
                || request.nb_frag > limits.nb_frag_max
                || request.frag_size > limits.frag_size_max,
            frag_algo_unsupported: !decoding::knows(limits, request.frag_algo),
        };
        let decoder = Decoding::new(version, &request, limits);
        if answer.is_accepted()
            && let (Some(slot), Ok(decoder)) = (self.sessions.get_mut(index), decoder)
        {
            *slot = Some(Session::new(request, decoder));
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

    fn take_fragment(
        &mut self,
        version: PackageVersion,
        fragment: DataFragment<'_>,
        mc_group_id: Option<u8>,
        environment: &mut Environment<'_>,
    ) -> bool {
        let index = usize::from(fragment.frag_index);
        let Some(session) = self.sessions.get_mut(index).and_then(Option::as_mut) else {
            return true;
        };
        if mc_group_id.is_some_and(|id| session.setup.mc_group_bit_mask >> id & 1 == 0) {
            return false;
        }
        let Block::Open(decoder) = &mut session.block else {
            return true;
        };
        if version == PackageVersion::V2
            && let Some(previous) = self.session_cnt_prev.get_mut(index)
        {
            *previous = Some(session.setup.session_cnt);
        }
        let progress = decoder.push(fragment.n, fragment.fragment);
        if !matches!(progress, Progress::Ignored(Ignored::Size)) {
            session.last_n = session.last_n.max(fragment.n);
        }
        session.received = decoder.received();
        match progress {
            Progress::TooManyLost { lost } if !session.memory_error => {
                session.memory_error = true;
                environment.note(format_args!("{lost} fragments lost: too many"));
            }
            Progress::Complete => self.completed = session.complete(version, environment),
            Progress::TooManyLost { .. } | Progress::Incomplete { .. } | Progress::Ignored(_) => {}
        }
        true
    }

    fn status(
        &mut self,
        version: PackageVersion,
        request: FragSessionStatusReq,
        environment: &mut Environment<'_>,
    ) {
        let lora_basics_modem = environment.is_lora_basics_modem();
        let frag_index = request.frag_index;
        let mut bytes = Vec::new();
        let delay = match self.session(frag_index) {
            Some(session) => {
                let answer = if lora_basics_modem {
                    session.status_of_lora_basics_modem(version)
                } else {
                    session.status_by_the_book(version)
                };
                if !request.participants && answer.missing_frag == 0 {
                    return;
                }
                UplinkCommand::FragSessionStatusAns(answer).encode(version, &mut bytes);
                let max = block_ack_delay_max(session.setup.block_ack_delay);
                environment.random.up_to(max)
            }
            None => {
                if !request.participants {
                    return;
                }
                absent(version, frag_index, lora_basics_modem, &mut bytes);
                environment.answer_delay()
            }
        };
        let delay = delay + task_delay(environment);
        environment.outbox.push(Entry {
            due: environment.now + delay,
            f_port: DEFAULT_F_PORT,
            content: Content::Bytes(bytes),
            tag: Tag::FragStatus(frag_index),
        });
    }
}

impl Session {
    fn new(setup: FragSessionSetupReq, decoder: Decoding) -> Self {
        Self {
            setup,
            block: Block::Open(Box::new(decoder)),
            received: 0,
            last_n: 0,
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
            },
            memory_error: self.memory_error,
            mic_error: self.mic_error,
        }
    }

    /// Takes the data block out of the decoder and checks it; returns it if it is good.
    fn complete(
        &mut self,
        version: PackageVersion,
        environment: &mut Environment<'_>,
    ) -> Option<Vec<u8>> {
        let Block::Open(decoder) = std::mem::replace(&mut self.block, Block::Complete) else {
            return None;
        };
        self.lost = decoder.missing_uncoded();
        let data = decoder.into_data(self.setup.padding)?;
        if version == PackageVersion::V2 {
            let key = data_block_int_key(&environment.config.gen_app_key);
            let setup = &self.setup;
            let mic = data_block_mic(
                &key,
                setup.session_cnt,
                setup.frag_index,
                setup.descriptor,
                &data,
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
            self.announcements_left = BLOCK_RECEIVED_REPEATS;
            self.announce(environment);
        }
        (!self.mic_error).then_some(data)
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
        environment.outbox.push(Entry {
            due: environment.now + environment.random.up_to(max),
            f_port: DEFAULT_F_PORT,
            content: Content::Bytes(bytes),
            tag: Tag::BlockReceived(frag_index),
        });
    }

    /// TS004-1.0.0 §3.2: independent fragments needed. TS004-2.0.0 §3.2: uncoded fragments missing. Both end at 255.
    fn status_by_the_book(&self, version: PackageVersion) -> FragSessionStatusAns {
        let missing = match (&self.block, version) {
            (Block::Complete, _) => 0,
            (Block::Open(decoder), PackageVersion::V1) => decoder.missing(),
            (Block::Open(decoder), PackageVersion::V2) => decoder.missing_uncoded(),
        };
        FragSessionStatusAns {
            frag_index: Some(self.setup.frag_index),
            nb_frag_received: self.received,
            missing_frag: u8::try_from(missing).unwrap_or(u8::MAX),
            memory_error: self.memory_error,
            mic_error: self.mic_error,
            session_absent: false,
        }
    }

    fn status_of_lora_basics_modem(&self, version: PackageVersion) -> FragSessionStatusAns {
        let nb_frag = self.setup.nb_frag;
        let (received, missing) = match &self.block {
            // Without a loss the count of missing ones is never cleared.
            Block::Complete if self.lost == 0 => (nb_frag, 1),
            Block::Complete => (self.last_n.saturating_sub(self.lost), 0),
            Block::Open(_) if self.last_n == 0 => match version {
                PackageVersion::V1 => (0, nb_frag),
                PackageVersion::V2 => (0, 0),
            },
            Block::Open(decoder) => {
                let never_came = nb_frag.saturating_sub(self.last_n);
                let missing = decoder.missing_uncoded();
                let lost = missing.saturating_sub(never_came);
                (self.last_n.saturating_sub(lost), missing)
            }
        };
        let [missing_frag, _] = missing.to_le_bytes();
        FragSessionStatusAns {
            frag_index: Some(self.setup.frag_index),
            nb_frag_received: received,
            missing_frag,
            memory_error: self.memory_error,
            mic_error: self.mic_error && missing == 0,
            session_absent: false,
        }
    }
}

/// The answer for a session that does not exist.
fn absent(version: PackageVersion, frag_index: u8, lora_basics_modem: bool, bytes: &mut Vec<u8>) {
    if version == PackageVersion::V2 && lora_basics_modem {
        // Four bytes where the specification has one, and MICError beside "session does not exist".
        bytes.extend([0x01, 0x06, 0x00, frag_index << 6, 0x00]);
        return;
    }
    let answer = match version {
        PackageVersion::V2 => FragSessionStatusAns::SESSION_ABSENT,
        // Version 1 does not say what to answer; zeros are what devices send.
        PackageVersion::V1 => FragSessionStatusAns {
            frag_index: Some(frag_index),
            session_absent: false,
            ..FragSessionStatusAns::SESSION_ABSENT
        },
    };
    UplinkCommand::FragSessionStatusAns(answer).encode(version, bytes);
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

fn task_delay(environment: &mut Environment<'_>) -> Duration {
    if environment.is_lora_basics_modem() {
        environment.random.up_to(TASK_DELAY_MAX)
    } else {
        Duration::ZERO
    }
}
