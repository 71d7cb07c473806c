//! Whatever comes from the air does no harm.

use fuota_simulator::device::{EndDevice, Packages};
use lorawan_fuota::lorawan::PackageVersion::{V1, V2};
use proptest::prelude::*;

use crate::bench::{Bench, SECOND, START, abp, otaa};

proptest! {
    #[test]
    fn any_bytes_as_a_frame(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20)) {
        for config in [abp(), otaa()] {
            let mut device = EndDevice::new(config, 1, START);
            for (second, frame) in (1..).zip(&frames) {
                let now = START + SECOND * second;
                device.advance(now);
                device.receive(now, frame);
            }
            prop_assert_eq!(device.counts().unicast, 0);
        }
    }

    #[test]
    fn any_bytes_as_commands(
        v2 in any::<bool>(),
        commands in prop::collection::vec(
            (prop::sample::select(vec![0_u8, 1, 200, 201, 202, 203, 225]), prop::collection::vec(any::<u8>(), 0..60)),
            0..12,
        ),
    ) {
        let mut config = abp();
        config.packages = Packages::all(if v2 { V2 } else { V1 });
        let mut bench = Bench::new(config, 1);
        bench.next_uplink();
        for (f_port, payload) in &commands {
            let limit = bench.now + SECOND * 3600;
            let Some(heard) = bench.next_uplink_before(limit) else {
                break;
            };
            bench.rx1(&heard, *f_port, payload, std::time::Duration::ZERO);
        }
        // Whatever it was told, it can say when it acts next, and acts.
        for _ in 0..50 {
            if let Some(next) = bench.device.next_event() {
                bench.now = bench.now.max(next);
                bench.device.advance(bench.now);
            }
        }
    }
}
