//! Pipelines whose first layer lends and stashes its output, and whose others read it and add to a
//! sum.

use pipe_runtime::{Context, Devices, Layer, Mean, Split, pipeline};
use tch::{Kind, Reduction, Tensor};

use super::probe::{Probe, Probed};
use super::stacks::{LayerSpec, Watchable, ZooLayer};

/// A layer of any kind, which reads a memory and adds a penalty.
pub struct Reader(ZooLayer);

impl Layer<(Tensor, Tensor)> for Reader {
    type Out = (Tensor, Tensor);

    fn run(&self, (x, memory): (Tensor, Tensor), cx: &Context) -> (Tensor, Tensor) {
        let y = self.0.run(x + memory * 0.1, cx);
        let penalty = y.square().mean(Kind::Float);
        (y, penalty)
    }
}

/// Takes what the first layer has stashed.
pub struct Join;

impl Layer<(Tensor, Tensor)> for Join {
    type Out = Tensor;

    fn run(&self, (x, start): (Tensor, Tensor), _cx: &Context) -> Tensor {
        x + start
    }
}

/// Two watched layers for each stage. The first stage has the first two by name, the others have an
/// array over these devices.
macro_rules! routed {
    ($model:ident, $vars:ident, $stages:literal, $($device:tt),*) => {
        /// Layers that read, add up and skip, spread evenly over stages.
        #[pipeline(sum(penalty: Mean))]
        pub struct $model {
            #[device("cpu")]
            #[lend(memory = output)]
            #[stash(start = output)]
            first: Probed<ZooLayer>,
            #[read(memory)]
            #[sum(penalty)]
            second: Probed<Reader>,
            #[devices($($device),*)]
            #[read(memory)]
            #[sum(penalty)]
            layers: Vec<Probed<Reader>>,
            #[pop(start)]
            join: Join,
        }

        impl Watchable for $model {
            type Vars = $vars;
            type Layers = Vec<LayerSpec>;

            fn make(layers: &Vec<LayerSpec>, probe: &Probe) -> (Self, $vars) {
                let [first, second, rest @ ..] = layers.as_slice() else { panic!("there are two layers for each stage") };
                let vars = $model::vars(&Devices::cpu($stages)).expect("the devices are as many as the stages");
                let paths = vars.layers(rest.len());
                let reader = |spec: &LayerSpec, path| probe.watch(Reader(ZooLayer::new(*spec, path, &vars)));
                let model = $model {
                    first: probe.watch(ZooLayer::new(*first, &vars.first(), &vars)),
                    second: reader(second, &vars.second()),
                    layers: rest.iter().zip(&paths).map(|(spec, path)| reader(spec, path)).collect(),
                    join: Join,
                };
                drop(paths);
                (model, vars)
            }

            fn stages(layers: &Vec<LayerSpec>) -> Vec<usize> {
                let rest = Split::Evenly($stages - 1);
                let of_rest = |stage: usize| rest.range(stage - 1, layers.len() - 2).map(move |_| stage);
                [0, 0].into_iter().chain((1..$stages).flat_map(of_rest)).collect()
            }

            fn name(number: usize) -> String {
                match number {
                    0 => "first".to_owned(),
                    1 => "second".to_owned(),
                    number => format!("layers.{}", number - 2),
                }
            }

            fn input(tensors: &[Tensor]) -> Tensor {
                tensors[0].shallow_clone()
            }

            fn output((output, _): &Self::Output) -> &Tensor {
                output
            }

            fn loss((output, penalty): &Self::Output, target: &Tensor) -> Tensor {
                output.mse_loss(target, Reduction::Mean) + &penalty.0 * 0.1
            }
        }
    };
}

routed!(Routed2, Routed2Vars, 2, "cpu");
routed!(Routed3, Routed3Vars, 3, "cpu", "cpu");
routed!(Routed4, Routed4Vars, 4, "cpu", "cpu", "cpu");
