//! The search of [`advise_layers`](super::advise_layers), for one schedule with its settings.
//!
//! A branch and bound. No stage can start before its first input has passed through the layers
//! before it, nor end before its gradient has passed back, and it cannot recompute less than what
//! frees enough memory, even if layers could be recomputed in part. This gives a lower bound for
//! each stage from its layers alone, so dynamic programming over the cuts gives one for each
//! schedule, and the search leaves out what cannot be the best. What it tries is simulated.

use std::ops::Range;
use std::rc::Rc;

use super::Candidate;
use super::climb::{Score, moves};
use super::free::{LayerCandidate, LayerOptions, by_time};
use super::layers::{Division, LayerCosts, Layers};
use crate::checkpoint::Checkpoint;
use crate::list::{ActionKind, Schedule};
use crate::simulate::{Simulation, SimulationError, simulate};
use crate::support::partition::Chain;
use crate::support::recompute::least_to_free;

/// The search over the divisions, for one variant, schedule, number of micro-batches and checkpoint
/// mode.
pub(super) struct Search<'o> {
    options: &'o LayerOptions,
    limit: f64,
    variant: usize,
    layers: Layers,
    schedule: Schedule,
    /// Its settings, without time and memory.
    candidate: Candidate,
    is_split: bool,
    rank_of: Vec<usize>,
    /// The stages of each rank.
    stages_of: Vec<Vec<usize>>,
    /// For each stage, how many micro-batches are in flight at most, and how many are recomputed.
    in_flight: Vec<f64>,
    recomputed: Vec<f64>,
    /// For each stage, the lower bound of the step if the stage has the layers from the first index
    /// to the second one.
    stage_bounds: Vec<Rc<Vec<Vec<f64>>>>,
    /// The lowest bound of what remains, for each stage and its first layer.
    rest: Vec<Vec<f64>>,
    /// No division takes less time.
    pub(super) bound: f64,
    pub(super) best: Option<LayerCandidate>,
    pub(super) simulated: usize,
    /// The number of beginnings of divisions that were looked at.
    visited: usize,
    /// No division that was left out takes less time, nor one whose recomputed layers are not the
    /// best.
    pub(super) proved: f64,
}

impl<'o> Search<'o> {
    pub(super) fn new(
        variant: usize,
        layers: Layers,
        schedule: Schedule,
        candidate: Candidate,
        options: &'o LayerOptions,
        limit: f64,
    ) -> Self {
        let stages = schedule.stages;
        let mut rank_of = vec![0; stages];
        let mut recomputed = vec![0.; stages];
        let mut is_split = false;
        for (rank, list) in schedule.ranks.iter().enumerate() {
            for action in list {
                rank_of[action.stage] = rank;
                recomputed[action.stage] += f64::from(u8::from(action.kind == ActionKind::Recompute));
                is_split |= action.kind == ActionKind::BackwardWeight;
            }
        }
        let stages_of = (0..schedule.ranks.len()).map(|rank| (0..stages).filter(|&s| rank_of[s] == rank).collect());
        let stages_of = stages_of.collect();
        let in_flight = schedule.peak_in_flight_by_stage().into_values().map(|count| count as f64).collect();
        let mut search = Self {
            options,
            limit,
            variant,
            layers,
            schedule,
            candidate,
            is_split,
            rank_of,
            stages_of,
            in_flight,
            recomputed,
            stage_bounds: Vec::new(),
            rest: Vec::new(),
            bound: 0.,
            best: None,
            simulated: 0,
            visited: 0,
            proved: f64::INFINITY,
        };
        for stage in 0..stages {
            let alike = |other: &usize| {
                let (one, other) = (stage, *other);
                search.in_flight[one] == search.in_flight[other] && search.recomputed[one] == search.recomputed[other]
            };
            let bounds = match (0..stage).find(alike) {
                Some(other) => Rc::clone(&search.stage_bounds[other]),
                None => Rc::new(search.bounds_of(stage)),
            };
            search.stage_bounds.push(bounds);
        }
        search.rest = search.rests();
        search.bound = search.rest[0][0].max(search.least_work());
        search
    }

