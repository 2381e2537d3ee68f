// What is written:

#[pipeline(chunks = 0)]
pub struct Broken {
    #[device("gpu:0")]
    one: Linear,
}

// What is generated beside it:

::core::compile_error! {
    "number of chunks must be positive integer\n\nhelp: `chunks = 1` runs a mini-batch in one piece"
}
::core::compile_error! {
    "`gpu:0` is not a device\n\nhelp: did you mean `cuda:0`?"
}
/// Parameter paths of [`Broken`]: one per layer, each on its stage's device.
#[derive(::core::fmt::Debug)]
pub struct BrokenVars {
    vars: ::pipe_runtime::__rt::Vars,
}
const _: () = {
    use ::pipe_runtime::__rt;
    #[allow(dead_code)]
    impl Broken {
        /// Layers and device of each stage, and route of each skip. Prints as a table.
        pub const PLAN: __rt::Plan = __rt::Plan {
            name: "Broken",
            stages: &[
                __rt::StagePlan {
                    device: "gpu:0",
                    layers: &__rt::LayerPlan::layers(["one"]),
                },
            ],
            skips: &[],
            ..__rt::Plan::EMPTY
        };
        /// Number of stages.
        pub const STAGES: ::core::primitive::usize = 1;
        /// The annotated devices, one per stage, with their processes if they are annotated.
        pub fn devices() -> __rt::Devices {
            __rt::Devices::annotated::<Self>()
        }
        /// Makes the variable stores, one per stage. Fails if a device is not on this machine.
        pub fn vars(devices: &__rt::Devices) -> __rt::Result<BrokenVars> {
            __rt::Vars::new(&Self::PLAN, devices).map(|vars| BrokenVars { vars })
        }
        /// Prepares the pipelined run. The builder's settings override the annotations.
        pub fn pipe(self, vars: &BrokenVars) -> __rt::PipeBuilder<'_, Self> {
            __rt::PipeBuilder::new(self, vars)
        }
        /// Prepares the unpipelined run: all layers on one device, one micro-batch at a time.
        pub fn unpipelined(&self) -> __rt::Unpipelined<'_, Self> {
            __rt::Unpipelined::new(self)
        }
    }
    #[allow(dead_code)]
    impl BrokenVars {
        /// Path of layer `one`.
        pub fn one(&self) -> __rt::Path<'_> {
            self.vars.layer("one")
        }
    }
    impl ::core::ops::Deref for BrokenVars {
        type Target = __rt::Vars;
        fn deref(&self) -> &__rt::Vars {
            &self.vars
        }
    }
    impl __rt::Model for Broken {
        type Input = __rt::Tensor;
        type Output = __rt::Tensor;
        const PLAN: __rt::Plan = Self::PLAN;
        const DEFAULTS: __rt::Defaults = __rt::Defaults {
            chunks: ::core::option::Option::Some(0),
            ..__rt::Defaults::NONE
        };
    }
    impl __rt::Pipeline for Broken {
        type Plain = ();
        fn disassemble(self, _: &mut __rt::Graph) -> __rt::Result<Self::Plain> {
            loop {}
        }
        fn assemble(_: &mut __rt::Layers, _: Self::Plain) -> Self {
            loop {}
        }
    }
    #[diagnostic::do_not_recommend]
    impl __rt::Layer<__rt::Tensor> for Broken {
        type Out = __rt::Tensor;
        fn run(&self, _: __rt::Tensor, _: &__rt::Context) -> __rt::Tensor {
            loop {}
        }
    }
};
