//! Frames against a foreign codec, `lrwn`: what we build it reads, what it builds we read, to the byte.

use lorawan_fuota::lorawan::frame::{DataFields, DataFrame, Direction, FCtrl, Frame};
use lorawan_fuota::lorawan::identifiers::{DevAddr, DevEui, JoinEui};
use lorawan_fuota::lorawan::join::{CfList, DlSettings, JoinAccept, JoinRequest, session_keys};
use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::lorawan::mac_commands::{DownlinkMacCommand, LinkAdrReq, UplinkMacCommand};
use lrwn::{AES128Key, FType, MACCommand, MACCommandSet, MACVersion, PhyPayload};
use proptest::collection::vec;
use proptest::prelude::*;

const NWK_S_KEY: [u8; 16] = [0x2b; 16];
const APP_S_KEY: [u8; 16] = [0x7e; 16];

/// A data frame in neither codec's words.
#[derive(Debug, Clone)]
struct Said {
    uplink: bool,
    confirmed: bool,
    dev_addr: u32,
    adr: bool,
    adr_ack_req: bool,
    ack: bool,
    bit_4: bool,
    f_cnt: u32,
    f_opts: Vec<u8>,
    f_port: Option<u8>,
    payload: Vec<u8>,
}

fn said() -> impl Strategy<Value = Said> {
    let port_and_contents = prop_oneof![
        (Just(None), vec(any::<u8>(), 0..=15), Just(vec![])),
        (Just(Some(0)), Just(vec![]), vec(any::<u8>(), 0..=242)),
        (
            (1u8..=255).prop_map(Some),
            vec(any::<u8>(), 0..=15),
            vec(any::<u8>(), 0..=227)
        ),
        (
            (1u8..=255).prop_map(Some),
            Just(vec![]),
            vec(any::<u8>(), 200..=242)
        ),
    ];
    (
        any::<[bool; 6]>(),
        any::<u32>(),
        prop_oneof![0u32..70_000, any::<u32>()],
        port_and_contents,
    )
        .prop_map(
            |(
                [uplink, confirmed, adr, request, ack, bit_4],
                dev_addr,
                f_cnt,
                (f_port, f_opts, payload),
            )| Said {
                uplink,
                confirmed,
                dev_addr,
                adr,
                adr_ack_req: request && uplink,
                ack,
                bit_4,
                f_cnt,
                f_opts,
                f_port,
                payload,
            },
        )
}

impl Said {
    fn f_ctrl(&self) -> FCtrl {
        FCtrl {
            adr: self.adr,
            adr_ack_req: self.adr_ack_req,
            ack: self.ack,
            f_pending_or_class_b: self.bit_4,
        }
    }

    fn direction(&self) -> Direction {
        if self.uplink {
            Direction::Uplink
        } else {
            Direction::Downlink
        }
    }

    fn built_by_us(&self) -> Vec<u8> {
        let fields = DataFields {
            direction: self.direction(),
            confirmed: self.confirmed,
            dev_addr: DevAddr(self.dev_addr),
            f_ctrl: self.f_ctrl(),
            f_cnt: self.f_cnt,
            f_opts: &self.f_opts,
            f_port: self.f_port,
            payload: &self.payload,
        };
        fields
            .build(
                &Key128::from_bytes(NWK_S_KEY),
                &Key128::from_bytes(APP_S_KEY),
            )
            .unwrap()
    }

    fn foreign_key(&self) -> AES128Key {
        AES128Key::from_bytes(if self.f_port == Some(0) {
            NWK_S_KEY
        } else {
            APP_S_KEY
        })
    }

