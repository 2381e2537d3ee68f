//! Which schedule, how many micro-batches, what to recompute: by trying them all in the simulator.

mod table;

use std::fmt;

use crate::list::Schedule;
use crate::methods::{Illegal, Method};
use crate::simulate::check_costs;
use crate::simulate::{Costs, Unsimulated, simulate};

/// Which micro-batches are recomputed before their backward instead of being held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Checkpointing {
    /// None.
    Never,
    /// All but the last.
    ExceptLast,
    /// All.
    Always,
}

impl Checkpointing {
    /// All of them, from the fastest to the smallest.
    pub const ALL: [Checkpointing; 3] = [Checkpointing::Never, Checkpointing::ExceptLast, Checkpointing::Always];

    /// Whether micro-batch `micro_batch` of `micro_batches` is recomputed.
    pub fn recomputes(self, micro_batch: usize, micro_batches: usize) -> bool {
        match self {
            Checkpointing::Never => false,
            Checkpointing::ExceptLast => micro_batch + 1 < micro_batches,
            Checkpointing::Always => true,
        }
    }
}

/// As in settings: `never`, `except_last`, `always`.
impl fmt::Display for Checkpointing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Checkpointing::Never => "never",
            Checkpointing::ExceptLast => "except_last",
            Checkpointing::Always => "always",
        })
    }
}

/// What [`advise`] may choose from.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The numbers of ranks to try.
    pub ranks: Vec<usize>,
    /// Into how many micro-batches the mini-batch was split when the costs were measured. With twice as many, each takes half of the time and
    /// of the memory.
    pub measured_with: usize,
    /// What each action takes besides, however small its micro-batch: it is what keeps very many micro-batches from being the best.
    pub overhead: f64,
    /// The numbers of micro-batches to try.
    pub micro_batches: Vec<usize>,
    /// The schedules to try.
    pub methods: Vec<Method>,
    /// The kinds of checkpointing to try.
    pub checkpointing: Vec<Checkpointing>,
    /// Where the stages are.
    pub stages: Stages,
    /// What the costs are in, for the table.
    pub units: Units,
}

/// What times and sizes are in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Units {
    /// Numbers without a unit.
    #[default]
    Plain,
    /// Seconds and bytes, as of a [`Trace`](crate::Trace).
    SecondsAndBytes,
}

/// What [`advise`] may do with the stages that the costs are of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stages {
    /// Each schedule places them as it likes, and one that has fewer of them per rank runs neighbours as one.
    Free,
    /// Each schedule places them as it likes, and none are run as one.
    Fixed,
    /// They are on these ranks.
    On(Vec<usize>),
}

impl Options {
    /// All schedules and checkpointings, with 1, 2, 4 and 8 micro-batches per rank and with as many as in the measurement.
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
            methods: Method::ALL.to_vec(),
            checkpointing: Checkpointing::ALL.to_vec(),
            stages: Stages::Free,
            units: Units::Plain,
        }
    }
}

/// One way to run the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The schedule.
    pub method: Method,
    /// On how many ranks.
    pub ranks: usize,
    /// How many stages each rank has.
    pub stages_per_rank: usize,
    /// How many micro-batches.
    pub micro_batches: usize,
    /// Which of them are recomputed.
    pub checkpointing: Checkpointing,
    /// Time of a step.
    pub time: f64,
    /// Memory of the rank that needs most.
    pub memory: f64,
}

/// What [`advise`] found. Prints as a table with the reasons.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    /// The fastest that fits, if any does.
    pub best: Option<Candidate>,
    /// All that fit, the best first.
    pub fitting: Vec<Candidate>,
    /// All that need too much memory, the smallest first.
    pub too_large: Vec<Candidate>,
    /// What cannot run these stages and micro-batches at all, and why.
    pub refused: Vec<(usize, Illegal)>,
    /// How much memory a rank has.
    pub memory_limit: f64,
    /// What times and sizes are in.
    pub units: Units,
    /// The time of a step in which the busiest rank never waits and nothing is recomputed, with the fewest micro-batches.
    pub work: f64,
}

