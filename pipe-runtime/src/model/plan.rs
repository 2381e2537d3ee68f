use std::fmt;

use pipe_schedule::support::table::Table;

/// The plan that the macro makes of a struct: which layer runs in which stage, and where each skip
/// goes. Prints as a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The struct's name.
    pub name: &'static str,
    /// The stages, in the order in which data flows. Without annotations, there is one stage
    /// without a device.
    pub stages: &'static [StagePlan],
    /// The skips, in the order in which they are stashed.
    pub skips: &'static [SkipPlan],
    /// The lent values, in the order in which they first occur.
    pub lent: &'static [LentPlan],
    /// What layers add up, in the order in which it stands beside the output.
    pub sums: &'static [SumPlan],
    /// The layers that are marked to be recomputed.
    pub recomputed: &'static [RecomputedPlan],
    /// The annotated process of each stage; empty if there are none.
    pub processes: &'static [usize],
    /// What each stage costs in nanoseconds or bytes, from the balance file; empty without one.
    /// Stages are merged by it, if there are fewer devices.
    pub costs: &'static [u64],
}

/// One stage: the layers between two stage boundaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StagePlan {
    /// The annotated device; empty if there is none.
    pub device: &'static str,
    /// The layers, in order.
    pub layers: &'static [LayerPlan],
}

/// One layer, or the part of a repeated one that runs in a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerPlan {
    /// The name of the child, as in parameter paths.
    pub name: &'static str,
    /// The part of an array or `Vec` of layers.
    pub repeat: Option<Repeat>,
}

/// One part of a repeated layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// The number of the part, from 0.
    pub part: usize,
    /// The division of the layers into parts.
    pub split: Split,
    /// The number of layers, if the type fixes it.
    pub length: Option<usize>,
}

/// The division of repeated layers into parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Into this many parts, whose sizes differ by at most one. The first parts are larger.
    Evenly(usize),
    /// Parts of these sizes.
    Counts(&'static [usize]),
}

/// One skip: a value that one layer stashes and a later one pops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkipPlan {
    /// The name of the skip.
    pub name: &'static str,
    /// The layer that stashes it.
    pub stash: &'static str,
    /// The stage of that layer.
    pub from: usize,
    /// The layer that pops it.
    pub pop: &'static str,
    /// The stage of that layer.
    pub to: usize,
}

/// One value that layers add up on their way: it arrives beside the model's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SumPlan {
    /// The name of the sum.
    pub name: &'static str,
    /// The layers that add to it, in order.
    pub layers: &'static [&'static str],
}

/// A layer that is marked to be recomputed for its backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecomputedPlan {
    /// The name of the layer.
    pub layer: &'static str,
    /// Which of the layers, if it is repeated.
    pub which: Recomputed,
}

/// Which layers of a field are recomputed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recomputed {
    /// All; or the single one.
    All,
    /// So many, from the first one on.
    First(usize),
    /// Those with these indices.
    Of(&'static [usize]),
}

impl Recomputed {
    /// Whether the layer with this index is one of them.
    pub fn has(self, index: usize) -> bool {
        match self {
            Self::All => true,
            Self::First(count) => index < count,
            Self::Of(indices) => indices.contains(&index),
        }
    }
}

/// One lent value, which any number of later layers read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LentPlan {
    /// The name of the value.
    pub name: &'static str,
    /// The layer that lends it.
    pub lender: &'static str,
    /// The stage of that layer.
    pub from: usize,
    /// The layers that read it, in ranges: the first one and the one past the last one, in the
    /// order of [`Plan::layers`]. [`Plan::readers`] gives their names.
    pub readers: &'static [(usize, usize)],
}

impl Plan {
    /// What generated code does not say.
    #[doc(hidden)]
    pub const EMPTY: Self =
        Self { name: "", stages: &[], skips: &[], lent: &[], sums: &[], recomputed: &[], processes: &[], costs: &[] };

    /// All layers with their stages, in order. A repeated layer occurs once for each of its parts.
    pub fn layers(&self) -> impl Iterator<Item = (usize, &'static LayerPlan)> + use<> {
        self.stages.iter().enumerate().flat_map(|(stage, plan)| plan.layers.iter().map(move |layer| (stage, layer)))
    }

