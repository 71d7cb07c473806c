//! The Reed-Solomon code beside TS004's: frames a device needs, and what coding and decoding cost.
//!
//! `cargo bench --bench reed_solomon`. A receiver loses each frame with a fixed probability and is sent all uncoded
//! fragments and then coded ones until it is complete: TS004 version 2 with the rows [`chosen_rows`] picks, and blocks
//! of at most 128 data shards in turn. "min" is what a code that needs no more than `NbFrag` receptions would send.
//! Times are the best of several runs on one thread. "ns" is one coded fragment, matrices known; "ms" is all that a
//! device does with what it receives until it has the block, the matrices known, too.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::print_stdout, reason = "the table is the result")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lorawan_fuota::erasure::{
    CodeVersion, Decoder, Encoder, Matrix, Progress, RankDecoder, Rules, chosen_rows, reed_solomon,
};

const FRAG_SIZE: u8 = 230;

fn main() {
    // `cargo test --benches` only wants to know that it runs.
    let whole = std::env::args().any(|argument| argument == "--bench");
    let (sizes, receivers): (&[u16], u32) = if whole {
        (&[50, 100, 200, 500, 1000], 400)
    } else {
        (&[50], 5)
    };
    println!("{receivers} receivers, fragments of {FRAG_SIZE} B, means of frames sent");
    println!(
        "{:>7} {:>7} {:>5} {:>7} {:>8} {:>8} {:>9} {:>9} {:>9} {:>9}",
        "NbFrag", "blocks", "loss", "min", "TS004", "RS", "TS004 ns", "RS ns", "TS004 ms", "RS ms"
    );
    for &nb_frag in sizes {
        let bench = Bench::new(nb_frag);
        let (ts004_ns, rs_ns) = bench.encode();
        for loss in [2, 10, 30] {
            let (ts004, rs) = bench.frames(loss, receivers);
            let (ts004_ms, rs_ms) = bench.decode(loss);
            println!(
                "{:>7} {:>7} {:>4}% {:>7.1} {:>8.1} {:>8.1} {:>9.0} {:>9.0} {:>9.2} {:>9.2}",
                nb_frag,
                bench.reed_solomon.code().blocks(),
                loss,
                f64::from(nb_frag) / (1.0 - f64::from(loss) / 100.0),
                ts004,
                rs,
                ts004_ns,
                rs_ns,
                ts004_ms,
                rs_ms
            );
        }
    }
}

struct Bench {
    nb_frag: u16,
    data: Vec<u8>,
    rows: Vec<u16>,
    ts004: Encoder,
    reed_solomon: reed_solomon::Encoder,
}

impl Bench {
    fn new(nb_frag: u16) -> Self {
        let length = u32::from(nb_frag) * u32::from(FRAG_SIZE);
        let data: Vec<u8> = (0..length)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
            .collect();
        Self {
            nb_frag,
            rows: chosen_rows(CodeVersion::V2, nb_frag, nb_frag + 100),
            ts004: Encoder::new(CodeVersion::V2, &data, FRAG_SIZE).expect("a valid size"),
            reed_solomon: reed_solomon::Encoder::new(&data, FRAG_SIZE).expect("a valid size"),
            data,
        }
    }

    /// Counters in the order they are sent, with TS004's and with Reed-Solomon's coded fragments.
    fn ts004_counters(&self) -> impl Iterator<Item = u16> {
        let coded = self.rows.iter().map(|row| self.nb_frag + row);
        (1..=self.nb_frag).chain(coded)
    }

    fn reed_solomon_counters(&self) -> impl Iterator<Item = u16> {
        1..=self.nb_frag * 2 + 100
    }

    /// Mean frames until a receiver is complete.
    fn frames(&self, loss: u32, receivers: u32) -> (f64, f64) {
        let mut air = Air::new(loss);
        let matrix: &Arc<Matrix> = self.ts004.matrix();
        let code = self.reed_solomon.code();
        let (mut ts004, mut rs) = (0, 0);
        for _ in 0..receivers {
            let mut decoder = RankDecoder::new(Arc::clone(matrix), Rules::Device, self.nb_frag);
            ts004 += frames(self.ts004_counters(), &mut air, |n| {
                decoder.push(n) == Progress::Complete
            });
            // Which shards are there decides; their content does not, and one byte is enough of it.
            let mut decoder =
                reed_solomon::Decoder::new(Arc::clone(code), 1).expect("a valid size");
            rs += frames(self.reed_solomon_counters(), &mut air, |n| {
                decoder.push(n, &[0]) == Progress::Complete
            });
        }
        let mean = |frames: u32| f64::from(frames) / f64::from(receivers);
        (mean(ts004), mean(rs))
    }

