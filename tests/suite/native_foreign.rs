//! What the native network server hands to gateways, read by a foreign codec, `lrwn`, as a capture on the way would be.

use std::time::Duration;

use lorawan_fuota::lorawan::join::JoinRequest;
use lorawan_fuota::lorawan::keys::{Key128, mc_app_s_key, mc_nwk_s_key};
use lorawan_fuota::lorawan::region::Region;
use lorawan_fuota::network::native::GatewayCommand;
use lorawan_fuota::network::native::semtech::{DownDatagram, TxPacket};
use lorawan_fuota::network::{Network, NetworkCommand};
use lorawan_fuota::record::{JoinState, NetworkRequest, Target, UplinkRef};
use lrwn::{AES128Key, FType, MACCommand, MACVersion, Payload, PhyPayload};

use super::native_net::{
    APP_KEY, DEVICE, JOIN_EUI, MC_ADDR, MC_KEY, Net, committed_session, mc_group, said,
};

/// The `PHYPayload` of a command as it leaves over UDP.
fn captured(command: &GatewayCommand) -> PhyPayload {
    let packet = TxPacket {
        when: command.when,
        frequency_hz: command.frequency_hz,
        data_rate: command.data_rate,
        power_dbm: command.power_dbm,
        phy_payload: command.phy_payload.clone(),
    };
    let datagram = DownDatagram::PullResp { token: 1, packet }.encode();
    let json: serde_json::Value = serde_json::from_slice(&datagram[4..]).unwrap();
    let data = json["txpk"]["data"].as_str().unwrap();
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, data).unwrap();
    PhyPayload::from_slice(&bytes).unwrap()
}

fn key(key: &Key128) -> AES128Key {
    AES128Key::from_bytes(*key.as_bytes())
}

/// Checks MIC and address, decrypts, and returns the MAC payload.
fn opened(
    mut frame: PhyPayload,
    nwk_s_key: &Key128,
    app_s_key: &Key128,
    f_cnt: u32,
) -> lrwn::MACPayload {
    assert_eq!(frame.mhdr.f_type, FType::UnconfirmedDataDown);
    if let Payload::MACPayload(payload) = &mut frame.payload {
        assert_eq!(payload.fhdr.f_cnt, f_cnt & 0xffff);
        payload.fhdr.f_cnt = f_cnt;
    }
    let accepted = frame.validate_downlink_data_mic(MACVersion::LoRaWAN1_0, 0, &key(nwk_s_key));
    assert!(accepted.unwrap());
    frame.decode_f_opts_to_mac_commands().unwrap();
    frame.decrypt_frm_payload(&key(app_s_key)).unwrap();
    match frame.payload {
        Payload::MACPayload(payload) => payload,
        other => panic!("{other:?}"),
    }
}

fn clear(payload: &lrwn::MACPayload) -> Vec<u8> {
    payload.frm_payload.as_ref().unwrap().to_vec().unwrap()
}

#[test]
fn a_unicast_answer_with_ack_and_mac_answers() {
    let (mut net, mut session) = Net::with_device(2, Region::Eu868);
    session.next_f_cnt_down = 0x0001_fffe;
    net.import(DEVICE, session.clone());
    let mut asked = said(&session, 10);
    (asked.confirmed, asked.f_opts) = (true, vec![0x02, 0x0d]);
    let at = net.now;
    let uplink = UplinkRef {
        dev_eui: DEVICE,
        f_cnt: 10,
    };
    let answer = net.downlink(Target::Device(DEVICE), Some(uplink), 30);
    let step = net.uplink_at(
        &asked,
        &[(1, 1.5), (2, -1.0)],
        vec![NetworkRequest::Send(answer)],
    );
    let frame = captured(&step.commands[0]);
    let payload = opened(frame, &session.nwk_s_key, &session.app_s_key, 0x0001_fffe);
    assert_eq!(
        payload.fhdr.devaddr.to_be_bytes(),
        session.dev_addr.0.to_be_bytes()
    );
    assert!(payload.fhdr.f_ctrl.ack);
    assert_eq!(
        (payload.f_port, clear(&payload)),
        (Some(200), vec![0xab; 30])
    );
    let [
        MACCommand::LinkCheckAns(check),
        MACCommand::DeviceTimeAns(time),
    ] = payload.fhdr.f_opts.as_slice()
    else {
        panic!("{:?}", payload.fhdr.f_opts)
    };
    assert_eq!((check.margin, check.gw_cnt), (9, 2));
    assert_eq!(
        time.time_since_gps_epoch.as_secs(),
        u64::from(at.to_gps().wire_seconds())
    );
}

