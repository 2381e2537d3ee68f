//! Values at the input and the output: reductions over micro-batches, lists and user structs.

use pipe_runtime::{Checkpoint, Context, Devices, Flow, Layer, List, Mean, Sum, pipeline};
use pipe_tests::compare::{leaf, rows};
use pipe_tests::layers::linear;
use tch::nn::Linear;
use tch::{Kind, Tensor};

/// A user's struct that derives `Flow`.
#[derive(Debug, Flow)]
struct Sample<T: Flow> {
    pixels: T,
    mask: Option<Tensor>,
    name: String,
}

/// A tuple struct that derives `Flow`.
#[derive(Flow)]
struct Scores(Tensor, Vec<Tensor>);

struct Losses {
    /// The sum over all rows.
    sum: Sum,
    /// The mean over all rows.
    mean: Mean,
}

impl Flow for Losses {
    fn pack(self, packer: &mut pipe_runtime::Packer) {
        (self.sum, self.mean).pack(packer);
    }

    fn unpack(unpacker: &mut pipe_runtime::Unpacker) -> Self {
        let (sum, mean) = Flow::unpack(unpacker);
        Self { sum, mean }
    }

    fn share(&self) -> Self {
        Self { sum: self.sum.share(), mean: self.mean.share() }
    }

    fn join(parts: Vec<Self>, batch: &pipe_runtime::MiniBatch) -> pipe_runtime::Result<Self> {
        let (sums, means) = parts.into_iter().map(|part| (part.sum, part.mean)).unzip();
        Ok(Self { sum: Sum::join(sums, batch)?, mean: Mean::join(means, batch)? })
    }
}

type Ends = (Losses, List<Tensor>, List<usize>, Scores);

#[pipeline(input = Sample<Tensor>, output = Ends, chunks = 3)]
struct Net {
    #[device("cpu")]
    open: Open,
    #[device("cpu")]
    inner: Inner,
    #[device("cpu")]
    close: Close,
}

struct Open;

impl Layer<Sample<Tensor>> for Open {
    type Out = Sample<Tensor>;

    fn run(&self, sample: Sample<Tensor>, _cx: &Context) -> Sample<Tensor> {
        Sample { pixels: sample.pixels * 2., ..sample }
    }
}

struct Inner(Linear);

impl Layer<Sample<Tensor>> for Inner {
    type Out = Sample<Tensor>;

    fn run(&self, sample: Sample<Tensor>, _cx: &Context) -> Sample<Tensor> {
        Sample { pixels: sample.pixels.apply(&self.0), ..sample }
    }
}

struct Close;

impl Layer<Sample<Tensor>> for Close {
    type Out = Ends;

    fn run(&self, Sample { pixels, mask, name }: Sample<Tensor>, cx: &Context) -> Ends {
        assert_eq!(name, "digits");
        let masked = mask.map_or_else(|| pixels.shallow_clone(), |mask| &pixels * mask);
        let losses = Losses { sum: Sum(masked.square().sum(Kind::Float)), mean: Mean(masked.sin().mean(Kind::Float)) };
        let size = List(vec![cx.micro_batch()]);
        (losses, List(vec![masked.mean(Kind::Float)]), size, Scores(masked.cos(), vec![masked.relu()]))
    }
}

fn net() -> (Net, NetVars) {
    tch::manual_seed(7);
    let vars = Net::vars(&Devices::cpu(3)).unwrap();
    let net = Net { open: Open, inner: Inner(linear(vars.inner(), 8, 8)), close: Close };
    (net, vars)
}

#[test]
fn sums_means_lists_and_structs() {
    let _serial = pipe_tests::serial();
    // Eight rows in three chunks: 3, 3, 2.
    let (x, mask) = (leaf(8), rows(8));
    let step = |ends: Ends, vars: &NetVars| {
        let (losses, list, numbers, scores) = ends;
        let loss =
            &losses.sum.0 + &losses.mean.0 * 3. + &list.0[1] + scores.0.sum(Kind::Float) + scores.1[0].sum(Kind::Float);
        let parameters = vars.var_store().trainable_variables();
        let leaves: Vec<_> = parameters.iter().chain([&x]).collect();
        let gradients = Tensor::run_backward(&[loss], &leaves, false, false);
        let values = [losses.sum.0, losses.mean.0, scores.0].map(|tensor| tensor.detach());
        (values, list.0.len(), numbers, gradients)
    };
    let sample = || Sample { pixels: x.shallow_clone(), mask: Some(mask.shallow_clone()), name: "digits".into() };

    let (model, vars) = net();
    let unpipelined = step(model.unpipelined().forward(sample()).unwrap(), &vars);
    let mut pipe = model.pipe(&vars).intra_op_threads(1).build().unwrap();
    // The input can also be a reference, which shares its tensors.
    let shared = sample();
    let piped = step(pipe.forward(&shared).unwrap(), &vars);
    assert_eq!(piped, unpipelined);
    assert_eq!((piped.1, &piped.2), (3, &List(vec![0, 1, 2])));

    // Sums and means are equal to those of the whole batch at once.
    let model = pipe.into_inner();
    let ([sum, mean, _], ..) = step(
        model
            .unpipelined()
            .chunks(1)
            .forward(sample())
            .map(|(losses, list, numbers, scores)| {
                (losses, List(vec![list.0[0].shallow_clone(), list.0[0].shallow_clone()]), numbers, scores)
            })
            .unwrap(),
        &vars,
    );
    assert!(sum.allclose(&piped.0[0], 1e-5, 1e-6, false) && mean.allclose(&piped.0[1], 1e-5, 1e-6, false));
}