    /// The work of a rank in a step if all ranks have equally much.
    fn least_work(&self) -> f64 {
        let work = |layer: &LayerCosts| layer.forward + layer.backward_input + layer.backward_weight;
        let all = self.layers.layers.iter().map(work).sum::<f64>();
        all * self.candidate.micro_batches as f64 / self.schedule.ranks.len() as f64
    }

    /// The lower bounds of a stage, for each first layer and each end.
    fn bounds_of(&self, stage: usize) -> Vec<Vec<f64>> {
        let layers = &self.layers.layers;
        let count = layers.len();
        let mut before = 0.;
        let mut bounds = vec![vec![f64::INFINITY; count + 1]; count];
        for first in 0..count {
            let (mut time, mut fixed, mut forward, mut kept) = (0., 0., 0., 0.);
            let mut room = Room::default();
            for end in first + 1..=count {
                let layer = &layers[end - 1];
                time += layer.forward + layer.backward_input + layer.backward_weight;
                forward += layer.forward;
                kept += layer.kept;
                fixed += layer.parameters + layer.gradients;
                let mut again = self.recomputed[stage] * forward;
                if self.candidate.checkpoint == Checkpoint::Never {
                    let in_flight = self.in_flight[stage];
                    room.push(in_flight * layer.kept, in_flight * (layer.kept - layer.remaining), layer.forward);
                    again = match room.least_seconds(self.limit - fixed) {
                        Some(seconds) => seconds * self.candidate.micro_batches as f64,
                        None => break,
                    };
                } else if fixed + kept > self.limit {
                    // Also a checkpointed micro-batch is whole while its backward runs.
                    break;
                }
                bounds[first][end] = before + time * self.candidate.micro_batches as f64 + again;
            }
            // The first micro-batch passes through the layers before it, and so does the last
            // gradient, after all of the stage's work unless the backward is split.
            let layer = &layers[first];
            before += layer.forward;
            before += if self.is_split { 0. } else { layer.backward_input + layer.backward_weight };
        }
        bounds
    }

    /// The lowest bounds of the stages from one on, by the first layer.
    fn rests(&self) -> Vec<Vec<f64>> {
        let (stages, count) = (self.schedule.stages, self.layers.layers.len());
        let mut rests = vec![vec![f64::INFINITY; count + 1]; stages + 1];
        rests[stages][count] = 0.;
        for stage in (0..stages).rev() {
            for first in 0..count {
                let ends = first + 1..=count;
                let with = |end: usize| self.stage_bounds[stage][first][end].max(rests[stage + 1][end]);
                rests[stage][first] = ends.map(with).fold(f64::INFINITY, f64::min);
            }
        }
        rests
    }

    /// Searches for a way that takes less than `best`.
    pub(super) fn run(&mut self, best: f64, smallest: &mut Option<LayerCandidate>) -> Result<(), SimulationError> {
        let mut best = best;
        let Some(lowest) = self.most_even() else { return self.smallest(smallest) };
        let even = self.even_work();
        for (number, stages) in [Some(lowest), even].into_iter().flatten().enumerate() {
            let attempts = self.options.attempts * (number + 1) / 4;
            self.climb(stages, attempts, &mut best, smallest)?;
        }
        self.descend(0, 0., &mut Vec::new(), &mut best, smallest)?;
        self.polish(&mut best, smallest)
    }

