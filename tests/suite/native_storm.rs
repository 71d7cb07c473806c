//! Random inputs to the native network server: no panic, and no counter or nonce twice.

use std::collections::BTreeMap;
use std::time::Duration;

use lorawan_fuota::lorawan::frame::DataFrame;
use lorawan_fuota::lorawan::identifiers::DevEui;
use lorawan_fuota::lorawan::join::JoinRequest;
use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::network::native::{GatewayMessage, TransmissionId};
use lorawan_fuota::network::{Network, NetworkCommand};
use lorawan_fuota::record::{Change, JoinState, NetworkRequest, Refusal};
use proptest::prelude::*;

use super::native_net::{APP_KEY, DEVICE, JOIN_EUI, MC_ADDR, Net, eui, mc_group, said};
use super::properties_commands::config;

/// One input of the storm.
#[derive(Clone, Debug)]
enum Storm {
    Bytes(Vec<u8>),
    Uplink {
        ahead: u32,
        confirmed: bool,
        f_opts: Vec<u8>,
        flip: Option<u16>,
    },
    Join {
        nonce: u16,
    },
    Ack {
        id: u64,
        ok: bool,
    },
    Group {
        length: usize,
    },
    Answer {
        back: u32,
        length: usize,
    },
    Wait {
        ms: u64,
    },
    Restart,
}

fn storm() -> impl Strategy<Value = Storm> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        bytes.prop_map(Storm::Bytes),
        (
            0u32..4,
            any::<bool>(),
            proptest::collection::vec(any::<u8>(), 0..15),
            proptest::option::of(any::<u16>())
        )
            .prop_map(|(ahead, confirmed, f_opts, flip)| Storm::Uplink {
                ahead,
                confirmed,
                f_opts,
                flip
            }),
        (0u16..6).prop_map(|nonce| Storm::Join { nonce }),
        (0u64..40, any::<bool>()).prop_map(|(id, ok)| Storm::Ack { id, ok }),
        (0usize..260).prop_map(|length| Storm::Group { length }),
        (0u32..3, 0usize..260).prop_map(|(back, length)| Storm::Answer { back, length }),
        (0u64..3000).prop_map(|ms| Storm::Wait { ms }),
        Just(Storm::Restart),
    ]
}

/// A storm takes long: a quarter of the usual cases.
fn storms() -> ProptestConfig {
    let config = config();
    ProptestConfig {
        cases: config.cases.div_ceil(4),
        ..config
    }
}

proptest! {
    #![proptest_config(storms())]
    #[test]
    fn no_storm_makes_it_panic_or_use_a_counter_twice(storm in proptest::collection::vec(storm(), 1..120)) {
        let (mut net, session) = Net::with_device(2, Region::Eu868);
        let join = JoinState {
            join_eui: JOIN_EUI,
            app_key: Key128::from_bytes(APP_KEY),
            next_join_nonce: 0,
            dev_nonces: [].into(),
last_dev_nonce: None,
};
        let joiner = DevEui(0x77);
        net.add(joiner, Region::Eu868);
        net.native.apply(&NetworkCommand::PutJoinState(joiner, join.clone()));
        let (mut stored_session, mut stored_join) = (session.clone(), join);
        let put = NetworkRequest::PutGroup(mc_group(Region::Eu868, 2));
        net.step(vec![], vec![put.clone()]);
        let mut f_cnt = 9;
        // By address and counter: the bytes that went out under them.
        let mut used: BTreeMap<(u32, u16), Vec<u8>> = BTreeMap::new();
        let mut accepts: Vec<Vec<u8>> = Vec::new();
        for input in storm {
            let mut inbound = Vec::new();
            let mut requests = Vec::new();
            match input {
                Storm::Bytes(bytes) => inbound.push(net.heard(1, &bytes, 868_100_000, "SF7BW125", 0.0)),
                Storm::Uplink { ahead, confirmed, f_opts, flip } => {
                    f_cnt += ahead;
                    let mut said = said(&session, f_cnt);
                    (said.confirmed, said.f_opts) = (confirmed, f_opts);
                    let mut bytes = said.bytes();
                    if let Some(bit) = flip {
                        let at = usize::from(bit) % (bytes.len() * 8);
                        bytes[at / 8] ^= 1 << (at % 8);
                    }
                    inbound.extend([1, 2].map(|n| net.heard(n, &bytes, 868_100_000, "SF7BW125", 0.0)));
                }
                Storm::Join { nonce } => {
                    let request = JoinRequest::new(JOIN_EUI, joiner, nonce, &Key128::from_bytes(APP_KEY));
                    inbound.push(net.heard(2, request.phy_payload(), 868_100_000, "SF12BW125", 0.0));
                }
                Storm::Ack { id, ok } => {
                    let result = if ok { Ok(()) } else { Err(Refusal::TooLate) };
                    inbound.extend([1, 2].map(|n| GatewayMessage::TxAck { gateway: eui(n), id: TransmissionId(id), result, at: net.now }));
                }
                Storm::Group { length } => requests.push(net.group_frame(length)),
                Storm::Answer { back, length } => requests.push(net.answer(f_cnt.saturating_sub(back), length)),
                Storm::Wait { ms } => net.now += Duration::from_millis(ms),
                Storm::Restart => {
                    net.restart();
                    for (dev_eui, region) in [(DEVICE, Region::Eu868), (joiner, Region::Eu868)] {
                        net.add(dev_eui, region);
                    }
                    net.import(DEVICE, stored_session.clone());
                    net.native.apply(&NetworkCommand::PutJoinState(joiner, stored_join.clone()));
                    requests.push(put.clone());
                }
            }
            let mut step = net.step(inbound, requests);
            let later = net.run(Duration::from_millis(250));
            step.changes.extend(later.changes);
            step.commands.extend(later.commands);
            net.keep_alive();
            for change in step.changes {
                match change {
                    Change::PutSession(DEVICE, session) => {
                        prop_assert!(session.next_f_cnt_down >= stored_session.next_f_cnt_down);
                        prop_assert!(session.f_cnt_up >= stored_session.f_cnt_up);
                        stored_session = session;
                    }
                    Change::PutJoinState(_, join) => stored_join = join,
                    _ => {}
                }
            }
            for command in step.commands {
                prop_assert!(command.phy_payload.len() <= 255);
                if let Ok(frame) = DataFrame::parse(&command.phy_payload) {
                    let key = (frame.dev_addr.0, frame.f_cnt);
                    let before = used.insert(key, command.phy_payload.clone());
                    // Two gateways send the same frame of a group; nothing else repeats.
                    prop_assert!(before.is_none_or(|bytes| bytes == command.phy_payload && frame.dev_addr == MC_ADDR));
                } else {
                    prop_assert!(!accepts.contains(&command.phy_payload));
                    accepts.push(command.phy_payload);
                }
            }
        }
    }
}
