//! fuota-sim
#![allow(clippy::print_stdout)]
fn main() {
    let seeds: Vec<u64> = std::env::args()
        .skip(1)
        .filter_map(|a| a.parse().ok())
        .collect();
    let range = match seeds[..] {
        [a] => a..a + 1,
        [a, b] => a..b,
        _ => 0..20,
    };
    for seed in range {
        let options = fuota_simulator::check::CheckOptions::of_seed(seed);
        let o = fuota_simulator::check::run(&options);
        println!(
            "{seed}: {:?} crashes {} commits {} {}s uncoded {} coded {} polls {} unicast {} violations {}",
            o.task.state,
            o.crashes,
            o.commits,
            o.duration.as_secs(),
            o.task.counters.uncoded_frames,
            o.task.counters.coded_frames,
            o.task.counters.poll_frames,
            o.task.counters.unicast_frames,
            o.violations.len()
        );
        for v in o.violations.iter().take(5) {
            println!("    {} {}", v.at, v.what);
        }
    }
}