    fn built_by_them(&self) -> Vec<u8> {
        let raw = |bytes: &[u8]| MACCommandSet::new(vec![MACCommand::Raw(bytes.to_vec())]);
        let mut frame = PhyPayload {
            mhdr: lrwn::MHDR {
                f_type: match (self.uplink, self.confirmed) {
                    (true, false) => FType::UnconfirmedDataUp,
                    (true, true) => FType::ConfirmedDataUp,
                    (false, false) => FType::UnconfirmedDataDown,
                    (false, true) => FType::ConfirmedDataDown,
                },
                major: lrwn::Major::LoRaWANR1,
            },
            payload: lrwn::Payload::MACPayload(lrwn::MACPayload {
                fhdr: lrwn::FHDR {
                    devaddr: lrwn::DevAddr::from_be_bytes(self.dev_addr.to_be_bytes()),
                    f_ctrl: lrwn::FCtrl {
                        adr: self.adr,
                        adr_ack_req: self.adr_ack_req,
                        ack: self.ack,
                        f_pending: self.bit_4 && !self.uplink,
                        class_b: self.bit_4 && self.uplink,
                        f_opts_len: 0,
                    },
                    f_cnt: self.f_cnt,
                    f_opts: raw(&self.f_opts),
                },
                f_port: self.f_port,
                frm_payload: (!self.payload.is_empty())
                    .then(|| lrwn::FRMPayload::Raw(self.payload.clone())),
            }),
            mic: None,
        };
        frame.encrypt_frm_payload(&self.foreign_key()).unwrap();
        let key = AES128Key::from_bytes(NWK_S_KEY);
        if self.uplink {
            frame
                .set_uplink_data_mic(MACVersion::LoRaWAN1_0, 0, 0, 0, &key, &key)
                .unwrap();
        } else {
            frame
                .set_downlink_data_mic(MACVersion::LoRaWAN1_0, 0, &key)
                .unwrap();
        }
        frame.to_vec().unwrap()
    }
}