/// Looks for the schedule, the number of micro-batches and the checkpointing with which a step is fastest, of those that need no more memory on any rank
/// than `memory_limit`; of equally fast ones for the one that needs least memory, then for the simplest.
///
/// `costs` are those of one micro-batch of `options.measured_with`. Of as many stages as there are ranks, or a multiple of that.
pub fn advise(costs: &Costs, memory_limit: f64, options: &Options) -> Result<Advice, Unsimulated> {
    check_costs(costs, costs.stages.len())?;
    let (mut fitting, mut too_large, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    let mut work = f64::INFINITY;
    for &micro_batches in &options.micro_batches {
        let scaled = scaled(costs, options, micro_batches);
        for &method in &options.methods {
            let attempts =
                options.ranks.iter().flat_map(|&ranks| schedules(method, &scaled, ranks, options, micro_batches));
            for (schedule, costs, stages_per_rank) in attempts {
                let schedule = match schedule {
                    Ok(schedule) => schedule,
                    Err(illegal) => {
                        refused.push((micro_batches, illegal));
                        continue;
                    }
                };
                for &checkpointing in &options.checkpointing {
                    let schedule = schedule.clone().with_recompute(|_, i| checkpointing.recomputes(i, micro_batches));
                    let simulation = simulate(&schedule, &costs)?;
                    let memory = simulation.memory.iter().copied().fold(0., f64::max);
                    let time = simulation.makespan;
                    if checkpointing == Checkpointing::Never {
                        work = work.min((0..schedule.ranks.len()).map(|rank| simulation.busy(rank)).fold(0., f64::max));
                    }
                    let ranks = schedule.ranks.len();
                    let candidate =
                        Candidate { method, ranks, stages_per_rank, micro_batches, checkpointing, time, memory };
                    if memory <= memory_limit { fitting.push(candidate) } else { too_large.push(candidate) }
                }
            }
        }
    }
    let by_time = |a: &Candidate, b: &Candidate| a.time.total_cmp(&b.time).then(a.memory.total_cmp(&b.memory));
    let simplest =
        |candidate: &Candidate| (candidate.method, candidate.checkpointing, candidate.micro_batches, candidate.ranks);
    fitting.sort_by(|a, b| by_time(a, b).then(simplest(a).cmp(&simplest(b))));
    too_large.sort_by(|a, b| a.memory.total_cmp(&b.memory).then(a.time.total_cmp(&b.time)));
    let work = if work.is_finite() { work } else { 0. };
    Ok(Advice { best: fitting.first().cloned(), fitting, too_large, refused, memory_limit, units: options.units, work })
}

/// The costs of one micro-batch of `micro_batches`.
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

type Attempt = (Result<Schedule, Illegal>, Costs, usize);

/// The method's schedule for every number of stages per rank that it can have.
fn schedules(method: Method, costs: &Costs, ranks: usize, options: &Options, micro_batches: usize) -> Vec<Attempt> {
    let stages = costs.stages.len();
    if let Stages::On(rank_of) = &options.stages {
        // What is not said of a stage is that it is on a rank of its own, which no method but GPipe takes.
        let stages_per_rank = stages / ranks.max(1);
        let rank_of: Vec<_> = (0..stages).map(|stage| rank_of.get(stage).copied().unwrap_or(stage)).collect();
        return vec![(method.schedule_on(&rank_of, micro_batches), costs.clone(), stages_per_rank)];
    }
    let most = stages / ranks.max(1);
    let divides = |&fewer: &usize| fewer > 0 && fewer.checked_mul(ranks).is_some_and(|all| stages.is_multiple_of(all));
    let keeps = |&fewer: &usize| options.stages == Stages::Free || fewer * ranks == stages;
    let suits = |&fewer: &usize| method.stages_per_rank().is_none_or(|needed| needed == fewer);
    let attempt = |stages_per_rank| {
        let schedule = method.schedule(ranks, stages_per_rank, micro_batches);
        (schedule, costs.merged(ranks.saturating_mul(stages_per_rank)), stages_per_rank)
    };
    let attempts: Vec<_> = (1..=most)
        .filter(divides)
        .filter(keeps)
        .filter(suits)
        .filter(|&v| v > 1 || !loops(method) || most == 1)
        .map(attempt)
        .collect();
    if attempts.is_empty() {
        // To say why: the method's own number is not among those that the stages allow.
        return vec![(refusal(method, ranks, most, micro_batches), costs.clone(), most)];
    }
    attempts
}

/// Loops of one stage per rank are other methods' schedules.
fn loops(method: Method) -> bool {
    matches!(method, Method::Interleaved | Method::LoopedBfs)
}

fn refusal(method: Method, ranks: usize, stages_per_rank: usize, micro_batches: usize) -> Result<Schedule, Illegal> {
    let needed = method.stages_per_rank().unwrap_or(2);
    method.check(ranks, stages_per_rank, micro_batches)?;
    Err(Illegal::StagesPerRank { method, needed, stages_per_rank, ranks })
}
