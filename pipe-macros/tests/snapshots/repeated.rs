// What is written:

#[pipeline]
struct Stack<B: ModuleT + 'static, const DEPTH: usize> {
    #[device("cuda:0")]
    embed: Embed,
    #[devices("cuda:0" = 3, "cuda:1" = 5)]
    blocks: [B; DEPTH],
    #[repeat]
    tail: Vec<B>,
    #[not_a_layer]
    config: Config,
}

// What is generated beside it:

/// Parameter paths of [`Stack`]: one per layer, each on its stage's device.
#[derive(::core::fmt::Debug)]
struct StackVars<const DEPTH: usize> {
    vars: ::pipe_runtime::__rt::Vars,
}
const _: () = {
    use ::pipe_runtime::__rt;
    #[allow(dead_code)]
    impl<B: ModuleT + 'static, const DEPTH: usize> Stack<B, DEPTH> {
        /// Layers and device of each stage, and route of each skip. Prints as a table.
        pub const PLAN: __rt::Plan = __rt::Plan {
            name: "Stack",
            stages: &[
                __rt::StagePlan {
                    device: "cuda:0",
                    layers: &[
                        __rt::LayerPlan::layer("embed"),
                        __rt::LayerPlan::repeated(
                            "blocks",
                            0,
                            __rt::Split::Counts(&[3, 5]),
                            ::core::option::Option::Some(DEPTH),
                        ),
                    ],
                },
                __rt::StagePlan {
                    device: "cuda:1",
                    layers: &[
                        __rt::LayerPlan::repeated(
                            "blocks",
                            1,
                            __rt::Split::Counts(&[3, 5]),
                            ::core::option::Option::Some(DEPTH),
                        ),
                        __rt::LayerPlan::repeated(
                            "tail",
                            0,
                            __rt::Split::Evenly(1),
                            ::core::option::Option::None,
                        ),
                    ],
                },
            ],
            skips: &[],
            ..__rt::Plan::EMPTY
        };
        /// Number of stages.
        pub const STAGES: ::core::primitive::usize = 2;
        /// The annotated devices, one per stage, with their processes if they are annotated.
        pub fn devices() -> __rt::Devices {
            __rt::Devices::annotated::<Self>()
        }
        /// Makes the variable stores, one per stage. Fails if a device is not on this machine.
        pub fn vars(devices: &__rt::Devices) -> __rt::Result<StackVars<DEPTH>> {
            __rt::Vars::new(&Self::PLAN, devices).map(|vars| StackVars { vars })
        }
        /// Prepares the pipelined run. The builder's settings override the annotations.
        pub fn pipe(self, vars: &StackVars<DEPTH>) -> __rt::PipeBuilder<'_, Self>
        where
            B: 'static,
        {
            __rt::PipeBuilder::new(self, vars)
        }
        /// Prepares the unpipelined run: all layers on one device, one micro-batch at a time.
        pub fn unpipelined(&self) -> __rt::Unpipelined<'_, Self> {
            __rt::Unpipelined::new(self)
        }
    }
    #[allow(dead_code)]
    impl<const DEPTH: usize> StackVars<DEPTH> {
        /// Path of layer `embed`.
        pub fn embed(&self) -> __rt::Path<'_> {
            self.vars.layer("embed")
        }
        /// Paths of the layers `blocks`.
        pub fn blocks(&self) -> [__rt::Path<'_>; DEPTH] {
            self.vars.layers_array("blocks")
        }
        /// Paths of `len` layers `tail`.
        pub fn tail(
            &self,
            len: ::core::primitive::usize,
        ) -> ::std::vec::Vec<__rt::Path<'_>> {
            self.vars.layers("tail", len)
        }
    }
    impl<const DEPTH: usize> ::core::ops::Deref for StackVars<DEPTH> {
        type Target = __rt::Vars;
        fn deref(&self) -> &__rt::Vars {
            &self.vars
        }
    }
    impl<B: ModuleT + 'static, const DEPTH: usize> __rt::Model for Stack<B, DEPTH> {
        type Input = __rt::Tensor;
        type Output = __rt::Tensor;
        const PLAN: __rt::Plan = Self::PLAN;
        const DEFAULTS: __rt::Defaults = __rt::Defaults::NONE;
    }
    #[allow(dead_code, private_bounds, private_interfaces)]
    pub struct StackPlain<B: ModuleT + 'static, const DEPTH: usize> {
        config: Config,
        owner: ::core::marker::PhantomData<fn() -> Stack<B, DEPTH>>,
    }
    impl<B: ModuleT + 'static, const DEPTH: usize> __rt::Pipeline for Stack<B, DEPTH>
    where
        B: 'static,
    {
        type Plain = StackPlain<B, DEPTH>;
        fn disassemble(self, graph: &mut __rt::Graph) -> __rt::Result<Self::Plain> {
            let Self { embed, blocks, tail, config } = self;
            let [blocks_0, blocks_1] = __rt::spread(
                blocks,
                "blocks",
                __rt::Split::Counts(&[3, 5]),
            )?;
            let [tail] = __rt::spread(tail, "tail", __rt::Split::Evenly(1))?;
            let flow_0 = graph.input::<Self>();
            let flow_1 = graph.port(1, 0, 1);
            graph
                .stage(
                    (__rt::movable(embed), __rt::movable_part(blocks_0)),
                    (flow_0, flow_1),
                    |(embed, blocks_0), (flow_0, flow_1), io, cx| {
                        let x = io.receive_input::<Self>(flow_0);
                        let x = __rt::pass(x, embed, cx, "embed");
                        let x = __rt::run_each(x, blocks_0, cx, "blocks");
                        io.send(flow_1, x);
                    },
                );
            let flow_2 = graph.output::<Self>(2);
            graph
                .stage(
                    (__rt::movable_part(blocks_1), __rt::movable_part(tail)),
                    (flow_1, flow_2),
                    |(blocks_1, tail), (flow_1, flow_2), io, cx| {
                        let x = io.receive(flow_1);
                        let x = __rt::run_each(x, blocks_1, cx, "blocks");
                        let x = __rt::run_each(x, tail, cx, "tail");
                        io.send_output::<Self>(flow_2, __rt::output::<Self>(x));
                    },
                );
            ::core::result::Result::Ok(StackPlain {
                config,
                owner: ::core::marker::PhantomData,
            })
        }
        fn assemble(
            layers: &mut __rt::Layers,
            StackPlain { config, owner: ::core::marker::PhantomData }: Self::Plain,
        ) -> Self {
            let (embed, blocks_0) = layers.take::<(Embed, __rt::Repeated<B>)>();
            let (blocks_1, tail) = layers
                .take::<(__rt::Repeated<B>, __rt::Repeated<B>)>();
            Self {
                embed,
                blocks: __rt::gather_parts([blocks_0, blocks_1]),
                tail: __rt::gather_parts([tail]),
                config,
            }
        }
    }
    #[diagnostic::do_not_recommend]
    impl<B: ModuleT + 'static, const DEPTH: usize> __rt::Layer<__rt::Tensor>
    for Stack<B, DEPTH> {
        type Out = __rt::Tensor;
        fn run(&self, x: __rt::Tensor, cx: &__rt::Context) -> __rt::Tensor {
            let Self { embed, blocks, tail, .. } = self;
            let x = __rt::pass(x, embed, cx, "embed");
            let x = __rt::run_each(x, blocks, cx, "blocks");
            let x = __rt::run_each(x, tail, cx, "tail");
            __rt::output::<Self>(x)
        }
    }
    use __rt::NestedByDefault as _;
    const _: () = __rt::nests(__rt::Nested::<Embed>::HAS_DEVICES);
};
