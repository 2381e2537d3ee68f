//! The backward of one stage, whole and split, over graphs of every kind. The pipeline's own graph
//! walk must give the same gradients as libtorch's engine.

use std::sync::Mutex;

use pipe_runtime::{Checkpoint, Context, Devices, Layer, Pipe, PipeBuilder, ScheduleKind, Unpipelined, pipeline};
use pipe_tests::compare::rows;
use pipe_tests::layers::{func, linear};
use tch::nn::{self, Func, Linear, Path, RNN, VarStore};
use tch::{Kind, Reduction, Tensor};

/// Computes a tensor `[rows, 8]` from one of that shape, with a trainable matrix `[8, 8]` and
/// vector `[8]`.
type Body = fn(&Tensor, &Tensor, &Tensor) -> Tensor;

struct Operators {
    matrix: Tensor,
    vector: Tensor,
    body: Body,
}

impl Operators {
    fn new(path: Path<'_>, body: Body) -> Self {
        Self { matrix: path.randn("matrix", &[8, 8], 0., 0.5), vector: path.randn("vector", &[8], 1., 0.3), body }
    }
}

impl Layer<Tensor> for Operators {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        (self.body)(&x, &self.matrix, &self.vector)
    }
}

#[pipeline]
struct Net {
    #[device("cpu")]
    first: Linear,
    inner: Operators,
    #[device("cpu")]
    outer: Operators,
    last: Linear,
}

/// Operators whose nodes differ in ways that matter to a graph walk: numbers of inputs and outputs,
/// some without gradients, views, in-place changes, shared and unused tensors, and parameters that
/// are reached in several ways.
const BODIES: [(&str, Body); 30] = [
    ("product", |x, w, v| x.matmul(w) * v),
    ("linear", |x, w, v| x.linear(w, Some(v))),
    ("the input itself", |x, _, _| x.shallow_clone()),
    ("a parameter alone", |x, w, v| {
        (w.sum_dim_intlist([0_i64].as_slice(), false, Kind::Float) * v).expand_as(x) + x.detach()
    }),
    ("a parameter twice", |x, w, _| x.matmul(w).tanh().matmul(w)),
    ("a parameter of a parameter", |x, w, v| x.matmul(&(w / w.norm() * v)).matmul(&(w / w.norm()))),
    ("a parameter and its transpose", |x, w, v| x.matmul(w).sigmoid().matmul(&w.tr()) + v),
    ("an unused parameter", |x, w, _| x.matmul(w)),
    ("a change in place", |x, w, v| x.matmul(w).relu_() * v),
    ("a change of the input in place", |x, _, v| x.shallow_clone().g_mul_(v).sin()),
    ("a view changed in place", |x, w, v| {
        let y = x.matmul(w);
        let mut left = y.narrow(1, 0, 4);
        let _ = left.g_mul_(&v.narrow(0, 0, 4));
        y + x
    }),
    ("two views changed in place", |x, w, v| {
        let y = x.matmul(w) + 1.;
        y.select(1, 2).copy_(&x.select(1, 1));
        let mut block = y.narrow(1, 3, 4).narrow(1, 1, 2);
        let _ = block.g_add_(&v.narrow(0, 0, 2));
        y.sin()
    }),
    ("several outputs", |x, w, v| {
        let parts = x.matmul(w).chunk(4, 1);
        Tensor::cat(&[&parts[3], &parts[0], &(&parts[1] * v.narrow(0, 0, 2)), &parts[0]], 1)
    }),
    ("an output of several unused", |x, w, _| {
        let (values, _) = x.matmul(w).topk(4, 1, true, true);
        values.repeat([1, 2])
    }),
    ("unbound", |x, w, v| {
        let rows = x.matmul(w).unbind(1);
        Tensor::stack(&[&rows[0], &rows[7], &rows[1], &rows[0], &rows[2], &rows[3], &rows[4], &rows[5]], 1) * v
    }),
    ("expanded", |x, w, v| {
        (x.unsqueeze(1) * w.unsqueeze(0)).sum_dim_intlist([1_i64].as_slice(), false, Kind::Float) + v
    }),
    ("indexed", |x, w, v| {
        let index = Tensor::from_slice(&[3_i64, 3, 0, 1, 7, 2, 2, 5]);
        x.index_select(1, &index) * w.index_select(0, &index).diag(0) + v.take(&index)
    }),
    ("where", |x, w, v| x.matmul(w).where_self(&x.gt(0.), &(x * v))),
    ("constants", |x, w, v| x.matmul(&w.detach()) * v + x.detach() * 2. + x.ones_like()),
    ("layer norm", |x, w, v| x.matmul(w).layer_norm([8], Some(v), None::<&Tensor>, 1e-5, false)),
    ("group norm", |x, w, v| x.matmul(w).group_norm(2, Some(v), Some(v), 1e-5, false)),
    ("convolution", |x, w, v| {
        x.unsqueeze(1).conv1d(&w.view([8, 1, 8]).narrow(2, 0, 3), Some(v), [1], [1], [1], 1).mean_dim(
            1,
            false,
            Kind::Float,
        )
    }),
    ("pooling", |x, w, _| x.matmul(w).unsqueeze(1).max_pool1d([2], [2], [0], [1], false).squeeze_dim(1).repeat([1, 2])),
    ("attention", |x, w, v| {
        let heads = |y: Tensor| y.view([1, -1, 2, 4]).transpose(1, 2);
        let (q, k) = (heads(x.matmul(w)), heads(x * v));
        let y = Tensor::scaled_dot_product_attention(
            &q,
            &k,
            &heads(x.shallow_clone()),
            None::<&Tensor>,
            0.,
            true,
            None,
            false,
        );
        y.transpose(1, 2).reshape([-1, 8])
    }),
    ("embedding", |x, w, v| {
        let index = x.select(1, 0).gt(0.).to_kind(Kind::Int64);
        Tensor::embedding(w, &index, -1, false, false) + x * v
    }),
    ("a loss inside", |x, w, v| x * x.matmul(w).mse_loss(&(x * v), Reduction::Mean)),
    ("reduced precision inside", |x, w, v| {
        (x.to_kind(Kind::BFloat16).matmul(&w.to_kind(Kind::BFloat16)).to_kind(Kind::Float)) * v
    }),
    ("complex numbers inside", |x, w, v| {
        x.matmul(w).fft_rfft(None, 1, "ortho").abs().repeat([1, 2]).narrow(1, 0, 8) * v
    }),
    ("a gradient taken inside", |x, w, v| {
        let y = x.detach().set_requires_grad(true);
        let slope = tch::with_grad(|| {
            Tensor::run_backward(&[y.matmul(w).tanh().sum(Kind::Float)], &[&y], false, false).remove(0)
        });
        x * slope * v
    }),
    ("long", |x, w, v| (0..20).fold(x.shallow_clone(), |y, _| (y.matmul(w).tanh() + x) * v)),
];

