//! Finds how a target is best put together from a base: which stretches are the base at some shift with few bytes
//! changed, and which are new.
//!
//! As in bsdiff (Percival, "Naive differences of executable code", 2003) a stretch may contain changed bytes: where
//! code moves, addresses in it change. Unlike bsdiff the stretches are not chosen one by one: candidates for shifts
//! come from a suffix array, and the cheapest path through them, bit for bit as the compression will count, is found by
//! dynamic programming over the target.

use super::suffix_array::SuffixArray;

/// Shifts that compete at a time.
const RIVALS_MAX: usize = 32;
/// A shift is given up where it has matched nothing for so long.
const FORGOTTEN_AFTER: usize = 1024;
/// How far before an exact match its shift may start to compete.
const LEAD_MAX: usize = 512;
/// Shortest exact match that brings a shift into competition.
const MATCH_MIN: usize = 6;
/// Suffixes looked at on either side of the best match, for one with a shift that is known already.
const NEIGHBOURS: usize = 4;

/// One round of a patch: `diff` bytes of the target that are the base from where the last round ended plus
/// `adjustment`, with changes; then `extra` new bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// From the base position after the previous round's diff; 0 in the first round.
    pub(super) adjustment: i64,
    /// Bytes.
    pub(super) diff: usize,
    /// Bytes.
    pub(super) extra: usize,
}

/// What things cost once compressed, in sixteenths of a bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Costs {
    /// An unchanged byte after another one.
    pub(super) equal: u64,
    /// An unchanged byte after a changed one.
    pub(super) equal_again: u64,
    /// A changed byte.
    pub(super) changed: u64,
    /// A changed byte that differs by as much as the last changed one.
    pub(super) changed_alike: u64,
    /// A new byte.
    pub(super) new: u64,
    /// A byte of a size in the patch.
    pub(super) size_byte: u64,
    /// A round, besides its sizes.
    pub(super) round: u64,
}

impl Costs {
    /// For heatshrink, found by trial on pairs of real images; each is best for some of them.
    pub(super) const HEATSHRINK: [Self; 2] = [
        Self {
            equal: 3,
            equal_again: 119,
            changed: 144,
            changed_alike: 57,
            new: 115,
            size_byte: 186,
            round: 281,
        },
        Self {
            equal: 1,
            equal_again: 19,
            changed: 240,
            changed_alike: 33,
            new: 189,
            size_byte: 300,
            round: 62,
        },
    ];
    /// For run-length encoding, found alike.
    pub(super) const CRLE: Self = Self {
        equal: 2,
        equal_again: 212,
        changed: 129,
        changed_alike: 168,
        new: 116,
        size_byte: 141,
        round: 483,
    };
}

/// Target position minus base position is the same all along a stretch; this is its negative.
type Shift = i64;

/// A shift that may be worth to be on from `start` of the target; it matches exactly up to `seen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    start: usize,
    shift: Shift,
    seen: usize,
}

/// All shifts worth trying, in the order in which they come into play. The same for all costs.
#[derive(Debug, Clone)]
pub(super) struct Candidates<'a> {
    base: &'a [u8],
    target: &'a [u8],
    found: Vec<Candidate>,
}

impl<'a> Candidates<'a> {
    /// Looks for them.
    pub(super) fn find(base: &'a [u8], target: &'a [u8]) -> Self {
        let array = SuffixArray::new(base);
        let mut found = vec![Candidate {
            start: 0,
            shift: 0,
            seen: 0,
        }];
        let mut known: Shift = 0;
        let mut place = 0;
        while place < target.len() {
            let matches: Vec<_> = array.matches(&target[place..], NEIGHBOURS).collect();
            let longest = matches.iter().map(|it| it.length).max().unwrap_or(0);
            if longest < MATCH_MIN {
                place += 1;
                continue;
            }
            let shift_of = |position: usize| shift(position, place);
            let best = matches
                .iter()
                .filter(|it| it.length == longest)
                .min_by_key(|it| shift_of(it.position).abs_diff(known));
            let near = matches
                .iter()
                .filter(|it| it.length >= MATCH_MIN.max(longest / 2))
                .min_by_key(|it| shift_of(it.position).abs_diff(known));
            for it in best
                .into_iter()
                .chain(near.filter(|near| Some(*near) != best))
            {
                let shift = shift_of(it.position);
                let start = place - lead(base, target, it.position, place);
                found.push(Candidate {
                    start,
                    shift,
                    seen: place + it.length,
                });
                if it.length >= 24 {
                    known = shift;
                }
            }
            place += (longest / 4).max(1);
        }
        found.sort_unstable();
        Self {
            base,
            target,
            found,
        }
    }