    /// From a division, layers move to the neighbours of their stages, as long as that helps, and
    /// to other stages where that does not. Ends when so many divisions were simulated.
    fn climb(
        &mut self,
        mut stages: Vec<usize>,
        attempts: usize,
        best: &mut f64,
        smallest: &mut Option<LayerCandidate>,
    ) -> Result<(), SimulationError> {
        let mut score = self.attempt(&stages, best, smallest)?;
        loop {
            let mut better = None;
            for is_far in [false, true] {
                for moved in moves(&stages, is_far) {
                    if self.simulated >= attempts {
                        break;
                    }
                    let moved_score = self.attempt(&moved, best, smallest)?;
                    if moved_score.is_lower(better.as_ref().map_or(&score, |(score, _)| score)) {
                        better = Some((moved_score, moved));
                    }
                }
                if better.is_some() {
                    break;
                }
            }
            let Some((moved_score, moved)) = better else { return Ok(()) };
            (score, stages) = (moved_score, moved);
        }
    }

    /// Tries other recomputed layers in the best division, one by one and two by two: memory does
    /// not add up exactly, as it was taken to.
    fn polish(&mut self, best: &mut f64, smallest: &mut Option<LayerCandidate>) -> Result<(), SimulationError> {
        let mut from = None;
        while let Some(found) = self.best.clone().filter(|found| from.as_ref() != Some(found)) {
            let Division { stages, recomputed } = &found.division;
            let numbers = 0..recomputed.len();
            let pairs = numbers.clone().flat_map(|one| numbers.clone().map(move |other| (one, other)));
            for (one, other) in pairs.filter(|&(one, other)| recomputed[one] && (one == other || !recomputed[other])) {
                if self.simulated >= 2 * self.options.attempts {
                    return Ok(());
                }
                let mut recomputed = recomputed.clone();
                recomputed[one] = false;
                recomputed[other] = one != other;
                let division = Division { stages: stages.clone(), recomputed };
                let simulation = self.simulate(&division)?;
                let tried = self.candidate(&division, &simulation);
                self.offer(tried, best, smallest);
            }
            from = Some(found);
        }
        Ok(())
    }

    /// Nothing fits: tries what needs little memory, to tell how much that is.
    fn smallest(&mut self, smallest: &mut Option<LayerCandidate>) -> Result<(), SimulationError> {
        let (layers, stages) = (self.layers.layers.len(), self.schedule.stages);
        let share = |stage: usize| layers * (stage + 1) / stages - layers * stage / stages;
        let mut division = Division { stages: (0..stages).map(share).collect(), recomputed: Vec::new() };
        if self.candidate.checkpoint == Checkpoint::Never {
            division.recomputed = self.layers.layers.iter().map(|layer| layer.kept > layer.remaining).collect();
        }
        let simulation = self.simulate(&division)?;
        let found = self.candidate(&division, &simulation);
        let mut best = f64::INFINITY;
        self.offer(found, &mut best, smallest);
        Ok(())
    }

    /// The division whose stages have the most equal work.
    fn even_work(&self) -> Option<Vec<usize>> {
        let again = self.recomputed.first().copied().unwrap_or_default();
        let work = |layer: &LayerCosts| {
            let each = layer.forward + layer.backward_input + layer.backward_weight;
            each * self.candidate.micro_batches as f64 + layer.forward * again
        };
        let costs: Vec<f64> = self.layers.layers.iter().map(work).collect();
        let chain = Chain { sizes: vec![0.; costs.len()], costs, ..Chain::default() };
        chain.partition(self.schedule.stages, &[]).ok()
    }

    /// The division with the lowest bound.
    fn most_even(&self) -> Option<Vec<usize>> {
        let count = self.layers.layers.len();
        let (mut first, mut stages) = (0, Vec::new());
        for stage in 0..self.schedule.stages {
            let bound = |end: usize| self.stage_bounds[stage][first][end].max(self.rest[stage + 1][end]);
            let end = (first + 1..=count).min_by(|&a, &b| bound(a).total_cmp(&bound(b)))?;
            if bound(end).is_infinite() {
                return None;
            }
            stages.push(end - first);
            first = end;
        }
        Some(stages)
    }