proptest! {
    #[test]
    fn both_build_the_same_data_frame(said in said()) {
        prop_assert_eq!(said.built_by_us(), said.built_by_them());
    }

    #[test]
    fn we_open_their_data_frames(said in said()) {
        let frame = DataFrame::parse(&said.built_by_them()).unwrap();
        prop_assert_eq!(frame.direction, said.direction());
        prop_assert_eq!(frame.confirmed, said.confirmed);
        prop_assert_eq!(frame.dev_addr, DevAddr(said.dev_addr));
        prop_assert_eq!(frame.f_ctrl, said.f_ctrl());
        prop_assert_eq!(u32::from(frame.f_cnt), said.f_cnt & 0xffff);
        prop_assert_eq!(&frame.f_opts, &said.f_opts);
        prop_assert_eq!(frame.f_port, said.f_port);
        let (nwk_s_key, app_s_key) = (Key128::from_bytes(NWK_S_KEY), Key128::from_bytes(APP_S_KEY));
        prop_assert_eq!(frame.open(&nwk_s_key, &app_s_key, said.f_cnt).unwrap(), said.payload);
        prop_assert!(!frame.verify_mic(&nwk_s_key, said.f_cnt ^ 0x0001_0000));
        prop_assert!(!frame.verify_mic(&app_s_key, said.f_cnt));
    }

    #[test]
    fn they_open_our_data_frames(said in said()) {
        let mut frame = PhyPayload::from_slice(&said.built_by_us()).unwrap();
        // Only 16 bits are on air: the receiver knows the rest.
        let lrwn::Payload::MACPayload(payload) = &mut frame.payload else { panic!("not a data frame") };
        payload.fhdr.f_cnt = said.f_cnt;
        let key = AES128Key::from_bytes(NWK_S_KEY);
        let accepted = if said.uplink {
            frame.validate_uplink_data_mic(MACVersion::LoRaWAN1_0, 0, 0, 0, &key, &key).unwrap()
        } else {
            frame.validate_downlink_data_mic(MACVersion::LoRaWAN1_0, 0, &key).unwrap()
        };
        prop_assert!(accepted);
        // Port 0 and the relay's they decode further, and refuse what is not well formed.
        if !matches!(said.f_port, Some(0 | 226)) {
            frame.decrypt_frm_payload(&said.foreign_key()).unwrap();
            let lrwn::Payload::MACPayload(payload) = &frame.payload else { panic!("not a data frame") };
            let clear = payload.frm_payload.as_ref().map(|clear| clear.to_vec().unwrap()).unwrap_or_default();
            prop_assert_eq!(clear, said.payload);
        }
    }

    #[test]
    fn one_flipped_bit_breaks_the_mic(said in said(), bit in 0usize..255 * 8) {
        let mut bytes = said.built_by_us();
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(frame) = DataFrame::parse(&bytes) {
            let opened = frame.open(&Key128::from_bytes(NWK_S_KEY), &Key128::from_bytes(APP_S_KEY), said.f_cnt);
            prop_assert!(opened.is_err());
        }
    }

    #[test]
    fn any_bytes_mean_the_same_header_to_both(m_type in 2u8..6, bytes in vec(any::<u8>(), 0..260)) {
        let mut bytes = bytes;
        bytes.insert(0, m_type << 5);
        let theirs = PhyPayload::from_slice(&bytes);
        let Ok(ours) = DataFrame::parse(&bytes) else { return Ok(()) };
        let lrwn::Payload::MACPayload(theirs) = theirs.unwrap().payload else { panic!("not a data frame") };
        prop_assert_eq!(ours.dev_addr.0.to_be_bytes(), theirs.fhdr.devaddr.to_be_bytes());
        prop_assert_eq!(u32::from(ours.f_cnt), theirs.fhdr.f_cnt);
        prop_assert_eq!(ours.f_port, theirs.f_port);
        prop_assert_eq!(&ours.f_opts, &theirs.fhdr.f_opts.to_vec().unwrap());
        let encrypted = theirs.frm_payload.map(|payload| payload.to_vec().unwrap()).unwrap_or_default();
        prop_assert_eq!(ours.encrypted_payload(), encrypted);
    }

    #[test]
    fn both_build_the_same_join_request(join_eui: u64, dev_eui: u64, dev_nonce: u16, app_key: [u8; 16]) {
        let key = Key128::from_bytes(app_key);
        let ours = JoinRequest::new(JoinEui(join_eui), DevEui(dev_eui), dev_nonce, &key);
        let mut theirs = PhyPayload {
            mhdr: lrwn::MHDR { f_type: FType::JoinRequest, major: lrwn::Major::LoRaWANR1 },
            payload: lrwn::Payload::JoinRequest(lrwn::JoinRequestPayload {
                join_eui: lrwn::EUI64::from_be_bytes(join_eui.to_be_bytes()),
                dev_eui: lrwn::EUI64::from_be_bytes(dev_eui.to_be_bytes()),
                dev_nonce,
            }),
            mic: None,
        };
        theirs.set_join_request_mic(&AES128Key::from_bytes(app_key)).unwrap();
        let theirs = theirs.to_vec().unwrap();
        prop_assert_eq!(&ours.phy_payload()[..], &theirs[..]);
        let Frame::JoinRequest(read) = Frame::parse(&theirs).unwrap() else { panic!("not a join-request") };
        prop_assert_eq!(read, ours);
        prop_assert!(read.verify_mic(&key));
    }

    #[test]
    fn both_build_the_same_join_accept(accept in join_accept(), app_key: [u8; 16]) {
        let key = Key128::from_bytes(app_key);
        let ours = accept.build(&key).unwrap();
        let theirs = foreign_join_accept(&accept, &AES128Key::from_bytes(app_key));
        prop_assert_eq!(&ours, &theirs);
        let Frame::JoinAccept(read) = Frame::parse(&theirs).unwrap() else { panic!("not a join-accept") };
        prop_assert_eq!(read.open(&key).unwrap(), accept);
    }

    #[test]
    fn both_derive_the_same_session_keys(accept in join_accept(), dev_nonce: u16, app_key: [u8; 16]) {
        let (nwk_s_key, app_s_key) = session_keys(&Key128::from_bytes(app_key), &accept, dev_nonce);
        let [_, net_id @ ..] = accept.net_id.to_be_bytes();
        let (key, net_id) = (AES128Key::from_bytes(app_key), lrwn::NetID::from_be_bytes(net_id));
        let join_eui = lrwn::EUI64::from_be_bytes([0; 8]);
        let nonce = accept.join_nonce;
        let theirs = lrwn::keys::get_f_nwk_s_int_key(false, &key, &net_id, &join_eui, nonce, dev_nonce).unwrap();
        prop_assert_eq!(nwk_s_key.as_bytes(), &theirs.to_bytes());
        let theirs = lrwn::keys::get_app_s_key(false, &key, &net_id, &join_eui, nonce, dev_nonce).unwrap();
        prop_assert_eq!(app_s_key.as_bytes(), &theirs.to_bytes());
    }
}

