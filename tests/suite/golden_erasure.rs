//! The TS004 code against vectors that other implementations agree on (`tests/vectors/README.md`), and its
//! properties under random loss.

use std::sync::Arc;

use lorawan_fuota::erasure::{
    BlockSize, CodeVersion, Decoder, Encoder, Ignored, Matrix, Progress, RankDecoder, Rules,
    is_weak_nb_frag, matrix_row, row_words,
};
use proptest::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

fn parse(text: &str) -> Value {
    serde_json::from_str(text).expect("vectors are JSON")
}

fn version(value: &Value) -> CodeVersion {
    match value["ts004_version"].as_u64() {
        Some(1) => CodeVersion::V1,
        Some(2) => CodeVersion::V2,
        other => panic!("ts004_version {other:?}"),
    }
}

fn small(value: &Value) -> u16 {
    u16::try_from(value.as_u64().expect("a number")).expect("below 65536")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The data every case of `frag_coded.json` encodes.
fn formula(length: usize) -> Vec<u8> {
    (0..u32::try_from(length).expect("a small length"))
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
        .collect()
}

fn fragment(encoder: &Encoder, n: u16) -> Vec<u8> {
    let mut bytes = vec![0; usize::from(encoder.frag_size())];
    encoder
        .fragment(n, &mut bytes)
        .expect("n and size are within bounds");
    bytes
}

#[test]
fn coded_fragments_match_other_encoders() {
    let vectors = parse(include_str!("../vectors/frag_coded.json"));
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 35);
    for case in cases {
        let (nb_frag, redundancy) = (small(&case["nb_frag"]), small(&case["redundancy"]));
        let frag_size = u8::try_from(small(&case["frag_size"])).unwrap();
        let data = formula(usize::from(nb_frag) * usize::from(frag_size));
        assert_eq!(
            hex(&Sha256::digest(&data)),
            case["data_sha256"],
            "data of nb_frag {nb_frag}"
        );
        let encoder = Encoder::new(version(case), &data, frag_size).unwrap();
        assert_eq!((encoder.nb_frag(), encoder.padding()), (nb_frag, 0));
        let coded: Vec<Vec<u8>> = (1..=redundancy)
            .map(|n| fragment(&encoder, nb_frag + n))
            .collect();
        assert_eq!(
            hex(&Sha256::digest(coded.concat())),
            case["coded_concat_sha256"],
            "nb_frag {nb_frag}"
        );
        if let Some(expected) = case["coded"].as_array() {
            let hexed: Vec<String> = coded.iter().map(|bytes| hex(bytes)).collect();
            assert_eq!(hexed, *expected);
        } else {
            assert_eq!(hex(&coded[0]), case["coded_first"]);
            assert_eq!(hex(&coded[1]), case["coded_second"]);
            assert_eq!(hex(&coded[coded.len() - 1]), case["coded_last"]);
        }
    }
}

#[test]
fn matrix_rows_match_other_generators() {
    let vectors = parse(include_str!("../vectors/frag_matrix_lines.json"));
    let lines = vectors["lines"].as_array().unwrap();
    assert!(lines.len() > 100);
    for line in lines {
        let (nb_frag, n) = (small(&line["m"]), small(&line["n"]));
        let mut row = vec![0; row_words(nb_frag)];
        matrix_row(version(line), nb_frag, n, &mut row).unwrap();
        let mut bytes: Vec<u8> = row
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .map(u8::reverse_bits)
            .collect();
        bytes.truncate(usize::from(nb_frag).div_ceil(8));
        assert_eq!(
            hex(&bytes),
            line["bits_msb_first_hex"],
            "nb_frag {nb_frag} n {n}"
        );
        let weight: u32 = row.iter().map(|word| word.count_ones()).sum();
        assert_eq!(u64::from(weight), line["weight"].as_u64().unwrap());
    }
}

#[test]
fn weak_block_sizes_match_the_scan() {
    let vectors = parse(include_str!("../vectors/weak_nb_frag.json"));
    for version in ["1", "2"] {
        let listed: Vec<u16> = vectors["weak"][version]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| small(&entry["nb_frag"]))
            // Listed for v2, mild: its columns are distinct soon enough.
            .filter(|&nb_frag| nb_frag != 80)
            .collect();
        let ours: Vec<u16> = (8..=5500)
            .filter(|&nb_frag| is_weak_nb_frag(nb_frag))
            .collect();
        assert_eq!(ours, listed, "version {version}");
        assert!(
            listed
                .iter()
                .all(|&nb_frag| BlockSize::of(nb_frag) == BlockSize::Weak)
        );
    }
}

