//! A skip moves once, from the stage that stashes to the stage that pops, and is freed right after
//! its pop. What is lent is freed right after its last reader.

use std::sync::{Arc, Mutex, Weak};

use pipe_runtime::{Checkpoint, Context, Devices, Layer, Pipe, pipeline};
use pipe_tests::compare::rows;
use pipe_tests::layers::linear;
use tch::nn::Linear;
use tch::{Kind, Tensor};

/// A value that is alive as long as the skip with which it is packed.
#[derive(Debug)]
struct Token;

/// The last token that was stashed, for each micro-batch.
type Watched = Arc<Mutex<Vec<Weak<Token>>>>;

type Skip = (Tensor, Arc<Token>);

struct Stash(Linear, Watched);

impl Layer<Tensor> for Stash {
    type Out = (Tensor, Skip);

    fn run(&self, x: Tensor, cx: &Context) -> Self::Out {
        let token = Arc::new(Token);
        let mut watched = self.1.lock().unwrap();
        watched.resize(cx.micro_batches(), Weak::new());
        watched[cx.micro_batch()] = Arc::downgrade(&token);
        let x = x.apply(&self.0);
        (x.tanh(), (x.sigmoid(), token))
    }
}

struct Pop;

impl Layer<(Tensor, Skip)> for Pop {
    type Out = Tensor;

    fn run(&self, (x, (skip, _token)): (Tensor, Skip), _cx: &Context) -> Tensor {
        x * skip
    }
}

/// A layer that records which tokens are alive when it runs, as (stage, micro-batch).
struct Observe(Watched, Arc<Mutex<Vec<(usize, usize)>>>);

impl Layer<Tensor> for Observe {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        if self.0.lock().unwrap()[cx.micro_batch()].strong_count() > 0 {
            self.1.lock().unwrap().push((cx.stage(), cx.micro_batch()));
        }
        x
    }
}

#[pipeline(chunks = 3)]
struct Net {
    #[device("cpu")]
    #[stash(far)]
    first: Stash,
    #[device("cpu")]
    between: Observe,
    middle: Linear,
    #[device("cpu")]
    #[pop(far)]
    merge: Pop,
    #[device("cpu")]
    after: Observe,
    last: Linear,
}

struct Built {
    pipe: Pipe<Net>,
    watched: Watched,
    alive: Arc<Mutex<Vec<(usize, usize)>>>,
    _vars: NetVars,
}

impl Built {
    fn new(checkpoint: Checkpoint) -> Self {
        let (watched, alive) = (Watched::default(), Arc::default());
        let vars = Net::vars(&Devices::cpu(Net::STAGES)).unwrap();
        let observe = || Observe(Arc::clone(&watched), Arc::clone(&alive));
        let net = Net {
            first: Stash(linear(vars.first(), 8, 8), Arc::clone(&watched)),
            between: observe(),
            middle: linear(vars.middle(), 8, 8),
            merge: Pop,
            after: observe(),
            last: linear(vars.last(), 8, 8),
        };
        let pipe = net.pipe(&vars).checkpoint(checkpoint).build().unwrap();
        Self { pipe, watched, alive, _vars: vars }
    }

    fn living(&self) -> usize {
        self.watched.lock().unwrap().iter().filter(|token| token.strong_count() > 0).count()
    }
}

/// A skip is alive while the stage between runs, and freed when its own stage is done.
const IN_TRANSIT_ONLY: [(usize, usize); 3] = [(1, 0), (1, 1), (1, 2)];

#[test]
fn a_skip_is_freed_right_after_its_pop() {
    let _serial = pipe_tests::serial();
    let mut built = Built::new(Checkpoint::Never);
    let y = built.pipe.forward(rows(6)).unwrap();
    let mut alive = built.alive.lock().unwrap().clone();
    alive.sort_unstable();
    assert_eq!(alive, IN_TRANSIT_ONLY);
    assert_eq!(built.living(), 0);
    y.sum(Kind::Float).backward();
    assert_eq!(built.living(), 0);
}