    /// Tries all divisions that begin with these stages and may take less than `best`.
    fn descend(
        &mut self,
        first: usize,
        bound: f64,
        stages: &mut Vec<usize>,
        best: &mut f64,
        smallest: &mut Option<LayerCandidate>,
    ) -> Result<(), SimulationError> {
        let stage = stages.len();
        if stage == self.schedule.stages {
            self.attempt(stages, best, smallest)?;
            return Ok(());
        }
        let count = self.layers.layers.len();
        let bound_with = |search: &Self, end: usize| {
            bound.max(search.stage_bounds[stage][first][end]).max(search.rest[stage + 1][end])
        };
        let mut ends: Vec<_> = (first + 1..=count).map(|end| (bound_with(self, end), end)).collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (bound, end) in ends {
            if bound.is_infinite() || bound >= *best {
                break;
            }
            stages.push(end - first);
            let bound = bound.max(self.rank_bound(stages));
            if bound < *best {
                self.visited += 1;
                if self.simulated >= self.options.attempts || self.visited >= VISITED * self.options.attempts {
                    self.proved = self.proved.min(bound);
                } else {
                    self.descend(end, bound, stages, best, smallest)?;
                }
            }
            stages.pop();
        }
        Ok(())
    }

    /// The work of the busiest rank that these first stages belong to.
    fn rank_bound(&self, stages: &[usize]) -> f64 {
        let mut work = vec![0.; self.schedule.ranks.len()];
        let mut first = 0;
        for (stage, count) in stages.iter().enumerate() {
            let layers = &self.layers.layers[first..first + count];
            let of = |layer: &LayerCosts| {
                let each = layer.forward + layer.backward_input + layer.backward_weight;
                each * self.candidate.micro_batches as f64 + layer.forward * self.recomputed[stage]
            };
            work[self.rank_of[stage]] += layers.iter().map(of).sum::<f64>();
            first += count;
        }
        work.into_iter().fold(0., f64::max)
    }

    /// Simulates a division with the recomputed layers that it needs, and remembers it if it is the
    /// best.
    fn attempt(
        &mut self,
        stages: &[usize],
        best: &mut f64,
        smallest: &mut Option<LayerCandidate>,
    ) -> Result<Score, SimulationError> {
        let mut division = Division { stages: stages.to_vec(), recomputed: Vec::new() };
        let mut simulation = self.simulate(&division)?;
        let mut found = self.candidate(&division, &simulation);
        let mut score = self.score(&simulation);
        if found.candidate.memory <= self.limit {
            self.offer(found, best, smallest);
            return Ok(score);
        }
        // A lower bound of all choices of recomputed layers.
        self.proved = self.proved.min(self.bound_of(stages).max(found.candidate.time));
        if self.candidate.checkpoint == Checkpoint::Never {
            // What a rank has to free is corrected by what the simulation says.
            let mut to_free: Vec<f64> = simulation.memory.iter().map(|memory| memory - self.limit).collect();
            for _ in 0..CORRECTIONS {
                let Some((recomputed, freed)) = self.recompute(stages, &to_free) else { break };
                if recomputed == division.recomputed {
                    break;
                }
                division.recomputed = recomputed;
                simulation = self.simulate(&division)?;
                found = self.candidate(&division, &simulation);
                let corrected = self.score(&simulation);
                if corrected.is_lower(&score) {
                    score = corrected;
                }
                self.offer(found, best, smallest);
                for ((to_free, freed), memory) in to_free.iter_mut().zip(freed).zip(&simulation.memory) {
                    // Too much memory is left over, or too little.
                    *to_free = if *memory > self.limit {
                        *to_free + memory - self.limit
                    } else {
                        freed - (self.limit - memory)
                    };
                }
            }
        } else {
            self.offer(found, best, smallest);
        }
        Ok(score)
    }

    fn score(&self, simulation: &Simulation) -> Score {
        let excess = simulation.memory.iter().map(|memory| (memory - self.limit).max(0.)).sum();
        Score { excess, time: simulation.makespan }
    }

