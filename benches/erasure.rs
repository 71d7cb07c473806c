//! Speed of the TS004 code beside ChirpStack's `lrwn`, same inputs, same run, outputs compared.
//!
//! `cargo bench --bench erasure`. Best of several runs, one thread. "cached": the rows are known, as in a session that
//! shares its matrix; "cold": copying the image into a new encoder and making every row is included. "GB/s" counts the
//! bytes of the uncoded fragments that are summed; "of XOR" is its share of what a loop that does nothing but XOR a
//! block of the same size, front to back, reaches in the same run; "MB/s" is the image over the time for all fragments.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::print_stdout, reason = "the table is the result")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lorawan_fuota::erasure::{CodeVersion, Decoder, Encoder, Matrix, Progress, RankDecoder, Rules};

fn main() {
    // `cargo test --benches` only wants to know that it runs.
    let sizes: &[(u16, u8)] = if std::env::args().any(|argument| argument == "--bench") {
        &[
            (500, 50),
            (500, 115),
            (500, 230),
            (1000, 50),
            (1000, 115),
            (1000, 230),
            (5000, 50),
            (5000, 115),
            (5000, 230),
        ]
    } else {
        &[(50, 50)]
    };
    println!(
        "encode, 50 % redundancy, v2      ns per coded fragment      ratio to lrwn      cached rows"
    );
    println!(
        "{:>12} {:>10} {:>10} {:>10} {:>9} {:>9} {:>7} {:>7} {:>7}",
        "size", "cached", "cold", "lrwn", "cached", "cold", "MB/s", "GB/s", "of XOR"
    );
    for &(nb_frag, frag_size) in sizes {
        encode(nb_frag, frag_size);
    }
    println!();
    println!("decode one device, v2, rows cached (ms)");
    println!(
        "{:>12} {:>6} {:>10} {:>10}",
        "size", "loss", "payload", "rank only"
    );
    for &(nb_frag, frag_size) in sizes
        .iter()
        .filter(|(_, frag_size)| [50, 230].contains(frag_size))
    {
        for loss in [10, 30] {
            decode(nb_frag, frag_size, loss);
        }
    }
}

fn encode(nb_frag: u16, frag_size: u8) {
    let data = data(nb_frag, frag_size);
    let coded = nb_frag / 2;
    let size = usize::from(frag_size);
    let mut ours = vec![0; usize::from(coded) * size];
    let mut fill = |encoder: &Encoder| {
        for (n, fragment) in (nb_frag + 1..).zip(ours.chunks_exact_mut(size)) {
            encoder
                .fragment(n, fragment)
                .expect("n and size are within bounds");
        }
        black_box(&mut ours);
    };
    let encoder = Encoder::new(CodeVersion::V2, &data, frag_size).expect("a valid size");
    encoder.matrix().pregenerate(coded);
    let cached = best(9, || fill(&encoder));
    let cold = best(5, || {
        fill(&Encoder::new(CodeVersion::V2, black_box(&data), frag_size).expect("a valid size"))
    });
    let mut theirs = Vec::new();
    let lrwn = best(3, || {
        theirs =
            lrwn::applayer::fragmentation::v2::encode(black_box(&data), size, usize::from(coded))
                .expect("a multiple of the fragment size");
    });
    assert_eq!(
        theirs[usize::from(nb_frag)..].concat(),
        ours,
        "both encoders agree"
    );
    let per_fragment = |time: Duration| time.as_secs_f64() * 1e9 / f64::from(coded);
    let weight: u32 = (1..=coded)
        .filter_map(|row| encoder.matrix().row(row))
        .map(|row| row.iter().map(|word| word.count_ones()).sum::<u32>())
        .sum();
    let summed = f64::from(weight) * f64::from(frag_size);
    let image = f64::from(nb_frag) * f64::from(frag_size);
    println!(
        "{:>12} {:>10.0} {:>10.0} {:>10.0} {:>8.1}x {:>8.1}x {:>7.0} {:>7.1} {:>6.0}%",
        format!("{nb_frag}x{frag_size}"),
        per_fragment(cached),
        per_fragment(cold),
        per_fragment(lrwn),
        lrwn.as_secs_f64() / cached.as_secs_f64(),
        lrwn.as_secs_f64() / cold.as_secs_f64(),
        image / cached.as_secs_f64() / 1e6,
        summed / cached.as_secs_f64() / 1e9,
        100.0 * summed / cached.as_secs_f64() / xor_bandwidth(&data),
    );
}

/// Bytes per second at which a block is folded into 64 bytes of sum: what the machine reads and XORs at most.
fn xor_bandwidth(block: &[u8]) -> f64 {
    let rounds = 1 + 50_000_000 / block.len();
    let time = best(5, || {
        for _ in 0..rounds {
            let mut sum = [0_u64; 8];
            for chunk in black_box(block).as_chunks::<64>().0 {
                for (sum, word) in sum.iter_mut().zip(chunk.as_chunks::<8>().0) {
                    *sum ^= u64::from_le_bytes(*word);
                }
            }
            black_box(sum);
        }
    });
    let bytes = u32::try_from(block.len() / 64 * 64 * rounds).unwrap_or(u32::MAX);
    f64::from(bytes) / time.as_secs_f64()
}

fn decode(nb_frag: u16, frag_size: u8, loss: u64) {
    let data = data(nb_frag, frag_size);
    let encoder = Encoder::new(CodeVersion::V2, &data, frag_size).expect("a valid size");
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut sent = Vec::new();
    for n in 1..=nb_frag + nb_frag / 2 + 50 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if (state >> 20) % 100 >= loss {
            let mut fragment = vec![0; usize::from(frag_size)];
            encoder
                .fragment(n, &mut fragment)
                .expect("n and size are within bounds");
            sent.push((n, fragment));
        }
    }
    let matrix: &Arc<Matrix> = encoder.matrix();
    let mut decoded = None;
    let payload = best(5, || {
        let mut decoder =
            Decoder::with_matrix(Arc::clone(matrix), frag_size, Rules::Device, nb_frag)
                .expect("a size");
        sent.iter()
            .find(|(n, fragment)| decoder.push(*n, fragment) == Progress::Complete);
        decoded = decoder.into_data(0).ok();
    });
    assert_eq!(decoded.as_deref(), Some(&data[..]), "the block is whole");
    let rank = best(5, || {
        let mut decoder = RankDecoder::new(Arc::clone(matrix), Rules::Device, nb_frag);
        sent.iter()
            .find(|(n, _)| decoder.push(*n) == Progress::Complete);
        assert!(decoder.is_complete(), "the block is whole");
    });
    println!(
        "{:>12} {:>5}% {:>10.3} {:>10.3}",
        format!("{nb_frag}x{frag_size}"),
        loss,
        payload.as_secs_f64() * 1e3,
        rank.as_secs_f64() * 1e3
    );
}

fn data(nb_frag: u16, frag_size: u8) -> Vec<u8> {
    let length = u32::from(nb_frag) * u32::from(frag_size);
    (0..length)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
        .collect()
}

fn best(runs: u32, mut work: impl FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..runs).map(time).min().unwrap_or_default()
}
