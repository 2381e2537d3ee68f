//! The linear partition problem, solved exactly: divides a sequence of layers into contiguous
//! stages, so that the most expensive stage is as cheap as possible.
//!
//! Uses dynamic programming over the ends of stages, O(stages · layers²) (Skiena, "The Algorithm
//! Design Manual", section "The partition problem"), twice: first to find the lowest maximum cost,
//! then to find the most even partition that reaches it. Bisection over costs would be faster, but
//! is not exact here: because of transfers, a longer stage can be cheaper than a shorter one.

use std::ops::Range;
use std::rc::Rc;

use super::recompute::{Choice, Growing, Inside, Room};

/// The sequence to divide. All numbers are finite and not negative.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chain {
    /// The cost of each layer.
    pub costs: Vec<f64>,
    /// The memory of each layer.
    pub sizes: Vec<f64>,
    /// The bytes that cross a cut after each layer; the last layer has none.
    pub boundaries: Vec<f64>,
    /// The skips.
    pub skips: Vec<Skip>,
    /// The limit of the sum of a stage's sizes.
    pub limit: Option<f64>,
    /// What stages can recompute to stay within the limit. Its sizes are then what counts.
    pub recompute: Option<Recompute>,
}

/// What stages can recompute.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recompute {
    /// The layers.
    pub layers: Vec<Inside>,
    /// For each stage, how many micro-batches are in flight at most.
    pub in_flight: Vec<usize>,
}

/// A skip. It costs the stages of both its layers, unless they are in one stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Skip {
    /// The layer that stashes it.
    pub from: usize,
    /// The layer that pops it.
    pub to: usize,
    /// The cost for each of the two.
    pub cost: f64,
}

/// What crossing the boundary between two stages costs each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Price {
    /// The cost of any value that crosses, however small.
    pub each: f64,
    /// The cost of a byte.
    pub per_byte: f64,
}

impl Price {
    /// The cost of a value of so many bytes.
    pub fn of(self, bytes: f64) -> f64 {
        self.each + self.per_byte * bytes
    }
}

/// The reason why there is no partition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Misfit {
    /// There is nothing to divide into.
    NoStages,
    /// There are fewer layers than stages.
    TooFewLayers,
    /// The lowest limit that would allow one.
    Limit(f64),
}

impl Chain {
    /// Returns the number of layers of each stage, for the partition with the lowest maximum cost.
    /// Ties go to the lowest sum of squared costs, then to the lowest sum of squared numbers of
    /// layers. `prices` has what each boundary costs: as many as stages, minus one; those that are
    /// missing cost nothing.
    ///
    /// # Errors
    ///
    /// Fails if there is no such partition.
    pub fn partition(&self, stages: usize, prices: &[Price]) -> Result<Vec<usize>, Misfit> {
        if stages == 0 {
            return Err(Misfit::NoStages);
        }
        if self.costs.len() < stages {
            return Err(Misfit::TooFewLayers);
        }
        let table = self.stage_costs(stages, prices);
        let greatest = least(&table, f64::max, |cost, _| Some(cost)).map(|(greatest, _)| greatest);
        let even = greatest.and_then(|greatest| {
            let add = |(a, b): (f64, f64), (c, d): (f64, f64)| (a + c, b + d);
            let squares =
                |cost: f64, layers: usize| (cost <= greatest).then(|| (cost * cost, (layers * layers) as f64));
            least(&table, add, squares)
        });
        match even {
            Some((_, partition)) => Ok(partition),
            None => Err(Misfit::Limit(self.least_limit(stages))),
        }
    }

    /// The cost of a stage of these layers: theirs, that of what enters and leaves, and that of
    /// what it recomputes.
    pub fn cost(&self, stage: usize, layers: Range<usize>, prices: &[Price]) -> f64 {
        let transfers = self.transfers(layers.start, layers.end, around(prices, stage));
        let recomputed = self.recomputed(stage, layers.clone()).map_or(0., |choice| choice.seconds);
        self.costs[layers].iter().sum::<f64>() + transfers + recomputed
    }

