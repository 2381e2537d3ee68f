//! The memory of ranks on a CPU: what a trace measures is what it simulates, and what is there.

use pipe_runtime::{Checkpoint, Context, Devices, Layer, MemoryReport, ScheduleKind, pipeline};
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

/// What a traced step has measured.
fn measured(method: ScheduleKind, checkpoint: Checkpoint) -> MemoryReport {
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
    let mut pipe = builder.ranks(ranks(method, Net::STAGES).0).build().unwrap();
    assert!(pipe.memory().unwrap().ranks.is_empty());
    let x = Tensor::rand([ROWS, WIDTH], (Kind::Float, Device::Cpu));
    pipe.start_trace();
    for _ in 0..3 {
        pipe.train_step(&x, (), |output: &Tensor, ()| output.square().mean(Kind::Float)).unwrap();
    }
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
                // How many values are under way at once depends on the moment.
                let least = 0.95 * (memory.peak() - memory.under_way) as f64;
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
    for (rank, (never, always)) in never.ranks.iter().zip(&always.ranks).enumerate() {
        // All micro-batches are in flight.
        let blocks = if rank == 1 { 2 } else { 1 };
        let saved = CHUNKS as u64 * (2 * DEPTH as u64 - 1) * blocks * VALUES;
        assert!(never.saved >= saved && never.inputs == 0, "{never:?}");
        assert_eq!(never.stages, [rank]);
        assert_eq!(never.parameters, blocks * (DEPTH * (WIDTH * WIDTH + WIDTH) * 4) as u64);
        // The first stage gets its inputs from the caller.
        assert_eq!(always.inputs >= VALUES, rank > 0, "{always:?}");
        assert!(always.saved + always.working < never.saved, "{always:?}");
    }
    let text = never.to_string();
    assert!(
        text.lines().count() == 4 && text.contains("rank 3: at its peak ") && text.contains("simulated "),
        "{text}"
    );
}
