//! The least frames a multicast transfer can take: the expected number until the last of `n` devices is done, when the
//! sender knows at every moment who still needs something.
//!
//! Systematic TS004 code, independent loss: a device that lost `L` uncoded fragments needs `L + K` coded ones, and is
//! done after `T` frames with probability `F(T)`; the expected maximum over `n` devices is the sum of `1 - F(T)^n`.

use crate::random::Random;

/// Share of ones in a row of the version 1 matrix: M/2 draws with replacement.
const ROW_DENSITY: f64 = 0.393_469_34;
/// Losses up to which small matrices are tried out; beyond, rows are as good as dense random ones.
const SMALL_LOSS: usize = 24;
/// Largest number of extra receptions told apart.
const MAX_EXTRA: usize = 40;
/// Matrices tried per size.
const TRIALS: u32 = 4000;

/// Expected frames until `devices` devices have a block of `nb_frag` fragments, each losing the share `loss` of all
/// frames.
pub fn expected_frames(nb_frag: u32, loss: f64, devices: u32) -> f64 {
    expected_frames_mixed(nb_frag, &[(loss, devices)])
}

/// The same for a fleet of parts, each so lossy and of so many devices.
pub fn expected_frames_mixed(nb_frag: u32, parts: &[(f64, u32)]) -> f64 {
    let lossy = |(loss, devices): &&(f64, u32)| *loss > 0.0 && *devices > 0;
    let parts: Vec<(Vec<f64>, f64, f64)> = parts
        .iter()
        .filter(lossy)
        .map(|(loss, devices)| (needs(nb_frag, *loss), *loss, f64::from(*devices)))
        .collect();
    let mut expected = f64::from(nb_frag);
    for coded in 0..=nb_frag * 20 + 1000 {
        let done: f64 = parts
            .iter()
            .map(|(needs, loss, devices)| probability_done(needs, coded, *loss).powf(*devices))
            .product();
        let missing = 1.0 - done;
        expected += missing;
        if missing < 1e-9 {
            break;
        }
    }
    expected
}

/// Probability that a device needs `j` coded receptions, by `j`.
fn needs(nb_frag: u32, loss: f64) -> Vec<f64> {
    let m = f64::from(nb_frag);
    let spread = 8.0 * (m * loss * (1.0 - loss)).sqrt() + 12.0;
    let most = (m * loss + spread).min(m);
    let mut needs = vec![0.0; 1];
    let mut lost = 0u32;
    // ln of binomial(m, lost) p^lost (1-p)^(m-lost), moved on step by step.
    let mut ln_weight = m * (1.0 - loss).ln();
    while f64::from(lost) <= most {
        let weight = ln_weight.exp();
        for (extra, share) in extra_receptions(lost).into_iter().enumerate() {
            let j = usize::try_from(lost).unwrap_or(usize::MAX) + extra;
            if needs.len() <= j {
                needs.resize(j + 1, 0.0);
            }
            needs[j] += weight * share;
        }
        ln_weight +=
            ((m - f64::from(lost)) / f64::from(lost + 1)).ln() + (loss / (1.0 - loss)).ln();
        lost += 1;
    }
    needs
}

/// Probability of `K` receptions beyond `lost` until full rank, by `K`.
fn extra_receptions(lost: u32) -> Vec<f64> {
    let lost = usize::try_from(lost).unwrap_or(usize::MAX);
    if lost == 0 {
        return vec![1.0];
    }
    let mut share = vec![0.0; MAX_EXTRA + 1];
    if lost > SMALL_LOSS {
        let mut before = 0.0;
        for (extra, share) in share.iter_mut().enumerate() {
            let full = full_rank(lost, extra);
            *share = full - before;
            before = full;
        }
        share[MAX_EXTRA] += 1.0 - before;
        return share;
    }
    let mut random = Random::new(0x7504_u64 ^ u64::try_from(lost).unwrap_or(0));
    for _ in 0..TRIALS {
        share[receptions_until_rank(lost, &mut random) - lost] += 1.0 / f64::from(TRIALS);
    }
    share
}

/// Probability that `lost + extra` dense random rows of width `lost` have full rank.
fn full_rank(lost: usize, extra: usize) -> f64 {
    (extra + 1..=extra + lost)
        .map(|i| 1.0 - 0.5f64.powi(i32::try_from(i).unwrap_or(i32::MAX)))
        .product()
}

/// Rows of the code's density drawn until they have rank `width`; at most `width + MAX_EXTRA`.
fn receptions_until_rank(width: usize, random: &mut Random) -> usize {
    let mut basis: Vec<u32> = Vec::new();
    for received in 1..=width + MAX_EXTRA {
        let mut row = (0..width).fold(0u32, |row, bit| {
            row | (u32::from(random.chance(ROW_DENSITY)) << bit)
        });
        for known in &basis {
            row = row.min(row ^ known);
        }
        if row != 0 {
            basis.push(row);
            basis.sort_unstable_by(|a, b| b.cmp(a));
        }
        if basis.len() == width {
            return received;
        }
    }
    width + MAX_EXTRA
}

/// Probability that a device is done after `coded` coded fragments.
fn probability_done(needs: &[f64], coded: u32, loss: f64) -> f64 {
    // Probability of exactly r receptions out of `coded`, and the sum over needs up to r.
    let n = f64::from(coded);
    let mut ln_weight = n * loss.ln();
    let mut met = 0.0;
    let mut done = 0.0;
    for received in 0..=coded {
        let index = usize::try_from(received).unwrap_or(usize::MAX);
        met += needs.get(index).copied().unwrap_or(0.0);
        done += ln_weight.exp() * met;
        ln_weight +=
            ((n - f64::from(received)) / f64::from(received + 1)).ln() + ((1.0 - loss) / loss).ln();
    }
    done.clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(nb_frag: u32, loss: f64, devices: u32, published: f64) {
        let frames = expected_frames(nb_frag, loss, devices);
        assert!(
            (frames / published - 1.0).abs() < 0.006,
            "{nb_frag} {loss} {devices}: {frames} vs {published}"
        );
    }

    #[test]
    fn agrees_with_the_published_table() {
        assert_near(50, 0.1, 10, 63.4);
        assert_near(50, 0.3, 100, 91.1);
        assert_near(500, 0.01, 1000, 520.0);
        assert_near(500, 0.1, 100, 579.0);
    }

    #[test]
    fn without_loss_every_fragment_goes_out_once() {
        assert!((expected_frames(84, 0.0, 20) - 84.0).abs() < f64::EPSILON);
    }
}
