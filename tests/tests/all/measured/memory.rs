//! The memory of ranks on a CPU: what a trace measures is what it simulates, and what is there.

use pipe_runtime::optim::{AdamW, Rule, Sgd};
use pipe_runtime::{Checkpoint, Context, Devices, Layer, MemoryReport, Pipe, ScheduleKind, StageMemory, pipeline};
use pipe_tests::layers::linear;
use pipe_tests::zoo::run::{ranks, runs};
use tch::nn::{Linear, Path};
use tch::{Device, Kind, Tensor};

const WIDTH: i64 = 64;
const ROWS: i64 = 1024;
const CHUNKS: usize = 8;
const DEPTH: i64 = 8;
/// Bytes of a micro-batch's values.
const VALUES: u64 = (ROWS * WIDTH * 4) as u64 / CHUNKS as u64;

/// Eight linear layers, each with an activation: autograd saves two tensors of each.
struct Block(Vec<Linear>);

impl Block {
    fn new(path: Path<'_>) -> Self {
        Self((0..DEPTH).map(|number| linear(&path / number, WIDTH, WIDTH)).collect())
    }
}

impl Layer<Tensor> for Block {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        self.0.iter().fold(x, |x, linear| x.apply(linear).sin())
    }
}

/// Adds the value of the first stage.
struct Add;

impl Layer<(Tensor, Tensor)> for Add {
    type Out = Tensor;

    fn run(&self, (x, skip): (Tensor, Tensor), _cx: &Context) -> Tensor {
        x * skip
    }
}

#[pipeline]
struct Net {
    #[device("cpu")]
    #[stash(far = output)]
    first: Block,
    #[device("cpu")]
    second: Block,
    third: Block,
    #[device("cpu")]
    fourth: Block,
    #[device("cpu")]
    fifth: Block,
    #[pop(far)]
    add: Add,
}

/// The pipeline, before its first step.
fn pipe(method: ScheduleKind, checkpoint: Checkpoint) -> Pipe<Net> {
    let vars = Net::vars(&Devices::cpu(Net::STAGES)).unwrap();
    let net = Net {
        first: Block::new(vars.first()),
        second: Block::new(vars.second()),
        third: Block::new(vars.third()),
        fourth: Block::new(vars.fourth()),
        fifth: Block::new(vars.fifth()),
        add: Add,
    };
    let builder = net.pipe(&vars).chunks(CHUNKS).schedule(method).checkpoint(checkpoint).intra_op_threads(1);
    let pipe = builder.ranks(ranks(method, Net::STAGES).0).build().unwrap();
    assert!(pipe.memory().unwrap().ranks.is_empty());
    pipe
}

fn step(pipe: &mut Pipe<Net>) {
    let x = Tensor::rand([ROWS, WIDTH], (Kind::Float, Device::Cpu));
    pipe.train_step(&x, (), |output: &Tensor, ()| output.square().mean(Kind::Float)).unwrap();
}

/// What traced steps have measured.
fn measured(method: ScheduleKind, checkpoint: Checkpoint) -> MemoryReport {
    let mut pipe = pipe(method, checkpoint);
    pipe.start_trace();
    (0..3).for_each(|_| step(&mut pipe));
    drop(pipe.stop_trace().unwrap());
    pipe.memory().unwrap()
}