    /// The cheapest way through the candidates.
    pub(super) fn best_path(&self, costs: &Costs) -> Vec<Step> {
        let mut race = Race::new(self.base, self.target, costs);
        let mut waiting = self.found.iter().peekable();
        for place in 0..self.target.len() {
            while let Some(candidate) = waiting.next_if(|it| it.start <= place) {
                race.admit(*candidate, place);
            }
            race.advance(place);
        }
        steps(&race.trace, self.target.len())
    }
}

fn shift(position: usize, place: usize) -> Shift {
    signed(position) - signed(place)
}

/// Sizes of images are far below the limit.
fn signed(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Bytes before a match that its shift should compete for: as far as more than half of them are equal.
fn lead(base: &[u8], target: &[u8], position: usize, place: usize) -> usize {
    let before = base[..position]
        .iter()
        .rev()
        .zip(target[..place].iter().rev());
    let (mut score, mut best_score, mut best) = (0i32, 0, 0);
    for (count, (old, new)) in (1..).zip(before.take(LEAD_MAX)) {
        score += if old == new { 1 } else { -1 };
        if score > best_score {
            (best_score, best) = (score, count);
        } else if score < best_score - 16 {
            break;
        }
    }
    best
}

/// How a stretch of the target is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// From the base at a shift.
    Base(Shift),
    /// New bytes, after a stretch at a shift.
    New(Shift),
}

impl Source {
    fn shift(self) -> Shift {
        match self {
            Self::Base(shift) | Self::New(shift) => shift,
        }
    }
}

/// The best way to have made the target up to some place: its last stretch, and where that began.
#[derive(Debug, Clone, Copy)]
struct Lane {
    source: Source,
    since: usize,
    cost: u64,
    /// The last byte was unchanged.
    equal: bool,
    /// By how much the last changed byte differs.
    difference: u8,
    /// Where it last matched exactly, known in advance.
    seen: usize,
}

struct Race<'a> {
    base: &'a [u8],
    target: &'a [u8],
    costs: &'a Costs,
    rivals: Vec<Lane>,
    new: Lane,
    best: Lane,
    /// Per place the best lane's source and start: where a stretch that starts there comes from.
    trace: Vec<(Source, usize)>,
}

impl<'a> Race<'a> {
    fn new(base: &'a [u8], target: &'a [u8], costs: &'a Costs) -> Self {
        let new = Lane {
            source: Source::New(0),
            since: 0,
            cost: 0,
            equal: true,
            difference: 0,
            seen: 0,
        };
        let mut trace = Vec::with_capacity(target.len() + 1);
        trace.push((new.source, 0));
        Self {
            base,
            target,
            costs,
            rivals: Vec::with_capacity(RIVALS_MAX),
            new,
            best: new,
            trace,
        }
    }

    /// Lets a shift compete from `place` on.
    fn admit(&mut self, candidate: Candidate, place: usize) {
        let source = Source::Base(candidate.shift);
        if let Some(known) = self.rivals.iter_mut().find(|lane| lane.source == source) {
            known.seen = known.seen.max(candidate.seen);
            return;
        }
        let lane = Lane {
            seen: candidate.seen,
            ..self.switched(source, place)
        };
        if self.rivals.len() < RIVALS_MAX {
            self.rivals.push(lane);
        } else if let Some(stalest) = self.rivals.iter_mut().min_by_key(|lane| lane.seen) {
            *stalest = lane;
        }
    }

    /// The best lane, gone over to a shift at `place`.
    fn switched(&self, source: Source, place: usize) -> Lane {
        let costs = self.costs;
        // An adjustment counts from the end of the last diff.
        let skipped = match self.best.source {
            Source::New(_) => place - self.best.since,
            Source::Base(_) => 0,
        };
        let adjustment = source.shift() - self.best.source.shift() + signed(skipped);
        let sizes = size_bytes(adjustment) + 2;
        Lane {
            source,
            since: place,
            cost: self.best.cost + costs.round + costs.size_byte * sizes,
            equal: true,
            difference: 0,
            seen: place,
        }
    }

    /// Goes over one byte of the target.
    fn advance(&mut self, place: usize) {
        let byte = self.target[place];
        let costs = self.costs;
        let base = self.base;
        for lane in &mut self.rivals {
            let position = signed(place) + lane.source.shift();
            match usize::try_from(position)
                .ok()
                .and_then(|position| base.get(position))
            {
                Some(&old) => lane.pass(byte.wrapping_sub(old), costs),
                None => lane.cost = u64::MAX / 2,
            }
        }
        self.rivals
            .retain(|lane| lane.cost < u64::MAX / 2 && lane.seen + FORGOTTEN_AFTER > place);
        self.new.cost += costs.new;
        let after = place + 1;
        let best_old = self.rivals.iter_mut().min_by_key(|lane| lane.cost);
        if let Some(lane) = best_old.filter(|lane| lane.cost <= self.new.cost) {
            // The best is not forgotten, though it may match nothing exactly: in tables, each word may have changed.
            lane.seen = lane.seen.max(place);
            self.best = *lane;
            self.new = Lane {
                source: Source::New(lane.source.shift()),
                since: after,
                ..*lane
            };
        } else {
            self.best = self.new;
        }
        self.trace.push((self.best.source, self.best.since));
        let bound = self.best.cost + costs.round + costs.size_byte * 3;
        for index in 0..self.rivals.len() {
            let lane = self.rivals[index];
            if lane.cost > bound {
                let other = self.switched(lane.source, after);
                if other.cost < lane.cost {
                    self.rivals[index] = Lane {
                        seen: lane.seen,
                        ..other
                    };
                }
            }
        }
    }
}

