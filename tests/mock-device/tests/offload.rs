//! Activations that move to the host and back: the same bits as without, in order on the streams,
//! with less memory on the device. The mock's log says when each copy is queued.

use std::panic::resume_unwind;

use pipe_mock_device::{Entry, Kind as Use, devices, draw, log, named, violations};
use pipe_runtime::{CheapOutputs, Checkpoint, Context, Devices, Layer, Offload, PipeBuilder, ScheduleKind, pipeline};
use tch::nn::{self, Linear, OptimizerConfig};
use tch::{Device, Kind, Tensor};

const GPU0: Device = Device::Cuda(0);
const GPU1: Device = Device::Cuda(1);
const WIDTH: i64 = 64;

type Body = fn(&Tensor, &Linear) -> Tensor;

struct Operators(Linear, Body);

impl Layer<Tensor> for Operators {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        (self.1)(&x, &self.0)
    }
}

/// Saves what is cheap and what is not, views of one memory, dropout's mask, and what is changed in
/// place before it is saved.
fn mixed(x: &Tensor, linear: &Linear) -> Tensor {
    let y = x.apply(linear);
    let mut z = y.tr().square().tr() + y.narrow(1, 0, 1).sigmoid();
    let _ = z.g_mul_scalar_(0.5);
    let normed = z.layer_norm([WIDTH], None::<&Tensor>, None::<&Tensor>, 1e-5, false);
    normed.gelu("none").dropout(0.25, true).matmul(&linear.ws.tr())
}

#[pipeline(chunks = 4)]
struct Net {
    #[device("cpu")]
    first: Operators,
    #[device("cpu")]
    second: Operators,
    #[recompute]
    again: Operators,
    #[device("cpu")]
    third: Operators,
    #[device("cpu")]
    fourth: Operators,
}

fn net(places: [Device; 4]) -> (Net, NetVars) {
    let vars = Net::vars(&Devices::new(places)).unwrap();
    let layer = |path| Operators(nn::linear(path, WIDTH, WIDTH, Default::default()), mixed);
    let net = Net {
        first: layer(vars.first()),
        second: layer(vars.second()),
        again: layer(vars.again()),
        third: layer(vars.third()),
        fourth: layer(vars.fourth()),
    };
    draw(vars.var_store(), 2, |_| true);
    (net, vars)
}

fn rows(device: Device) -> Tensor {
    many_rows(31, device)
}

fn many_rows(count: i64, device: Device) -> Tensor {
    tch::manual_seed(3);
    Tensor::randn([count, WIDTH], (Kind::Float, Device::Cpu)).to_device(device)
}

fn loss(output: &Tensor, (): &()) -> Tensor {
    output.square().mean(Kind::Float)
}

fn on_cpu(tensors: impl IntoIterator<Item = Tensor>) -> Vec<Tensor> {
    tensors.into_iter().map(|tensor| tensor.to_device(Device::Cpu)).collect()
}

fn gradients(store: &nn::VarStore) -> Vec<Tensor> {
    on_cpu(named(store).iter().map(|(_, variable)| variable.grad()))
}

fn bits(tensors: &[Tensor]) -> Vec<Vec<u32>> {
    let of = |tensor: &Tensor| Vec::<f32>::try_from(tensor.flatten(0, -1)).unwrap();
    tensors.iter().map(|tensor| of(tensor).into_iter().map(f32::to_bits).collect()).collect()
}

fn start() -> usize {
    log(0).len()
}

/// The blocks of pinned memory that were allocated.
fn pinned(log: &[Entry]) -> Vec<i64> {
    log.iter().filter(|entry| entry.kind == Use::Allocate && entry.stream == -1).map(|entry| entry.object).collect()
}

/// The accesses of a kind to pinned memory by streams, as positions in the log.
fn copies(log: &[Entry], kind: Use) -> Vec<usize> {
    let pinned = pinned(log);
    (0..log.len()).filter(|&at| log[at].kind == kind && pinned.contains(&log[at].object)).collect()
}

fn assert_ordered(log: &[Entry], what: &str) {
    let found = violations(log);
    assert!(
        found.is_empty(),
        "{what}: {} uses without order, such as {:#?}",
        found.len(),
        &found[..found.len().min(4)]
    );
}

/// Runs two training steps. Returns outputs and gradients, and how often a tensor was copied to
/// pinned memory; `None` if the stages cannot run the schedule.
fn train(
    places: [Device; 4],
    (mode, cheap, method): (Checkpoint, CheapOutputs, ScheduleKind),
    offload: Option<Offload>,
) -> Option<(Vec<Vec<u32>>, usize)> {
    let (net, vars) = net(places);
    let builder = net.pipe(&vars).checkpoint(mode).schedule(method).cheap_outputs(cheap).offload(offload);
    let mut pipe = builder.intra_op_threads(1).build().ok()?;
    let x = rows(places[0]);
    let from = start();
    let mut found = Vec::new();
    for _ in 0..2 {
        found.extend(on_cpu([pipe.step().keep_output().run(&x, (), loss).unwrap().output]));
    }
    let log = log(from);
    assert_ordered(&log, &format!("{places:?}, {mode}, {method}"));
    found.extend(gradients(vars.var_store()));
    Some((bits(&found), copies(&log, Use::Write).len()))
}

