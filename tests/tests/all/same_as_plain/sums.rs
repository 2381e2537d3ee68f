//! The order in which a stage's gradients are summed under each schedule, as in
//! `docs/same-as-plain.md`. It is compared bit by bit with plain tch.

use pipe_runtime::{Checkpoint, Devices, Pipe, Reduction, Schedule, ScheduleKind, pipeline};
use pipe_tests::compare::rows;
use pipe_tests::layers::linear;
use tch::nn::{self, BatchNorm, Embedding, Func, Linear, Module};
use tch::{Device, Kind, Tensor};

const MODES: [Checkpoint; 3] = [Checkpoint::Always, Checkpoint::ExceptLast, Checkpoint::Never];

#[pipeline(chunks = 6)]
struct Net {
    #[devices("cpu", "cpu", "cpu", "cpu")]
    layers: [Linear; 8],
}

fn net() -> (Net, NetVars) {
    tch::manual_seed(11);
    let vars = Net::vars(&Devices::cpu(4)).unwrap();
    (Net { layers: vars.layers().map(|path| linear(path, 8, 8)) }, vars)
}

fn plain(net: &Net, x: &Tensor) -> Tensor {
    net.layers.iter().fold(x.shallow_clone(), |x, layer| layer.forward(&x))
}

fn loss(output: &Tensor, y: &Tensor) -> Tensor {
    (output.tanh() - y).square().mean(Kind::Float)
}

fn gradients(vars: &NetVars) -> Vec<Tensor> {
    vars.var_store().trainable_variables().iter().map(|variable| variable.grad().copy()).collect()
}

/// Accumulates gradients in plain tch, by a `backward()` for each micro-batch in turn.
fn accumulated(x: &Tensor, y: &Tensor, chunks: i64, order: impl Fn(usize) -> Vec<usize>) -> Vec<Tensor> {
    let (net, vars) = net();
    let parts: Vec<_> = x.chunk(chunks, 0).into_iter().zip(y.chunk(chunks, 0)).collect();
    for micro_batch in order(parts.len()) {
        let (part, y) = &parts[micro_batch];
        let weight = part.size()[0] as f64 / x.size()[0] as f64;
        (loss(&plain(&net, part), y) * weight).backward();
    }
    gradients(&vars)
}

#[test]
fn each_schedule_sums_as_the_book_says() {
    let _serial = pipe_tests::serial();
    for (count, method) in [6, 12, 23].into_iter().flat_map(|count| ScheduleKind::ALL.map(|method| (count, method))) {
        let (x, y) = (rows(count), rows(count));
        let last_first = matches!(method, ScheduleKind::GPipe | ScheduleKind::LoopedBfs);
        let expected =
            accumulated(&x, &y, 6, |count| if last_first { (0..count).rev().collect() } else { (0..count).collect() });
        for mode in MODES {
            let (net, vars) = net();
            let builder = net.pipe(&vars).checkpoint(mode).schedule(method).intra_op_threads(1);
            let mut pipe = match method {
                ScheduleKind::GPipe | ScheduleKind::OneFOneB | ScheduleKind::ZbH2 => builder.build(),
                _ => builder.ranks(2).build(),
            }
            .unwrap();
            pipe.train_step(&x, &y, loss).unwrap();
            assert_eq!(gradients(&vars), expected, "{method}, {mode}, {count} rows");
        }
    }
}

#[test]
fn forward_and_backward_sum_as_one_backward_of_the_joined_output() {
    let _serial = pipe_tests::serial();
    let (x, y) = (rows(20), rows(20));
    let (net_, vars) = net();
    let joined: Vec<_> = x.chunk(6, 0).iter().map(|part| plain(&net_, part)).collect();
    loss(&Tensor::cat(&joined, 0), &y).backward();
    let expected = gradients(&vars);
    for mode in MODES {
        let (net, vars) = net();
        let mut pipe = net.pipe(&vars).checkpoint(mode).intra_op_threads(1).build().unwrap();
        loss(&pipe.forward(&x).unwrap(), &y).backward();
        assert_eq!(gradients(&vars), expected, "{mode}");
    }
}

#[test]
fn lists_of_ones_own_sum_in_their_order() {
    let _serial = pipe_tests::serial();
    let (x, y) = (rows(6), rows(6));
    let forwards = |stage: usize| (0..3).map(|i| format!("{stage}F{i},")).collect::<String>();
    let lists: String = (0..4).map(|stage| format!("{}{stage}B1,{stage}B2,{stage}B0\n", forwards(stage))).collect();
    let expected = accumulated(&x, &y, 3, |_| vec![1, 2, 0]);
    for mode in MODES {
        let (net, vars) = net();
        let own = lists.parse::<Schedule>().unwrap();
        let mut pipe = net.pipe(&vars).checkpoint(mode).schedule(own).intra_op_threads(1).build().unwrap();
        pipe.train_step(&x, &y, loss).unwrap();
        assert_eq!(gradients(&vars), expected, "{mode}");
    }
}

#[pipeline(chunks = 3)]
struct Normed {
    #[device("cpu")]
    norm: BatchNorm,
    #[device("cpu")]
    last: Linear,
}