    /// The layers that read a lent value of this plan, with their stages, in order. A repeated
    /// layer occurs once for each of its parts.
    pub fn readers(&self, lent: &LentPlan) -> impl Iterator<Item = (usize, &'static LayerPlan)> + use<> {
        let mut ranges = lent.readers.iter().copied().peekable();
        self.layers().enumerate().filter_map(move |(number, layer)| {
            ranges.next_if(|(_, end)| *end <= number);
            ranges.peek().is_some_and(|(first, _)| *first <= number).then_some(layer)
        })
    }

    /// The other stages whose layers read a lent value of this plan, in order. It goes to each of
    /// them once per micro-batch.
    pub fn reading_stages(&self, lent: &LentPlan) -> Vec<usize> {
        let mut stages: Vec<usize> = self.readers(lent).map(|(stage, _)| stage).collect();
        stages.retain(|stage| *stage != lent.from);
        stages.dedup();
        stages
    }

    /// The layer with this name, and its stage. For a repeated layer, it is the first part.
    pub fn layer(&self, name: &str) -> Option<(usize, &'static LayerPlan)> {
        self.layers().find(|(_, layer)| layer.name == name)
    }

    /// Whether this layer, or the one with this index of a repeated layer, is marked to be
    /// recomputed.
    pub fn is_recomputed(&self, name: &str, index: Option<usize>) -> bool {
        self.recomputed.iter().any(|marked| marked.layer == name && marked.which.has(index.unwrap_or(0)))
    }

    /// The skip with this name.
    pub fn skip(&self, name: &str) -> Option<&'static SkipPlan> {
        self.skips.iter().find(|skip| skip.name == name)
    }
}

impl LayerPlan {
    /// Creates the plan of a single layer.
    pub const fn layer(name: &'static str) -> Self {
        Self { name, repeat: None }
    }

    /// Creates the plans of several single layers.
    pub const fn layers<const N: usize>(names: [&'static str; N]) -> [Self; N] {
        let mut layers = [Self::layer(""); N];
        let mut index = 0;
        while index < N {
            layers[index].name = names[index];
            index += 1;
        }
        layers
    }

    /// Creates the plan of part `part` of a repeated layer.
    pub const fn repeated(name: &'static str, part: usize, split: Split, length: Option<usize>) -> Self {
        Self { name, repeat: Some(Repeat { part, split, length }) }
    }
}

impl Split {
    /// The number of parts.
    pub const fn parts(self) -> usize {
        match self {
            Self::Evenly(parts) => parts,
            Self::Counts(counts) => counts.len(),
        }
    }

    /// The indices of part `part` of `length` layers. If the counts do not add up, the last part
    /// gets the rest. A part that does not exist is empty.
    pub fn range(self, part: usize, length: usize) -> std::ops::Range<usize> {
        match self {
            Self::Evenly(parts) => {
                let parts = parts.max(1);
                let start = |part: usize| part.min(parts) * (length / parts) + part.min(length % parts);
                start(part)..start(part.saturating_add(1))
            }
            Self::Counts(counts) => {
                let Some(&count) = counts.get(part) else { return length..length };
                let start = counts[..part].iter().sum::<usize>().min(length);
                let end = if part + 1 == counts.len() { length } else { (start + count).min(length) };
                start..end
            }
        }
    }

    /// The reason why `length` layers cannot be divided in this way; `None` if they can.
    pub fn misfit(self, name: &str, length: usize) -> Option<String> {
        match self {
            Self::Counts(counts) if counts.iter().sum::<usize>() != length => Some(format!(
                "`{name}` has {length} layers, but its devices are given {} of them: make the counts add up",
                counts.iter().sum::<usize>()
            )),
            Self::Evenly(parts) if length < parts => {
                Some(format!("`{name}` has {length} layers, too few for {parts} devices: every stage needs a layer"))
            }
            _ => None,
        }
    }
}

impl fmt::Display for LayerPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Repeat { part, split, length }) = self.repeat else { return f.write_str(self.name) };
        match length {
            Some(length) => {
                let range = split.range(part, length);
                match range.len() {
                    1 => write!(f, "{}[{}]", self.name, range.start),
                    _ => write!(f, "{}[{}..{}]", self.name, range.start, range.end),
                }
            }
            None => match split {
                Split::Counts(counts) => write!(f, "{}[{} layers]", self.name, counts[part]),
                Split::Evenly(1) => write!(f, "{}[all, length known at build]", self.name),
                Split::Evenly(parts) => {
                    write!(f, "{}[part {} of {parts}, length known at build]", self.name, part + 1)
                }
            },
        }
    }
}

