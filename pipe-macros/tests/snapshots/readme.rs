// What is written:

#[pipeline(chunks = 8, schedule = "1f1b")]
struct Net {
    #[device("cuda:0")]
    encode: nn::Linear,
    #[device("cuda:1")]
    decode: nn::Linear,
}

// What is generated beside it:

/// Parameter paths of [`Net`]: one per layer, each on its stage's device.
#[derive(::core::fmt::Debug)]
struct NetVars {
    vars: ::pipe_runtime::__rt::Vars,
}
const _: () = {
    use ::pipe_runtime::__rt;
    #[allow(dead_code)]
    impl Net {
        /// Layers and device of each stage, and route of each skip. Prints as a table.
        pub const PLAN: __rt::Plan = __rt::Plan {
            name: "Net",
            stages: &[
                __rt::StagePlan {
                    device: "cuda:0",
                    layers: &__rt::LayerPlan::layers(["encode"]),
                },
                __rt::StagePlan {
                    device: "cuda:1",
                    layers: &__rt::LayerPlan::layers(["decode"]),
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
        pub fn vars(devices: &__rt::Devices) -> __rt::Result<NetVars> {
            __rt::Vars::new(&Self::PLAN, devices).map(|vars| NetVars { vars })
        }
        /// Prepares the pipelined run. The builder's settings override the annotations.
        pub fn pipe(self, vars: &NetVars) -> __rt::PipeBuilder<'_, Self> {
            __rt::PipeBuilder::new(self, vars)
        }
        /// Prepares the unpipelined run: all layers on one device, one micro-batch at a time.
        pub fn unpipelined(&self) -> __rt::Unpipelined<'_, Self> {
            __rt::Unpipelined::new(self)
        }
    }
    #[allow(dead_code)]
    impl NetVars {
        /// Path of layer `encode`.
        pub fn encode(&self) -> __rt::Path<'_> {
            self.vars.layer("encode")
        }
        /// Path of layer `decode`.
        pub fn decode(&self) -> __rt::Path<'_> {
            self.vars.layer("decode")
        }
    }
    impl ::core::ops::Deref for NetVars {
        type Target = __rt::Vars;
        fn deref(&self) -> &__rt::Vars {
            &self.vars
        }
    }
    impl __rt::Model for Net {
        type Input = __rt::Tensor;
        type Output = __rt::Tensor;
        const PLAN: __rt::Plan = Self::PLAN;
        const DEFAULTS: __rt::Defaults = __rt::Defaults {
            chunks: ::core::option::Option::Some(8),
            schedule: ::core::option::Option::Some(__rt::ScheduleKind::OneFOneB),
            ..__rt::Defaults::NONE
        };
    }
    impl __rt::Pipeline for Net {
        type Plain = ();
        fn disassemble(self, graph: &mut __rt::Graph) -> __rt::Result<Self::Plain> {
            let Self { encode, decode } = self;
            let flow_0 = graph.input::<Self>();
            let flow_1 = graph.port(1, 0, 1);
            graph
                .stage(
                    (__rt::movable(encode),),
                    (flow_0, flow_1),
                    |(encode,), (flow_0, flow_1), io, cx| {
                        let x = io.receive_input::<Self>(flow_0);
                        let x = __rt::pass(x, encode, cx, "encode");
                        io.send(flow_1, x);
                    },
                );
            let flow_2 = graph.output::<Self>(2);
            graph
                .stage(
                    (__rt::movable(decode),),
                    (flow_1, flow_2),
                    |(decode,), (flow_1, flow_2), io, cx| {
                        let x = io.receive(flow_1);
                        let x = __rt::pass(x, decode, cx, "decode");
                        io.send_output::<Self>(flow_2, __rt::output::<Self>(x));
                    },
                );
            ::core::result::Result::Ok(())
        }
        fn assemble(layers: &mut __rt::Layers, (): Self::Plain) -> Self {
            let (encode,) = layers.take::<(nn::Linear,)>();
            let (decode,) = layers.take::<(nn::Linear,)>();
            Self { encode, decode }
        }
    }
    #[diagnostic::do_not_recommend]
    impl __rt::Layer<__rt::Tensor> for Net {
        type Out = __rt::Tensor;
        fn run(&self, x: __rt::Tensor, cx: &__rt::Context) -> __rt::Tensor {
            let Self { encode, decode } = self;
            let x = __rt::pass(x, encode, cx, "encode");
            let x = __rt::pass(x, decode, cx, "decode");
            __rt::output::<Self>(x)
        }
    }
    use __rt::NestedByDefault as _;
    const _: () = __rt::nests(__rt::Nested::<nn::Linear>::HAS_DEVICES);
};