#[test]
fn a_checkpointed_pop_keeps_its_skip_until_its_backward() {
    let _serial = pipe_tests::serial();
    for (mode, kept) in [(Checkpoint::Always, 3), (Checkpoint::ExceptLast, 2)] {
        let mut built = Built::new(mode);
        let y = built.pipe.forward(rows(6)).unwrap();
        assert_eq!(built.living(), kept, "{mode}");
        y.sum(Kind::Float).backward();
        assert_eq!(built.living(), 0, "{mode}");
    }
}

#[test]
fn a_dropped_output_frees_what_was_kept_for_it() {
    let _serial = pipe_tests::serial();
    let mut built = Built::new(Checkpoint::Always);
    let y = built.pipe.forward(rows(6)).unwrap();
    assert_eq!(built.living(), 3);
    drop(y);
    assert_eq!(built.living(), 0);
}

#[test]
fn without_gradients_nothing_is_kept() {
    let _serial = pipe_tests::serial();
    for mode in [Checkpoint::Always, Checkpoint::Never] {
        let mut built = Built::new(mode);
        let _y = tch::no_grad(|| built.pipe.forward(rows(6)).unwrap());
        assert_eq!(built.living(), 0, "{mode}");
    }
}

#[test]
fn a_retained_graph_keeps_what_it_needs_to_recompute() {
    let _serial = pipe_tests::serial();
    let mut built = Built::new(Checkpoint::Always);
    let y = built.pipe.forward(rows(6)).unwrap().sum(Kind::Float);
    let weight = built._vars.var_store().variables().remove("first.weight").unwrap();
    let first = Tensor::run_backward(&[&y], &[&weight], true, false);
    let second = Tensor::run_backward(&[&y], &[&weight], false, false);
    assert_eq!(first, second);
    assert_eq!(built.living(), 0);
}

/// Goes on with the first of two values.
struct Begin;

impl Layer<(Tensor, Skip)> for Begin {
    type Out = Tensor;

    fn run(&self, (x, _): (Tensor, Skip), _cx: &Context) -> Tensor {
        x
    }
}

/// The value is read in the stage that lends it, and by an array and a layer of the next one.
#[pipeline(chunks = 3)]
struct Lending {
    #[device("cpu")]
    #[lend(far = output.1)]
    first: Stash,
    begin: Begin,
    #[read(far)]
    near: Pop,
    here: Observe,
    #[device("cpu")]
    #[repeat]
    #[read(far)]
    array: [Pop; 2],
    between: Observe,
    #[read(far)]
    end: Pop,
    after: Observe,
    last: Linear,
}

#[test]
fn what_is_lent_is_freed_right_after_its_last_reader() {
    let _serial = pipe_tests::serial();
    for (mode, kept) in [(Checkpoint::Never, 0), (Checkpoint::Always, 3)] {
        let (watched, alive) = (Watched::default(), Arc::default());
        let vars = Lending::vars(&Devices::cpu(Lending::STAGES)).unwrap();
        let observe = || Observe(Arc::clone(&watched), Arc::clone(&alive));
        let net = Lending {
            first: Stash(linear(vars.first(), 8, 8), Arc::clone(&watched)),
            begin: Begin,
            near: Pop,
            here: observe(),
            array: [Pop, Pop],
            between: observe(),
            end: Pop,
            after: observe(),
            last: linear(vars.last(), 8, 8),
        };
        let mut pipe = net.pipe(&vars).checkpoint(mode).build().unwrap();
        let living = || watched.lock().unwrap().iter().filter(|token| token.strong_count() > 0).count();
        let y = pipe.forward(rows(6)).unwrap();
        if mode == Checkpoint::Never {
            let mut alive: Vec<(usize, usize)> = alive.lock().unwrap().clone();
            alive.sort_unstable();
            // Once per stage: `after` has found none.
            assert_eq!(alive, [0, 1].map(|stage| [0, 1, 2].map(|micro_batch| (stage, micro_batch))).concat());
        }
        assert_eq!(living(), kept, "{mode}");
        y.sum(Kind::Float).backward();
        assert_eq!(living(), 0, "{mode}");
    }
}
