//! Values that a layer, or the loss, does not look at.

use super::*;

type Pair = (Tensor, Tensor);

struct Part(Linear, Linear);

impl Layer<Tensor> for Part {
    type Out = Pair;

    fn run(&self, x: Tensor, _cx: &Context) -> Pair {
        (x.apply(&self.0).tanh(), x.apply(&self.1).tanh())
    }
}

struct SideBySide(Linear, Linear);

impl Layer<Pair> for SideBySide {
    type Out = Pair;

    fn run(&self, (x, y): Pair, _cx: &Context) -> Pair {
        (x.apply(&self.0).tanh(), y.apply(&self.1).tanh())
    }
}

/// A layer that does not use the second value.
struct OnlyFirst(Linear);

impl Layer<Pair> for OnlyFirst {
    type Out = Tensor;

    fn run(&self, (x, _): Pair, _cx: &Context) -> Tensor {
        x.apply(&self.0)
    }
}

fn two_of(path: &Path<'_>) -> (Linear, Linear) {
    (dense(&(path / "first"), WIDTH), dense(&(path / "second"), WIDTH))
}

struct Ignoring;

impl Family for Ignoring {
    type In = Tensor;
    type A = Part;
    type B = SideBySide;
    type C = SideBySide;
    type D = OnlyFirst;

    fn layers([a, b, c, d]: [&Path<'_>; 4]) -> (Part, SideBySide, SideBySide, OnlyFirst) {
        let [a, b, c] = [a, b, c].map(two_of);
        (Part(a.0, a.1), SideBySide(b.0, b.1), SideBySide(c.0, c.1), OnlyFirst(dense(d, WIDTH)))
    }

    fn input(tensors: &[Tensor]) -> Tensor {
        tensors[0].shallow_clone()
    }

    fn plain(twin: &mut Twin, input: &[Tensor]) -> Tensor {
        let first = ["a.first", "b.first", "c.first"];
        let x = first.iter().fold(input[0].shallow_clone(), |x, path| plain_dense(twin, path, &x));
        plain_linear(twin, "d", &x)
    }
}

models!(Ignoring: Ignoring3, Ignoring3Vars, Ignoring4, Ignoring4Vars);

#[test]
fn a_layer_that_does_not_look_at_one_of_its_inputs() {
    train_both::<Ignoring3, Ignoring4>(bits, 2);
}

/// The output in the loss, one outside the loss, and integers.
type Heads = (Tensor, Tensor, Tensor);

struct ThreeHeads(Linear, Linear);

impl Layer<Pair> for ThreeHeads {
    type Out = Heads;

    fn run(&self, (x, y): Pair, _cx: &Context) -> Heads {
        let (first, second) = (x.apply(&self.0), (x + y).apply(&self.1));
        let best = second.argmax(-1, false);
        (first, second, best)
    }
}

#[pipeline(output = Heads, chunks = 4)]
struct ManyHeads {
    #[device("cpu")]
    part: Part,
    #[device("cpu")]
    middle: SideBySide,
    #[device("cpu")]
    heads: ThreeHeads,
}

fn many_heads() -> (ManyHeads, ManyHeadsVars) {
    tch::manual_seed(5);
    let vars = ManyHeads::vars(&Devices::cpu(3)).unwrap();
    let two = |path: &Path<'_>| (linear(path / "first", 8, 8), linear(path / "second", 8, 8));
    let ((a, b), (c, d), (e, f)) = (two(&vars.part()), two(&vars.middle()), two(&vars.heads()));
    (ManyHeads { part: Part(a, b), middle: SideBySide(c, d), heads: ThreeHeads(e, f) }, vars)
}

/// Lists the defined gradients by name.
fn gradients(vars: &ManyHeadsVars) -> Vec<(String, Tensor)> {
    let variables = vars.var_store().variables().into_iter();
    let came = variables.filter(|(_, variable)| variable.grad().defined());
    let mut found: Vec<_> = came.map(|(name, variable)| (name, variable.grad().copy())).collect();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

#[test]
fn an_output_that_the_loss_does_not_look_at() {
    let _serial = pipe_tests::serial();
    let methods = [ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1, ScheduleKind::ZbH2].map(Some);
    for count in 1..=12 {
        let (x, y) = (rows(count), rows(count));
        let parts = || x.chunk(4, 0).into_iter().zip(y.chunk(4, 0));
        let weight = |part: &Tensor| part.size()[0] as f64 / count as f64;
        let pass = |net: &ManyHeads, x: &Tensor| {
            let a = (x.apply(&net.part.0).tanh(), x.apply(&net.part.1).tanh());
            let (a, b) = (a.0.apply(&net.middle.0).tanh(), a.1.apply(&net.middle.1).tanh());
            (a.apply(&net.heads.0), (&a + b).apply(&net.heads.1))
        };
        let plain = |method: Option<ScheduleKind>| {
            let (net, vars) = many_heads();
            let weighted = || parts().map(|(x, y)| mse(&pass(&net, &x).0, &y) * weight(&y));
            match method {
                None => {
                    let outputs: Vec<_> = parts().map(|(x, _)| pass(&net, &x).0).collect();
                    mse(&Tensor::cat(&outputs, 0), &y).backward();
                }
                Some(ScheduleKind::GPipe) => weighted().sum::<Tensor>().backward(),
                Some(_) => weighted().for_each(|loss| loss.backward()),
            }
            let second: Vec<_> = parts().map(|(x, _)| pass(&net, &x).1).collect();
            (gradients(&vars), Tensor::cat(&second, 0))
        };
        for method in methods.into_iter().chain([None]) {
            let (expected, second) = plain(method);
            // The first linear layer of each of three stages has gradients of weight and bias.
            assert_eq!(expected.len(), 6);
            for mode in [Checkpoint::Never, Checkpoint::ExceptLast, Checkpoint::Always] {
                let about = format!("{method:?}, {mode}, {count} rows");
                let (net, vars) = many_heads();
                let builder = net.pipe(&vars).checkpoint(mode).intra_op_threads(1);
                let mut pipe = builder.schedule(method.unwrap_or(ScheduleKind::GPipe)).build().unwrap();
                let output = if method.is_some() {
                    let loss = |(first, ..): &Heads, y: &Tensor| mse(first, y);
                    pipe.step().keep_output().run(&x, &y, loss).unwrap().output
                } else {
                    let output = pipe.forward(&x).unwrap();
                    assert!(output.0.requires_grad() && output.1.requires_grad() && !output.2.requires_grad());
                    mse(&output.0, &y).backward();
                    output
                };
                assert_eq!((&output.1, &output.2), (&second, &second.argmax(-1, false)), "{about}");
                assert_eq!(gradients(&vars), expected, "{about}");
            }
        }
    }
}