fn make(body: Body) -> (Net, NetVars, Tensor) {
    tch::manual_seed(11);
    let vars = Net::vars(&Devices::cpu(Net::STAGES)).unwrap();
    let net = Net {
        first: linear(vars.first(), 8, 8),
        inner: Operators::new(vars.inner(), body),
        outer: Operators::new(vars.outer(), body),
        last: linear(vars.last(), 8, 3),
    };
    (net, vars, rows(7))
}

/// Lists the gradients, by name.
fn named(variables: &VarStore) -> Vec<(String, Option<Tensor>)> {
    let named = variables.variables().into_iter();
    let mut named: Vec<_> =
        named.map(|(name, tensor)| (name, tensor.grad().defined().then(|| tensor.grad().copy()))).collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    named
}

fn loss(output: &Tensor) -> Tensor {
    output.square().mean(Kind::Float)
}

#[test]
fn the_whole_backward_is_libtorchs() {
    let _serial = pipe_tests::serial();
    for (name, body) in BODIES {
        for chunks in [1, 3] {
            let (net, vars, x) = make(body);
            let output = Unpipelined::new(&net).chunks(chunks).intra_op_threads(1).forward(&x).unwrap();
            loss(&output).backward();
            for checkpoint in [Checkpoint::Never, Checkpoint::Always] {
                if name == "a change of the input in place" && checkpoint == Checkpoint::Always {
                    continue; // This is an error, which `errors.rs` tests.
                }
                let (net, piped, x) = make(body);
                let builder = PipeBuilder::new(net, &piped).chunks(chunks).checkpoint(checkpoint).intra_op_threads(1);
                let found = builder.build().unwrap().forward(&x).unwrap();
                loss(&found).backward();
                assert_eq!(found, output, "{name}, {chunks} chunks, {checkpoint}");
                assert_eq!(named(piped.var_store()), named(vars.var_store()), "{name}, {chunks} chunks, {checkpoint}");
            }
        }
    }
}

/// All operators: those that `fuse_gradient_accumulation` replaces, and those that it must not
/// change.
#[test]
fn a_fused_backward_is_libtorchs_up_to_rounding() {
    let _serial = pipe_tests::serial();
    for (name, body) in BODIES {
        let train = |method, checkpoint, fuse| {
            let (net, vars, x) = make(body);
            let builder = PipeBuilder::new(net, &vars).chunks(4).checkpoint(checkpoint).intra_op_threads(1);
            let mut pipe = builder.schedule(method).fuse_gradient_accumulation(fuse).build().unwrap();
            pipe.train_step(&x, &x, |output, _: &Tensor| loss(output)).unwrap();
            named(vars.var_store())
        };
        let expected = train(ScheduleKind::GPipe, Checkpoint::Never, false);
        for method in [ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1] {
            for checkpoint in [Checkpoint::Never, Checkpoint::Always] {
                if checkpoint == Checkpoint::Always
                    && (method == ScheduleKind::ZbH1 || name == "a change of the input in place")
                {
                    continue; // These are errors, which other files test.
                }
                for ((parameter, found), (_, expected)) in train(method, checkpoint, true).iter().zip(&expected) {
                    let (Some(found), Some(expected)) = (found, expected) else {
                        assert_eq!(found, expected, "{name}, {method}, {checkpoint}: {parameter}");
                        continue;
                    };
                    let near = found.allclose(expected, 1e-4, 1e-6, false);
                    assert!(near, "{name}, {method}, {checkpoint}: {parameter}");
                }
            }
        }
    }
}

