//! An embedding and a head of one weight.

use super::*;

const WORDS: i64 = 7;

struct DenseAlone(Linear);

impl Layer<Tensor> for DenseAlone {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        x.apply(&self.0).tanh()
    }
}

/// A layer that scores the next word by the vectors that the embedding lends.
struct Head;

impl Layer<(Tensor, Tensor)> for Head {
    type Out = Tensor;

    fn run(&self, (x, words): (Tensor, Tensor), _cx: &Context) -> Tensor {
        let tokens = x.size()[1];
        x.slice(1, tokens - 1, tokens, 1).matmul(&words.tr())
    }
}

struct WithTie;

impl Family for WithTie {
    type In = Tensor;
    type A = Embedding;
    type B = DenseAlone;
    type C = DenseAlone;
    type D = Head;

    fn layers([a, b, c, _]: [&Path<'_>; 4]) -> (Embedding, DenseAlone, DenseAlone, Head) {
        let words = nn::embedding(a, WORDS, WIDTH, Default::default());
        (words, DenseAlone(dense(b, WIDTH)), DenseAlone(dense(c, WIDTH)), Head)
    }

    fn batch(rows: i64) -> Vec<Tensor> {
        vec![Tensor::randint(WORDS, [rows, TOKENS], (Kind::Int64, Device::Cpu))]
    }

    fn input(tensors: &[Tensor]) -> Tensor {
        tensors[0].shallow_clone()
    }

    fn target(rows: i64) -> Tensor {
        Tensor::randint(WORDS, [rows], (Kind::Int64, Device::Cpu))
    }

    fn loss(output: &Tensor, target: &Tensor) -> Tensor {
        output.squeeze_dim(1).cross_entropy_for_logits(target)
    }

    fn plain(twin: &mut Twin, input: &[Tensor]) -> Tensor {
        let words = twin.layer("a").get("weight");
        let x = Tensor::embedding(&words, &input[0], -1, false, false);
        let x = plain_dense(twin, "b", &x);
        plain_dense(twin, "c", &x).slice(1, TOKENS - 1, TOKENS, 1).matmul(&words.tr())
    }
}

models!(WithTie: Tie3, Tie3Vars, Tie4, Tie4Vars, [lend(words = tied)] [read(words)]);

#[test]
fn an_embedding_and_a_head_of_one_weight_on_the_last_token() {
    let lent = |_: Order, name: &str| match name {
        "a.weight" => Nearness::Relative(1e-6),
        _ => Nearness::Bits,
    };
    // Words are integers, so they cannot require a gradient.
    train_both::<Tie3, Tie4>(lent, 1);
}
