//! A mask and class weights that come in with the input and are used in the last stage.

use super::*;

/// Mask, weights of the classes, labels, and activations.
type Masked = (Replicate<Tensor>, Replicate<Tensor>, Tensor, Tensor);

/// A layer that applies a linear map and `tanh` to the activations.
struct Dense(Linear);

impl Layer<Masked> for Dense {
    type Out = Masked;

    fn run(&self, (mask, weights, labels, x): Masked, _cx: &Context) -> Masked {
        (mask, weights, labels, x.apply(&self.0).tanh())
    }
}

/// A layer with masked attention, which also computes the weighted loss of each token.
struct Attention(Linear);

fn attention(x: &Tensor, mask: &Tensor) -> Tensor {
    let heads = x.reshape([-1, TOKENS, 2, WIDTH / 2]).transpose(1, 2);
    let found = Tensor::scaled_dot_product_attention(&heads, &heads, &heads, Some(mask), 0., false, None, false);
    x + found.transpose(1, 2).reshape([-1, TOKENS, WIDTH])
}

fn token_losses(logits: &Tensor, labels: &Tensor, weights: &Tensor) -> Tensor {
    logits.transpose(1, 2).cross_entropy_loss(labels, Some(weights), Reduction::None, -100, 0.)
}

impl Layer<Masked> for Attention {
    type Out = Tensor;

    fn run(&self, (mask, weights, labels, x): Masked, _cx: &Context) -> Tensor {
        assert!(!mask.0.requires_grad() && !weights.0.requires_grad(), "a constant stays one");
        token_losses(&attention(&x, &mask.0).apply(&self.0), &labels, &weights.0)
    }
}

struct WithMask;

impl Family for WithMask {
    type In = Masked;
    type A = Dense;
    type B = Dense;
    type C = Dense;
    type D = Attention;

    const WHOLE: &[usize] = &[1, 2];

    fn layers([a, b, c, d]: [&Path<'_>; 4]) -> (Dense, Dense, Dense, Attention) {
        (Dense(dense(a, WIDTH)), Dense(dense(b, WIDTH)), Dense(dense(c, WIDTH)), Attention(dense(d, 3)))
    }

    fn batch(rows: i64) -> Vec<Tensor> {
        let mask = Tensor::randn([TOKENS, TOKENS], FLOAT);
        let weights = Tensor::from_slice(&[0.5_f32, 1., 2.]);
        let labels = Tensor::randint(3, [rows, TOKENS], (Kind::Int64, Device::Cpu));
        vec![Tensor::randn([rows, TOKENS, WIDTH], FLOAT), mask, weights, labels]
    }

    fn input(tensors: &[Tensor]) -> Masked {
        let [x, mask, weights, labels] = [0, 1, 2, 3].map(|index| tensors[index].shallow_clone());
        (Replicate(mask), Replicate(weights), labels, x)
    }

    fn loss(output: &Tensor, _target: &Tensor) -> Tensor {
        output.mean(Kind::Float)
    }

    fn plain(twin: &mut Twin, input: &[Tensor]) -> Tensor {
        let x = ["a", "b", "c"].iter().fold(input[0].shallow_clone(), |x, path| plain_dense(twin, path, &x));
        token_losses(&plain_linear(twin, "d", &attention(&x, &input[1])), &input[3], &input[2])
    }
}

models!(WithMask: Mask3, Mask3Vars, Mask4, Mask4Vars);

#[test]
fn a_mask_and_class_weights_that_are_used_in_the_last_stage() {
    train_both::<Mask3, Mask4>(bits, 2);
}
