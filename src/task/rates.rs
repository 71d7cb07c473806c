//! Which data rates the devices of a wave are served at, where neither task nor group says so.
//!
//! Each device has a fastest rate it can follow (`link`); it can follow every slower one too. So a choice is a set of
//! rates, and each device goes to the fastest of the set that it can follow. All sets are tried; the one with the least
//! cost wins, the one with fewer sessions where the cost is the same. The cost, in seconds on air of one gateway:
//!
//! ```text
//! sum over sessions:  frames * airtime * gateways + devices * time / LISTENERS_PER_AIR_SECOND + SESSION
//! ```
//!
//! `frames` is what the session is expected to send, `time` how long that takes under the duty cycle, all of which a
//! class C device listens through.

use std::collections::BTreeMap;

/// Devices that listen for one second cost as much as a gateway that sends for one: a second of listening is 17 mJ of
/// a battery that holds 27 kJ, a second on air is a 360th of what the best sub-band of EU868 allows in an hour.
pub const LISTENERS_PER_AIR_SECOND: f64 = 100.0;
/// What one session more costs beside its frames, seconds on air: its polls, and rounds of its own.
pub const SESSION: f64 = 20.0;

/// What serving some devices at a rate costs, as far as it depends on the rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateCost {
    /// Air time of one pass of all frames by one gateway, seconds.
    pub air_s: f64,
    /// How long that takes with duty cycle and air share kept, seconds.
    pub time_s: f64,
}

/// The rate each device is served at, as an index into `costs`, given the fastest each can follow. `costs` are those
/// of the candidate rates, slowest first; `gateways` says how many a session of these devices (by index) needs.
pub fn choose(
    fastest: &[usize],
    costs: &[RateCost],
    gateways: impl Fn(usize, &[usize]) -> usize,
) -> Vec<usize> {
    let Some(slowest) = fastest.iter().min().copied() else {
        return Vec::new();
    };
    let highest = fastest.iter().max().copied().unwrap_or(slowest);
    let rates = highest.min(costs.len().saturating_sub(1)).min(15) + 1;
    // Who is served at a rate depends on the next faster one in the set alone.
    let mut known: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    let mut cost_of = |rate: usize, next: usize| {
        *known.entry((rate, next)).or_insert_with(|| {
            let members: Vec<usize> = (0..fastest.len())
                .filter(|device| (rate..next).contains(&fastest[*device]))
                .collect();
            session_cost(rate, &members, costs, &gateways)
        })
    };
    let mut best: Option<(f64, Vec<usize>)> = None;
    for set in 1..1u32 << rates {
        let taken: Vec<usize> = (0..rates).filter(|rate| set & (1 << rate) != 0).collect();
        if taken.first().is_none_or(|first| *first > slowest) {
            continue;
        }
        let nexts = taken.iter().skip(1).copied().chain([usize::MAX]);
        let cost: f64 = taken.iter().zip(nexts).map(|(r, n)| cost_of(*r, n)).sum();
        let better = best.as_ref().is_none_or(|(least, before)| {
            cost < *least || (cost <= *least && taken.len() < before.len())
        });
        if better {
            best = Some((cost, taken));
        }
    }
    let taken = best.map_or_else(|| vec![slowest], |(_, taken)| taken);
    let served = |most: &usize| taken.iter().rev().find(|rate| *rate <= most);
    fastest
        .iter()
        .map(|most| served(most).copied().unwrap_or(slowest))
        .collect()
}

fn session_cost(
    rate: usize,
    members: &[usize],
    costs: &[RateCost],
    gateways: &impl Fn(usize, &[usize]) -> usize,
) -> f64 {
    let Some(cost) = costs.get(rate).filter(|_| !members.is_empty()) else {
        return 0.0;
    };
    let count = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    let senders = count(gateways(rate, members).max(1));
    // The gateways of a session send one after the other.
    let time = cost.time_s.max(cost.air_s * senders);
    cost.air_s * senders + count(members.len()) * time / LISTENERS_PER_AIR_SECOND + SESSION
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 kB in EU868 at 10 %: DR0, DR3 and DR5.
    const EU868: [RateCost; 3] = [
        RateCost {
            air_s: 5850.0,
            time_s: 58_000.0,
        },
        RateCost {
            air_s: 605.0,
            time_s: 6050.0,
        },
        RateCost {
            air_s: 165.0,
            time_s: 1650.0,
        },
    ];

    fn chosen(fastest: &[usize]) -> Vec<usize> {
        choose(fastest, &EU868, |_, _| 1)
    }

    #[test]
    fn devices_alike_share_their_fastest_rate() {
        assert_eq!(chosen(&[2; 50]), [2; 50]);
        assert_eq!(chosen(&[0; 50]), [0; 50]);
        assert!(chosen(&[]).is_empty());
    }

    #[test]
    fn three_bad_devices_do_not_slow_a_thousand_down() {
        let mut fastest = vec![2; 1000];
        fastest.extend([0, 0, 0]);
        assert_eq!(chosen(&fastest), fastest);
    }

    #[test]
    fn a_handful_is_not_split_off_where_it_does_not_pay() {
        // Two rates a third apart, and few listeners: a second pass costs more air than it saves listening.
        let costs = [
            RateCost {
                air_s: 292.0,
                time_s: 2920.0,
            },
            RateCost {
                air_s: 165.0,
                time_s: 1650.0,
            },
        ];
        let fastest = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1];
        assert_eq!(choose(&fastest, &costs, |_, _| 1), [0; 10]);
        // A hundred of them are worth it.
        let many = [vec![0; 5], vec![1; 100]].concat();
        assert_eq!(choose(&many, &costs, |_, _| 1), many);
    }

    #[test]
    fn gateways_count() {
        // At the fast rate five gateways are needed, at the slow one a single one.
        let costs = [
            RateCost {
                air_s: 20.0,
                time_s: 20.0,
            },
            RateCost {
                air_s: 10.0,
                time_s: 10.0,
            },
        ];
        let gateways = |rate: usize, _: &[usize]| if rate == 1 { 5 } else { 1 };
        assert_eq!(choose(&[1, 1], &costs, gateways), [0, 0]);
        assert_eq!(choose(&[1, 1], &costs, |_, _| 1), [1, 1]);
    }

    #[test]
    fn a_rate_nobody_needs_is_not_used() {
        let served = chosen(&[1, 1, 1, 2, 2]);
        assert!(served.iter().all(|rate| *rate >= 1), "{served:?}");
    }
}
