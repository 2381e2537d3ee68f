//! Lent values and sums between processes, beside plain tch on the whole batch: under every
//! schedule, with one stage or several per rank, and in every checkpoint mode.

use pipe_runtime::{Checkpoint, Devices, PipeBuilder, ScheduleKind, World};
use pipe_tests::mirrored::uneven::Uneven;
use pipe_tests::mirrored::{Mirror, Mirrored, lent, rows, sums};
use pipe_tests::zoo::run::ranks;

use crate::launch::{Mpich, Ulfm, in_processes};

/// Rows of the mini-batches of a training. The last micro-batch of each is smaller than the others,
/// and the second mini-batch has fewer than there can be: what a process knows of the values of one
/// step is not true of the next one.
const ROWS: [i64; 2] = [15, 5];

/// Every schedule in every checkpoint mode, with the usual number of ranks, and schedules that can
/// also run several stages on the only rank of a process.
fn ways(stages: usize, processes: usize, chunks: usize) -> Vec<(ScheduleKind, usize, Checkpoint)> {
    let mut ways = Vec::new();
    for kind in ScheduleKind::ALL {
        let usual = ranks(kind, stages).0;
        let modes = [Checkpoint::Never, Checkpoint::ExceptLast, Checkpoint::Always];
        ways.extend(modes.map(|mode| (kind, usual, mode)));
        if usual != processes && kind.check(processes, stages / processes, chunks).is_ok() {
            ways.push((kind, processes, Checkpoint::ExceptLast));
        }
    }
    ways
}

/// Trains a model over the processes in every way, with two stages for each process.
fn train<M: Mirrored>(world: &World, inputs: impl Fn() -> Vec<M::Input>) {
    // The schedule that needs most has as many micro-batches as stages.
    let (stages, chunks) = (2 * world.size(), 2 * world.size());
    let make = |devices: &Devices| {
        tch::manual_seed(3);
        M::make(devices)
    };
    let whole = make(&Devices::cpu(stages)).1;
    let mirror = Mirror::<M>::of(&whole, inputs(), chunks);
    for (schedule, ranks, checkpoint) in ways(stages, world.size(), chunks) {
        let about = format!("{}, {schedule}, {ranks} ranks, {checkpoint}", M::PLAN.name);
        let (model, vars) = make(&Devices::cpu(stages).for_schedule(schedule, ranks).across(world).unwrap());
        let pipe = PipeBuilder::new(model, &vars).chunks(chunks).schedule(schedule).ranks(ranks);
        let mut pipe = pipe.checkpoint(checkpoint).intra_op_threads(1).build().unwrap();
        mirror.check(&mut pipe, &vars, &about);
        // A prediction depends on where the stages are: in a row, in a loop, or there and back.
        let places = matches!(schedule, ScheduleKind::GPipe | ScheduleKind::Interleaved | ScheduleKind::Zbv);
        if places && checkpoint == Checkpoint::Never {
            mirror.check_predictions(&mut pipe, &about);
        }
    }
}

/// Runs `body` over two processes of one MPI, and over four of the other one.
fn over_processes(name: &str, body: fn(&World)) {
    for (mpi, processes) in [(Ulfm, 2), (Mpich, 4)] {
        in_processes(mpi, processes, name, || {
            let world = World::init().unwrap();
            tch::set_num_threads(1);
            body(&world);
        });
    }
}

#[test]
fn lent_values_train_as_in_plain_tch() {
    over_processes("lent_and_summed::lent_values_train_as_in_plain_tch", |world| {
        // The mask is there in some steps.
        let inputs = || ROWS.map(|count| (rows(count), (count != 5).then(|| rows(count)))).into();
        train::<lent::LongKept>(world, inputs);
        train::<lent::LongAgain>(world, inputs);
    });
}

#[test]
fn lent_values_of_another_form_in_each_micro_batch_train_as_in_plain_tch() {
    const NAME: &str = "lent_and_summed::lent_values_of_another_form_in_each_micro_batch_train_as_in_plain_tch";
    over_processes(NAME, |world| train::<Uneven>(world, || ROWS.map(rows).into()));
}

#[test]
fn sums_train_as_in_plain_tch() {
    over_processes("lent_and_summed::sums_train_as_in_plain_tch", |world| {
        let inputs = || ROWS.map(rows).into();
        train::<sums::LongKept>(world, inputs);
        train::<sums::LongAgain>(world, inputs);
    });
}
