// What is written:

/// A small U-Net over two devices.
#[pipeline(chunks = 8, checkpoint = except_last)]
pub struct UNet {
    #[device("cuda:0")]
    #[stash(level1 = output)] // what the layer returns is kept for a later layer
    encode1: Block,
    #[stash(level2 = output)]
    encode2: Block,
    bottleneck: Block,

    #[device("cuda:1")] // opens the next stage; unannotated layers stay with the one above
    #[pop(level2)] // takes (input, level2): goes straight from cuda:0 to cuda:1
    concat2: Concat,
    decode2: Block,
    #[pop(level1)]
    concat1: Concat,
    decode1: Block,
    head: nn::Conv2D,
}

// What is generated beside it:

/// Parameter paths of [`UNet`]: one per layer, each on its stage's device.
#[derive(::core::fmt::Debug)]
pub struct UNetVars {
    vars: ::pipe_runtime::__rt::Vars,
}
const _: () = {
    use ::pipe_runtime::__rt;
    #[allow(dead_code)]
    impl UNet {
        /// Layers and device of each stage, and route of each skip. Prints as a table.
        pub const PLAN: __rt::Plan = __rt::Plan {
            name: "UNet",
            stages: &[
                __rt::StagePlan {
                    device: "cuda:0",
                    layers: &__rt::LayerPlan::layers([
                        "encode1",
                        "encode2",
                        "bottleneck",
                    ]),
                },
                __rt::StagePlan {
                    device: "cuda:1",
                    layers: &__rt::LayerPlan::layers([
                        "concat2",
                        "decode2",
                        "concat1",
                        "decode1",
                        "head",
                    ]),
                },
            ],
            skips: &[
                __rt::SkipPlan {
                    name: "level1",
                    stash: "encode1",
                    from: 0,
                    pop: "concat1",
                    to: 1,
                },
                __rt::SkipPlan {
                    name: "level2",
                    stash: "encode2",
                    from: 0,
                    pop: "concat2",
                    to: 1,
                },
            ],
            ..__rt::Plan::EMPTY
        };
        /// Number of stages.
        pub const STAGES: ::core::primitive::usize = 2;
        /// The annotated devices, one per stage, with their processes if they are annotated.
        pub fn devices() -> __rt::Devices {
            __rt::Devices::annotated::<Self>()
        }
        /// Makes the variable stores, one per stage. Fails if a device is not on this machine.
        pub fn vars(devices: &__rt::Devices) -> __rt::Result<UNetVars> {
            __rt::Vars::new(&Self::PLAN, devices).map(|vars| UNetVars { vars })
        }
        /// Prepares the pipelined run. The builder's settings override the annotations.
        pub fn pipe(self, vars: &UNetVars) -> __rt::PipeBuilder<'_, Self> {
            __rt::PipeBuilder::new(self, vars)
        }
        /// Prepares the unpipelined run: all layers on one device, one micro-batch at a time.
        pub fn unpipelined(&self) -> __rt::Unpipelined<'_, Self> {
            __rt::Unpipelined::new(self)
        }
    }
    #[allow(dead_code)]
    impl UNetVars {
        /// Path of layer `encode1`.
        pub fn encode1(&self) -> __rt::Path<'_> {
            self.vars.layer("encode1")
        }
        /// Path of layer `encode2`.
        pub fn encode2(&self) -> __rt::Path<'_> {
            self.vars.layer("encode2")
        }
        /// Path of layer `bottleneck`.
        pub fn bottleneck(&self) -> __rt::Path<'_> {
            self.vars.layer("bottleneck")
        }
        /// Path of layer `concat2`.
        pub fn concat2(&self) -> __rt::Path<'_> {
            self.vars.layer("concat2")
        }
        /// Path of layer `decode2`.
        pub fn decode2(&self) -> __rt::Path<'_> {
            self.vars.layer("decode2")
        }
        /// Path of layer `concat1`.
        pub fn concat1(&self) -> __rt::Path<'_> {
            self.vars.layer("concat1")
        }
        /// Path of layer `decode1`.
        pub fn decode1(&self) -> __rt::Path<'_> {
            self.vars.layer("decode1")
        }
        /// Path of layer `head`.
        pub fn head(&self) -> __rt::Path<'_> {
            self.vars.layer("head")
        }
    }
    impl ::core::ops::Deref for UNetVars {
        type Target = __rt::Vars;
        fn deref(&self) -> &__rt::Vars {
            &self.vars
        }
    }
    impl __rt::Model for UNet {
        type Input = __rt::Tensor;
        type Output = __rt::Tensor;
        const PLAN: __rt::Plan = Self::PLAN;
        const DEFAULTS: __rt::Defaults = __rt::Defaults {
            chunks: ::core::option::Option::Some(8),
            checkpoint: ::core::option::Option::Some(__rt::Checkpoint::ExceptLast),
            ..__rt::Defaults::NONE
        };
    }
    impl __rt::Pipeline for UNet {
        type Plain = ();
        fn disassemble(self, graph: &mut __rt::Graph) -> __rt::Result<Self::Plain> {
            let Self {
                encode1,
                encode2,
                bottleneck,
                concat2,
                decode2,
                concat1,
                decode1,
                head,
            } = self;
            let flow_0 = graph.input::<Self>();
            let flow_1 = graph.port(1, 0, 1);
            let port_level2 = graph.port(2, 0, 1);
            let port_level1 = graph.port(3, 0, 1);
            graph
                .stage(
                    (
                        __rt::movable(encode1),
                        __rt::movable(encode2),
                        __rt::movable(bottleneck),
                    ),
                    (flow_0, flow_1, port_level2, port_level1),
                    |
                        (encode1, encode2, bottleneck),
                        (flow_0, flow_1, port_level2, port_level1),
                        io,
                        cx|
                    {
                        let x = io.receive_input::<Self>(flow_0);
                        let x = __rt::pass(x, encode1, cx, "encode1");
                        io.send(port_level1, __rt::keep(&x));
                        let x = __rt::pass(x, encode2, cx, "encode2");
                        io.send(port_level2, __rt::keep(&x));
                        let x = __rt::pass(x, bottleneck, cx, "bottleneck");
                        io.send(flow_1, x);
                    },
                );
            let flow_2 = graph.output::<Self>(4);
            graph
                .stage(
                    (
                        __rt::movable(concat2),
                        __rt::movable(decode2),
                        __rt::movable(concat1),
                        __rt::movable(decode1),
                        __rt::movable(head),
                    ),
                    (flow_1, flow_2, port_level2, port_level1),
                    |
                        (concat2, decode2, concat1, decode1, head),
                        (flow_1, flow_2, port_level2, port_level1),
                        io,
                        cx|
                    {
                        let x = io.receive(flow_1);
                        let skip_level2 = io.receive(port_level2);
                        let x = __rt::pass((x, skip_level2), concat2, cx, "concat2");
                        let x = __rt::pass(x, decode2, cx, "decode2");
                        let skip_level1 = io.receive(port_level1);
                        let x = __rt::pass((x, skip_level1), concat1, cx, "concat1");
                        let x = __rt::pass(x, decode1, cx, "decode1");
                        let x = __rt::pass(x, head, cx, "head");
                        io.send_output::<Self>(flow_2, __rt::output::<Self>(x));
                    },
                );
            ::core::result::Result::Ok(())
        }
        fn assemble(layers: &mut __rt::Layers, (): Self::Plain) -> Self {
            let (encode1, encode2, bottleneck) = layers.take::<(Block, Block, Block)>();
            let (concat2, decode2, concat1, decode1, head) = layers
                .take::<(Concat, Block, Concat, Block, nn::Conv2D)>();
            Self {
                encode1,
                encode2,
                bottleneck,
                concat2,
                decode2,
                concat1,
                decode1,
                head,
            }
        }
    }
    #[diagnostic::do_not_recommend]
    impl __rt::Layer<__rt::Tensor> for UNet {
        type Out = __rt::Tensor;
        fn run(&self, x: __rt::Tensor, cx: &__rt::Context) -> __rt::Tensor {
            let Self {
                encode1,
                encode2,
                bottleneck,
                concat2,
                decode2,
                concat1,
                decode1,
                head,
            } = self;
            let x = __rt::pass(x, encode1, cx, "encode1");
            let skip_level1 = __rt::keep(&x);
            let x = __rt::pass(x, encode2, cx, "encode2");
            let skip_level2 = __rt::keep(&x);
            let x = __rt::pass(x, bottleneck, cx, "bottleneck");
            let x = __rt::pass((x, skip_level2), concat2, cx, "concat2");
            let x = __rt::pass(x, decode2, cx, "decode2");
            let x = __rt::pass((x, skip_level1), concat1, cx, "concat1");
            let x = __rt::pass(x, decode1, cx, "decode1");
            let x = __rt::pass(x, head, cx, "head");
            __rt::output::<Self>(x)
        }
    }
    use __rt::NestedByDefault as _;
    const _: () = __rt::nests(__rt::Nested::<Block>::HAS_DEVICES);
    const _: () = __rt::nests(__rt::Nested::<Concat>::HAS_DEVICES);
    const _: () = __rt::nests(__rt::Nested::<nn::Conv2D>::HAS_DEVICES);
};
const _: () = {
    /// Stashed by `encode1` (stage 0), popped by `concat1` (stage 1).
    fn level1() {}
    /// Stashed by `encode2` (stage 0), popped by `concat2` (stage 1).
    fn level2() {}
    const _: &[fn()] = &[level1, level2];
};
