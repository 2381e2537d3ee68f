//! Simulates a schedule: when each action starts and ends, how long ranks are idle, and how much
//! memory they hold.

mod costs;
mod memory;

pub use costs::{Costs, Skip, StageCosts, Transfer};

use std::collections::HashMap;
use std::ops::Deref;

use crate::list::{Action, ActionKind, DeadlockError, Index, Schedule};
use crate::timeline::{Span, Timeline};

/// The times of a schedule's actions, where each runs as soon as its rank is free and its inputs
/// have arrived. Dereferences to the [`Timeline`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[must_use]
pub struct Simulation {
    /// The number of stages.
    pub stages: usize,
    /// The number of micro-batches.
    pub micro_batches: usize,
    /// The times of each rank's actions.
    pub timeline: Timeline,
    /// Peak memory, by rank.
    pub memory: Vec<f64>,
    /// Peak number of in-flight (stage, micro-batch) pairs of each rank, as defined for
    /// [`Schedule::peak_in_flight`].
    pub peak_in_flight: Vec<usize>,
    /// Peak number of values that wait between the stages of a skip, by skip.
    pub in_transit: Vec<usize>,
}

/// The reason why a schedule cannot be simulated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SimulationError {
    /// Its lists cannot finish.
    #[error(transparent)]
    Deadlock(#[from] DeadlockError),
    /// The costs are for another model.
    #[error(
        "the schedule has {stages} stages and the costs are for {costs}, with {boundaries} boundaries between them"
    )]
    Stages {
        /// The number of stages of the schedule.
        stages: usize,
        /// The number of stages in the costs.
        costs: usize,
        /// The number of boundaries in the costs.
        boundaries: usize,
    },
    /// A skip does not lead from a stage to a later one.
    #[error(
        "there is no skip from stage {from} to stage {to}: it must lead from one of {stages} stages to a later one"
    )]
    Skip {
        /// The stage where it starts.
        from: usize,
        /// The stage where it ends.
        to: usize,
        /// The number of stages.
        stages: usize,
    },
    /// An action has a stage that does not exist.
    #[error("`{action}` on rank {rank}: there are {stages} stages, from 0")]
    OutOfRange {
        /// The action.
        action: Action,
        /// The rank.
        rank: usize,
        /// The number of stages.
        stages: usize,
    },
}

/// Simulates `schedule` with `costs`.
///
/// An action that the lists do not have counts as done at the start, as for [`Schedule::order`].
///
/// # Errors
///
/// * [`SimulationError::Deadlock`] if the lists cannot finish.
/// * [`SimulationError::Stages`] if `costs` is for another number of stages.
/// * [`SimulationError::Skip`] if a skip of `costs` does not lead from a stage to a later one.
/// * [`SimulationError::OutOfRange`] if an action has a stage that does not exist.
pub fn simulate(schedule: &Schedule, costs: &Costs) -> Result<Simulation, SimulationError> {
    check(schedule, costs)?;
    let mut run = Run::new(schedule, costs);
    // A rank runs until an input is missing, and goes on when that arrives.
    let mut ready: Vec<usize> = (0..schedule.ranks.len()).rev().collect();
    let mut waiting: HashMap<usize, Vec<usize>> = HashMap::new();
    while let Some(rank) = ready.pop() {
        while let Some(&action) = schedule.ranks[rank].get(run.ranks[rank].len()) {
            if let Some(missing) = run.missing(action) {
                waiting.entry(missing).or_default().push(rank);
                break;
            }
            let number = run.perform(rank, action);
            ready.extend(waiting.remove(&number).into_iter().flatten());
        }
    }
    if !waiting.is_empty() {
        let head = |(rank, list): (usize, &Vec<Action>)| Some((rank, *list.get(run.ranks[rank].len())?));
        return Err(DeadlockError(schedule.ranks.iter().enumerate().filter_map(head).collect()).into());
    }
    Ok(run.finish())
}

fn check(schedule: &Schedule, costs: &Costs) -> Result<(), SimulationError> {
    let stages = schedule.stages;
    check_costs(costs, stages)?;
    for (rank, list) in schedule.ranks.iter().enumerate() {
        if let Some(&action) = list.iter().find(|action| action.stage >= stages) {
            return Err(SimulationError::OutOfRange { action, rank, stages });
        }
    }
    Ok(())
}

/// Checks that the costs are for `stages` stages.
pub(crate) fn check_costs(costs: &Costs, stages: usize) -> Result<(), SimulationError> {
    if costs.stages.len() != stages || costs.boundaries.len() != stages.saturating_sub(1) {
        let boundaries = costs.boundaries.len();
        return Err(SimulationError::Stages { stages, costs: costs.stages.len(), boundaries });
    }
    match costs.skips.iter().find(|skip| skip.from >= skip.to || skip.to >= stages) {
        Some(skip) => Err(SimulationError::Skip { from: skip.from, to: skip.to, stages }),
        None => Ok(()),
    }
}

/// The state of a running simulation.
struct Run<'a> {
    schedule: &'a Schedule,
    costs: &'a Costs,
    index: Index,
    rank_of: Vec<Option<usize>>,
    ranks: Vec<Vec<Span>>,
    /// When each action ends, by its number in `index`.
    ends: Vec<f64>,
    /// When the result of each action has arrived at the next stage (for a backward, at the stage
    /// before).
    arrivals: Vec<f64>,
    /// When a skip's value (`true`: its gradient) of a micro-batch has arrived.
    skips: HashMap<(usize, bool, usize), f64>,
    /// For each stage, the skips that start there, and those that end there.
    starting: Vec<Vec<usize>>,
    ending: Vec<Vec<usize>>,
    /// When the connection from one rank to another is free again.
    links: HashMap<(usize, usize), f64>,
}