/// Fragments 258 and 385 of 768 share a column for hundreds of v1 rows: the fault for which weak sizes are avoided.
#[test]
fn weak_pair_defeats_ordinary_redundancy() {
    let coded_needed = |nb_frag: u16, lost: [u16; 2]| {
        let matrix = Arc::new(Matrix::new(CodeVersion::V1, nb_frag).unwrap());
        let mut decoder = RankDecoder::new(matrix, Rules::Device, nb_frag);
        for n in (1..=nb_frag).filter(|n| !lost.contains(n)) {
            decoder.push(n);
        }
        (1..=600).find(|n| decoder.push(nb_frag + n) == Progress::Complete)
    };
    assert_eq!(coded_needed(768, [258, 385]), Some(512));
    assert_eq!(coded_needed(768, [258, 386]), Some(2));
    assert!(coded_needed(769, [258, 385]).is_some_and(|needed| needed < 20));
}

#[test]
fn overhead_stays_near_one_and_a_half_fragments() {
    for version in [CodeVersion::V1, CodeVersion::V2] {
        for (nb_frag, loss) in [(200, 10), (200, 30), (500, 10), (500, 30)] {
            let matrix = Arc::new(Matrix::new(version, nb_frag).unwrap());
            let mut state = 88_172_645_463_325_252_u64;
            let mut lost = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 20) % 100 < loss
            };
            let mut extra = 0.0;
            for _ in 0..100 {
                let mut decoder = RankDecoder::new(Arc::clone(&matrix), Rules::Device, nb_frag);
                for n in 1.. {
                    if !lost() && decoder.push(n) == Progress::Complete {
                        break;
                    }
                }
                extra += f64::from(decoder.received()) - f64::from(nb_frag);
            }
            let mean = extra / 100.0;
            assert!(
                (0.8..2.5).contains(&mean),
                "{version:?} {nb_frag} at {loss} %: {mean}"
            );
        }
    }
}

fn versions() -> impl Strategy<Value = CodeVersion> {
    prop_oneof![Just(CodeVersion::V1), Just(CodeVersion::V2)]
}

fn rules() -> impl Strategy<Value = Rules> {
    prop_oneof![Just(Rules::Device), Just(Rules::Lenient)]
}

proptest! {
    #[test]
    fn any_loss_decodes_to_the_same_bytes(
        version in versions(),
        rules in rules(),
        data in prop::collection::vec(any::<u8>(), 20..3000),
        frag_size in 1..=60_u8,
        loss in 0..70_u64,
        seed in 1..u64::MAX,
    ) {
        let encoder = Encoder::new(version, &data, frag_size).unwrap();
        // Blocks of one to three fragments have too few distinct rows to be sure of an end.
        prop_assume!(encoder.nb_frag() > 3 && !is_weak_nb_frag(encoder.nb_frag()));
        let mut decoder =
            Decoder::with_matrix(Arc::clone(encoder.matrix()), frag_size, rules, encoder.nb_frag()).unwrap();
        let mut state = seed;
        let mut n = 0;
        while !decoder.is_complete() {
            n += 1;
            prop_assert!(n < 16_383, "not complete after {} of {}", n, encoder.nb_frag());
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // In version 2 all rows may have an even number of bits, and so have all their sums: without any uncoded
            // fragment such a block is never complete.
            if n == 1 || (state >> 20) % 100 >= loss {
                let before = decoder.rank_deficit();
                let progress = decoder.push(n, &fragment(&encoder, n));
                let after = decoder.rank_deficit();
                prop_assert_eq!(after, before - u16::from(!matches!(progress, Progress::Ignored(_))));
            }
        }
        prop_assert_eq!(decoder.into_data(encoder.padding()).unwrap(), data);
    }

    #[test]
    fn any_input_is_survived_and_ranked_alike(
        version in versions(),
        rules in rules(),
        nb_frag in 1..300_u16,
        frag_size in 1..=255_u8,
        max_lost in 0..300_u16,
        padding in any::<u8>(),
        inputs in prop::collection::vec((prop_oneof![0..400_u16, any::<u16>()], any::<u8>(), any::<bool>()), 0..500),
    ) {
        let matrix = Arc::new(Matrix::new(version, nb_frag).unwrap());
        let mut decoder = Decoder::with_matrix(Arc::clone(&matrix), frag_size, rules, max_lost).unwrap();
        let mut rank = RankDecoder::new(matrix, rules, max_lost);
        for (n, byte, well_sized) in inputs {
            let size = usize::from(if well_sized { frag_size } else { byte });
            let progress = decoder.push(n, &vec![byte; size]);
            if size == usize::from(frag_size) {
                prop_assert_eq!(rank.push(n), progress);
            } else {
                prop_assert_eq!(progress, Progress::Ignored(Ignored::Size));
            }
            prop_assert_eq!(rank.rank_deficit(), decoder.rank_deficit());
            prop_assert_eq!(decoder.is_complete(), decoder.rank_deficit() == 0);
            prop_assert!(decoder.missing_uncoded() >= decoder.rank_deficit());
        }
        let complete = decoder.is_complete();
        prop_assert_eq!(decoder.into_data(padding).is_ok(), complete);
    }
}
