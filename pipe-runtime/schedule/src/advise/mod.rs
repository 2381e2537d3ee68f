//! Advice on the schedule, the number of micro-batches and the checkpoint mode, by simulating all
//! of them.

mod climb;
mod free;
mod layers;
mod search;
mod table;

pub use free::{LayerAdvice, LayerCandidate, LayerOptions, advise_layers};
pub use layers::{Crossing, Division, LayerCosts, LayerSkip, Layers};

use crate::checkpoint::Checkpoint;
use crate::list::Schedule;
use crate::methods::{ScheduleKind, ScheduleKindError};
use crate::simulate::check_costs;
use crate::simulate::{Costs, SimulationError, simulate};

/// The choices of [`advise`].
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The numbers of ranks to try.
    pub ranks: Vec<usize>,
    /// The number of micro-batches with which the costs were measured. With twice as many, each
    /// takes half of the time and of the memory.
    pub measured_with: usize,
    /// Time that each action takes on top of its work, however small its micro-batch. It keeps very
    /// many micro-batches from being the best.
    pub overhead: f64,
    /// The numbers of micro-batches to try.
    pub micro_batches: Vec<usize>,
    /// The schedules to try.
    pub schedules: Vec<ScheduleKind>,
    /// The checkpoint modes to try.
    pub checkpoints: Vec<Checkpoint>,
    /// How the stages are placed.
    pub stages: Stages,
    /// The units of the costs, for the table.
    pub units: Units,
    /// The number of cores that the ranks share, if they run on the cores of one machine. It is
    /// only printed: the times are those of ranks that have one core each.
    pub cores: Option<usize>,
}

/// The units of times and sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Units {
    /// Numbers without a unit.
    #[default]
    Plain,
    /// Seconds and bytes, as in a [`Trace`](crate::Trace).
    SecondsAndBytes,
}

/// How [`advise`] may place the stages that the costs are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stages {
    /// Each schedule places them itself. A schedule with fewer stages per rank runs neighbours as
    /// one.
    Free,
    /// Each schedule places them itself, and none are run as one.
    Fixed,
    /// They are already placed: this is the rank of each stage.
    On(Vec<usize>),
}

impl Options {
    /// All schedules and checkpoint modes, with 1, 2, 4 and 8 micro-batches per rank, and with as
    /// many as in the measurement.
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
            cores: None,
        }
    }
}

/// One way to run the model.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Candidate {
    /// The schedule.
    pub kind: ScheduleKind,
    /// The number of ranks.
    pub ranks: usize,
    /// The number of stages per rank.
    pub stages_per_rank: usize,
    /// The number of micro-batches.
    pub micro_batches: usize,
    /// The micro-batches that are recomputed.
    pub checkpoint: Checkpoint,
    /// Time of a step.
    pub time: f64,
    /// Peak memory of the rank that needs most.
    pub memory: f64,
}

/// The result of [`advise`]. Prints as a table, with the reasons.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[must_use]
pub struct Advice {
    /// The fastest candidate that fits; `None` if there is none.
    pub best: Option<Candidate>,
    /// All candidates that fit, the best first.
    pub fitting: Vec<Candidate>,
    /// All candidates that need too much memory, the smallest first.
    pub too_large: Vec<Candidate>,
    /// The schedules that cannot run these stages and micro-batches, with the number of
    /// micro-batches and the reason.
    pub refused: Vec<(usize, ScheduleKindError)>,
    /// The memory of a rank.
    pub memory_limit: f64,
    /// The units of times and sizes.
    pub units: Units,
    /// The number of cores that the ranks share, if it is known.
    pub cores: Option<usize>,
    /// The work of the busiest rank in a step without recomputation, in the combination where it is
    /// smallest: no step can be faster. It is 0 if no combination without recomputation was tried.
    pub work: f64,
}

/// Finds the schedule, the number of micro-batches and the checkpoint mode with which a step is
/// fastest, of those that need at most `memory_limit` on each rank. Ties go to the one that needs
/// least memory, then to the simplest.
///
/// ```
/// use pipe_schedule::{Costs, Options, advise};
///
/// let costs = Costs::equal(4, 1., 1., 1.); // 4 stages, times of F, I and W
/// // 2 ranks, measured with 8 chunks.
/// let advice = advise(&costs, f64::INFINITY, &Options::new(2, 8))?;
/// let best = advice.best.as_ref().expect("something fits into any memory");
/// assert_eq!(best.ranks, 2);
/// println!("{advice}");
/// # Ok::<(), pipe_schedule::SimulationError>(())
/// ```
///
/// `costs` are the costs of one micro-batch, measured with `options.measured_with` of them. The
/// number of stages is a multiple of the number of ranks.
///
/// # Errors
///
/// Fails if the number of boundaries in `costs` is not one less than the number of stages, or if a
/// skip does not lead from a stage to a later one. A schedule that cannot run is not an error: it
/// is listed in [`Advice::refused`].
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
    Ok(Advice {
        best: fitting.first().cloned(),
        fitting,
        too_large,
        refused,
        memory_limit,
        units: options.units,
        cores: options.cores,
        work,
    })
}

/// The costs of one micro-batch if there are `micro_batches` of them.
fn scaled(costs: &Costs, options: &Options, micro_batches: usize) -> Costs {
    let part = options.measured_with.max(1) as f64 / micro_batches.max(1) as f64;
    let mut costs = costs.clone();
    for stage in &mut costs.stages {
        for time in [&mut stage.forward, &mut stage.backward_input, &mut stage.backward_weight, &mut stage.recompute] {
            *time = *time * part + options.overhead;
        }
        for memory in [
            &mut stage.activation,
            &mut stage.for_weights,
            &mut stage.checkpoint,
            &mut stage.forward_working,
            &mut stage.backward_working,
            &mut stage.input_working,
            &mut stage.weight_working,
        ] {
            *memory *= part;
        }
    }
    let skips = costs.skips.iter_mut().map(|skip| &mut skip.transfer);
    for transfer in costs.boundaries.iter_mut().chain(skips) {
        transfer.time *= part;
        transfer.size *= part;
        transfer.gradient *= part;
    }
    costs
}

type Attempt = (Result<Schedule, ScheduleKindError>, Costs, usize);

/// The lists of a schedule, for each possible number of stages per rank.
fn schedules(kind: ScheduleKind, costs: &Costs, ranks: usize, options: &Options, micro_batches: usize) -> Vec<Attempt> {
    let stages = costs.stages.len();
    if let Stages::On(rank_of) = &options.stages {
        // A stage without a rank counts as on a rank of its own, which only GPipe accepts.
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
        // The schedule's number of stages per rank is not possible here; the error gives the
        // reason.
        return vec![(refusal(kind, ranks, most, micro_batches), costs.clone(), most)];
    }
    attempts
}

/// Whether the stages are looped over the ranks. With one stage per rank, such lists are the same
/// as another schedule's.
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
