//! Suffix arrays by induced sorting (SA-IS: Nong, Zhang, Chan, "Two efficient algorithms for linear time suffix array
//! construction", 2011), and the longest match of a pattern in the text they are of.
//!
//! Time and memory grow linearly with the text: about 40 bytes per byte of text while sorting, 4 afterwards.

const EMPTY: u32 = u32::MAX;

/// All suffixes of a text in order.
#[derive(Debug, Clone)]
pub(super) struct SuffixArray<'a> {
    text: &'a [u8],
    order: Vec<u32>,
    /// Where suffixes begin that open with a given byte pair; see `pair_key`.
    pairs: Vec<u32>,
}

/// A place in the text where the pattern's opening is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Match {
    /// Place in the text.
    pub(super) position: usize,
    /// Equal bytes.
    pub(super) length: usize,
}

impl<'a> SuffixArray<'a> {
    /// Sorts the suffixes of `text`, which is shorter than 2^31.
    pub(super) fn new(text: &'a [u8]) -> Self {
        let symbols: Vec<u32> = text.iter().map(|&byte| byte.into()).collect();
        let order = sorted_suffixes(&symbols, 256);
        let mut pairs = vec![0; 257 * 257 + 1];
        for start in 0..text.len() {
            let next = text.get(start + 1).copied();
            pairs[pair_key(text[start], next) + 1] += 1;
        }
        for key in 1..pairs.len() {
            pairs[key] += pairs[key - 1];
        }
        Self { text, order, pairs }
    }

    /// Matches of the opening of `pattern`: the longest, and its neighbours in order, at most `2 * reach` in all; none
    /// if not even two bytes are found.
    pub(super) fn matches<'b>(
        &'b self,
        pattern: &'b [u8],
        reach: usize,
    ) -> impl Iterator<Item = Match> + use<'a, 'b> {
        let near = match pattern {
            [first, second, ..] => {
                let key = pair_key(*first, Some(*second));
                let (low, high) = (to_usize(self.pairs[key]), to_usize(self.pairs[key + 1]));
                let before = self.order[low..high]
                    .partition_point(|&start| &self.text[to_usize(start)..] < pattern);
                let at = low + before;
                at.saturating_sub(reach).max(low)..at.saturating_add(reach).min(high)
            }
            _ => 0..0,
        };
        self.order[near].iter().map(move |&start| {
            let position = to_usize(start);
            let pairs = self.text[position..].iter().zip(pattern);
            let length = pairs.take_while(|(left, right)| left == right).count();
            Match { position, length }
        })
    }
}

/// Orders byte pairs; a byte that ends the text comes before all pairs it opens.
fn pair_key(first: u8, second: Option<u8>) -> usize {
    usize::from(first) * 257 + second.map_or(0, |second| usize::from(second) + 1)
}

/// Whether each suffix is smaller than the one that follows it (type S); the last is not (type L).
fn smaller_types(text: &[u32]) -> Vec<bool> {
    let mut small = vec![false; text.len()];
    for i in (0..text.len().saturating_sub(1)).rev() {
        small[i] = text[i] < text[i + 1] || (text[i] == text[i + 1] && small[i + 1]);
    }
    small
}

/// The sorter of one level of the recursion.
struct Level<'a> {
    text: &'a [u32],
    small: Vec<bool>,
    /// Per symbol, where its suffixes begin; one entry more than symbols.
    heads: Vec<u32>,
    /// Per symbol, where its type-S suffixes begin: behind those of type L.
    small_heads: Vec<u32>,
}

impl<'a> Level<'a> {
    fn new(text: &'a [u32], symbols: usize) -> Self {
        let small = smaller_types(text);
        let mut heads = vec![0; symbols + 1];
        let mut large = vec![0; symbols];
        for (&symbol, &is_small) in text.iter().zip(&small) {
            heads[to_usize(symbol) + 1] += 1;
            large[to_usize(symbol)] += u32::from(!is_small);
        }
        for symbol in 0..symbols {
            heads[symbol + 1] += heads[symbol];
            large[symbol] += heads[symbol];
        }
        Self {
            text,
            small,
            heads,
            small_heads: large,
        }
    }

    /// Leftmost type-S places: those whose left neighbour is of type L.
    fn is_leftmost(&self, place: usize) -> bool {
        place > 0 && self.small[place] && !self.small[place - 1]
    }

    /// Sorts all suffixes from sorted leftmost type-S ones: these put the type-L ones before them in order, which then
    /// put the type-S ones in order.
    fn induce(&self, leftmost: &[u32], order: &mut [u32]) {
        order.fill(EMPTY);
        let mut next = self.small_heads.clone();
        for &place in leftmost {
            put_up(
                order,
                &mut next,
                self.text[to_usize(place)],
                to_usize(place),
            );
        }
        let symbols = next.len();
        next.copy_from_slice(&self.heads[..symbols]);
        if let Some((&symbol, before)) = self.text.split_last() {
            put_up(order, &mut next, symbol, before.len());
        }
        for i in 0..order.len() {
            if let Some(before) = predecessor(order[i]).filter(|&place| !self.small[place]) {
                put_up(order, &mut next, self.text[before], before);
            }
        }
        next.copy_from_slice(&self.heads[1..]);
        for i in (0..order.len()).rev() {
            if let Some(before) = predecessor(order[i]).filter(|&place| self.small[place]) {
                let end = &mut next[to_usize(self.text[before])];
                *end -= 1;
                order[to_usize(*end)] = to_u32(before);
            }
        }
    }

