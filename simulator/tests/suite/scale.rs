//! A large network in small: devices that count fragments behave as those that keep them, and one seed is one history.

use std::time::Duration;

use fuota_simulator::scale::{ScaleOptions, Scaled, run};

fn small(devices: u32, seed: u64) -> ScaleOptions {
    ScaleOptions {
        devices,
        gateways: 4,
        nb_frag: 100,
        seed,
        ..ScaleOptions::default()
    }
}

/// All that follows from the options.
fn history(mut scaled: Scaled) -> Scaled {
    scaled.wall = Duration::ZERO;
    scaled
}

#[test]
fn a_network_is_updated_and_one_seed_is_one_history() {
    let options = small(1000, 3);
    let first = history(run(&options));
    assert_eq!(first.violations, Vec::<String>::new());
    assert_eq!((first.devices, first.updated), (1000, 1000));
    assert_eq!((first.sample, first.sample_good), (10, 10));
    assert!(first.fragments >= 100 && first.device_fragments >= 100_000);
    assert_eq!(history(run(&options)), first);
    let other = run(&ScaleOptions { seed: 4, ..options });
    assert_ne!(other.fingerprint, first.fingerprint);
}

#[test]
fn checkers_on_a_thread_of_their_own_see_the_same() {
    for seed in 1..4 {
        let aside = history(run(&small(150, seed)));
        let within = history(run(&ScaleOptions {
            aside: false,
            ..small(150, seed)
        }));
        assert_eq!(aside, within, "seed {seed}");
        assert_eq!(aside.violations, Vec::<String>::new());
    }
}

#[test]
fn devices_that_count_fragments_complete_with_the_same_ones_as_those_that_keep_them() {
    // Devices that speak each hour: of networks that speak more rarely some differ in answers after the window, and it
    // is not known why (`docs/scale.md`).
    let hourly = |seed| ScaleOptions {
        uplink_interval: Duration::from_secs(3600),
        setup_intervals: 4,
        ..small(150, seed)
    };
    for seed in 1..4 {
        let counted = history(run(&hourly(seed)));
        let kept = history(run(&ScaleOptions {
            sample_every: 1,
            ..hourly(seed)
        }));
        assert_eq!((counted.sample, kept.sample), (10, 150));
        assert_eq!(kept.sample_good, 150);
        // When each device was complete, and all that came of it.
        let without_sample = Scaled {
            sample: counted.sample,
            sample_good: counted.sample_good,
            ..kept
        };
        assert_eq!(without_sample, counted, "seed {seed}");
    }
}
