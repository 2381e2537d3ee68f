//! Chooses the schedule, the number of micro-batches and what to recompute, by trying all
//! combinations in the simulator.

mod table;

use crate::checkpoint::Checkpoint;
use crate::list::Schedule;
use crate::methods::{ScheduleKind, ScheduleKindError};
use crate::simulate::check_costs;
use crate::simulate::{Costs, SimulationError, simulate};

/// What [`advise`] may choose from, and how the costs were measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The numbers of ranks to try.
    pub ranks: Vec<usize>,
    /// Number of micro-batches in the mini-batch when the costs were measured. With twice as many,
    /// each is assumed to take half the time and half the memory.
    pub measured_with: usize,
    /// Fixed time that each action takes in addition, however small its micro-batch. It keeps very
    /// large numbers of micro-batches from being the best.
    pub overhead: f64,
    /// The numbers of micro-batches to try.
    pub micro_batches: Vec<usize>,
    /// The schedules to try.
    pub schedules: Vec<ScheduleKind>,
    /// The checkpoint modes to try.
    pub checkpoints: Vec<Checkpoint>,
    /// How the stages may be placed on the ranks.
    pub stages: Stages,
    /// Units of the costs, for the printed table.
    pub units: Units,
}

/// Units of times and sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Units {
    /// Numbers without a unit.
    #[default]
    Plain,
    /// Seconds and bytes, as in a [`Trace`](crate::Trace).
    SecondsAndBytes,
}

/// How [`advise`] may place and merge the stages that the costs describe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stages {
    /// Each schedule places the stages as it likes. A schedule with fewer stages per rank merges
    /// neighbouring stages into one.
    Free,
    /// Each schedule places the stages as it likes, and none are merged.
    Fixed,
    /// The stages are already placed: this is the rank of each.
    On(Vec<usize>),
}

impl Options {
    /// Tries all schedules and checkpoint modes, with 1, 2, 4 and 8 micro-batches per rank and with
    /// as many as in the measurement.
    pub fn new(ranks: usize, measured_with: usize) -> Self {
        let mut micro_batches: Vec<_> = [1, 2, 4, 8].map(|factor| ranks.saturating_mul(factor)).to_vec();
        micro_batches.push(measured_with);
        micro_batches.sort_unstable();
        micro_batches.dedup();
        Self {
            ranks: vec![ranks],
            measured_with,
            overhead: 0.,
            micro_batches,
            schedules: ScheduleKind::ALL.to_vec(),
            checkpoints: Checkpoint::ALL.to_vec(),
            stages: Stages::Free,
            units: Units::Plain,
        }
    }
}

/// One way to run the model.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Candidate {
    /// The schedule.
    pub kind: ScheduleKind,
    /// Number of ranks.
    pub ranks: usize,
    /// Number of stages on each rank.
    pub stages_per_rank: usize,
    /// Number of micro-batches.
    pub micro_batches: usize,
    /// Which micro-batches are recomputed.
    pub checkpoint: Checkpoint,
    /// Time of a step.
    pub time: f64,
    /// Peak memory of the rank that needs the most.
    pub memory: f64,
}

/// The result of [`advise`]. It prints as a table with reasons.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[must_use]
pub struct Advice {
    /// The fastest candidate that fits, or `None` if none does.
    pub best: Option<Candidate>,
    /// All candidates that fit, the best first.
    pub fitting: Vec<Candidate>,
    /// All candidates that need too much memory, the smallest first.
    pub too_large: Vec<Candidate>,
    /// The schedules that cannot run these stages and micro-batches at all: the number of
    /// micro-batches and the reason.
    pub refused: Vec<(usize, ScheduleKindError)>,
    /// Memory of each rank, as given to [`advise`].
    pub memory_limit: f64,
    /// Units of times and sizes.
    pub units: Units,
    /// Work of the busiest rank in a step without recomputation, in the combination where it is
    /// smallest: no step can be faster. It is 0 if no combination without recomputation was tried.
    pub work: f64,
}