#[test]
fn every_schedule_and_checkpoint_mode_gives_the_same_bits_in_order() {
    let Some(_alone) = devices() else { return };
    let mut runs = 0;
    for places in [[GPU0; 4], [GPU0, GPU0, GPU1, GPU1], [GPU0, GPU1, GPU0, GPU1], [GPU0, Device::Cpu, GPU1, GPU0]] {
        for mode in [Checkpoint::Always, Checkpoint::ExceptLast, Checkpoint::Never] {
            for method in ScheduleKind::ALL {
                for cheap in [CheapOutputs::Keep, CheapOutputs::RecomputePointwise, CheapOutputs::RecomputeAll] {
                    let how = (mode, cheap, method);
                    let Some((plain, before)) = train(places, how, None) else { continue };
                    let (found, copied) = train(places, how, Some(Offload::at_least(1))).unwrap();
                    assert!(found == plain, "{places:?}, {how:?}");
                    match mode {
                        Checkpoint::Always => assert_eq!(copied, before, "{places:?}, {how:?}"),
                        Checkpoint::Never => assert!(copied >= before + 10, "{places:?}, {how:?}: {copied}, {before}"),
                        _ => assert!(copied >= before),
                    }
                    runs += 1;
                }
            }
        }
    }
    assert!(runs >= 4 * 3 * 3 + 9, "{runs}");
}

#[pipeline(chunks = 4, checkpoint = never, allow(single_stage))]
struct One {
    #[device("cuda:0")]
    layer: Operators,
}

fn one(body: Body) -> (One, OneVars) {
    let vars = One::vars(&Devices::new([GPU0])).unwrap();
    let net = One { layer: Operators(nn::linear(vars.layer(), WIDTH, WIDTH, Default::default()), body) };
    draw(vars.var_store(), 2, |_| true);
    (net, vars)
}

/// Eight tensors as large as the input are saved.
fn deep(x: &Tensor, linear: &Linear) -> Tensor {
    (0..8).fold(x.apply(linear), |x, _| x.sigmoid()) * 1.
}

