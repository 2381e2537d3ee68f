// What is written:

#[pipeline]
pub struct Block {
    #[stash(residual = input)]
    conv: nn::Conv2D,
    #[repeat]
    more: [nn::Conv2D; 2],
    #[pop(residual)]
    #[layer(name = "sum")]
    add: Add,
}

// What is generated beside it:

/// Parameter paths of [`Block`]: one per layer.
#[derive(::core::fmt::Debug)]
pub struct BlockVars<'vars> {
    path: ::pipe_runtime::__rt::Path<'vars>,
}
const _: () = {
    use ::pipe_runtime::__rt;
    #[allow(dead_code)]
    impl Block {
        /// Layers and device of each stage, and route of each skip. Prints as a table.
        pub const PLAN: __rt::Plan = __rt::Plan {
            name: "Block",
            stages: &[
                __rt::StagePlan {
                    device: "",
                    layers: &[
                        __rt::LayerPlan::layer("conv"),
                        __rt::LayerPlan::repeated(
                            "more",
                            0,
                            __rt::Split::Evenly(1),
                            ::core::option::Option::Some(2),
                        ),
                        __rt::LayerPlan::layer("sum"),
                    ],
                },
            ],
            skips: &[
                __rt::SkipPlan {
                    name: "residual",
                    stash: "conv",
                    from: 0,
                    pop: "sum",
                    to: 0,
                },
            ],
            ..__rt::Plan::EMPTY
        };
        /// The parameter paths of the layers below `path`.
        pub fn vars_at<'vars, Path: ::core::borrow::Borrow<__rt::Path<'vars>>>(
            path: Path,
        ) -> BlockVars<'vars> {
            BlockVars {
                path: ::core::clone::Clone::clone(path.borrow()),
            }
        }
        /// Prepares the unpipelined run: all layers on one device, one micro-batch at a time.
        pub fn unpipelined(&self) -> __rt::Unpipelined<'_, Self> {
            __rt::Unpipelined::new(self)
        }
    }
    #[allow(dead_code)]
    impl<'vars> BlockVars<'vars> {
        /// Path of layer `conv`.
        pub fn conv(&self) -> __rt::Path<'vars> {
            self.path.sub("conv")
        }
        /// Paths of the layers `more`.
        pub fn more(&self) -> [__rt::Path<'vars>; 2] {
            __rt::sub_paths(&self.path, "more")
        }
        /// Path of layer `sum`.
        pub fn add(&self) -> __rt::Path<'vars> {
            self.path.sub("sum")
        }
    }
    impl __rt::Model for Block {
        type Input = __rt::Tensor;
        type Output = __rt::Tensor;
        const PLAN: __rt::Plan = Self::PLAN;
        const DEFAULTS: __rt::Defaults = __rt::Defaults::NONE;
    }
    impl __rt::Layer<__rt::Tensor> for Block {
        type Out = __rt::Tensor;
        fn run(&self, x: __rt::Tensor, cx: &__rt::Context) -> __rt::Tensor {
            let Self { conv, more, add } = self;
            let skip_residual = __rt::keep(&x);
            let x = __rt::pass(x, conv, cx, "conv");
            let x = __rt::run_each(x, more, cx, "more");
            let x = __rt::pass((x, skip_residual), add, cx, "sum");
            __rt::output::<Self>(x)
        }
    }
    use __rt::NestedByDefault as _;
    const _: () = __rt::nests(__rt::Nested::<nn::Conv2D>::HAS_DEVICES);
    const _: () = __rt::nests(__rt::Nested::<Add>::HAS_DEVICES);
};
const _: () = {
    /// Stashed by `conv`, popped by `sum`.
    fn residual() {}
    const _: &[fn()] = &[residual];
};