fn join_accept() -> impl Strategy<Value = JoinAccept> {
    let cf_list = prop_oneof![
        Just(None),
        any::<[u32; 5]>()
            .prop_map(|hz| Some(CfList::Frequencies(hz.map(|hz| hz % (1 << 24) * 100)))),
        any::<[u16; 6]>().prop_map(|masks| Some(CfList::ChannelMasks(masks))),
    ];
    (
        0u32..1 << 24,
        0u32..1 << 24,
        any::<u32>(),
        0u8..8,
        0u8..16,
        0u8..16,
        cf_list,
    )
        .prop_map(
            |(join_nonce, net_id, dev_addr, rx1_dr_offset, rx2_data_rate, rx_delay, cf_list)| {
                JoinAccept {
                    join_nonce,
                    net_id,
                    dev_addr: DevAddr(dev_addr),
                    dl_settings: DlSettings {
                        rx1_dr_offset,
                        rx2_data_rate,
                    },
                    rx_delay,
                    cf_list,
                }
            },
        )
}

fn foreign_join_accept(accept: &JoinAccept, key: &AES128Key) -> Vec<u8> {
    let [_, net_id @ ..] = accept.net_id.to_be_bytes();
    let mut frame = PhyPayload {
        mhdr: lrwn::MHDR {
            f_type: FType::JoinAccept,
            major: lrwn::Major::LoRaWANR1,
        },
        payload: lrwn::Payload::JoinAccept(lrwn::JoinAcceptPayload {
            join_nonce: accept.join_nonce,
            home_netid: lrwn::NetID::from_be_bytes(net_id),
            devaddr: lrwn::DevAddr::from_be_bytes(accept.dev_addr.0.to_be_bytes()),
            dl_settings: lrwn::DLSettings {
                opt_neg: false,
                rx2_dr: accept.dl_settings.rx2_data_rate,
                rx1_dr_offset: accept.dl_settings.rx1_dr_offset,
            },
            rx_delay: accept.rx_delay,
            cflist: accept.cf_list.map(|cf_list| match cf_list {
                CfList::Frequencies(hz) => lrwn::CFList::Channels(lrwn::CFListChannels::new(hz)),
                CfList::ChannelMasks(masks) => {
                    lrwn::CFList::ChannelMask(lrwn::CFListChannelMasks::new(
                        masks
                            .map(|mask| lrwn::ChMask::from_bytes(mask.to_le_bytes()))
                            .to_vec(),
                    ))
                }
            }),
        }),
        mic: None,
    };
    let join_eui = lrwn::EUI64::from_be_bytes([0; 8]);
    frame
        .set_join_accept_mic(lrwn::JoinType::Join, &join_eui, 0, key)
        .unwrap();
    frame.encrypt_join_accept_payload(key).unwrap();
    frame.to_vec().unwrap()
}