/// Runs a step of a stage. Returns the peak beyond what was there before, and the log.
fn step(body: Body, set: impl Fn(PipeBuilder<'_, One>) -> PipeBuilder<'_, One>) -> (u64, Vec<Entry>, Vec<Vec<u32>>) {
    let (net, vars) = one(body);
    let mut pipe = set(net.pipe(&vars)).intra_op_threads(1).build().unwrap();
    let x = many_rows(480, GPU0);
    pipe.reset_peaks().unwrap();
    let before = pipe.memory().unwrap().devices[0].allocated;
    let from = start();
    pipe.train_step(&x, (), loss).unwrap();
    let log = log(from);
    let after = pipe.memory().unwrap();
    assert_ordered(&log, "a step of a stage");
    (after.devices[0].peak_allocated - before, log, bits(&gradients(vars.var_store())))
}

const TENSOR: usize = 120 * WIDTH as usize * 4;

#[test]
fn what_is_moved_is_not_on_the_device_and_comes_back_one_micro_batch_early() {
    let Some(_alone) = devices() else { return };
    let (kept, _, plain) = step(deep, |builder| builder);
    let (large, untouched, same) = step(deep, |builder| builder.offload(Offload::at_least(TENSOR + 1)));
    assert_eq!((large, pinned(&untouched).len()), (kept, 0));
    let (moved, log, found) = step(deep, |builder| builder.offload(Offload::at_least(TENSOR)));
    assert!(found == plain && same == plain);
    // Of four micro-batches, the backward of the last one is the next action. Two more are not on
    // the device at the peak: one is used, and the next one is on its way.
    let tensor = TENSOR as u64;
    assert!(kept > 4 * 8 * tensor && moved + 2 * 8 * tensor - 2 * tensor <= kept, "{moved} of {kept}");
    assert_eq!(copies(&log, Use::Write).len(), 3 * 8);
    let back = copies(&log, Use::Read);
    let is_backward = |entry: &Entry| entry.kind == Use::Write && entry.name == "aten::sigmoid_backward";
    let backwards: Vec<_> = (0..log.len()).filter(|&at| is_backward(&log[at])).collect();
    assert!(!backwards.is_empty());
    let per_step = backwards.len() / 4;
    for micro_batch in 0..4 {
        let earlier = back.iter().filter(|&&at| at < backwards[micro_batch * per_step]).count();
        assert_eq!(earlier, 8 * (micro_batch + 1).min(3), "before backward {micro_batch}");
    }
    // No thread waits for a copy: one flag is read back in both.
    let waits = |log: &[Entry]| log.iter().filter(|entry| entry.kind.is_host_wait()).count();
    assert_eq!(waits(&log), waits(&untouched));
    let streams = |at: &[usize]| at.iter().map(|&at| log[at].stream).collect::<std::collections::BTreeSet<_>>();
    let (out, back, computing) = (streams(&copies(&log, Use::Write)), streams(&back), streams(&backwards));
    assert_eq!((out.len(), back.len()), (1, 1));
    assert!(out.is_disjoint(&back) && out.is_disjoint(&computing) && back.is_disjoint(&computing));
}

#[test]
fn memory_that_several_saved_tensors_show_is_copied_once() {
    let Some(_alone) = devices() else { return };
    let views: Body = |x, linear| {
        let y = x.apply(linear);
        y.narrow(1, 3, 32).square() + y.tr().square().tr().narrow(1, 0, 32)
    };
    let (_, _, plain) = step(views, |builder| builder);
    let (_, log, found) = step(views, |builder| builder.offload(Offload::at_least(TENSOR)));
    assert!(found == plain);
    assert_eq!(copies(&log, Use::Write).len(), 3);
}

#[test]
fn what_is_made_again_is_not_moved_and_what_is_kept_is() {
    let Some(_alone) = devices() else { return };
    for cheap in [CheapOutputs::RecomputePointwise, CheapOutputs::RecomputeAll] {
        let (_, _, plain) = step(deep, |builder| builder);
        let (_, log, found) = step(deep, |builder| builder.cheap_outputs(cheap).offload(Offload::at_least(TENSOR)));
        assert!(found == plain);
        // All of a chain is made of the output of the linear layer, which is kept if it is saved.
        let moved = copies(&log, Use::Write).len();
        assert!(moved < 3 * 8, "{moved}");
    }
    let gelu: Body = |x, linear| x.apply(linear).gelu("none").matmul(&linear.ws) * 1.;
    let (_, log, _) = step(gelu, |builder| builder.offload(Offload::at_least(TENSOR)));
    assert_eq!(copies(&log, Use::Write).len(), 3 * 2, "the input and the output of gelu");
    fn made(builder: PipeBuilder<'_, One>) -> PipeBuilder<'_, One> {
        builder.cheap_outputs(CheapOutputs::RecomputePointwise)
    }
    let (_, log, found) = step(gelu, |builder| made(builder).offload(Offload::at_least(TENSOR)));
    assert_eq!(copies(&log, Use::Write).len(), 3, "the input of gelu");
    assert!(found == step(gelu, made).2);
}

#[test]
fn a_change_in_place_is_the_error_or_the_number_that_it_is_without() {
    let Some(_alone) = devices() else { return };
    let changed: Body = |x, linear| {
        let mut y = x.apply(linear).exp();
        let z = y.sin();
        // Not of the last micro-batch, which stays.
        if x.size()[0] == 8 {
            let _ = y.g_add_scalar_(1.);
        }
        z
    };
    let error = |offload: Option<Offload>| {
        let (net, vars) = one(changed);
        let mut pipe = net.pipe(&vars).offload(offload).build().unwrap();
        pipe.train_step(rows(GPU0), (), loss).unwrap_err().to_string()
    };
    let (plain, found) = (error(None), error(Some(Offload::at_least(1))));
    for error in [&plain, &found] {
        assert!(error.contains("modified by an inplace operation"), "{error}");
    }
    let uncounted: Body = |x, linear| {
        let y = x.apply(linear).sigmoid();
        let z = y.square();
        let _ = y.data().g_add_scalar_(1.);
        z
    };
    let (_, _, plain) = step(uncounted, |builder| builder);
    let (_, log, found) = step(uncounted, |builder| builder.offload(Offload::at_least(1)));
    assert!(found == plain && !copies(&log, Use::Write).is_empty());
}

#[test]
fn a_retained_graph_goes_backward_twice() {
    let Some(_alone) = devices() else { return };
    let backward = |offload: Option<Offload>| {
        let (net, vars) = net([GPU0, GPU0, GPU1, GPU1]);
        let builder = net.pipe(&vars).checkpoint(Checkpoint::Never).offload(offload);
        let mut pipe = builder.intra_op_threads(1).build().unwrap();
        let x = rows(GPU0).set_requires_grad(true);
        let from = start();
        let output = pipe.forward(&x).unwrap().square().mean(Kind::Float);
        let first = Tensor::run_backward(&[&output], &[&x], true, false);
        let second = Tensor::run_backward(&[&output], &[&x], false, false);
        let log = log(from);
        let unordered = violations(&log).len();
        (
            bits(&on_cpu(first.into_iter().chain(second))),
            unordered,
            [Use::Write, Use::Read].map(|kind| copies(&log, kind).len()),
        )
    };
    let ((plain, before, none), (found, unordered, [out, back])) =
        (backward(None), backward(Some(Offload::at_least(1))));
    // What the caller's engine adds up between the two backwards is not ordered without it either.
    assert_eq!(unordered, before);
    assert!(found == plain && none == [0, 0] && out > 10);
    // Nothing stays on the device between the two.
    assert_eq!(back, 2 * out);
    assert_eq!(found[0], found[1]);
}

#[test]
fn a_failed_step_leaks_nothing_and_the_next_one_has_the_same_bits() {
    let Some(_alone) = devices() else { return };
    let (net, vars) = one(mixed);
    let builder = net.pipe(&vars).offload(Offload::at_least(1));
    let mut pipe = builder.intra_op_threads(1).build().unwrap();
    let mut optimizer = nn::Sgd::default().build(vars.var_store(), 0.1).unwrap();
    let x = rows(GPU0);
    tch::manual_seed(7);
    pipe.train_step(&x, (), loss).unwrap();
    let expected = bits(&gradients(vars.var_store()));
    optimizer.zero_grad();
    let before = pipe.memory().unwrap().devices[0].allocated;
    let from = start();
    let failing = |output: &Tensor, (): &()| {
        if output.size()[0] == 7 {
            resume_unwind(Box::new("no loss"));
        }
        loss(output, &())
    };
    let error = pipe.train_step(&x, (), failing).unwrap_err().to_string();
    assert!(error.contains("no loss"), "{error}");
    let failed = log(from);
    let freed = |block: &i64| failed.iter().any(|entry| entry.kind == Use::Free && entry.object == *block);
    let pinned = pinned(&failed);
    assert!(!pinned.is_empty() && pinned.iter().all(freed));
    assert_eq!(pipe.memory().unwrap().devices[0].allocated, before);
    tch::manual_seed(7);
    pipe.train_step(&x, (), loss).unwrap();
    assert!(bits(&gradients(vars.var_store())) == expected);
    assert_ordered(&log(from), "after a failure");
}

#[test]
fn a_graph_that_is_used_at_once_stays() {
    let Some(_alone) = devices() else { return };
    let pinned_by = |schedule: ScheduleKind| {
        let (_, log, _) = step(deep, |builder| builder.schedule(schedule).offload(Offload::at_least(1)));
        pinned(&log).len()
    };
    assert_eq!(pinned_by(ScheduleKind::OneFOneB), 0);
    assert!(pinned_by(ScheduleKind::GPipe) >= 3 * 8);
}

#[test]
fn without_gradients_nothing_moves() {
    let Some(_alone) = devices() else { return };
    let (net, vars) = one(mixed);
    let mut pipe = net.pipe(&vars).offload(Offload::at_least(1)).build().unwrap();
    let from = start();
    let _output = tch::no_grad(|| pipe.forward(rows(GPU0))).unwrap();
    // The rows come from memory that is not pinned.
    assert!(pinned(&log(from)).is_empty());
    let output = pipe.forward(rows(GPU0)).unwrap();
    assert!(!pinned(&log(from)).is_empty());
    drop(output);
}

#[test]
fn stages_are_chosen_by_number_and_must_be_on_an_accelerator() {
    let Some(_alone) = devices() else { return };
    let places = [GPU0, Device::Cpu, GPU1, GPU1];
    let error = |stage| {
        let (net, vars) = net(places);
        net.pipe(&vars).offload(Offload::at_least(1).stages([0, stage])).build().unwrap_err().to_string()
    };
    assert!(error(1).contains("names stage 1, which is on the CPU"), "{}", error(1));
    assert!(error(4).contains("names stage 4, but there are 4 stages"), "{}", error(4));
    let how = (Checkpoint::Never, CheapOutputs::Keep, ScheduleKind::GPipe);
    let copied = |offload| train([GPU0, GPU0, GPU1, GPU1], how, offload).unwrap().1;
    let (some, all) = (copied(Some(Offload::at_least(1).stages([2]))), copied(Some(Offload::at_least(1))));
    assert!(copied(None) < some && some < all, "{some} of {all}");
    // All stages on the CPU: nothing to move, as the documentation says.
    let cpu = [Device::Cpu; 4];
    let (plain, moved) = (train(cpu, how, None).unwrap(), train(cpu, how, Some(Offload::at_least(1))).unwrap());
    assert!(plain == moved && moved.1 == 0);
}