    /// The size of a stage of these layers.
    pub fn size(&self, stage: usize, layers: Range<usize>) -> f64 {
        match self.recomputed(stage, layers.clone()) {
            Some(choice) => choice.bytes,
            None => self.sizes[layers].iter().sum(),
        }
    }

    /// What a stage of these layers recomputes; `None` if nothing can be, or if it does not fit.
    pub fn recomputed(&self, stage: usize, layers: Range<usize>) -> Option<Choice> {
        let recompute = self.recompute.as_ref()?;
        self.room(stage)?.fastest(&recompute.layers[layers])
    }

    fn room(&self, stage: usize) -> Option<Room> {
        let in_flight = self.recompute.as_ref()?.in_flight.get(stage).copied().unwrap_or(1);
        Some(Room { in_flight, limit: self.limit.unwrap_or(f64::INFINITY) })
    }

    /// The cost of what enters and leaves the stage of layers `first..end`, through boundaries with
    /// these prices.
    pub fn transfers(&self, first: usize, end: usize, [before, after]: [Price; 2]) -> f64 {
        let cut = |behind: usize| self.boundaries.get(behind).copied().unwrap_or(0.);
        let received = if first == 0 { 0. } else { before.of(cut(first - 1)) };
        let sent = if end == self.costs.len() { 0. } else { after.of(cut(end - 1)) };
        let stage = first..end;
        let crosses = |skip: &&Skip| stage.contains(&skip.from) != stage.contains(&skip.to);
        received + sent + self.skips.iter().filter(crosses).map(|skip| skip.cost).sum::<f64>()
    }

    /// The costs of every possible stage, by the number of the stage.
    fn stage_costs(&self, stages: usize, prices: &[Price]) -> Vec<Rc<StageCosts>> {
        let kind = |stage| (around(prices, stage), self.room(stage));
        tables(stages, kind, |(around, room)| self.costs_between(around, room))
    }

    /// The cost of every possible stage between boundaries with these prices.
    fn costs_between(&self, around: [Price; 2], room: Option<Room>) -> StageCosts {
        let layers = self.costs.len();
        let from = |first: usize| {
            let (mut cost, mut size) = (0., 0.);
            let mut growing = room.map(Growing::new);
            let ending = |end: usize| {
                cost += self.costs[end - 1];
                let recomputing = match (&mut growing, &self.recompute) {
                    (Some(stage), Some(recompute)) => {
                        stage.push(recompute.layers[end - 1]);
                        stage.fastest()?.0
                    }
                    _ => {
                        size += self.sizes[end - 1];
                        self.limit.is_none_or(|limit| size <= limit).then_some(0.)?
                    }
                };
                Some(cost + self.transfers(first, end, around) + recomputing)
            };
            (first + 1..=layers).map(ending).collect()
        };
        (0..layers).map(from).collect()
    }

    fn least_limit(&self, stages: usize) -> f64 {
        let size = |room: Option<Room>, layers: Range<usize>| match (room, &self.recompute) {
            (Some(room), Some(recompute)) => room.least(&recompute.layers[layers]),
            _ => self.sizes[layers].iter().sum(),
        };
        let count = self.costs.len();
        let sizes = |room| {
            let from = |first: usize| (first + 1..=count).map(|end| Some(size(room, first..end))).collect();
            (0..count).map(from).collect()
        };
        let found = least(&tables(stages, |stage| self.room(stage), sizes), f64::max, |size, _| Some(size));
        found.map_or(f64::INFINITY, |(size, _)| size)
    }
}

/// A table for each stage. Stages of the same kind share one.
fn tables<K: Copy + PartialEq>(
    stages: usize,
    kind: impl Fn(usize) -> K,
    table: impl Fn(K) -> StageCosts,
) -> Vec<Rc<StageCosts>> {
    let mut known: Vec<(K, Rc<StageCosts>)> = Vec::new();
    let of_stage = |stage: usize| {
        let kind = kind(stage);
        if let Some((_, table)) = known.iter().find(|(known, _)| *known == kind) {
            return Rc::clone(table);
        }
        let table = Rc::new(table(kind));
        known.push((kind, Rc::clone(&table)));
        table
    };
    (0..stages).map(of_stage).collect()
}