    /// Numbers for the substrings between leftmost type-S places, in text order: equal ones share a number. Also how
    /// many numbers there are.
    fn names(&self, leftmost: &[u32], order: &[u32]) -> (Vec<u32>, usize) {
        let mut index = vec![EMPTY; self.text.len()];
        for (i, &place) in leftmost.iter().enumerate() {
            index[to_usize(place)] = to_u32(i);
        }
        let end_of = |number: u32| {
            let next = leftmost.get(to_usize(number) + 1);
            next.map_or(self.text.len(), |&place| to_usize(place) + 1)
        };
        let mut names = vec![0; leftmost.len()];
        let (mut count, mut last): (u32, Option<u32>) = (0, None);
        for &place in order {
            if place == EMPTY || index[to_usize(place)] == EMPTY {
                continue;
            }
            let number = index[to_usize(place)];
            let piece = |number: u32| {
                let end = end_of(number);
                let start = to_usize(leftmost[to_usize(number)]);
                // The last substring ends with the text, where the others go on.
                (&self.text[start..end], end == self.text.len())
            };
            let is_new = last.is_none_or(|last| piece(last) != piece(number));
            count += u32::from(is_new);
            names[to_usize(number)] = count - 1;
            last = Some(number);
        }
        (names, to_usize(count))
    }
}

fn sorted_suffixes(text: &[u32], symbols: usize) -> Vec<u32> {
    let level = Level::new(text, symbols);
    let places = 0..text.len();
    let leftmost: Vec<u32> = places
        .filter(|&place| level.is_leftmost(place))
        .map(to_u32)
        .collect();
    let mut order = vec![EMPTY; text.len()];
    level.induce(&leftmost, &mut order);
    if leftmost.is_empty() {
        return order;
    }
    let (names, count) = level.names(&leftmost, &order);
    let ranks = if count == leftmost.len() {
        let mut ranks = vec![0; count];
        for (i, &name) in names.iter().enumerate() {
            ranks[to_usize(name)] = to_u32(i);
        }
        ranks
    } else {
        sorted_suffixes(&names, count)
    };
    let sorted: Vec<u32> = ranks
        .into_iter()
        .map(|rank| leftmost[to_usize(rank)])
        .collect();
    level.induce(&sorted, &mut order);
    order
}

fn put_up(order: &mut [u32], next: &mut [u32], symbol: u32, place: usize) {
    let slot = &mut next[to_usize(symbol)];
    order[to_usize(*slot)] = to_u32(place);
    *slot += 1;
}

fn predecessor(place: u32) -> Option<usize> {
    if place == EMPTY {
        None
    } else {
        to_usize(place).checked_sub(1)
    }
}

fn to_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Places in a text shorter than 2^31 always fit.
fn to_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(EMPTY)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(text: &[u8]) -> Vec<u32> {
        let mut order: Vec<u32> = (0..to_u32(text.len())).collect();
        order.sort_by_key(|&start| &text[to_usize(start)..]);
        order
    }

    #[test]
    fn texts_that_repeat_themselves_are_sorted() {
        let mut fibonacci = (b"a".to_vec(), b"ab".to_vec());
        for _ in 0..10 {
            let next = [&fibonacci.1[..], &fibonacci.0].concat();
            fibonacci = (fibonacci.1, next);
        }
        for text in [
            b"".to_vec(),
            b"a".to_vec(),
            b"mississippi".to_vec(),
            vec![0; 500],
            vec![255; 3],
            b"ab".repeat(99),
            fibonacci.1,
        ] {
            assert_eq!(SuffixArray::new(&text).order, naive(&text));
        }
    }

    #[test]
    fn a_pattern_is_found_where_it_is_longest() {
        let array = SuffixArray::new(b"the cat sat on the mat");
        let best = |pattern: &[u8]| array.matches(pattern, 2).max_by_key(|found| found.length);
        assert_eq!(
            best(b"the mats"),
            Some(Match {
                position: 15,
                length: 7
            })
        );
        assert_eq!(
            best(b"sat down"),
            Some(Match {
                position: 8,
                length: 4
            })
        );
        assert_eq!(best(b"zz"), None);
        assert_eq!(best(b"t"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_sorted(text in prop::collection::vec(0..4u8, 0..400)) {
            prop_assert_eq!(&SuffixArray::new(&text).order, &naive(&text));
        }

        #[test]
        fn the_longest_match_is_found(
            text in prop::collection::vec(0..3u8, 0..200),
            pattern in prop::collection::vec(0..3u8, 2..20),
        ) {
            let longest = (0..text.len())
                .map(|start| text[start..].iter().zip(&pattern).take_while(|(a, b)| a == b).count())
                .max()
                .unwrap_or(0);
            let found = SuffixArray::new(&text).matches(&pattern, 1).map(|found| found.length).max();
            prop_assert_eq!(found.unwrap_or(0), if longest < 2 { 0 } else { longest });
        }
    }
}
