//! A lab against the wall clock and a server made by hand: datagrams, acknowledgements, and a downlink that arrives.

use std::net::SocketAddr;
use std::time::Duration;

use fuota_simulator::channel::{Channel, ChannelConfig};
use fuota_simulator::device::{Activation, Class, DeviceConfig, EndDevice};
use fuota_simulator::gateway::{Gateway, GatewayConfig};
use fuota_simulator::lab::Lab;
use fuota_simulator::realtime::{RealTime, WallClock};
use lorawan_fuota::lorawan::frame::{DataFields, DataFrame, Direction, FCtrl};
use lorawan_fuota::lorawan::identifiers::{DevAddr, DevEui, GatewayEui};
use lorawan_fuota::lorawan::keys::Key128;
use lorawan_fuota::lorawan::region::Region;
use serde_json::{Value, json};
use tokio::net::UdpSocket;

use crate::bench::GEN_APP_KEY;

const NWK_S_KEY: Key128 = Key128::from_bytes([1; 16]);
const APP_S_KEY: Key128 = Key128::from_bytes([2; 16]);

fn lab(clock: WallClock) -> Lab {
    let activation = Activation::Abp {
        dev_addr: DevAddr(77),
        nwk_s_key: NWK_S_KEY,
        app_s_key: APP_S_KEY,
    };
    let mut config = DeviceConfig::new(DevEui(77), Region::Us915, activation, GEN_APP_KEY);
    config.class = Class::C;
    config.uplinks.start_spread = Duration::ZERO;
    config.answer_delay_max = Duration::ZERO;
    let device = EndDevice::new(config, 1, clock.now());
    let gateway = Gateway::new(GatewayConfig::new(GatewayEui(9), Region::Us915));
    let channel = ChannelConfig {
        uplink_loss: 0.0,
        downlink_loss: 0.0,
        collisions: false,
    };
    Lab::new(vec![device], vec![gateway], Channel::new(channel, 1))
}

/// The server: tells the gateway's address from `PULL_DATA`, waits for the first frame, asks for the package version in
/// RX1, and returns the acknowledgement and the device's answer.
async fn serve(socket: UdpSocket) -> (String, Vec<u8>) {
    let mut buffer = [0; 2048];
    let mut way_down: Option<SocketAddr> = None;
    let mut asked = false;
    let mut acknowledged = None;
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        let datagram = &buffer[..length];
        assert_eq!(datagram[0], 2);
        assert_eq!(datagram[4..12], [0, 0, 0, 0, 0, 0, 0, 9]);
        let identifier = datagram[3];
        let json: Value = serde_json::from_slice(&datagram[12..]).unwrap_or_default();
        match identifier {
            2 => way_down = Some(from),
            5 => {
                assert_eq!(datagram[1..3], [0xbe, 0xef]);
                acknowledged = json["txpk_ack"]["error"].as_str().map(str::to_owned);
            }
            0 => {
                for packet in json["rxpk"].as_array().into_iter().flatten() {
                    let phy_payload = base64_decode(packet["data"].as_str().unwrap());
                    let frame = DataFrame::parse(&phy_payload).unwrap();
                    if let (true, Some(word)) = (frame.f_port == Some(201), &acknowledged) {
                        let payload = frame.decrypt(&APP_S_KEY, frame.f_cnt.into());
                        return (word.clone(), payload);
                    }
                    if let (false, Some(to)) = (asked, way_down) {
                        asked = true;
                        socket.send_to(&pull_resp(packet), to).await.unwrap();
                    }
                }
            }
            other => panic!("identifier {other}"),
        }
    }
}

fn pull_resp(uplink: &Value) -> Vec<u8> {
    let hz = (uplink["freq"].as_f64().unwrap() * 1e6).round() as u32;
    let dr = Region::Us915
        .data_rate_index(
            uplink["datr"].as_str().unwrap().parse().unwrap(),
            Direction::Uplink,
        )
        .unwrap();
    let (hz, dr) = Region::Us915.rx1(hz, dr, 0, false).unwrap();
    let frame = DataFields {
        direction: Direction::Downlink,
        confirmed: false,
        dev_addr: DevAddr(77),
        f_ctrl: FCtrl::default(),
        f_cnt: 0,
        f_opts: &[],
        f_port: Some(201),
        payload: &[0],
    }
    .build(&NWK_S_KEY, &APP_S_KEY)
    .unwrap();
    let counter = uplink["tmst"].as_u64().unwrap() as u32;
    let data_rate = Region::Us915.data_rate(dr, Direction::Downlink).unwrap();
    let json = json!({ "txpk": {
        "tmst": counter.wrapping_add(1_000_000), "freq": f64::from(hz) / 1e6, "rfch": 0, "powe": 20,
        "modu": "LORA", "datr": data_rate.to_string(), "codr": "4/5", "ipol": true, "ncrc": true,
        "size": frame.len(), "data": base64_encode(&frame),
    }});
    let mut datagram = vec![2, 0xbe, 0xef, 3];
    datagram.extend(json.to_string().into_bytes());
    datagram
}

fn base64_decode(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap()
}

fn base64_encode(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[tokio::test]
async fn a_downlink_over_real_sockets_is_answered() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = socket.local_addr().unwrap();
    let clock = WallClock::start();
    let mut realtime = RealTime::open(lab(clock), clock, server).await.unwrap();
    let served = tokio::time::timeout(Duration::from_secs(20), serve(socket));
    let (word, payload) = realtime.run_until(served).await.expect("no answer in time");
    assert_eq!(word, "NONE");
    assert_eq!(payload, [0x00, 3, 2]);
    let view = realtime.view();
    assert_eq!((view.bad_datagrams, view.breaches), (0, 0));
    assert_eq!(view.devices[0].dev_eui, DevEui(77));
}
