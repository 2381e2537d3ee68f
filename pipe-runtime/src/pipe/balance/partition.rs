//! The linear partition problem, solved exactly: it divides a sequence of layers into contiguous
//! stages so that the greatest cost of a stage is as small as possible.
//!
//! The solution is dynamic programming over the ends of stages, O(stages · layers²) (Skiena, "The
//! Algorithm Design Manual", section "The partition problem"). It runs twice: first for the
//! smallest greatest cost, then for the most even of all partitions that reach it. A bisection over
//! costs would be faster, but it would not be exact: with transfers, a longer stage can be cheaper.

/// The layers to divide. All numbers are finite and not negative.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Chain {
    /// Cost of each layer.
    pub(super) costs: Vec<f64>,
    /// Share of each layer in its stage's memory.
    pub(super) sizes: Vec<f64>,
    /// Cost of a cut after each layer, for both of its stages. The last layer has no cut after it.
    pub(super) boundaries: Vec<f64>,
    pub(super) skips: Vec<Skip>,
    /// Limit of the sum of a stage's sizes.
    pub(super) limit: Option<f64>,
}

/// A skip between two layers. It costs the stages of both, unless that is one stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Skip {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) cost: f64,
}

/// The reason why there is no partition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Misfit {
    NoStages,
    TooFewLayers,
    /// The smallest limit that would allow a partition.
    Limit(f64),
}

impl Chain {
    /// Returns how many layers each stage gets in the partition with the smallest greatest cost. Of
    /// several, this is the one with the smallest sum of squared costs, and of these the one with
    /// the smallest sum of squared numbers of layers.
    pub(super) fn partition(&self, stages: usize) -> Result<Vec<usize>, Misfit> {
        if stages == 0 {
            return Err(Misfit::NoStages);
        }
        if self.costs.len() < stages {
            return Err(Misfit::TooFewLayers);
        }
        let table = self.stage_costs();
        let greatest = least(&table, stages, f64::max, |cost, _| Some(cost)).map(|(greatest, _)| greatest);
        let even = greatest.and_then(|greatest| {
            let add = |(a, b): (f64, f64), (c, d): (f64, f64)| (a + c, b + d);
            let squares =
                |cost: f64, layers: usize| (cost <= greatest).then(|| (cost * cost, (layers * layers) as f64));
            least(&table, stages, add, squares)
        });
        match even {
            Some((_, partition)) => Ok(partition),
            None => Err(Misfit::Limit(self.least_limit(stages))),
        }
    }

    /// Returns the cost of what goes in and out of the stage of layers `first..end`.
    pub(super) fn transfers(&self, first: usize, end: usize) -> f64 {
        let cut = |behind: usize| self.boundaries.get(behind).copied().unwrap_or(0.);
        let received = if first == 0 { 0. } else { cut(first - 1) };
        let sent = if end == self.costs.len() { 0. } else { cut(end - 1) };
        let stage = first..end;
        let crosses = |skip: &&Skip| stage.contains(&skip.from) != stage.contains(&skip.to);
        received + sent + self.skips.iter().filter(crosses).map(|skip| skip.cost).sum::<f64>()
    }

    /// Returns the cost of every possible stage, by its first layer and its number of layers minus
    /// one. It is `None` if the stage is over the limit.
    fn stage_costs(&self) -> Vec<Vec<Option<f64>>> {
        let layers = self.costs.len();
        let from = |first: usize| {
            let (mut cost, mut size) = (0., 0.);
            let ending = |end: usize| {
                cost += self.costs[end - 1];
                size += self.sizes[end - 1];
                let fits = self.limit.is_none_or(|limit| size <= limit);
                fits.then(|| cost + self.transfers(first, end))
            };
            (first + 1..=layers).map(ending).collect()
        };
        (0..layers).map(from).collect()
    }

    fn least_limit(&self, stages: usize) -> f64 {
        let by_size = Self { costs: self.sizes.clone(), sizes: self.sizes.clone(), ..Self::default() };
        let found = least(&by_size.stage_costs(), stages, f64::max, |size, _| Some(size));
        found.map_or(f64::INFINITY, |(size, _)| size)
    }
}

