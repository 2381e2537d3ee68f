//! Visibilities, `#[cfg]`, and other derives and attributes are kept.
#![deny(warnings, missing_docs, unreachable_pub)]

mod inner {
    use pipe_runtime::nn::Linear;
    use pipe_runtime::pipeline;

    /// Private to the module.
    #[derive(Debug, Default)]
    pub(super) struct Private;

    /// A model.
    #[pipeline]
    #[derive(Debug)]
    pub(super) struct Model {
        /// The first layer.
        #[device("cpu")]
        pub(super) first: Linear,
        #[cfg(any())]
        gone: Missing,
        #[cfg_attr(all(), device("cuda:0"))]
        pub(crate) second: Linear,
        #[not_a_layer]
        pub(super) config: Private,
    }

    #[derive(Debug)]
    #[pipeline(checkpoint = never, allow(single_stage))]
    struct Unused {
        layer: Linear,
    }

    /// A struct without layers.
    #[pipeline]
    pub(super) struct Empty {}
}

use inner::Model;
use pipe_runtime::nn::Linear;

fn main() {
    let model = Model { first: Linear, second: Linear, config: Default::default() };
    println!("{model:?} {}", Model::STAGES);
    let _ = |vars: &inner::ModelVars| {
        let pipe = model.pipe(vars).build().ok()?;
        Some(format!("{:?}", pipe.config))
    };
    let _ = inner::Empty {};
}