/// Finds the schedule, the number of micro-batches and the checkpoint mode with the fastest step,
/// among those that need no more than `memory_limit` on any rank. Of equally fast ones, it takes
/// the one that needs the least memory, then the simplest.
///
/// `costs` are per micro-batch, with the mini-batch split into `options.measured_with` of them.
/// They describe as many stages as there are ranks, or a multiple of that number.
///
/// # Errors
///
/// If `costs` does not have one boundary less than stages, or a skip does not lead from a stage to
/// a later one. A schedule that cannot run is not an error: it is listed in [`Advice::refused`].
pub fn advise(costs: &Costs, memory_limit: f64, options: &Options) -> Result<Advice, SimulationError> {
    check_costs(costs, costs.stages.len())?;
    let (mut fitting, mut too_large, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    let mut work = f64::INFINITY;
    for &micro_batches in &options.micro_batches {
        let scaled = scaled(costs, options, micro_batches);
        for &kind in &options.schedules {
            let attempts =
                options.ranks.iter().flat_map(|&ranks| schedules(kind, &scaled, ranks, options, micro_batches));
            for (schedule, costs, stages_per_rank) in attempts {
                let schedule = match schedule {
                    Ok(schedule) => schedule,
                    Err(error) => {
                        refused.push((micro_batches, error));
                        continue;
                    }
                };
                for &checkpoint in &options.checkpoints {
                    let schedule = schedule.clone().with_recompute(|_, i| checkpoint.applies(i, micro_batches));
                    let simulation = simulate(&schedule, &costs)?;
                    let memory = simulation.memory.iter().copied().fold(0., f64::max);
                    let time = simulation.makespan;
                    if checkpoint == Checkpoint::Never {
                        work = work.min((0..schedule.ranks.len()).map(|rank| simulation.busy(rank)).fold(0., f64::max));
                    }
                    let ranks = schedule.ranks.len();
                    let candidate = Candidate { kind, ranks, stages_per_rank, micro_batches, checkpoint, time, memory };
                    if memory <= memory_limit { fitting.push(candidate) } else { too_large.push(candidate) }
                }
            }
        }
    }
    let by_time = |a: &Candidate, b: &Candidate| a.time.total_cmp(&b.time).then(a.memory.total_cmp(&b.memory));
    let simplest =
        |candidate: &Candidate| (candidate.kind, candidate.checkpoint, candidate.micro_batches, candidate.ranks);
    fitting.sort_by(|a, b| by_time(a, b).then(simplest(a).cmp(&simplest(b))));
    too_large.sort_by(|a, b| a.memory.total_cmp(&b.memory).then(a.time.total_cmp(&b.time)));
    let work = if work.is_finite() { work } else { 0. };
    Ok(Advice { best: fitting.first().cloned(), fitting, too_large, refused, memory_limit, units: options.units, work })
}

/// The costs per micro-batch if the mini-batch is split into `micro_batches`.
fn scaled(costs: &Costs, options: &Options, micro_batches: usize) -> Costs {
    let part = options.measured_with.max(1) as f64 / micro_batches.max(1) as f64;
    let mut costs = costs.clone();
    for stage in &mut costs.stages {
        for time in [&mut stage.forward, &mut stage.backward_input, &mut stage.backward_weight, &mut stage.recompute] {
            *time = *time * part + options.overhead;
        }
        for memory in [&mut stage.activation, &mut stage.for_weights, &mut stage.checkpoint] {
            *memory *= part;
        }
    }
    let skips = costs.skips.iter_mut().map(|skip| &mut skip.transfer);
    for transfer in costs.boundaries.iter_mut().chain(skips) {
        transfer.time *= part;
        transfer.size *= part;
    }
    costs
}

type Attempt = (Result<Schedule, ScheduleKindError>, Costs, usize);

/// The schedules of `kind` for every number of stages per rank that it can have.
fn schedules(kind: ScheduleKind, costs: &Costs, ranks: usize, options: &Options, micro_batches: usize) -> Vec<Attempt> {
    let stages = costs.stages.len();
    if let Stages::On(rank_of) = &options.stages {
        // A stage without a given rank is put on a rank by itself, which only GPipe accepts.
        let stages_per_rank = stages / ranks.max(1);
        let rank_of: Vec<_> = (0..stages).map(|stage| rank_of.get(stage).copied().unwrap_or(stage)).collect();
        return vec![(kind.schedule_on(&rank_of, micro_batches), costs.clone(), stages_per_rank)];
    }
    let most = stages / ranks.max(1);
    let divides = |&fewer: &usize| fewer > 0 && fewer.checked_mul(ranks).is_some_and(|all| stages.is_multiple_of(all));
    let keeps = |&fewer: &usize| options.stages == Stages::Free || fewer * ranks == stages;
    let suits = |&fewer: &usize| kind.stages_per_rank().is_none_or(|needed| needed == fewer);
    let attempt = |stages_per_rank| {
        let schedule = kind.schedule(ranks, stages_per_rank, micro_batches);
        (schedule, costs.merged(ranks.saturating_mul(stages_per_rank)), stages_per_rank)
    };
    let attempts: Vec<_> = (1..=most)
        .filter(divides)
        .filter(keeps)
        .filter(suits)
        .filter(|&v| v > 1 || !loops(kind) || most == 1)
        .map(attempt)
        .collect();
    if attempts.is_empty() {
        // None of the numbers of stages per rank that the stages allow suits the schedule; the
        // error says so.
        return vec![(refusal(kind, ranks, most, micro_batches), costs.clone(), most)];
    }
    attempts
}

/// Whether the schedule loops its stages over the ranks. With one stage per rank, its lists are
/// those of another schedule.
fn loops(kind: ScheduleKind) -> bool {
    matches!(kind, ScheduleKind::Interleaved | ScheduleKind::LoopedBfs)
}

fn refusal(
    kind: ScheduleKind,
    ranks: usize,
    stages_per_rank: usize,
    micro_batches: usize,
) -> Result<Schedule, ScheduleKindError> {
    let needed = kind.stages_per_rank().unwrap_or(2);
    kind.check(ranks, stages_per_rank, micro_batches)?;
    Err(ScheduleKindError::StagesPerRank { kind, needed, stages_per_rank, ranks })
}