    /// Nanoseconds per coded fragment.
    fn encode(&self) -> (f64, f64) {
        let coded = self.nb_frag / 2;
        let mut fragment = vec![0; usize::from(FRAG_SIZE)];
        self.ts004.matrix().pregenerate(coded);
        let counters = self.nb_frag + 1..=self.nb_frag + coded;
        let ts004 = best(9, || {
            for n in counters.clone() {
                self.ts004
                    .fragment(n, &mut fragment)
                    .expect("within bounds");
                black_box(&mut fragment);
            }
        });
        let rs = best(9, || {
            for n in counters.clone() {
                self.reed_solomon
                    .fragment(n, &mut fragment)
                    .expect("within bounds");
                black_box(&mut fragment);
            }
        });
        let each = |time: Duration| time.as_secs_f64() * 1e9 / f64::from(coded);
        (each(ts004), each(rs))
    }

    /// Milliseconds to decode with payloads; each result is compared with what was sent.
    fn decode(&self, loss: u32) -> (f64, f64) {
        let mut air = Air::new(loss);
        let heard = |air: &mut Air, counters: &mut dyn Iterator<Item = u16>, rs: bool| {
            let heard = counters.filter(|_| !air.loses());
            heard
                .map(|n| {
                    let mut fragment = vec![0; usize::from(FRAG_SIZE)];
                    if rs {
                        self.reed_solomon.fragment(n, &mut fragment)
                    } else {
                        self.ts004.fragment(n, &mut fragment)
                    }
                    .expect("within bounds");
                    (n, fragment)
                })
                .collect::<Vec<_>>()
        };
        let of_ts004 = heard(&mut air, &mut self.ts004_counters(), false);
        let of_rs = heard(&mut air, &mut self.reed_solomon_counters(), true);
        let mut decoded = None;
        let ts004 = best(5, || {
            let matrix = Arc::clone(self.ts004.matrix());
            let mut decoder = Decoder::with_matrix(matrix, FRAG_SIZE, Rules::Device, self.nb_frag)
                .expect("a valid size");
            of_ts004
                .iter()
                .find(|(n, fragment)| decoder.push(*n, fragment) == Progress::Complete);
            decoded = decoder.into_data(0).ok();
        });
        assert_eq!(decoded.as_ref(), Some(&self.data), "the block is whole");
        let mut decoded = None;
        // A code remembers the inverses it needed: each run gets a fresh one, made before the clock starts.
        let run = |_| {
            let code = reed_solomon::Code::new(self.nb_frag).expect("a valid size");
            let mut decoder =
                reed_solomon::Decoder::new(Arc::new(code), FRAG_SIZE).expect("a valid size");
            let start = Instant::now();
            of_rs
                .iter()
                .find(|(n, fragment)| decoder.push(*n, fragment) == Progress::Complete);
            decoded = decoder.into_data(0).ok();
            start.elapsed()
        };
        let rs = (0..5).map(run).min().unwrap_or_default();
        assert_eq!(decoded.as_ref(), Some(&self.data), "the block is whole");
        (ts004.as_secs_f64() * 1e3, rs.as_secs_f64() * 1e3)
    }
}

/// Frames sent until `completes` says so.
fn frames(
    counters: impl Iterator<Item = u16>,
    air: &mut Air,
    mut completes: impl FnMut(u16) -> bool,
) -> u32 {
    let mut sent = 0;
    for n in counters {
        sent += 1;
        if !air.loses() && completes(n) {
            return sent;
        }
    }
    panic!("not complete after {sent} frames");
}

/// Loses each frame with the same probability.
struct Air {
    state: u64,
    percent: u32,
}

impl Air {
    fn new(percent: u32) -> Self {
        Self {
            state: 0x2545_f491_4f6c_dd1d,
            percent,
        }
    }

    fn loses(&mut self) -> bool {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 20) % 100 < u64::from(self.percent)
    }
}

fn best(runs: u32, mut work: impl FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..runs).map(time).min().unwrap_or_default()
}