impl Lane {
    /// Takes a byte that differs by so much.
    fn pass(&mut self, difference: u8, costs: &Costs) {
        if difference == 0 {
            self.cost += if self.equal {
                costs.equal
            } else {
                costs.equal_again
            };
        } else if difference == self.difference {
            self.cost += costs.changed_alike;
        } else {
            self.cost += costs.changed;
            self.difference = difference;
        }
        self.equal = difference == 0;
    }
}

/// Bytes of a size in the patch: 6 bits in the first, 7 in the others.
fn size_bytes(size: i64) -> u64 {
    let bits = 64 - size.unsigned_abs().leading_zeros();
    u64::from(1 + bits.saturating_sub(6).div_ceil(7))
}

/// The stretches from the trace, last to first, as rounds.
fn steps(trace: &[(Source, usize)], len: usize) -> Vec<Step> {
    let mut stretches = Vec::new();
    let mut end = len;
    while end > 0 {
        let (source, since) = trace[end];
        stretches.push((source, since, end));
        end = since;
    }
    let mut steps: Vec<Step> = Vec::new();
    let mut position: i64 = 0;
    for &(source, since, end) in stretches.iter().rev() {
        match source {
            Source::Base(shift) => {
                let start = signed(since) + shift;
                if steps.is_empty() && start != 0 {
                    // A patch begins at the first byte of the base: an empty round goes elsewhere.
                    steps.push(Step {
                        adjustment: 0,
                        diff: 0,
                        extra: 0,
                    });
                }
                steps.push(Step {
                    adjustment: start - position,
                    diff: end - since,
                    extra: 0,
                });
                position = start + signed(end - since);
            }
            Source::New(_) => match steps.last_mut() {
                Some(step) => step.extra = end - since,
                None => steps.push(Step {
                    adjustment: 0,
                    diff: 0,
                    extra: end - since,
                }),
            },
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COSTS: Costs = Costs {
        equal: 2,
        equal_again: 128,
        changed: 144,
        changed_alike: 112,
        new: 136,
        size_byte: 144,
        round: 200,
    };

    fn path(base: &[u8], target: &[u8]) -> Vec<Step> {
        Candidates::find(base, target).best_path(&COSTS)
    }

    #[test]
    fn the_same_is_one_stretch() {
        let image: Vec<u8> = (0..=255).cycle().take(2000).collect();
        assert_eq!(
            path(&image, &image),
            [Step {
                adjustment: 0,
                diff: 2000,
                extra: 0
            }]
        );
    }

    #[test]
    fn what_moved_is_followed_through_changed_bytes() {
        let base: Vec<u8> = (0..3000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24).to_be_bytes()[3])
            .collect();
        let mut target = [b"new bytes", &base[..]].concat();
        for place in (500..2500).step_by(40) {
            target[place] ^= 0x10;
        }
        assert_eq!(
            path(&base, &target),
            [
                Step {
                    adjustment: 0,
                    diff: 0,
                    extra: 9
                },
                Step {
                    adjustment: 0,
                    diff: 3000,
                    extra: 0
                },
            ]
        );
    }

    #[test]
    fn nothing_alike_is_all_new() {
        assert_eq!(
            path(b"", b"target"),
            [Step {
                adjustment: 0,
                diff: 0,
                extra: 6
            }]
        );
        assert_eq!(path(b"base", b""), []);
    }

    proptest! {
        #[test]
        fn stretches_cover_the_target_and_stay_in_the_base(
            base in prop::collection::vec(0..3u8, 0..300),
            target in prop::collection::vec(0..3u8, 0..300),
        ) {
            let (mut position, mut covered) = (0, 0);
            let steps = path(&base, &target);
            prop_assert!(steps.first().is_none_or(|first| first.adjustment == 0));
            for step in steps {
                position += step.adjustment;
                prop_assert!(position >= 0);
                position += signed(step.diff);
                prop_assert!(position <= signed(base.len()));
                covered += step.diff + step.extra;
            }
            prop_assert_eq!(covered, target.len());
        }
    }
}