#[test]
fn an_option_that_differs_between_micro_batches_is_an_error_and_leaves_no_trace() {
    #[pipeline(output = Option<Tensor>, chunks = 2, allow(single_stage))]
    struct Moody {
        #[device("cpu")]
        only: Sometimes,
    }

    struct Sometimes(Linear);

    impl Layer<Tensor> for Sometimes {
        type Out = Option<Tensor>;

        fn run(&self, x: Tensor, cx: &Context) -> Option<Tensor> {
            (cx.micro_batch() == 0).then(|| x.apply(&self.0))
        }
    }

    let _serial = pipe_tests::serial();
    let vars = Moody::vars(&Devices::cpu(1)).unwrap();
    let mut pipe = Moody { only: Sometimes(linear(vars.only(), 8, 8)) }.pipe(&vars).build().unwrap();
    let error = pipe.forward(rows(4)).unwrap_err().to_string();
    assert!(error.contains("micro-batches 0 and 1") && error.contains("`Option`"), "{error}");
    assert_eq!(pipe.forward(rows(1)).unwrap().unwrap().size(), [1, 8]);
}

#[test]
fn batches_smaller_than_the_chunks_and_empty_ones() {
    let _serial = pipe_tests::serial();
    #[pipeline(chunks = 4)]
    struct Small {
        #[device("cpu")]
        first: Linear,
        #[device("cpu")]
        last: Linear,
    }
    let vars = Small::vars(&Devices::cpu(2)).unwrap();
    let model = Small { first: linear(vars.first(), 8, 8), last: linear(vars.last(), 8, 3) };
    let mut pipe = model.pipe(&vars).build().unwrap();
    for rows_in in [0, 1, 3, 5, 6] {
        let x = leaf(rows_in);
        let y = pipe.forward(&x).unwrap();
        assert_eq!(y.size(), [rows_in, 3]);
        y.sum(Kind::Float).backward();
        assert_eq!(x.grad().size(), [rows_in, 8]);
    }
}

#[test]
fn a_tuple_of_one_stays_one() {
    #[pipeline(input = (Tensor,), output = (Tensor,), chunks = 2)]
    struct Single {
        #[device("cpu")]
        first: Double,
        #[device("cpu")]
        last: Double,
    }

    struct Double;

    impl Layer<(Tensor,)> for Double {
        type Out = (Tensor,);

        fn run(&self, (x,): (Tensor,), _cx: &Context) -> (Tensor,) {
            (x * 2.,)
        }
    }

    let _serial = pipe_tests::serial();
    let vars = Single::vars(&Devices::cpu(2)).unwrap();
    let mut pipe = Single { first: Double, last: Double }.pipe(&vars).build().unwrap();
    let x = rows(4);
    assert_eq!(pipe.forward((&x,)).unwrap().0, &x * 4.);
}

#[test]
fn a_stage_may_hand_on_no_tensor_at_all() {
    #[pipeline(chunks = 3)]
    struct Counting {
        #[device("cpu")]
        count: Count,
        #[device("cpu")]
        draw: Draw,
    }

    struct Count;

    impl Layer<Tensor> for Count {
        type Out = i64;

        fn run(&self, x: Tensor, _cx: &Context) -> i64 {
            x.size()[0]
        }
    }

    struct Draw(Linear);

    impl Layer<i64> for Draw {
        type Out = Tensor;

        fn run(&self, rows: i64, _cx: &Context) -> Tensor {
            Tensor::ones([rows, 8], (Kind::Float, tch::Device::Cpu)).apply(&self.0)
        }
    }

    let _serial = pipe_tests::serial();
    for mode in [Checkpoint::Always, Checkpoint::Never] {
        let vars = Counting::vars(&Devices::cpu(2)).unwrap();
        let model = Counting { count: Count, draw: Draw(linear(vars.draw(), 8, 2)) };
        let mut pipe = model.pipe(&vars).checkpoint(mode).build().unwrap();
        let y = pipe.forward(rows(5)).unwrap();
        assert_eq!(y.size(), [5, 2]);
        y.sum(Kind::Float).backward();
        assert_eq!(vars.var_store().variables()["draw.bias"].grad(), Tensor::from_slice(&[5_f32, 5.]), "{mode}");
    }
}