impl fmt::Display for RecomputedPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layer, which } = self;
        match which {
            Recomputed::All => f.write_str(layer),
            Recomputed::First(count) => write!(f, "{layer}[0..{count}]"),
            Recomputed::Of(indices) => write!(f, "{layer}{indices:?}"),
        }
    }
}

pub(super) fn comma_separated<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// What skips between stages are called, each name once, with the stages at their other ends.
fn skip_ends(skips: impl Iterator<Item = (&'static str, usize)>, to_or_from: &str) -> String {
    let mut ends: Vec<(&str, Vec<usize>)> = Vec::new();
    for (name, stage) in skips {
        match ends.iter_mut().find(|(other, _)| *other == name) {
            Some((_, stages)) => stages.push(stage),
            None => ends.push((name, vec![stage])),
        }
    }
    let words = ends.iter().map(|(name, stages)| format!("{name} {to_or_from} {}", comma_separated(stages)));
    match ends.is_empty() {
        true => "-".to_owned(),
        false => words.collect::<Vec<_>>().join("; "),
    }
}

/// Prints a table with one row per stage: its process if it is annotated, its device, its layers,
/// the skips that come in (with the stages that they come from) and those that go out (with the
/// stages that they go to). Lines name the lent values with their stages, what layers add up, and
/// the layers that are marked to be recomputed.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let process: &[&str] = if self.processes.is_empty() { &[] } else { &["process"] };
        let headings = [&["stage"], process, &["device", "layers", "skips in", "skips out"]].concat();
        let mut table = Table::left(&headings);
        for (index, stage) in self.stages.iter().enumerate() {
            let crossing = |skip: &&SkipPlan| skip.from != skip.to;
            let incoming = self.skips.iter().filter(crossing).filter(|skip| skip.to == index);
            let incoming = skip_ends(incoming.map(|skip| (skip.name, skip.from)), "from");
            let outgoing = self.skips.iter().filter(crossing).filter(|skip| skip.from == index);
            let outgoing = skip_ends(outgoing.map(|skip| (skip.name, skip.to)), "to");
            let device = if stage.device.is_empty() { "-" } else { stage.device };
            let mut row = vec![index.to_string()];
            row.extend(self.processes.get(index).map(usize::to_string));
            row.extend([device.to_owned(), comma_separated(stage.layers), incoming, outgoing]);
            table.push(row);
        }
        writeln!(f, "{}", self.name)?;
        table.lines().iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        for lent in self.lent {
            let LentPlan { name, lender, from, .. } = lent;
            match &self.reading_stages(lent)[..] {
                [] => writeln!(f, "  lent: {name} of {lender}, within {from}")?,
                to => writeln!(f, "  lent: {name} of {lender}, from {from} to {}", comma_separated(to))?,
            }
        }
        for SumPlan { name, layers } in self.sums {
            writeln!(f, "  summed: {name} of {}", layers.join(", "))?;
        }
        match self.recomputed {
            [] => Ok(()),
            marked => writeln!(f, "  recomputed: {}", comma_separated(marked)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_a_range_within_the_layers() {
        for split in [Split::Evenly(3), Split::Counts(&[2, 1, 2])] {
            assert_eq!([0, 1, 2, 3, usize::MAX].map(|part| split.range(part, 5)), {
                let middle = if let Split::Evenly(_) = split { 2..4 } else { 2..3 };
                let end = middle.end;
                [0..2, middle, end..5, 5..5, 5..5]
            });
        }
        assert_eq!(Split::Evenly(0).range(0, 5), 0..5);
    }

    #[test]
    fn prints_as_a_table() {
        const PLAN: Plan = Plan {
            name: "Net",
            stages: &[
                StagePlan {
                    device: "cuda:0",
                    layers: &[LayerPlan::layer("a"), LayerPlan::repeated("b", 0, Split::Evenly(2), Some(5))],
                },
                StagePlan {
                    device: "cpu",
                    layers: &[
                        LayerPlan::repeated("b", 1, Split::Evenly(2), Some(5)),
                        LayerPlan::repeated("c", 0, Split::Evenly(1), None),
                    ],
                },
                StagePlan { device: "cpu", layers: &[LayerPlan::layer("d")] },
            ],
            skips: &[
                SkipPlan { name: "s", stash: "a", from: 0, pop: "c", to: 1 },
                SkipPlan { name: "t", stash: "a", from: 0, pop: "c", to: 1 },
                SkipPlan { name: "s", stash: "a", from: 0, pop: "d", to: 2 },
                SkipPlan { name: "local", stash: "a", from: 0, pop: "b", to: 0 },
            ],
            lent: &[
                LentPlan { name: "mask", lender: "a", from: 0, readers: &[(1, 4)] },
                LentPlan { name: "time", lender: "c", from: 1, readers: &[(3, 4)] },
            ],
            sums: &[SumPlan { name: "balance", layers: &["b", "c"] }],
            recomputed: &[
                RecomputedPlan { layer: "a", which: Recomputed::All },
                RecomputedPlan { layer: "b", which: Recomputed::First(2) },
                RecomputedPlan { layer: "c", which: Recomputed::Of(&[0, 3]) },
            ],
            processes: &[],
            costs: &[],
        };
        let expected = "\
Net
  stage  device  layers                              skips in  skips out
  -----  ------  ----------------------------------  --------  ---------
  0      cuda:0  a, b[0..3]                          -         s to 1, 2; t to 1
  1      cpu     b[3..5], c[all, length known at build]  s from 0; t from 0  -
  2      cpu     d                                       s from 0            -
  lent: mask of a, from 0 to 1
  lent: time of c, within 1
  summed: balance of b, c
  recomputed: a, b[0..2], c[0, 3]
";
        let squeeze = |text: &str| text.replace('-', "").split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeeze(&PLAN.to_string()), squeeze(expected));
    }

    #[test]
    fn readers_are_the_layers_of_all_ranges() {
        const LAYERS: [LayerPlan; 3] = LayerPlan::layers(["a", "b", "c"]);
        let stage = StagePlan { device: "cpu", layers: &LAYERS };
        let stages = Box::leak(Box::new([stage; 2]));
        let plan = Plan { stages, ..Plan::EMPTY };
        let readers = |readers| {
            let lent = LentPlan { name: "m", lender: "a", from: 0, readers };
            plan.readers(&lent).map(|(stage, layer)| (stage, layer.name)).collect::<Vec<_>>()
        };
        assert_eq!(readers(&[(1, 2), (4, 6)]), [(0, "b"), (1, "b"), (1, "c")]);
        assert_eq!(readers(&[(2, 3), (3, 4)]), [(0, "c"), (1, "a")]);
        assert_eq!(readers(&[]), []);
    }

    #[test]
    fn even_parts_cover_everything_and_differ_by_at_most_one() {
        for parts in 1..7 {
            for length in parts..30 {
                let split = Split::Evenly(parts);
                let ranges: Vec<_> = (0..parts).map(|part| split.range(part, length)).collect();
                assert_eq!(ranges[0].start, 0);
                assert_eq!(ranges[parts - 1].end, length);
                assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].len() >= pair[1].len()));
                assert!(ranges[0].len() - ranges[parts - 1].len() <= 1);
                assert!(split.misfit("blocks", length).is_none());
            }
        }
        assert!(Split::Evenly(3).misfit("blocks", 2).is_some());
    }

    #[test]
    fn counts_must_add_up() {
        let split = Split::Counts(&[5, 7]);
        assert_eq!((split.range(0, 12), split.range(1, 12)), (0..5, 5..12));
        assert_eq!(split.misfit("blocks", 12), None);
        assert!(split.misfit("blocks", 11).unwrap().contains("11 layers"));
    }
}