    fn bound_of(&self, stages: &[usize]) -> f64 {
        let mut first = 0;
        let bounds = stages.iter().enumerate().map(|(stage, count)| {
            first += count;
            self.stage_bounds[stage][first - count][first]
        });
        bounds.fold(0., f64::max)
    }

    /// The layers of each rank that take the least time and free so much memory, and how much they
    /// free; `None` if that is not possible.
    fn recompute(&self, stages: &[usize], to_free: &[f64]) -> Option<(Vec<bool>, Vec<f64>)> {
        let division = Division { stages: stages.to_vec(), recomputed: Vec::new() };
        let ranges: Vec<Range<usize>> = division.ranges().collect();
        let mut recomputed = vec![false; self.layers.layers.len()];
        let mut freed = Vec::new();
        for (stages, &needed) in self.stages_of.iter().zip(to_free) {
            let numbers = stages.iter().flat_map(|&stage| ranges[stage].clone().map(move |number| (stage, number)));
            let numbers: Vec<_> = numbers.collect();
            let frees = |&(stage, number): &(usize, usize)| {
                let layer = &self.layers.layers[number];
                (self.in_flight[stage] * (layer.kept - layer.remaining), layer.forward)
            };
            let items: Vec<_> = numbers.iter().map(frees).collect();
            let chosen = least_to_free(&items, needed)?;
            let bytes = items.iter().zip(&chosen).filter(|(_, chosen)| **chosen).map(|(item, _)| item.0).sum();
            freed.push(bytes);
            for ((_, number), chosen) in numbers.into_iter().zip(chosen) {
                recomputed[number] = chosen;
            }
        }
        Some((recomputed, freed))
    }

    fn simulate(&mut self, division: &Division) -> Result<Simulation, SimulationError> {
        self.simulated += 1;
        simulate(&self.schedule, &self.layers.costs(division, self.is_split, self.options.overhead))
    }

    fn candidate(&self, division: &Division, simulation: &Simulation) -> LayerCandidate {
        let memory = simulation.memory.iter().copied().fold(0., f64::max);
        let candidate = Candidate { time: simulation.makespan, memory, ..self.candidate.clone() };
        LayerCandidate { variant: self.variant, candidate, division: division.clone() }
    }

    fn offer(&mut self, found: LayerCandidate, best: &mut f64, smallest: &mut Option<LayerCandidate>) {
        let Candidate { time, memory, .. } = found.candidate;
        if smallest.as_ref().is_none_or(|smallest| memory < smallest.candidate.memory) {
            *smallest = Some(found.clone());
        }
        if memory <= self.limit && self.best.as_ref().is_none_or(|best| by_time(&found, best).is_lt()) {
            *best = best.min(time);
            self.best = Some(found);
        }
    }
}

/// The most beginnings of divisions that are looked at, for each division that may be simulated.
const VISITED: usize = 20;
/// How often the memory that a rank has to free is corrected.
const CORRECTIONS: usize = 6;

/// The layers of a stage, of which some are recomputed, and parts of others: a lower bound.
#[derive(Default)]
struct Room {
    kept: f64,
    /// What each layer frees and the time that this takes, the most for its time first.
    freed: Vec<(f64, f64)>,
}

impl Room {
    fn push(&mut self, kept: f64, freed: f64, seconds: f64) {
        self.kept += kept;
        if freed > 0. {
            let place = self.freed.partition_point(|other| other.0 * seconds >= freed * other.1);
            self.freed.insert(place, (freed, seconds));
        }
    }

    /// The least time that leaves so much memory.
    fn least_seconds(&self, limit: f64) -> Option<f64> {
        let (mut excess, mut least) = (self.kept - limit, 0.);
        for &(freed, seconds) in &self.freed {
            if excess <= 0. {
                break;
            }
            least += seconds * (excess / freed).min(1.);
            excess -= freed;
        }
        // Sums are rounded.
        (excess <= 1e-9 * self.kept.max(1.)).then_some(least)
    }
}