#[test]
fn statistics_are_those_of_the_micro_batches_in_turn() {
    let _serial = pipe_tests::serial();
    let x = rows(12);
    let make = || {
        let vars = Normed::vars(&Devices::cpu(2)).unwrap();
        let norm = tch::nn::batch_norm1d(vars.norm(), 8, Default::default());
        (Normed { norm, last: linear(vars.last(), 8, 8) }, vars)
    };
    let (net, vars) = make();
    for part in x.chunk(3, 0) {
        let _ = part.apply_t(&net.norm, true);
    }
    let expected = vars.var_store().variables()["norm.running_var"].copy();
    for (mode, method) in
        MODES.into_iter().flat_map(|mode| [ScheduleKind::GPipe, ScheduleKind::OneFOneB].map(|m| (mode, m)))
    {
        let (net, vars) = make();
        let mut pipe = net.pipe(&vars).checkpoint(mode).schedule(method).intra_op_threads(1).build().unwrap();
        pipe.train_step(&x, rows(12), loss).unwrap();
        assert_eq!(vars.var_store().variables()["norm.running_var"], expected, "{mode}, {method}");
    }
}

#[pipeline(chunks = 2, allow(single_stage))]
struct Sparse {
    #[device("cpu")]
    table: Embedding,
    last: Func<'static>,
}

fn sparse() -> (Embedding, SparseVars) {
    let vars = Sparse::vars(&Devices::cpu(1)).unwrap();
    let sparse = nn::EmbeddingConfig { sparse: true, ..Default::default() };
    (nn::embedding(vars.table(), 7, 4, sparse), vars)
}

/// Computes a transposed product, whose gradient for a word's vector is not contiguous in memory.
fn transposed(x: &Tensor) -> Tensor {
    x.transpose(1, 2).contiguous() * Tensor::arange(3, (Kind::Float, Device::Cpu))
}

fn squares(y: &Tensor) -> Tensor {
    y.square().sum(Kind::Float)
}

/// Lists the words of a sparse gradient's entries, in the order of the entries.
fn entries(weight: &Tensor) -> Vec<i64> {
    weight.grad().internal_indices().view([-1]).try_into().unwrap()
}

/// Asserts that a step's sparse gradient has its entries in the same order as in plain tch. The
/// entries of a word are later added in this order.
fn sparse_is_as(plain: impl Fn(&[Tensor]), method: ScheduleKind, step: impl Fn(&mut Pipe<Sparse>, &Tensor)) {
    let words = Tensor::from_slice(&[0_i64, 1, 2, 3, 4, 5]).view([2, 3]);
    let (table, _vars) = sparse();
    let parts: Vec<_> = words.chunk(2, 0).iter().map(|words| transposed(&words.apply(&table))).collect();
    plain(&parts);
    let expected = entries(&table.ws);
    for mode in MODES {
        let (table, vars) = sparse();
        let weight = table.ws.shallow_clone();
        let net = Sparse { table, last: nn::func(transposed) };
        let mut pipe = net.pipe(&vars).checkpoint(mode).schedule(method).build().unwrap();
        step(&mut pipe, &words);
        assert_eq!(entries(&weight), expected, "{method}, {mode}");
    }
}

/// In one backward, libtorch adds sparse gradients as the new one plus the old one. If their values
/// are not contiguous, the entries are in that order.
#[test]
fn sparse_gradients_are_joined_in_the_order_of_one_backward() {
    let _serial = pipe_tests::serial();
    let plain = |parts: &[Tensor]| squares(&Tensor::cat(parts, 0)).backward();
    sparse_is_as(plain, ScheduleKind::GPipe, |pipe, words| squares(&pipe.forward(words).unwrap()).backward());
    let step = |pipe: &mut Pipe<Sparse>, words: &Tensor| {
        let _ = pipe.step().reduction(Reduction::Sum).run(words, (), |y, (): &()| squares(y)).unwrap();
    };
    let plain = |parts: &[Tensor]| parts.iter().map(squares).sum::<Tensor>().backward();
    sparse_is_as(plain, ScheduleKind::GPipe, step);
}

#[test]
fn sparse_gradients_are_joined_in_the_order_of_accumulation() {
    let _serial = pipe_tests::serial();
    let step = |pipe: &mut Pipe<Sparse>, words: &Tensor| {
        let _ = pipe.step().reduction(Reduction::Sum).run(words, (), |y, (): &()| squares(y)).unwrap();
    };
    let plain = |parts: &[Tensor]| parts.iter().for_each(|part| squares(part).backward());
    for method in [ScheduleKind::OneFOneB, ScheduleKind::ZbH1] {
        sparse_is_as(plain, method, step);
    }
}

/// A gradient that is there already is added to in place, as autograd does: handles on it, and
/// views of a dense one, see the sum.
#[test]
fn sparse_gradients_are_added_where_the_earlier_gradient_is() {
    let _serial = pipe_tests::serial();
    let words = Tensor::from_slice(&[0_i64, 1, 2, 3, 4, 5]).view([2, 3]);
    for is_dense in [true, false] {
        let (table, vars) = sparse();
        let weight = table.ws.shallow_clone();
        let earlier = if is_dense { squares(&weight) } else { squares(&words.apply(&table)) };
        earlier.backward();
        let handle = weight.grad();
        let view = is_dense.then(|| handle.narrow(0, 1, 5));
        let before = handle.to_dense(None, false).copy();
        let mut pipe = Sparse { table, last: nn::func(transposed) }.pipe(&vars).build().unwrap();
        let _ = pipe.step().run(&words, (), |y, (): &()| squares(y)).unwrap();
        let after = weight.grad().to_dense(None, false);
        assert!(!after.equal(&before) && handle.to_dense(None, false).equal(&after), "dense: {is_dense}");
        assert!(view.is_none_or(|view| view.equal(&after.narrow(0, 1, 5))), "dense: {is_dense}");
    }
}