const NOT_YET: f64 = f64::INFINITY;

impl<'a> Run<'a> {
    fn new(schedule: &'a Schedule, costs: &'a Costs) -> Self {
        let index = Index::new(schedule);
        let mut rank_of = vec![None; schedule.stages];
        for (rank, list) in schedule.ranks.iter().enumerate() {
            list.iter().for_each(|action| rank_of[action.stage] = rank_of[action.stage].or(Some(rank)));
        }
        let (mut starting, mut ending) = (vec![Vec::new(); schedule.stages], vec![Vec::new(); schedule.stages]);
        for (number, skip) in costs.skips.iter().enumerate() {
            starting[skip.from].push(number);
            ending[skip.to].push(number);
        }
        Self {
            schedule,
            costs,
            rank_of,
            ranks: schedule.ranks.iter().map(|list| Vec::with_capacity(list.len())).collect(),
            ends: vec![NOT_YET; index.len()],
            arrivals: vec![NOT_YET; index.len()],
            index,
            skips: HashMap::new(),
            starting,
            ending,
            links: HashMap::new(),
        }
    }

    /// The number of an action that this one waits for and that has not ended.
    fn missing(&self, action: Action) -> Option<usize> {
        let numbers = action.needs(self.schedule.stages).filter_map(|needed| self.index.find(needed));
        numbers.into_iter().find(|&number| self.ends[number] == NOT_YET)
    }

    fn perform(&mut self, rank: usize, action: Action) -> usize {
        let free = self.ranks[rank].last().map_or(0., |span| span.end);
        let needed = action.needs(self.schedule.stages).filter_map(|needed| {
            let number = self.index.find(needed)?;
            Some(if needed.stage == action.stage { self.ends[number] } else { self.arrivals[number] })
        });
        let start = needed.chain(self.skips_needed(action)).fold(free, f64::max);
        let end = start + self.duration(action);
        let number = self.index.first(rank) + self.ranks[rank].len();
        self.ranks[rank].push(Span { action, start, end });
        self.ends[number] = end;
        self.arrivals[number] = end;
        self.send(number, action, end);
        number
    }

    fn duration(&self, action: Action) -> f64 {
        let stage = &self.costs.stages[action.stage];
        match action.kind {
            ActionKind::Forward => stage.forward,
            ActionKind::Recompute => stage.recompute,
            ActionKind::Backward => stage.backward_input + stage.backward_weight,
            ActionKind::BackwardInput => stage.backward_input,
            ActionKind::BackwardWeight => stage.backward_weight,
        }
    }

    fn skips_needed(&self, action: Action) -> impl Iterator<Item = f64> {
        let (routes, gradient): (&[usize], _) = match action.kind {
            ActionKind::Forward => (&self.ending[action.stage], false),
            ActionKind::Backward | ActionKind::BackwardInput => (&self.starting[action.stage], true),
            _ => (&[], false),
        };
        routes.iter().filter_map(move |&skip| self.skips.get(&(skip, gradient, action.micro_batch)).copied())
    }

    /// Sends the results of the action: first to the neighbour, then along the skips.
    fn send(&mut self, number: usize, action: Action, end: f64) {
        let Action { kind, stage, micro_batch } = action;
        let gradient = match kind {
            ActionKind::Forward => false,
            ActionKind::Backward | ActionKind::BackwardInput => true,
            _ => return,
        };
        let next = if gradient { stage.checked_sub(1) } else { Some(stage + 1) };
        if let Some(next) = next.filter(|&next| next < self.schedule.stages) {
            let time = self.costs.boundaries[stage.min(next)].time;
            self.arrivals[number] = self.arrival(stage, next, time, end);
        }
        for at in 0.. {
            let routes = if gradient { &self.ending[stage] } else { &self.starting[stage] };
            let Some(&skip) = routes.get(at) else { break };
            let route = self.costs.skips[skip];
            let other = if gradient { route.from } else { route.to };
            let arrival = self.arrival(stage, other, route.transfer.time, end);
            self.skips.insert((skip, gradient, micro_batch), arrival);
        }
    }

    fn arrival(&mut self, from: usize, to: usize, time: f64, end: f64) -> f64 {
        match (self.rank_of[from], self.rank_of[to]) {
            (Some(from), Some(to)) if from != to => {
                let link = self.links.entry((from, to)).or_insert(0.);
                *link = link.max(end) + time;
                *link
            }
            _ => end,
        }
    }

    fn finish(self) -> Simulation {
        let makespan = self.ranks.iter().filter_map(|list| list.last()).map(|span| span.end).fold(0., f64::max);
        let (memory, in_transit) = memory::peaks(self.schedule, self.costs, &self.rank_of, &self.ranks);
        Simulation {
            stages: self.schedule.stages,
            micro_batches: self.schedule.micro_batches,
            timeline: Timeline { ranks: self.ranks, makespan },
            memory,
            peak_in_flight: self.schedule.peak_in_flight(),
            in_transit,
        }
    }
}

impl Deref for Simulation {
    type Target = Timeline;

    fn deref(&self) -> &Timeline {
        &self.timeline
    }
}