#[test]
fn multicast_fragments_in_both_regions() {
    let mc_key = Key128::from_bytes(MC_KEY);
    let (nwk, app) = (
        mc_nwk_s_key(&mc_key, MC_ADDR),
        mc_app_s_key(&mc_key, MC_ADDR),
    );
    for region in [Region::Eu868, Region::Us915] {
        let mut net = Net::new(1);
        let mut group = mc_group(region, 1);
        group.next_mc_f_cnt = 0x0001_0000;
        let mut requests = vec![NetworkRequest::PutGroup(group)];
        requests.extend((0..3).map(|_| net.group_frame(242)));
        let mut step = net.step(vec![], requests);
        step.add(net.run(Duration::from_secs(2)));
        assert_eq!(step.commands.len(), 3);
        for (f_cnt, command) in (0x0001_0000..).zip(&step.commands) {
            let payload = opened(captured(command), &nwk, &app, f_cnt);
            assert_eq!(payload.fhdr.devaddr.to_be_bytes(), MC_ADDR.0.to_be_bytes());
            assert!(payload.fhdr.f_opts.is_empty());
            assert_eq!(
                (payload.f_port, clear(&payload)),
                (Some(200), vec![0xab; 242])
            );
        }
    }
}

#[test]
fn a_join_accept_and_the_first_downlink_of_its_session() {
    for region in [Region::Eu868, Region::Us915] {
        let (hz, rate) = match region {
            Region::Us915 => (902_300_000, "SF10BW125"),
            _ => (868_100_000, "SF7BW125"),
        };
        let mut net = Net::new(1);
        net.add(DEVICE, region);
        let app_key = Key128::from_bytes(APP_KEY);
        let join = JoinState {
            join_eui: JOIN_EUI,
            app_key: app_key.clone(),
            next_join_nonce: 0x01_0203,
            dev_nonces: [].into(),
            last_dev_nonce: None,
        };
        net.native
            .apply(&NetworkCommand::PutJoinState(DEVICE, join));
        let request = JoinRequest::new(JOIN_EUI, DEVICE, 0x0405, &app_key);
        let heard = net.heard(1, request.phy_payload(), hz, rate, 0.0);
        net.step(vec![heard], vec![]);
        let step = net.run(Duration::from_millis(200));
        let mut accept = captured(&step.commands[0]);
        accept.decrypt_join_accept_payload(&key(&app_key)).unwrap();
        let theirs_eui = lrwn::EUI64::from_be_bytes(JOIN_EUI.0.to_be_bytes());
        let accepted = accept.validate_join_accept_mic(
            lrwn::JoinType::Join,
            &theirs_eui,
            0x0405,
            &key(&app_key),
        );
        assert!(accepted.unwrap());
        let Payload::JoinAccept(accept) = accept.payload else {
            panic!("no accept")
        };
        let session = committed_session(&step).clone();
        assert_eq!((accept.join_nonce, accept.rx_delay), (0x01_0203, 1));
        assert_eq!(accept.dl_settings.rx2_dr, region.rx2().1);
        assert_eq!(
            accept.devaddr.to_be_bytes(),
            session.dev_addr.0.to_be_bytes()
        );
        net.now += Duration::from_secs(10);
        let mut first = said(&session, 0);
        (first.confirmed, first.frequency_hz, first.data_rate) = (true, hz, rate);
        let step = net.uplink(&first);
        let payload = opened(
            captured(&step.commands[0]),
            &session.nwk_s_key,
            &session.app_s_key,
            0,
        );
        assert!(payload.fhdr.f_ctrl.ack && payload.frm_payload.is_none());
    }
}
