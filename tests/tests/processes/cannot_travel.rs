//! Values that cannot go to another process are an error, and so are those that change on their
//! way.

use std::sync::Arc;

use pipe_runtime::{Context, Devices, Flow, Layer, World, pipeline};
use pipe_tests::layers::linear;
use tch::nn::{self, FuncT, Linear};
use tch::{Device, Kind, Tensor};

use crate::launch::{Ulfm, in_processes};

/// Sends one of two large tensors for each micro-batch, and writes into the one before.
#[derive(Debug)]
struct Late([Tensor; 2]);

impl Layer<Tensor> for Late {
    type Out = Tensor;

    fn run(&self, _: Tensor, cx: &Context) -> Tensor {
        if cx.micro_batch() == 1 {
            let _ = self.0[0].narrow(0, 0, 1).fill_(1.);
        }
        self.0[cx.micro_batch()].shallow_clone()
    }
}

#[pipeline(chunks = 2)]
struct Overwrites {
    #[device("cpu")]
    late: Late,
    #[device("cpu")]
    last: FuncT<'static>,
}

#[test]
fn a_value_that_is_overwritten_on_its_way_to_another_process_is_an_error() {
    const NAME: &str = "cannot_travel::a_value_that_is_overwritten_on_its_way_to_another_process_is_an_error";
    const WORDS: &str = "a value on its way to another stage was modified by an in-place operation";
    in_processes(Ulfm, 2, NAME, || {
        let world = World::init().unwrap();
        let x = Tensor::ones([4, 8], (Kind::Float, Device::Cpu));
        let vars = Overwrites::vars(&Devices::cpu(2).across(&world).unwrap()).unwrap();
        let large = || Tensor::zeros([1 << 24], (Kind::Float, Device::Cpu));
        let last = nn::func_t(|x, _| x.narrow(0, 0, 1));
        let mut pipe = Overwrites { late: Late([large(), large()]), last }.pipe(&vars).build().unwrap();
        let error = pipe.predict(&x).unwrap_err();
        assert!(error.to_string().contains(WORDS), "{error}");
    });
}

#[pipeline(input = Tensor, output = (Tensor, Arc<String>))]
struct Shares {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    last: Tags,
}

/// Returns a value that only one process can have.
struct Tags;

impl Layer<Tensor> for Tags {
    type Out = (Tensor, Arc<String>);

    fn run(&self, x: Tensor, _cx: &Context) -> Self::Out {
        (x, Arc::new("here".to_owned()))
    }
}

#[test]
fn an_output_that_cannot_go_to_other_processes_is_an_error_everywhere() {
    const NAME: &str = "cannot_travel::an_output_that_cannot_go_to_other_processes_is_an_error_everywhere";
    in_processes(Ulfm, 2, NAME, || {
        let world = World::init().unwrap();
        let vars = Shares::vars(&Devices::cpu(2).across(&world).unwrap()).unwrap();
        let model = Shares { first: linear(vars.first(), 8, 8), last: Tags };
        let mut pipe = model.pipe(&vars).build().unwrap();
        let error = pipe.predict(Tensor::ones([2, 8], (Kind::Float, Device::Cpu))).unwrap_err().to_string();
        assert!(error.contains("Shared<alloc::string::String>` cannot go to another process"), "{error}");
    });
}

/// Rows with a tag, which only one process can have.
#[derive(Flow)]
struct Tagged {
    x: Tensor,
    tag: Arc<String>,
}

struct Tag;

impl Layer<Tensor> for Tag {
    type Out = Tagged;

    fn run(&self, x: Tensor, _cx: &Context) -> Tagged {
        Tagged { x, tag: Arc::new("here".to_owned()) }
    }
}

struct Untag;

impl Layer<Tagged> for Untag {
    type Out = Tensor;

    fn run(&self, tagged: Tagged, _cx: &Context) -> Tensor {
        tagged.x + tagged.tag.len() as f64
    }
}

#[pipeline(chunks = 2)]
struct Tags3 {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    tag: Tag,
    #[device("cpu")]
    untag: Untag,
}

#[test]
fn a_value_that_cannot_go_to_another_process_is_an_error_of_build() {
    const NAME: &str = "cannot_travel::a_value_that_cannot_go_to_another_process_is_an_error_of_build";
    let build = |devices: &Devices| {
        let vars = Tags3::vars(devices).unwrap();
        Tags3 { first: linear(vars.first(), 8, 8), tag: Tag, untag: Untag }.pipe(&vars).build()
    };
    in_processes(Ulfm, 2, NAME, || {
        let world = World::init().unwrap();
        // The first process has two stages, and the value leaves it.
        let error = build(&Devices::cpu(3).across(&world).unwrap()).unwrap_err().to_string();
        assert!(
            error.starts_with("stage 1 sends a value of type `processes::cannot_travel::Tagged` to stage 2"),
            "{error}"
        );
    });
    // Within one process, it goes from stage to stage.
    let mut pipe = build(&Devices::cpu(3)).unwrap();
    let y = pipe.predict(Tensor::ones([2, 8], (Kind::Float, Device::Cpu))).unwrap();
    assert_eq!(y.size(), [2, 8]);
}
