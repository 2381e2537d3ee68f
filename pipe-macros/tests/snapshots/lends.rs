// What is written:

#[pipeline(input = (Tensor, Mask))]
struct Lends {
    #[device("cpu")]
    #[lend(mask = input.1)]
    first: First,
    #[lend(memory = output)]
    encode: Encode,
    #[read(memory)]
    near: Decode,
    #[devices("cpu", "cpu")]
    #[read(memory, mask)]
    decode: [Decoder; 4],
    #[recompute]
    #[read(memory)]
    last: Decode,
}

// What is generated beside it:

/// Parameter paths of [`Lends`]: one per layer, each on its stage's device.
#[derive(::core::fmt::Debug)]
struct LendsVars {
    vars: ::pipe_runtime::__rt::Vars,
}
const _: () = {
    use ::pipe_runtime::__rt;
    #[allow(dead_code)]
    impl Lends {
        /// Layers and device of each stage, and route of each skip. Prints as a table.
        pub const PLAN: __rt::Plan = __rt::Plan {
            name: "Lends",
            stages: &[
                __rt::StagePlan {
                    device: "cpu",
                    layers: &__rt::LayerPlan::layers(["first", "encode", "near"]),
                },
                __rt::StagePlan {
                    device: "cpu",
                    layers: &[
                        __rt::LayerPlan::repeated(
                            "decode",
                            0,
                            __rt::Split::Evenly(2),
                            ::core::option::Option::Some(4),
                        ),
                    ],
                },
                __rt::StagePlan {
                    device: "cpu",
                    layers: &[
                        __rt::LayerPlan::repeated(
                            "decode",
                            1,
                            __rt::Split::Evenly(2),
                            ::core::option::Option::Some(4),
                        ),
                        __rt::LayerPlan::layer("last"),
                    ],
                },
            ],
            skips: &[],
            lent: &[
                __rt::LentPlan {
                    name: "mask",
                    lender: "first",
                    from: 0,
                    readers: &[(3, 5)],
                },
                __rt::LentPlan {
                    name: "memory",
                    lender: "encode",
                    from: 0,
                    readers: &[(2, 6)],
                },
            ],
            recomputed: &[
                __rt::RecomputedPlan {
                    layer: "last",
                    which: __rt::Recomputed::All,
                },
            ],
            ..__rt::Plan::EMPTY
        };
        /// Number of stages.
        pub const STAGES: ::core::primitive::usize = 3;
        /// The annotated devices, one per stage, with their processes if they are annotated.
        pub fn devices() -> __rt::Devices {
            __rt::Devices::annotated::<Self>()
        }
        /// Makes the variable stores, one per stage. Fails if a device is not on this machine.
        pub fn vars(devices: &__rt::Devices) -> __rt::Result<LendsVars> {
            __rt::Vars::new(&Self::PLAN, devices).map(|vars| LendsVars { vars })
        }
        /// Prepares the pipelined run. The builder's settings override the annotations.
        pub fn pipe(self, vars: &LendsVars) -> __rt::PipeBuilder<'_, Self> {
            __rt::PipeBuilder::new(self, vars)
        }
        /// Prepares the unpipelined run: all layers on one device, one micro-batch at a time.
        pub fn unpipelined(&self) -> __rt::Unpipelined<'_, Self> {
            __rt::Unpipelined::new(self)
        }
    }
    #[allow(dead_code)]
    impl LendsVars {
        /// Path of layer `first`.
        pub fn first(&self) -> __rt::Path<'_> {
            self.vars.layer("first")
        }
        /// Path of layer `encode`.
        pub fn encode(&self) -> __rt::Path<'_> {
            self.vars.layer("encode")
        }
        /// Path of layer `near`.
        pub fn near(&self) -> __rt::Path<'_> {
            self.vars.layer("near")
        }
        /// Paths of the layers `decode`.
        pub fn decode(&self) -> [__rt::Path<'_>; 4] {
            self.vars.layers_array("decode")
        }
        /// Path of layer `last`.
        pub fn last(&self) -> __rt::Path<'_> {
            self.vars.layer("last")
        }
    }
    impl ::core::ops::Deref for LendsVars {
        type Target = __rt::Vars;
        fn deref(&self) -> &__rt::Vars {
            &self.vars
        }
    }
    impl __rt::Model for Lends {
        type Input = (Tensor, Mask);
        type Output = __rt::Tensor;
        const PLAN: __rt::Plan = Self::PLAN;
        const DEFAULTS: __rt::Defaults = __rt::Defaults {
            checkpoint: ::core::option::Option::Some(__rt::Checkpoint::Never),
            ..__rt::Defaults::NONE
        };
    }
    impl __rt::Pipeline for Lends {
        type Plain = ();
        fn disassemble(self, graph: &mut __rt::Graph) -> __rt::Result<Self::Plain> {
            let Self { first, encode, near, decode, last } = self;
            let [decode_0, decode_1] = __rt::spread(
                decode,
                "decode",
                __rt::Split::Evenly(2),
            )?;
            let flow_0 = graph.input::<Self>();
            let flow_1 = graph.port(1, 0, 1);
            let hop_0_memory = graph.ports(0, &[(2, 1), (5, 2)]);
            let hop_0_mask = graph.ports(0, &[(3, 1), (6, 2)]);
            graph
                .stage(
                    (__rt::movable(first), __rt::movable(encode), __rt::movable(near)),
                    (flow_0, flow_1, hop_0_memory, hop_0_mask),
                    |
                        (first, encode, near),
                        (flow_0, flow_1, hop_0_memory, hop_0_mask),
                        io,
                        cx|
                    {
                        let x = io.receive_input::<Self>(flow_0);
                        io.send_all(
                            hop_0_mask,
                            __rt::keep(&(*__rt::whole(&x).parts()).1),
                        );
                        let x = __rt::pass(x, first, cx, "first");
                        let x = __rt::pass(x, encode, cx, "encode");
                        io.send_all(hop_0_memory, __rt::keep(&x));
                        let lent_memory = __rt::keep(&x);
                        let reading = __rt::Reading1::new(&lent_memory, cx);
                        let x = reading.pass(x, near, "near");
                        io.send(flow_1, x);
                    },
                );
            let flow_2 = graph.port(4, 1, 2);
            graph
                .stage(
                    (__rt::movable_part(decode_0),),
                    (flow_1, flow_2, hop_0_memory, hop_0_mask),
                    |(decode_0,), (flow_1, flow_2, hop_0_memory, hop_0_mask), io, cx| {
                        let x = io.receive(flow_1);
                        let lent_memory = io.receive_lent(hop_0_memory, 1);
                        let lent_mask = io.receive_lent(hop_0_mask, 1);
                        let x = __rt::each(
                            x,
                            decode_0,
                            cx,
                            "decode",
                            |x, layer, cx| {
                                let x = __rt::run(
                                    (x, __rt::keep(&lent_memory), __rt::keep(&lent_mask)),
                                    layer,
                                    cx,
                                );
                                x
                            },
                        );
                        io.send(flow_2, x);
                    },
                );
            let flow_3 = graph.port(7, 2, 3);
            let hop_2_memory = graph.ports(2, &[(8, 3)]);
            graph
                .stage(
                    (__rt::movable_part(decode_1),),
                    (flow_2, flow_3, hop_0_memory, hop_0_mask, hop_2_memory),
                    |
                        (decode_1,),
                        (flow_2, flow_3, hop_0_memory, hop_0_mask, hop_2_memory),
                        io,
                        cx|
                    {
                        let x = io.receive(flow_2);
                        let lent_memory = io.receive_lent(hop_0_memory, 2);
                        io.send_all(hop_2_memory, __rt::keep(&lent_memory));
                        let lent_mask = io.receive_lent(hop_0_mask, 2);
                        let x = __rt::each(
                            x,
                            decode_1,
                            cx,
                            "decode",
                            |x, layer, cx| {
                                let x = __rt::run(
                                    (x, __rt::keep(&lent_memory), __rt::keep(&lent_mask)),
                                    layer,
                                    cx,
                                );
                                x
                            },
                        );
                        io.send(flow_3, x);
                    },
                );
            let flow_4 = graph.output::<Self>(9);
            graph
                .stage(
                    (__rt::movable(last),),
                    (flow_3, flow_4, hop_2_memory),
                    |(last,), (flow_3, flow_4, hop_2_memory), io, cx| {
                        let x = io.receive(flow_3);
                        let lent_memory = io.receive_lent(hop_2_memory, 3);
                        let reading = __rt::Reading1::new(&lent_memory, cx);
                        let x = reading.pass(x, last, "last");
                        io.send_output::<Self>(flow_4, __rt::output::<Self>(x));
                    },
                );
            graph.goes_on();
            graph.recompute(|_| true);
            ::core::result::Result::Ok(())
        }
        fn assemble(layers: &mut __rt::Layers, (): Self::Plain) -> Self {
            let (first, encode, near) = layers.take::<(First, Encode, Decode)>();
            let (decode_0,) = layers.take::<(__rt::Repeated<Decoder>,)>();
            let (decode_1,) = layers.take::<(__rt::Repeated<Decoder>,)>();
            let (last,) = layers.take::<(Decode,)>();
            Self {
                first,
                encode,
                near,
                decode: __rt::gather_parts([decode_0, decode_1]),
                last,
            }
        }
    }
    #[diagnostic::do_not_recommend]
    impl __rt::Layer<(Tensor, Mask)> for Lends {
        type Out = __rt::Tensor;
        fn run(&self, x: (Tensor, Mask), cx: &__rt::Context) -> __rt::Tensor {
            let Self { first, encode, near, decode, last } = self;
            let lent_mask = __rt::keep(&(*__rt::whole(&x).parts()).1);
            let x = __rt::pass(x, first, cx, "first");
            let x = __rt::pass(x, encode, cx, "encode");
            let lent_memory = __rt::keep(&x);
            let reading = __rt::Reading1::new(&lent_memory, cx);
            let x = reading.pass(x, near, "near");
            let x = __rt::each(
                x,
                decode,
                cx,
                "decode",
                |x, layer, cx| {
                    let x = __rt::run(
                        (x, __rt::keep(&lent_memory), __rt::keep(&lent_mask)),
                        layer,
                        cx,
                    );
                    x
                },
            );
            __rt::release(lent_mask);
            let x = reading.pass(x, last, "last");
            __rt::output::<Self>(x)
        }
    }
    use __rt::NestedByDefault as _;
    const _: () = __rt::nests(__rt::Nested::<First>::HAS_DEVICES);
    const _: () = __rt::nests(__rt::Nested::<Encode>::HAS_DEVICES);
    const _: () = __rt::nests(__rt::Nested::<Decode>::HAS_DEVICES);
    const _: () = __rt::nests(__rt::Nested::<Decoder>::HAS_DEVICES);
};
const _: () = {
    /// Lent by `first` (stage 0) to `decode` (stages 1 to 2).
    fn mask() {}
    /// Lent by `encode` (stage 0) to `near` (stage 0), `decode` (stages 1 to 2), `last` (stage 2).
    fn memory() {}
    const _: &[fn()] = &[mask, memory, memory, memory];
};
