//! What the choice of block size and of coded rows is worth: simulated receivers on the real rows of TS004.
//!
//! `cargo bench --bench weak_sizes`. A receiver hears each fragment with a fixed probability and counts ranks. First:
//! how many cannot put their block together at block sizes whose matrix has columns that hardly differ, and at what
//! [`sizing::layout`] makes of the same image. Second: receptions beyond the number of fragments lost, with coded
//! rows in the order they are numbered and in the order [`chosen_rows`] picks. Nothing is timed.
#![expect(clippy::print_stdout, reason = "the table is the result")]

use std::sync::Arc;

use lorawan_fuota::erasure::{CodeVersion, Matrix, Progress, RankDecoder, Rules, chosen_rows};
use lorawan_fuota::task::sizing;

fn main() {
    // `cargo test --benches` only wants to know that it runs.
    let whole = std::env::args().any(|argument| argument == "--bench");
    let receivers = if whole { 4000 } else { 20 };
    println!("{receivers} receivers each; failed: not complete when all coded fragments are sent");
    println!(
        "{:>22} {:>5} {:>6} {:>11} {:>9} {:>9}",
        "image", "loss", "coded", "NbFrag", "failed v1", "failed v2"
    );
    for (nb_frag, frag_size, loss, redundancy) in [
        (384_u16, 64_u8, 0.1, 0.5),
        (768, 64, 0.05, 0.3),
        (768, 64, 0.1, 0.5),
        (768, 64, 0.3, 1.0),
        (1536, 64, 0.1, 0.5),
    ] {
        let length = usize::from(nb_frag) * usize::from(frag_size);
        let picked = sizing::layout(length, frag_size).expect("an image of that size fits");
        for (what, nb_frag) in [("as cut", nb_frag), ("as planned", picked.nb_frag)] {
            let failed = |version| failures(version, nb_frag, loss, redundancy, receivers);
            println!(
                "{:>22} {:>4.0}% {:>5.0}% {:>11} {:>8.2}% {:>8.2}%",
                format!("{length} B {what}"),
                loss * 100.0,
                redundancy * 100.0,
                nb_frag,
                failed(CodeVersion::V1),
                failed(CodeVersion::V2),
            );
        }
    }
    println!();
    println!("receptions beyond the number lost, mean (and what 99 of 100 get by with), loss 10 %");
    println!(
        "{:>8} {:>8} {:>16} {:>16}",
        "version", "NbFrag", "rows in order", "rows chosen"
    );
    for version in [CodeVersion::V1, CodeVersion::V2] {
        for nb_frag in [20_u16, 42, 50, 100, 192] {
            let in_order: Vec<u16> = (1..=nb_frag + 60).collect();
            let chosen = chosen_rows(version, nb_frag, nb_frag + 60);
            let [in_order, chosen] = [in_order, chosen].map(|rows| {
                let (mean, most) = extra(version, nb_frag, &rows, 0.1, receivers * 5);
                format!("{mean:.2} ({most})")
            });
            println!(
                "{:>8} {nb_frag:>8} {in_order:>16} {chosen:>16}",
                format!("{version:?}")
            );
        }
    }
}

/// Percentage of receivers that cannot put the block together.
fn failures(version: CodeVersion, nb_frag: u16, loss: f64, redundancy: f64, receivers: u32) -> f64 {
    let matrix = Arc::new(Matrix::new(version, nb_frag).expect("a valid size"));
    let coded: Vec<u16> = (1..=nb_frag)
        .take_while(|row| f64::from(*row) <= f64::from(nb_frag) * redundancy)
        .collect();
    let mut luck = Luck(1);
    let failed = (0..receivers)
        .filter(|_| receive(&matrix, &coded, loss, &mut luck).is_none())
        .count();
    100.0 * f64::from(u32::try_from(failed).unwrap_or(u32::MAX)) / f64::from(receivers)
}

/// Coded fragments heard beyond the number of uncoded ones lost: the mean, and the 99th percentile.
fn extra(
    version: CodeVersion,
    nb_frag: u16,
    rows: &[u16],
    loss: f64,
    receivers: u32,
) -> (f64, u16) {
    let matrix = Arc::new(Matrix::new(version, nb_frag).expect("a valid size"));
    let mut luck = Luck(1);
    let mut extra: Vec<u16> = (0..receivers)
        .filter_map(|_| receive(&matrix, rows, loss, &mut luck))
        .collect();
    extra.sort_unstable();
    let sum: u32 = extra.iter().map(|extra| u32::from(*extra)).sum();
    let mean = f64::from(sum) / f64::from(receivers);
    let most = extra.get(extra.len() * 99 / 100).copied();
    (mean, most.unwrap_or(u16::MAX))
}

/// One receiver: coded fragments it needed beyond those it lost, or `None` if all were not enough.
fn receive(matrix: &Arc<Matrix>, rows: &[u16], loss: f64, luck: &mut Luck) -> Option<u16> {
    let nb_frag = matrix.nb_frag();
    let mut decoder = RankDecoder::new(Arc::clone(matrix), Rules::Device, nb_frag);
    for n in 1..=nb_frag {
        if luck.draw() >= loss {
            decoder.push(n);
        }
    }
    if decoder.is_complete() {
        return Some(0);
    }
    let (lost, mut heard) = (decoder.missing_uncoded(), 0_u16);
    for row in rows {
        if luck.draw() >= loss {
            heard += 1;
            if decoder.push(nb_frag + row) == Progress::Complete {
                return Some(heard.saturating_sub(lost));
            }
        }
    }
    None
}

/// Uniform numbers in 0..1 (splitmix64).
struct Luck(u64);

impl Luck {
    fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let high = u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or(u32::MAX);
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }
}
