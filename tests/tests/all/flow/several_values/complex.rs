//! Complex constants, weights and values.

use super::*;

/// Rotations for all rows, and the complex numbers of each row.
type Turning = (Replicate<Tensor>, Tensor);

fn as_complex(x: &Tensor) -> Tensor {
    x.contiguous().view([-1, TOKENS, WIDTH / 2, 2]).view_as_complex()
}

fn as_real(x: &Tensor) -> Tensor {
    x.view_as_real().reshape([-1, TOKENS, WIDTH])
}

struct Begin(Linear);

impl Layer<Turning> for Begin {
    type Out = Turning;

    fn run(&self, (table, x): Turning, _cx: &Context) -> Turning {
        (table, as_complex(&x.apply(&self.0)))
    }
}

/// A layer that multiplies by a complex weight, which is a vector or a matrix.
struct Product(Tensor);

fn product(z: &Tensor, weight: &Tensor) -> Tensor {
    if weight.dim() == 1 { z * weight } else { z.matmul(weight) }
}

fn complex_weight(path: &Path<'_>, size: &[i64]) -> Product {
    Product(path.add("weight", Tensor::randn(size, (Kind::ComplexFloat, Device::Cpu)) * 0.7, true))
}

impl Layer<Turning> for Product {
    type Out = Turning;

    fn run(&self, (table, z): Turning, _cx: &Context) -> Turning {
        (table, product(&z, &self.0))
    }
}

struct End(Linear);

impl Layer<Turning> for End {
    type Out = Tensor;

    fn run(&self, (Replicate(table), z): Turning, _cx: &Context) -> Tensor {
        assert!(table.is_complex() && !table.requires_grad(), "a constant stays one");
        as_real(&(z * table)).tanh().apply(&self.0)
    }
}

struct WithComplex;

impl Family for WithComplex {
    type In = Turning;
    type A = Begin;
    type B = Product;
    type C = Product;
    type D = End;

    const WHOLE: &[usize] = &[1];

    fn layers([a, b, c, d]: [&Path<'_>; 4]) -> (Begin, Product, Product, End) {
        (
            Begin(dense(a, WIDTH)),
            complex_weight(b, &[WIDTH / 2]),
            complex_weight(c, &[WIDTH / 2, WIDTH / 2]),
            End(dense(d, WIDTH)),
        )
    }

    fn batch(rows: i64) -> Vec<Tensor> {
        let angle = Tensor::randn([TOKENS, WIDTH / 2], FLOAT);
        vec![Tensor::randn([rows, TOKENS, WIDTH], FLOAT), Tensor::polar(&angle.ones_like(), &angle)]
    }

    fn input(tensors: &[Tensor]) -> Turning {
        (Replicate(tensors[1].shallow_clone()), tensors[0].shallow_clone())
    }

    fn plain(twin: &mut Twin, input: &[Tensor]) -> Tensor {
        let z = as_complex(&plain_linear(twin, "a", &input[0]));
        let z = product(&z, &twin.layer("b").get("weight"));
        let z = product(&z, &twin.layer("c").get("weight"));
        plain_linear(twin, "d", &as_real(&(z * &input[1])).tanh())
    }
}

models!(WithComplex: Complex3, Complex3Vars, Complex4, Complex4Vars);

#[test]
fn complex_constants_and_complex_values_with_gradients() {
    train_both::<Complex3, Complex4>(bits, 2);
}