#[test]
fn the_two_halves_are_the_whole() {
    let _serial = pipe_tests::serial();
    for (name, body) in BODIES {
        let train = |method| {
            let (net, vars, x) = make(body);
            let builder = PipeBuilder::new(net, &vars).chunks(1).checkpoint(Checkpoint::Never).intra_op_threads(1);
            let mut pipe = builder.schedule(method).ranks(1).build().unwrap();
            pipe.train_step(&x, &x, |output, _: &Tensor| loss(output)).unwrap();
            named(vars.var_store())
        };
        assert_eq!(train(ScheduleKind::ZbH1), train(ScheduleKind::GPipe), "{name}");
    }
}

/// A layer with a trainable recurrent network, whose single node computes the gradients of many
/// parameters.
#[test]
fn a_recurrent_layer() {
    struct Recurrent(nn::LSTM);

    impl Layer<Tensor> for Recurrent {
        type Out = Tensor;

        fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
            self.0.seq(&x.unsqueeze(1)).0.squeeze_dim(1)
        }
    }

    #[pipeline]
    struct Recurrences {
        #[device("cpu")]
        first: Recurrent,
        #[device("cpu")]
        second: Recurrent,
    }

    let _serial = pipe_tests::serial();
    let train = |method: Option<ScheduleKind>| {
        tch::manual_seed(5);
        let vars = Recurrences::vars(&Devices::cpu(2)).unwrap();
        let lstm = |path: Path<'_>| Recurrent(nn::lstm(&path, 8, 8, Default::default()));
        let net = Recurrences { first: lstm(vars.first()), second: lstm(vars.second()) };
        let x = rows(6);
        match method {
            None => loss(&Unpipelined::new(&net).intra_op_threads(1).forward(&x).unwrap()).backward(),
            Some(method) => {
                let mut pipe = net
                    .pipe(&vars)
                    .schedule(method)
                    .ranks(1)
                    .checkpoint(Checkpoint::Never)
                    .intra_op_threads(1)
                    .build()
                    .unwrap();
                pipe.train_step(&x, &x, |output, _: &Tensor| loss(output)).unwrap();
            }
        }
        named(vars.var_store())
    };
    let expected = train(None);
    assert_eq!(train(Some(ScheduleKind::GPipe)), expected);
    assert_eq!(train(Some(ScheduleKind::ZbH1)), expected);
}

/// A layer that runs another pipeline. Its node is not one of libtorch's, so libtorch's engine runs
/// the stage's backward, even if the schedule splits it.
#[test]
fn a_pipeline_in_a_layer() {
    #[pipeline]
    struct Inner {
        #[device("cpu")]
        first: Func<'static>,
        #[device("cpu")]
        second: Func<'static>,
    }

    struct Nested(Mutex<Pipe<Inner>>);

    impl Layer<Tensor> for Nested {
        type Out = Tensor;

        fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
            self.0.lock().unwrap().forward(x).unwrap()
        }
    }

    #[pipeline]
    struct Outer {
        #[device("cpu")]
        first: Linear,
        nested: Nested,
        second: Linear,
        #[device("cpu")]
        last: Linear,
    }

    let _serial = pipe_tests::serial();
    let train = |method: Option<ScheduleKind>| {
        tch::manual_seed(9);
        let inner = Inner { first: func(|x| x.sin()), second: func(|x| x.tanh() * x) };
        let inner = inner.pipe(&Inner::vars(&Devices::cpu(2)).unwrap()).chunks(2).build().unwrap();
        let vars = Outer::vars(&Devices::cpu(2)).unwrap();
        let net = Outer {
            first: linear(vars.first(), 8, 8),
            nested: Nested(Mutex::new(inner)),
            second: linear(vars.second(), 8, 8),
            last: linear(vars.last(), 8, 3),
        };
        let x = rows(6);
        match method {
            None => loss(&Unpipelined::new(&net).intra_op_threads(1).forward(&x).unwrap()).backward(),
            Some(method) => {
                let builder = net.pipe(&vars).schedule(method).ranks(1).checkpoint(Checkpoint::Never);
                let mut pipe = builder.intra_op_threads(1).build().unwrap();
                pipe.train_step(&x, &x, |output, _: &Tensor| loss(output)).unwrap();
            }
        }
        named(vars.var_store())
    };
    let expected = train(None);
    assert_eq!(train(Some(ScheduleKind::GPipe)), expected);
    assert_eq!(train(Some(ScheduleKind::ZbH1)), expected);
}