/// Finds the partition with the smallest value. Each stage has a value that depends on its cost and
/// number of layers, and these are `join`ed. A stage without a value is not allowed.
fn least<T: Copy + PartialOrd>(
    table: &[Vec<Option<f64>>],
    stages: usize,
    join: impl Fn(T, T) -> T,
    value: impl Fn(f64, usize) -> Option<T>,
) -> Option<(T, Vec<usize>)> {
    let layers = table.len();
    let stage = |first: usize, end: usize| value(table[first][end - first - 1]?, end - first);
    // `best[count - 1][end]`: the smallest value of the first `end` layers in `count` stages, and
    // the first layer of the last of these stages.
    let mut best: Vec<Vec<Option<(T, usize)>>> = Vec::with_capacity(stages);
    for count in 1..=stages {
        let best_of = |end: usize| {
            let ending = |first: usize| match best.last() {
                None => (first == 0).then(|| stage(first, end)).flatten(),
                Some(before) => Some(join(before[first]?.0, stage(first, end)?)),
            };
            let found = (count - 1..end).filter_map(|first| Some((ending(first)?, first)));
            found.reduce(|best, new| if new.0 < best.0 { new } else { best })
        };
        let row = (0..=layers).map(|end| if end < count { None } else { best_of(end) }).collect();
        best.push(row);
    }
    let (value, _) = best[stages - 1][layers]?;
    let mut partition = Vec::with_capacity(stages);
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

    /// Lists all ways to divide `layers` layers into `stages` stages.
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

    /// Returns the greatest cost, the evenness and the greatest size of a partition, each computed
    /// without the code under test.
    fn judge(chain: &Chain, partition: &[usize]) -> (f64, (f64, f64), f64) {
        let stage_of: Vec<usize> =
            partition.iter().enumerate().flat_map(|(stage, &layers)| vec![stage; layers]).collect();
        let (mut costs, mut sizes) = (vec![0.; partition.len()], vec![0.; partition.len()]);
        for (layer, &stage) in stage_of.iter().enumerate() {
            costs[stage] += chain.costs[layer];
            sizes[stage] += chain.sizes[layer];
        }
        let boundaries = chain.boundaries.iter().enumerate().map(|(from, &cost)| Skip { from, to: from + 1, cost });
        for skip in chain.skips.iter().copied().chain(boundaries) {
            if stage_of[skip.from] != stage_of[skip.to] {
                costs[stage_of[skip.from]] += skip.cost;
                costs[stage_of[skip.to]] += skip.cost;
            }
        }
        let squares = (
            costs.iter().map(|cost| cost * cost).sum(),
            partition.iter().map(|&layers| (layers * layers) as f64).sum(),
        );
        (costs.into_iter().fold(0., f64::max), squares, sizes.into_iter().fold(0., f64::max))
    }

    /// Divides as torchgpipe does ("Block Partitions of Sequences", Bárány and Grinberg 2013):
    /// moves single elements towards the smallest block (of several, the one closest to the
    /// greatest) until blocks differ by no more than the greatest element.
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
        assert_eq!(chain(&[1., 2., 3., 4., 5., 6.]).partition(2), Ok(vec![4, 2]));
        assert_eq!(chain(&[6., 5., 4., 3., 2., 1.]).partition(2), Ok(vec![2, 4]));
        assert_eq!(chain(&[5., 1., 1., 1.]).partition(4), Ok(vec![1, 1, 1, 1]));
    }

    #[test]
    fn layers_that_cost_nothing_are_spread_evenly() {
        assert_eq!(chain(&[0., 0.]).partition(2), Ok(vec![1, 1]));
        assert_eq!(chain(&[0.; 6]).partition(3), Ok(vec![2, 2, 2]));
        // The first stage is the bottleneck either way; the rest is even.
        assert_eq!(chain(&[9., 2., 2., 2., 2.]).partition(3), Ok(vec![1, 2, 2]));
    }

    #[test]
    fn there_must_be_stages_and_a_layer_for_each() {
        assert_eq!(chain(&[42.]).partition(0), Err(Misfit::NoStages));
        assert_eq!(chain(&[]).partition(1), Err(Misfit::TooFewLayers));
        assert_eq!(chain(&[42.]).partition(2), Err(Misfit::TooFewLayers));
    }

    #[test]
    fn a_cut_avoids_what_is_dear_to_send() {
        let costly = |boundaries: [f64; 3], skips: Vec<Skip>| {
            Chain { boundaries: boundaries.to_vec(), skips, ..chain(&[1.; 4]) }.partition(2)
        };
        assert_eq!(costly([0.; 3], vec![]), Ok(vec![2, 2]));
        assert_eq!(costly([0., 5., 0.], vec![]), Ok(vec![1, 3]));
        assert_eq!(costly([5., 5., 0.], vec![]), Ok(vec![3, 1]));
        assert_eq!(costly([0.; 3], vec![Skip { from: 0, to: 2, cost: 5. }]), Ok(vec![3, 1]));
    }

    #[test]
    fn a_limit_of_memory_comes_before_balance() {
        let limited = |limit| Chain { sizes: vec![4., 4., 1., 1.], limit: Some(limit), ..chain(&[1., 1., 9., 9.]) };
        assert_eq!(limited(10.).partition(2), Ok(vec![3, 1]));
        assert_eq!(limited(8.).partition(2), Ok(vec![2, 2]));
        assert_eq!(limited(6.).partition(2), Ok(vec![1, 3]));
        assert_eq!(limited(5.).partition(2), Err(Misfit::Limit(6.)));
    }

    #[test]
    fn better_than_block_partitioning_where_that_stops_early() {
        let costs = [4., 1., 1., 4., 1., 1., 1., 4.];
        let (exact, blocks) = (chain(&costs).partition(3).unwrap(), block_partition(&costs, 3));
        let (exact, blocks) = (judge(&chain(&costs), &exact).0, judge(&chain(&costs), &blocks).0);
        assert_eq!((exact, blocks), (6., 7.));
        assert_eq!(block_partition(&[1., 2., 3., 4., 5., 6.], 2), [4, 2]);
    }

    fn problem() -> impl Strategy<Value = (Chain, usize)> {
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
            });
            (chain, 1..=layers)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_partition_is_better((chain, stages) in problem()) {
            let all = all_partitions(chain.costs.len(), stages);
            let judged: Vec<_> = all.iter().map(|partition| judge(&chain, partition)).collect();
            let legal = judged.iter().filter(|(_, _, size)| chain.limit.is_none_or(|limit| *size <= limit));
            let best = legal.map(|(cost, squares, _)| (*cost, *squares)).reduce(|a, b| if b < a { b } else { a });
            match (chain.partition(stages), best) {
                (Ok(found), Some(best)) => {
                    let (cost, squares, size) = judge(&chain, &found);
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

        #[test]
        fn block_partitioning_is_never_better(costs in prop::collection::vec(1..100_u32, 2..20), stages in 2..6_usize) {
            let costs: Vec<f64> = costs.into_iter().map(f64::from).collect();
            let stages = stages.min(costs.len());
            let chain = chain(&costs);
            let exact = judge(&chain, &chain.partition(stages).unwrap()).0;
            prop_assert!(exact <= judge(&chain, &block_partition(&costs, stages)).0);
        }
    }
}