#[test]
fn every_schedule_holds_what_its_simulation_says() {
    let _serial = pipe_tests::serial();
    let mut compared = 0;
    for method in ScheduleKind::ALL.into_iter().filter(|&method| runs(method, Net::STAGES, CHUNKS)) {
        for checkpoint in [Checkpoint::Never, Checkpoint::Always] {
            let report = measured(method, checkpoint);
            assert_eq!(report.ranks.len(), ranks(method, Net::STAGES).0);
            for (rank, memory) in report.ranks.iter().enumerate() {
                assert!(memory.rank == rank && memory.stages.len() == Net::STAGES / report.ranks.len());
                // How many values are under way at once depends on the moment.
                let under_way: u64 = memory.stages.iter().map(|stage| stage.under_way).sum();
                let least = 0.95 * (memory.peak() - under_way) as f64;
                let most = 1.05 * memory.peak() as f64 + (CHUNKS as u64 * VALUES) as f64;
                let simulated = memory.simulated as f64;
                let about = format!("{method}, {checkpoint}, rank {rank}: {}\n{report}", memory.simulated);
                assert!((least..=most).contains(&simulated), "{about}");
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 2 * ScheduleKind::ALL.len());
}

#[test]
fn a_report_says_what_holds_the_memory() {
    let _serial = pipe_tests::serial();
    let never = measured(ScheduleKind::GPipe, Checkpoint::Never);
    let always = measured(ScheduleKind::GPipe, Checkpoint::Always);
    let stages = |report: &MemoryReport| -> Vec<StageMemory> {
        assert!(report.ranks.iter().all(|rank| rank.peak() == rank.stages[0].total() && rank.stages.len() == 1));
        report.ranks.iter().map(|rank| rank.stages[0].clone()).collect()
    };
    for (rank, (never, always)) in stages(&never).iter().zip(&stages(&always)).enumerate() {
        // All micro-batches are in flight.
        let blocks = if rank == 1 { 2 } else { 1 };
        let saved = CHUNKS as u64 * (2 * DEPTH as u64 - 1) * blocks * VALUES;
        assert!(never.saved >= saved && never.inputs == 0, "{never:?}");
        assert_eq!(never.stage, rank);
        assert_eq!(never.parameters, blocks * (DEPTH * (WIDTH * WIDTH + WIDTH) * 4) as u64);
        // The first stage gets its inputs from the caller.
        assert_eq!(always.inputs >= VALUES, rank > 0, "{always:?}");
        assert!(always.saved + always.working < never.saved, "{always:?}");
    }
    let text = never.to_string();
    assert!(
        text.lines().count() == 8
            && text.contains("rank 3: at its peak ")
            && text.contains("simulated ")
            && text.contains("\n  stage 3: "),
        "{text}"
    );
}

#[test]
fn each_stage_of_a_rank_is_counted_for_itself() {
    let _serial = pipe_tests::serial();
    for method in [ScheduleKind::Interleaved, ScheduleKind::Zbv] {
        let report = measured(method, Checkpoint::Never);
        let mut stages: Vec<_> = report.ranks.iter().flat_map(|rank| &rank.stages).collect();
        stages.sort_unstable_by_key(|stage| stage.stage);
        assert_eq!(stages.iter().map(|stage| stage.stage).collect::<Vec<_>>(), [0, 1, 2, 3]);
        for stage in &stages {
            let blocks = if stage.stage == 1 { 2 } else { 1 };
            let of_stage = blocks * (DEPTH * (WIDTH * WIDTH + WIDTH) * 4) as u64;
            let is_whole = stage.gradients == 0 || stage.gradients == of_stage;
            assert!(stage.parameters == of_stage && is_whole, "{method}: {report}");
            // The graph of a micro-batch, and some more while it is made.
            assert!(stage.saved <= (CHUNKS as u64 + 1) * 2 * DEPTH as u64 * blocks * VALUES, "{method}: {report}");
        }
        // The first stage has micro-batches in flight while its rank runs another stage.
        assert!(stages[0].saved >= (2 * DEPTH as u64 - 1) * VALUES, "{method}: {report}");
    }
}

#[test]
fn the_optimizers_state_counts_as_long_as_it_is_kept() {
    let _serial = pipe_tests::serial();
    let momentum = Sgd { momentum: 0.9, ..Sgd::default() };
    let rules: [(Rule, u64); 3] = [(AdamW::default().into(), 2), (momentum.into(), 1), (Sgd::default().into(), 0)];
    for (rule, numbers) in rules {
        let mut pipe = pipe(ScheduleKind::OneFOneB, Checkpoint::Never);
        let mut optimizer = pipe.optimizer(rule).build().unwrap();
        pipe.start_trace();
        step(&mut pipe);
        optimizer.step().unwrap();
        let costs = pipe.stop_trace().unwrap().costs();
        let with = pipe.memory().unwrap();
        assert_eq!(with.ranks.len(), Net::STAGES);
        let stages: Vec<_> = with.ranks.iter().flat_map(|rank| &rank.stages).collect();
        for (stage, costs) in stages.iter().zip(&costs.stages) {
            assert_eq!(stage.optimizer, numbers * stage.parameters, "{stage:?}");
            assert_eq!(costs.parameters, (stage.parameters + stage.optimizer) as f64);
        }
        let kept: u64 = stages.iter().map(|stage| stage.optimizer).sum();
        assert_eq!(kept, optimizer.state_bytes());
        drop(optimizer);
        let without = pipe.memory().unwrap();
        for (with, without) in with.ranks.iter().zip(&without.ranks) {
            let optimizer = with.stages[0].optimizer;
            assert_eq!(without.stages[0].optimizer, 0);
            assert_eq!(with.peak() - without.peak(), optimizer);
            assert_eq!(with.simulated - without.simulated, optimizer);
        }
        assert!(without.to_string().contains("optimizer 0 B"), "{without}");
    }
}

#[test]
fn the_optimizers_state_counts_for_the_rank_of_its_stages() {
    let _serial = pipe_tests::serial();
    let mut pipe = pipe(ScheduleKind::Interleaved, Checkpoint::Never);
    let first = pipe.optimizer(AdamW::default()).build().unwrap();
    let second = pipe.optimizer(AdamW::default()).moving_average(0.9).build().unwrap();
    pipe.start_trace();
    step(&mut pipe);
    drop(pipe.stop_trace().unwrap());
    // Both optimizers keep their own.
    let keeps = |pipe: &Pipe<Net>, numbers: u64| {
        let ranks = pipe.memory().unwrap().ranks;
        assert!(ranks.len() == 2 && ranks.iter().all(|rank| rank.stages.len() == 2), "{ranks:?}");
        let stages = || ranks.iter().flat_map(|rank| &rank.stages);
        assert!(stages().all(|stage| stage.optimizer == numbers * stage.parameters), "{ranks:?}");
    };
    keeps(&pipe, 5);
    drop(first);
    keeps(&pipe, 3);
    drop(second);
    keeps(&pipe, 0);
}

/// Concatenates two values, which go on as one.
struct Concat;

impl Layer<(Tensor, Tensor)> for Concat {
    type Out = Tensor;

    fn run(&self, (x, skip): (Tensor, Tensor), _cx: &Context) -> Tensor {
        Tensor::cat(&[x, skip], 1)
    }
}

#[pipeline]
struct Joined {
    #[device("cpu")]
    #[stash(far = output)]
    first: Block,
    #[device("cpu")]
    second: Block,
    #[device("cpu")]
    #[pop(far)]
    concat: Concat,
}

#[test]
fn a_part_of_a_gradient_does_not_hold_the_rest_on_its_way() {
    let _serial = pipe_tests::serial();
    let vars = Joined::vars(&Devices::cpu(Joined::STAGES)).unwrap();
    let net = Joined { first: Block::new(vars.first()), second: Block::new(vars.second()), concat: Concat };
    let mut pipe = net.pipe(&vars).chunks(CHUNKS).intra_op_threads(1).build().unwrap();
    pipe.start_trace();
    let x = Tensor::rand([ROWS, WIDTH], (Kind::Float, Device::Cpu));
    pipe.train_step(&x, (), |output: &Tensor, ()| output.square().mean(Kind::Float)).unwrap();
    let costs = pipe.stop_trace().unwrap().costs();
    // Each is one half of the concatenation's gradient.
    assert_eq!(costs.boundaries[1].gradient, VALUES as f64);
    assert_eq!(costs.skips[0].transfer.gradient, VALUES as f64);
}
