//! `fuse_gradient_accumulation`: the product that computes a weight's gradient also adds it to the
//! sum.

use pipe_runtime::{Checkpoint, Context, Devices, Layer, PipeBuilder, Reduction, ScheduleKind, pipeline};
use tch::{Device, Kind, Tensor};

type Body = fn(&Tensor, &Tensor, &Tensor) -> Tensor;

/// A layer with a function of its input, a weight and a bias.
#[derive(Debug)]
struct Product {
    weight: Tensor,
    bias: Tensor,
    body: Body,
}

impl Layer<Tensor> for Product {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        (self.body)(&x, &self.weight, &self.bias)
    }
}

/// A model whose second stage has a product. A split backward is cut at the product, which leads
/// both to the weight and to the stage before.
#[pipeline(chunks = 2, checkpoint = never)]
struct Net {
    #[device("cpu")]
    scale: Product,
    #[device("cpu")]
    product: Product,
}

fn net(vars: &NetVars, body: Body, weight: Tensor, bias: Tensor) -> Net {
    let (one, zero) = (vars.scale().ones("weight", &[1]), vars.scale().zeros("bias", &[1]));
    Net {
        scale: Product { weight: one, bias: zero, body: |x, w, b| x * w + b },
        product: Product { weight, bias, body },
    }
}

const FUSED: [(&str, Body); 5] = [
    ("linear", |x, w, b| x.linear(w, Some(b))),
    ("linear without bias", |x, w, _| x.linear::<&Tensor>(w, None)),
    ("linear of sequences", |x, w, b| x.unsqueeze(1).linear(w, Some(b)).squeeze_dim(1)),
    ("matmul", |x, w, b| x.matmul(w) + b),
    ("addmm", |x, w, b| b.addmm(x, w)),
];

const NOT_FUSED: [(&str, Body); 4] = [
    ("another use", |x, w, b| x * w + b),
    ("as the first factor", |x, w, b| w.matmul(&x.tr()).tr() + b),
    ("of another type", |x, w, b| {
        x.to_kind(Kind::Float).linear(&w.to_kind(Kind::Float), Some(b.to_kind(Kind::Float))).to_kind(Kind::BFloat16)
    }),
    ("a function of it", |x, w, b| x.linear(&(w * 1.), Some(b))),
];

/// Returns the weight's gradient, which is the sum of the products of two micro-batches with a row
/// each: -(1 + 2^-6), and 1 + 2^-6 + 2^-14. `bfloat16`, with 8 significant bits, loses the 2^-14 if
/// the second product is rounded before it is added to the first. The schedule determines the order
/// of the two, so both orders are tried, and the larger result is returned.
fn bit_left(body: Body, method: ScheduleKind, fuse: bool) -> f64 {
    let (near, nearer) = (1. + 2f64.powi(-7), 1. + 2f64.powi(-6));
    let column = |values: [f64; 2]| Tensor::from_slice(&values).to_kind(Kind::BFloat16).unsqueeze(1);
    let gradient = |rows, seeds| {
        let vars = Net::vars(&Devices::cpu(Net::STAGES)).unwrap();
        let net = net(&vars, body, vars.product().ones("weight", &[1, 1]), vars.product().ones("bias", &[1]));
        vars.scale().set_kind(Kind::BFloat16);
        vars.product().set_kind(Kind::BFloat16);
        let builder = PipeBuilder::new(net, &vars).schedule(method).intra_op_threads(1);
        let mut pipe = builder.fuse_gradient_accumulation(fuse).build().unwrap();
        let loss = |y: &Tensor, seeds: &Tensor| (y * seeds).sum(Kind::BFloat16);
        pipe.step().reduction(Reduction::Sum).run(column(rows), column(seeds), loss).unwrap();
        vars.var_store().variables()["product.weight"].grad().double_value(&[0, 0])
    };
    gradient([near, 1.], [near, -nearer]).max(gradient([1., near], [-nearer, near]))
}

const METHODS: [ScheduleKind; 3] = [ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1];

#[test]
fn a_products_gradient_is_rounded_once_it_is_added() {
    let _serial = pipe_tests::serial();
    for (name, body) in FUSED {
        for method in METHODS {
            assert_eq!(bit_left(body, method, true), 2f64.powi(-14), "{name}, {method}");
            assert_eq!(bit_left(body, method, false), 0., "{name}, {method}, not fused");
        }
    }
}

#[test]
fn what_is_not_a_product_with_the_weight_is_as_ever() {
    let _serial = pipe_tests::serial();
    for (name, body) in NOT_FUSED {
        for method in METHODS {
            assert_eq!(bit_left(body, method, true), 0., "{name}, {method}");
        }
    }
}

/// Weights that are used twice in a stage, wide ones, and inputs of several dimensions. The
/// gradients accumulate over several steps, from graphs whose backward runs twice.
#[test]
fn fused_gradients_are_the_unpipelined_ones_up_to_rounding() {
    let _serial = pipe_tests::serial();
    let bodies: [Body; 3] = [
        |x, w, b| {
            let transposed = w.tr();
            x.matmul(&transposed).tanh().matmul(&transposed) + b
        },
        |x, w, b| x.linear(w, Some(b)).tanh().matmul(w).linear::<&Tensor>(w, None),
        |x, w, b| Tensor::stack(&[x, &x.sin()], 1).linear(w, Some(b)).tanh().matmul(w).sum_dim_intlist(1, false, None),
    ];
    for body in bodies {
        let make = || {
            tch::manual_seed(1);
            let vars = Net::vars(&Devices::cpu(Net::STAGES)).unwrap();
            let weight = vars.product().randn("weight", &[65, 65], 0., 0.1);
            (net(&vars, body, weight, vars.product().ones("bias", &[65])), vars)
        };
        let x = Tensor::randn([12, 65], (Kind::Float, Device::Cpu));
        let gradients =
            |vars: &NetVars| ["product.weight", "product.bias"].map(|name| vars.var_store().variables()[name].grad());
        let (net, vars) = make();
        for _ in 0..2 {
            net.unpipelined().chunks(4).intra_op_threads(1).forward(&x).unwrap().square().sum(Kind::Float).backward();
        }
        let expected = gradients(&vars);
        for checkpoint in [Checkpoint::Never, Checkpoint::Always] {
            let (net, vars) = make();
            let builder = net.pipe(&vars).chunks(4).checkpoint(checkpoint).fuse_gradient_accumulation(true);
            let mut pipe = builder.intra_op_threads(1).build().unwrap();
            for _ in 0..2 {
                let loss = pipe.forward(&x).unwrap().square().sum(Kind::Float);
                Tensor::run_backward(&[&loss], &[&vars.var_store().variables()["product.weight"]], true, false);
                loss.backward();
            }
            for (found, expected) in gradients(&vars).iter().zip(&expected) {
                assert!(found.allclose(expected, 1e-4, 1e-4, false), "{checkpoint}");
                assert!(found.is_contiguous());
            }
        }
    }
}