/// The prices of the boundaries before and after a stage.
pub fn around(prices: &[Price], stage: usize) -> [Price; 2] {
    let price = |boundary: Option<usize>| boundary.and_then(|number| prices.get(number)).copied().unwrap_or_default();
    [price(stage.checked_sub(1)), price(Some(stage))]
}

/// The costs of possible stages, indexed by their first layer and by their number of layers minus
/// one; `None` if one is over the limit.
type StageCosts = Vec<Vec<Option<f64>>>;

/// Finds the partition with the lowest value, into as many stages as there are tables. `value`
/// gives a stage's value from its cost and number of layers, and `join` combines the values of
/// stages. A stage without a value is not allowed.
fn least<T: Copy + PartialOrd>(
    tables: &[Rc<StageCosts>],
    join: impl Fn(T, T) -> T,
    value: impl Fn(f64, usize) -> Option<T>,
) -> Option<(T, Vec<usize>)> {
    let layers = tables.first()?.len();
    let stage = |number: usize, first: usize, end: usize| value(tables[number][first][end - first - 1]?, end - first);
    // `best[count - 1][end]`: the best value for the first `end` layers in `count` stages, and
    // where the last of these stages begins.
    let mut best: Vec<Vec<Option<(T, usize)>>> = Vec::with_capacity(tables.len());
    for count in 1..=tables.len() {
        let best_of = |end: usize| {
            let ending = |first: usize| match best.last() {
                None => (first == 0).then(|| stage(0, first, end)).flatten(),
                Some(before) => Some(join(before[first]?.0, stage(count - 1, first, end)?)),
            };
            let found = (count - 1..end).filter_map(|first| Some((ending(first)?, first)));
            found.reduce(|best, new| if new.0 < best.0 { new } else { best })
        };
        let row = (0..=layers).map(|end| if end < count { None } else { best_of(end) }).collect();
        best.push(row);
    }
    let (value, _) = best.last()?[layers]?;
    let mut partition = Vec::with_capacity(tables.len());
    let mut end = layers;
    for row in best.iter().rev() {
        let (_, first) = row[end]?;
        partition.push(end - first);
        end = first;
    }
    partition.reverse();
    Some((value, partition))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chain(costs: &[f64]) -> Chain {
        Chain {
            costs: costs.to_vec(),
            sizes: vec![0.; costs.len()],
            boundaries: vec![0.; costs.len().saturating_sub(1)],
            ..Chain::default()
        }
    }

    /// Every way to divide `layers` layers into `stages` stages.
    fn all_partitions(layers: usize, stages: usize) -> Vec<Vec<usize>> {
        if stages == 1 {
            return vec![vec![layers]];
        }
        let with_first = |first: usize| {
            all_partitions(layers - first, stages - 1)
                .into_iter()
                .map(move |rest| [first].into_iter().chain(rest).collect::<Vec<_>>())
        };
        (1..=layers + 1 - stages).flat_map(with_first).collect()
    }

    /// The maximum cost, the evenness and the maximum size of a partition, computed independently
    /// of the search.
    fn judge(chain: &Chain, prices: &[Price], partition: &[usize]) -> (f64, (f64, f64), f64) {
        let stage_of: Vec<usize> =
            partition.iter().enumerate().flat_map(|(stage, &layers)| vec![stage; layers]).collect();
        let (mut costs, mut sizes) = (vec![0.; partition.len()], vec![0.; partition.len()]);
        for (layer, &stage) in stage_of.iter().enumerate() {
            costs[stage] += chain.costs[layer];
            sizes[stage] += chain.sizes[layer];
        }
        let priced = |(from, &bytes): (usize, &f64)| {
            let price = prices.get(stage_of[from]).copied().unwrap_or_default();
            Skip { from, to: from + 1, cost: price.each + price.per_byte * bytes }
        };
        let boundaries = chain.boundaries.iter().enumerate().map(priced);
        for skip in chain.skips.iter().copied().chain(boundaries) {
            let (from, to) = (stage_of[skip.from], stage_of[skip.to]);
            if from != to {
                costs[from] += skip.cost;
                costs[to] += skip.cost;
            }
        }
        let squares = (
            costs.iter().map(|cost| cost * cost).sum(),
            partition.iter().map(|&layers| (layers * layers) as f64).sum(),
        );
        (costs.into_iter().fold(0., f64::max), squares, sizes.into_iter().fold(0., f64::max))
    }

    /// torchgpipe's algorithm ("Block Partitions of Sequences", Bárány and Grinberg 2013). It
    /// moves single elements towards the smallest block, choosing the one closest to the largest
    /// block, until blocks differ by no more than the largest element.
    fn block_partition(costs: &[f64], stages: usize) -> Vec<usize> {
        let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
        let range = costs.iter().copied().fold(0., f64::max) - least;
        let scaled: Vec<f64> = costs.iter().map(|cost| if range == 0. { 0. } else { (cost - least) / range }).collect();
        let mut blocks = vec![costs.len() / stages; stages];
        blocks[stages - 1] += costs.len() % stages;
        let sums = |blocks: &[usize]| {
            let mut rest = scaled.as_slice();
            let sum = |&length: &usize| {
                let (block, after) = rest.split_at(length);
                rest = after;
                block.iter().sum::<f64>()
            };
            blocks.iter().map(sum).collect::<Vec<_>>()
        };
        loop {
            let before = sums(&blocks);
            let greatest = (0..stages).max_by(|&a, &b| before[a].total_cmp(&before[b])).unwrap();
            loop {
                let now = sums(&blocks);
                let order = |a: &usize, b: &usize| {
                    now[*a].total_cmp(&now[*b]).then(a.abs_diff(greatest).cmp(&b.abs_diff(greatest)))
                };
                let least = (0..stages).min_by(order).unwrap();
                if before[greatest] <= now[least] + 1. {
                    return blocks;
                }
                let neighbour = if greatest < least { least - 1 } else { least + 1 };
                blocks[neighbour] -= 1;
                blocks[least] += 1;
                if neighbour == greatest {
                    break;
                }
            }
        }
    }

    #[test]
    fn the_greatest_stage_is_as_small_as_it_can_be() {
        assert_eq!(chain(&[1., 2., 3., 4., 5., 6.]).partition(2, &[]), Ok(vec![4, 2]));
        assert_eq!(chain(&[6., 5., 4., 3., 2., 1.]).partition(2, &[]), Ok(vec![2, 4]));
        assert_eq!(chain(&[5., 1., 1., 1.]).partition(4, &[]), Ok(vec![1, 1, 1, 1]));
    }

    #[test]
    fn layers_that_cost_nothing_are_spread_evenly() {
        assert_eq!(chain(&[0., 0.]).partition(2, &[]), Ok(vec![1, 1]));
        assert_eq!(chain(&[0.; 6]).partition(3, &[]), Ok(vec![2, 2, 2]));
        // The first stage is the bottleneck in both; the rest is even.
        assert_eq!(chain(&[9., 2., 2., 2., 2.]).partition(3, &[]), Ok(vec![1, 2, 2]));
    }

    #[test]
    fn there_must_be_stages_and_a_layer_for_each() {
        assert_eq!(chain(&[42.]).partition(0, &[]), Err(Misfit::NoStages));
        assert_eq!(chain(&[]).partition(1, &[]), Err(Misfit::TooFewLayers));
        assert_eq!(chain(&[42.]).partition(2, &[]), Err(Misfit::TooFewLayers));
    }

    #[test]
    fn a_cut_avoids_what_is_dear_to_send() {
        let costly = |boundaries: [f64; 3], skips: Vec<Skip>| {
            let price = Price { each: 0., per_byte: 1. };
            Chain { boundaries: boundaries.to_vec(), skips, ..chain(&[1.; 4]) }.partition(2, &[price])
        };
        assert_eq!(costly([0.; 3], vec![]), Ok(vec![2, 2]));
        assert_eq!(costly([0., 5., 0.], vec![]), Ok(vec![1, 3]));
        assert_eq!(costly([5., 5., 0.], vec![]), Ok(vec![3, 1]));
        assert_eq!(costly([0.; 3], vec![Skip { from: 0, to: 2, cost: 5. }]), Ok(vec![3, 1]));
    }

    #[test]
    fn a_limit_of_memory_comes_before_balance() {
        let limited = |limit| Chain { sizes: vec![4., 4., 1., 1.], limit: Some(limit), ..chain(&[1., 1., 9., 9.]) };
        assert_eq!(limited(10.).partition(2, &[]), Ok(vec![3, 1]));
        assert_eq!(limited(8.).partition(2, &[]), Ok(vec![2, 2]));
        assert_eq!(limited(6.).partition(2, &[]), Ok(vec![1, 3]));
        assert_eq!(limited(5.).partition(2, &[]), Err(Misfit::Limit(6.)));
    }

    #[test]
    fn better_than_block_partitioning_where_that_stops_early() {
        let costs = [4., 1., 1., 4., 1., 1., 1., 4.];
        let (exact, blocks) = (chain(&costs).partition(3, &[]).unwrap(), block_partition(&costs, 3));
        let (exact, blocks) = (judge(&chain(&costs), &FREE, &exact).0, judge(&chain(&costs), &FREE, &blocks).0);
        assert_eq!((exact, blocks), (6., 7.));
        assert_eq!(block_partition(&[1., 2., 3., 4., 5., 6.], 2), [4, 2]);
    }

    /// Boundaries that cost nothing, for as many stages as any test has.
    const FREE: [Price; 8] = [Price { each: 0., per_byte: 0. }; 8];

    #[test]
    fn a_dear_boundary_is_where_little_crosses() {
        // Two stages in each of two processes: between them, a byte costs something.
        let chain = Chain { boundaries: vec![1., 1., 9., 1., 1.], ..chain(&[1.; 6]) };
        let cheap = Price::default();
        assert_eq!(chain.partition(4, &[cheap; 3]), Ok(vec![1, 1, 2, 2]));
        let dear = Price { each: 0., per_byte: 1. };
        assert_eq!(chain.partition(4, &[cheap, dear, cheap]), Ok(vec![1, 1, 2, 2]));
        assert_eq!(chain.partition(4, &[dear, cheap, cheap]), Ok(vec![1, 1, 2, 2]));
        assert_eq!(chain.partition(3, &[cheap, dear]), Ok(vec![2, 2, 2]));
        assert_eq!(chain.partition(2, &[dear]), Ok(vec![2, 4]));
    }

    fn problem() -> impl Strategy<Value = (Chain, Vec<Price>)> {
        (1..9_usize).prop_flat_map(|layers| {
            let numbers = |count, limit: u32| prop::collection::vec((0..limit).prop_map(f64::from), count);
            let skip = (0..layers, 0..layers, 0..6_u32).prop_map(|(a, b, cost)| Skip {
                from: a.min(b),
                to: a.max(b),
                cost: cost.into(),
            });
            let limit = prop::option::of((5..40_u32).prop_map(f64::from));
            let parts = (
                numbers(layers, 20),
                numbers(layers, 10),
                numbers(layers - 1, 6),
                prop::collection::vec(skip, 0..4),
                limit,
            );
            let chain = parts.prop_map(|(costs, sizes, boundaries, skips, limit)| Chain {
                costs,
                sizes,
                boundaries,
                skips,
                limit,
                recompute: None,
            });
            let price = (0..3_u32, 0..3_u32)
                .prop_map(|(each, per_byte)| Price { each: each.into(), per_byte: per_byte.into() });
            (chain, prop::collection::vec(price, 0..layers))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_partition_is_better((chain, prices) in problem()) {
            let stages = prices.len() + 1;
            let all = all_partitions(chain.costs.len(), stages);
            let judged: Vec<_> = all.iter().map(|partition| judge(&chain, &prices, partition)).collect();
            let legal = judged.iter().filter(|(_, _, size)| chain.limit.is_none_or(|limit| *size <= limit));
            let best = legal.map(|(cost, squares, _)| (*cost, *squares)).reduce(|a, b| if b < a { b } else { a });
            match (chain.partition(stages, &prices), best) {
                (Ok(found), Some(best)) => {
                    let (cost, squares, size) = judge(&chain, &prices, &found);
                    prop_assert_eq!((cost, squares), best);
                    prop_assert!(chain.limit.is_none_or(|limit| size <= limit));
                    prop_assert_eq!(found.iter().sum::<usize>(), chain.costs.len());
                }
                (Err(Misfit::Limit(needed)), None) => {
                    let least = judged.iter().map(|(_, _, size)| *size).fold(f64::INFINITY, f64::min);
                    prop_assert_eq!(needed, least);
                }
                (found, best) => prop_assert!(false, "{:?} where {:?} is best", found, best),
            }
        }

        /// What is recomputed counts: no cuts with any recomputed layers are better.
        #[test]
        fn no_partition_that_recomputes_is_better(
            layers in prop::collection::vec((1..9_u32, 0..5_u32, 0..20_u32, 0..8_u32), 1..7),
            in_flight in prop::collection::vec(1..5_usize, 1..4),
            limit in 5..90_u32,
        ) {
            let stages = in_flight.len().min(layers.len());
            let inside = |&(cost, fixed, kept, remaining): &(u32, u32, u32, u32)| Inside {
                fixed: fixed.into(), kept: kept.into(), remaining: remaining.min(kept).into(), seconds: cost.into(),
            };
            let insides: Vec<_> = layers.iter().map(inside).collect();
            let chain = Chain {
                limit: Some(limit.into()),
                recompute: Some(Recompute { layers: insides.clone(), in_flight: in_flight.clone() }),
                ..chain(&layers.iter().map(|layer| layer.0.into()).collect::<Vec<_>>())
            };
            // The greatest cost of a partition, at a limit that is smaller by what is rounded up.
            let judge = |partition: &[usize], limit: f64| {
                let mut first = 0;
                let costs = partition.iter().zip(&in_flight).map(|(&count, &in_flight)| {
                    let range = first..first + count;
                    first = range.end;
                    let costs = chain.costs[range.clone()].iter().sum::<f64>();
                    let choices = (0..1_u32 << count)
                        .map(|bits| (0..count).map(|layer| bits >> layer & 1 == 1).collect::<Vec<_>>());
                    let stage = &insides[range];
                    let fitting = choices.filter(|choice| Room { in_flight, limit }.bytes(stage, choice) <= limit);
                    let time = |choice: Vec<bool>| stage.iter().zip(choice)
                        .filter(|(_, recomputed)| *recomputed).map(|(layer, _)| layer.seconds).sum::<f64>();
                    fitting.map(time).reduce(f64::min).map(|time| costs + time)
                });
                costs.collect::<Option<Vec<_>>>().map(|costs| costs.into_iter().fold(0., f64::max))
            };
            let best = |limit: f64| {
                let all = all_partitions(layers.len(), stages).into_iter();
                all.filter_map(|partition| judge(&partition, limit)).reduce(f64::min)
            };
            let less = f64::from(limit) * (1. - 8. / 1024.);
            match chain.partition(stages, &[]) {
                Ok(found) => {
                    let mut first = 0;
                    let costs = found.iter().enumerate().map(|(stage, count)| {
                        let range = first..first + count;
                        first = range.end;
                        assert!(chain.size(stage, range.clone()) <= limit.into());
                        chain.cost(stage, range, &[])
                    });
                    let cost = costs.fold(0., f64::max);
                    prop_assert!(cost >= best(limit.into()).unwrap());
                    prop_assert!(best(less).is_none_or(|best| cost <= best));
                }
                Err(Misfit::Limit(needed)) => {
                    prop_assert!(best(less).is_none());
                    prop_assert!(needed > limit.into());
                    prop_assert!(best(needed).is_some());
                    let enough = Chain { limit: Some(needed), ..chain.clone() };
                    prop_assert!(enough.partition(stages, &[]).is_ok());
                }
                Err(other) => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn block_partitioning_is_never_better(costs in prop::collection::vec(1..100_u32, 2..20), stages in 2..6_usize) {
            let costs: Vec<f64> = costs.into_iter().map(f64::from).collect();
            let stages = stages.min(costs.len());
            let chain = chain(&costs);
            let exact = judge(&chain, &FREE, &chain.partition(stages, &[]).unwrap()).0;
            prop_assert!(exact <= judge(&chain, &FREE, &block_partition(&costs, stages)).0);
        }
    }
}
