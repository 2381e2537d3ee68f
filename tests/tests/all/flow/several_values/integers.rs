//! Integers and booleans that go before floats.

use super::*;

/// An order of numbers, a mask of the numbers to keep, and the numbers.
type Ordered = (Tensor, Tensor, Tensor);

struct Look(Linear);

fn look(x: &Tensor) -> (Tensor, Tensor) {
    (x.argsort(-1, false), x.detach().gt(-0.5))
}

impl Layer<Tensor> for Look {
    type Out = Ordered;

    fn run(&self, x: Tensor, _cx: &Context) -> Ordered {
        let x = x.apply(&self.0);
        let (order, kept) = look(&x);
        (order, kept, x)
    }
}

struct Gather(Linear);

impl Layer<Ordered> for Gather {
    type Out = Ordered;

    fn run(&self, (order, kept, x): Ordered, _cx: &Context) -> Ordered {
        let x = x.apply(&self.0).tanh().gather(-1, &order, false);
        (order, kept, x)
    }
}

struct Keep(Linear);

impl Layer<Ordered> for Keep {
    type Out = Tensor;

    fn run(&self, (order, kept, x): Ordered, _cx: &Context) -> Tensor {
        assert_eq!((order.kind(), kept.kind()), (Kind::Int64, Kind::Bool));
        x.masked_fill(&kept.logical_not(), 0.3).apply(&self.0) + order * 0.1
    }
}

struct IntegersFirst;

impl Family for IntegersFirst {
    type In = Tensor;
    type A = Look;
    type B = Gather;
    type C = Gather;
    type D = Keep;

    fn layers([a, b, c, d]: [&Path<'_>; 4]) -> (Look, Gather, Gather, Keep) {
        (Look(dense(a, WIDTH)), Gather(dense(b, WIDTH)), Gather(dense(c, WIDTH)), Keep(dense(d, WIDTH)))
    }

    fn input(tensors: &[Tensor]) -> Tensor {
        tensors[0].shallow_clone()
    }

    fn plain(twin: &mut Twin, input: &[Tensor]) -> Tensor {
        let x = plain_linear(twin, "a", &input[0]);
        let (order, kept) = look(&x);
        let x = plain_dense(twin, "b", &x).gather(-1, &order, false);
        let x = plain_dense(twin, "c", &x).gather(-1, &order, false);
        plain_linear(twin, "d", &x.masked_fill(&kept.logical_not(), 0.3)) + order * 0.1
    }
}

models!(IntegersFirst: Integers3, Integers3Vars, Integers4, Integers4Vars);

#[test]
fn integers_and_booleans_that_go_first() {
    train_both::<Integers3, Integers4>(bits, 2);
}