/// Our reading of encoded commands against theirs, which must be as many and encode to the same bytes.
#[test]
fn mac_commands_agree() {
    let mut uplink = Vec::new();
    for command in [
        UplinkMacCommand::LinkCheckReq,
        UplinkMacCommand::LinkAdrAns {
            channel_mask_ack: true,
            data_rate_ack: false,
            power_ack: true,
        },
        UplinkMacCommand::DutyCycleAns,
        UplinkMacCommand::RxParamSetupAns {
            channel_ack: false,
            rx2_data_rate_ack: true,
            rx1_dr_offset_ack: true,
        },
        UplinkMacCommand::DevStatusAns {
            battery: 200,
            snr_margin: -7,
        },
        UplinkMacCommand::NewChannelAns {
            channel_frequency_ok: true,
            data_rate_range_ok: false,
        },
        UplinkMacCommand::RxTimingSetupAns,
        UplinkMacCommand::TxParamSetupAns,
        UplinkMacCommand::DlChannelAns {
            channel_frequency_ok: false,
            uplink_frequency_exists: true,
        },
        UplinkMacCommand::DeviceTimeReq,
        UplinkMacCommand::PingSlotInfoReq { periodicity: 6 },
        UplinkMacCommand::PingSlotChannelAns {
            channel_frequency_ok: true,
            data_rate_ok: false,
        },
        UplinkMacCommand::BeaconFreqAns {
            beacon_frequency_ok: true,
        },
    ] {
        command.encode(&mut uplink);
    }
    let theirs = foreign_commands(&uplink, true);
    assert_eq!(theirs.len(), 13, "{theirs:?}");
    assert!(matches!(&theirs[1], MACCommand::LinkADRAns(ans)
        if ans.ch_mask_ack && !ans.dr_ack && ans.tx_power_ack));
    assert!(
        matches!(&theirs[4], MACCommand::DevStatusAns(ans) if ans.battery == 200 && ans.margin == -7)
    );
    assert!(
        matches!(&theirs[10], MACCommand::PingSlotInfoReq(request) if request.periodicity == 6)
    );

    let mut downlink = Vec::new();
    for command in [
        DownlinkMacCommand::LinkCheckAns {
            margin: 20,
            gw_cnt: 3,
        },
        DownlinkMacCommand::LinkAdrReq(LinkAdrReq {
            data_rate: 5,
            tx_power: 2,
            ch_mask: 0x8001,
            ch_mask_cntl: 6,
            nb_trans: 3,
        }),
        DownlinkMacCommand::DeviceTimeAns {
            gps_seconds: 1_400_000_000,
            fraction: 64,
        },
        DownlinkMacCommand::PingSlotInfoAns,
    ] {
        command.encode(&mut downlink);
    }
    let theirs = foreign_commands(&downlink, false);
    assert_eq!(theirs.len(), 4, "{theirs:?}");
    assert!(
        matches!(&theirs[0], MACCommand::LinkCheckAns(ans) if ans.margin == 20 && ans.gw_cnt == 3)
    );
    assert!(matches!(&theirs[1], MACCommand::LinkADRReq(request)
        if (request.dr, request.tx_power, request.redundancy.ch_mask_cntl, request.redundancy.nb_rep) == (5, 2, 6, 3)
            && request.ch_mask.to_bytes() == 0x8001u16.to_le_bytes()));
    assert!(matches!(&theirs[2], MACCommand::DeviceTimeAns(ans)
        if ans.time_since_gps_epoch == std::time::Duration::from_millis(1_400_000_000_250)));
}

/// Every command the other codec knows has the length we walk it with.
#[test]
fn mac_command_lengths_agree() {
    use lorawan_fuota::lorawan::mac_commands::{downlink_payload_length, uplink_payload_length};
    // Beacon timing is deprecated and unknown to the other codec.
    for cid in (0x02..=0x13).filter(|&cid| cid != 0x12) {
        for (uplink, length) in [
            (true, uplink_payload_length(cid)),
            (false, downlink_payload_length(cid)),
        ] {
            let Some(length) = length else { continue };
            let mut bytes = vec![cid];
            bytes.resize(1 + length, 0);
            assert_eq!(
                foreign_commands(&bytes, uplink).len(),
                1,
                "CID {cid:#04x} up {uplink}"
            );
            let cut = &bytes[..length];
            assert!(
                length == 0 || try_foreign_commands(cut, uplink).is_none(),
                "CID {cid:#04x} up {uplink}"
            );
        }
    }
}

fn foreign_commands(bytes: &[u8], uplink: bool) -> Vec<MACCommand> {
    try_foreign_commands(bytes, uplink).expect("the other codec reads it")
}

fn try_foreign_commands(bytes: &[u8], uplink: bool) -> Option<Vec<MACCommand>> {
    let mut set = MACCommandSet::new(vec![MACCommand::Raw(bytes.to_vec())]);
    set.decode_from_raw(uplink).ok()?;
    let commands: Vec<MACCommand> = set.iter().cloned().collect();
    let raw = commands
        .iter()
        .any(|command| matches!(command, MACCommand::Raw(_)));
    (!raw).then_some(commands)
}
