// What is written:

#[pipeline(sum(balance: Mean, used: Sum))]
struct Sums {
    #[device("cpu")]
    first: First,
    #[sum(balance)]
    gate: Gate,
    #[devices("cpu", "cpu")]
    #[recompute(1)]
    #[sum(used, balance)]
    experts: [Expert; 4],
    #[device("cpu")]
    #[sum(used)]
    #[stash(skip)]
    split: Split,
    #[pop(skip)]
    join: Join,
}

// What is generated beside it:

/// Parameter paths of [`Sums`]: one per layer, each on its stage's device.
#[derive(::core::fmt::Debug)]
struct SumsVars {
    vars: ::pipe_runtime::__rt::Vars,
}
const _: () = {
    use ::pipe_runtime::__rt;
    #[allow(dead_code)]
    impl Sums {
        /// Layers and device of each stage, and route of each skip. Prints as a table.
        pub const PLAN: __rt::Plan = __rt::Plan {
            name: "Sums",
            stages: &[
                __rt::StagePlan {
                    device: "cpu",
                    layers: &__rt::LayerPlan::layers(["first", "gate"]),
                },
                __rt::StagePlan {
                    device: "cpu",
                    layers: &[
                        __rt::LayerPlan::repeated(
                            "experts",
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
                            "experts",
                            1,
                            __rt::Split::Evenly(2),
                            ::core::option::Option::Some(4),
                        ),
                    ],
                },
                __rt::StagePlan {
                    device: "cpu",
                    layers: &__rt::LayerPlan::layers(["split", "join"]),
                },
            ],
            skips: &[
                __rt::SkipPlan {
                    name: "skip",
                    stash: "split",
                    from: 3,
                    pop: "join",
                    to: 3,
                },
            ],
            sums: &[
                __rt::SumPlan {
                    name: "balance",
                    layers: &["gate", "experts"],
                },
                __rt::SumPlan {
                    name: "used",
                    layers: &["experts", "split"],
                },
            ],
            recomputed: &[
                __rt::RecomputedPlan {
                    layer: "experts",
                    which: __rt::Recomputed::First(1),
                },
            ],
            ..__rt::Plan::EMPTY
        };
        /// Number of stages.
        pub const STAGES: ::core::primitive::usize = 4;
        /// The annotated devices, one per stage, with their processes if they are annotated.
        pub fn devices() -> __rt::Devices {
            __rt::Devices::annotated::<Self>()
        }
        /// Makes the variable stores, one per stage. Fails if a device is not on this machine.
        pub fn vars(devices: &__rt::Devices) -> __rt::Result<SumsVars> {
            __rt::Vars::new(&Self::PLAN, devices).map(|vars| SumsVars { vars })
        }
        /// Prepares the pipelined run. The builder's settings override the annotations.
        pub fn pipe(self, vars: &SumsVars) -> __rt::PipeBuilder<'_, Self> {
            __rt::PipeBuilder::new(self, vars)
        }
        /// Prepares the unpipelined run: all layers on one device, one micro-batch at a time.
        pub fn unpipelined(&self) -> __rt::Unpipelined<'_, Self> {
            __rt::Unpipelined::new(self)
        }
    }
    #[allow(dead_code)]
    impl SumsVars {
        /// Path of layer `first`.
        pub fn first(&self) -> __rt::Path<'_> {
            self.vars.layer("first")
        }
        /// Path of layer `gate`.
        pub fn gate(&self) -> __rt::Path<'_> {
            self.vars.layer("gate")
        }
        /// Paths of the layers `experts`.
        pub fn experts(&self) -> [__rt::Path<'_>; 4] {
            self.vars.layers_array("experts")
        }
        /// Path of layer `split`.
        pub fn split(&self) -> __rt::Path<'_> {
            self.vars.layer("split")
        }
        /// Path of layer `join`.
        pub fn join(&self) -> __rt::Path<'_> {
            self.vars.layer("join")
        }
    }
    impl ::core::ops::Deref for SumsVars {
        type Target = __rt::Vars;
        fn deref(&self) -> &__rt::Vars {
            &self.vars
        }
    }
    impl __rt::Model for Sums {
        type Input = __rt::Tensor;
        type Output = (__rt::Tensor, Mean, Sum);
        const PLAN: __rt::Plan = Self::PLAN;
        const DEFAULTS: __rt::Defaults = __rt::Defaults {
            checkpoint: ::core::option::Option::Some(__rt::Checkpoint::Never),
            ..__rt::Defaults::NONE
        };
    }
    impl __rt::Pipeline for Sums {
        type Plain = ();
        fn disassemble(self, graph: &mut __rt::Graph) -> __rt::Result<Self::Plain> {
            let Self { first, gate, experts, split, join } = self;
            let [experts_0, experts_1] = __rt::spread(
                experts,
                "experts",
                __rt::Split::Evenly(2),
            )?;
            let flow_0 = graph.input::<Self>();
            let flow_1 = graph.port(1, 0, 1);
            graph
                .stage(
                    (__rt::movable(first), __rt::movable(gate)),
                    (flow_0, flow_1),
                    |(first, gate), (flow_0, flow_1), io, cx| {
                        let x = io.receive_input::<Self>(flow_0);
                        let sums = __rt::no_sums::<2>();
                        let x = __rt::pass(x, first, cx, "first");
                        let (x, sums) = __rt::add_all::<
                            1,
                            _,
                            _,
                        >(
                            __rt::pass(x, gate, cx, "gate"),
                            sums,
                            [(0, "balance")],
                            "gate",
                        );
                        io.send(flow_1, (x, sums));
                    },
                );
            let flow_2 = graph.port(2, 1, 2);
            graph
                .stage_of_each(
                    __rt::movable_part(experts_0),
                    (flow_1, flow_2),
                    (|(x, sums)| { (x, sums) }, |(x, sums)| (x, sums)),
                    (),
                    |(x, sums), element, (), io, cx| {
                        match element {
                            __rt::Element::Before => (x, sums),
                            __rt::Element::One(layers, number) => {
                                let (x, sums) = __rt::one(
                                    (x, sums),
                                    layers,
                                    number,
                                    cx,
                                    "experts",
                                    |(x, sums), layer, cx| {
                                        let (x, sums) = __rt::add_all::<
                                            2,
                                            _,
                                            _,
                                        >(
                                            __rt::run(x, layer, cx),
                                            sums,
                                            [(1, "used"), (0, "balance")],
                                            "experts",
                                        );
                                        (x, sums)
                                    },
                                );
                                (x, sums)
                            }
                            __rt::Element::After(layers) => (x, sums),
                        }
                    },
                );
            graph.recompute(|number| number < 1);
            let flow_3 = graph.port(3, 2, 3);
            graph
                .stage_of_each(
                    __rt::movable_part(experts_1),
                    (flow_2, flow_3),
                    (|(x, sums)| { (x, sums) }, |(x, sums)| (x, sums)),
                    (),
                    |(x, sums), element, (), io, cx| {
                        match element {
                            __rt::Element::Before => (x, sums),
                            __rt::Element::One(layers, number) => {
                                let (x, sums) = __rt::one(
                                    (x, sums),
                                    layers,
                                    number,
                                    cx,
                                    "experts",
                                    |(x, sums), layer, cx| {
                                        let (x, sums) = __rt::add_all::<
                                            2,
                                            _,
                                            _,
                                        >(
                                            __rt::run(x, layer, cx),
                                            sums,
                                            [(1, "used"), (0, "balance")],
                                            "experts",
                                        );
                                        (x, sums)
                                    },
                                );
                                (x, sums)
                            }
                            __rt::Element::After(layers) => (x, sums),
                        }
                    },
                );
            graph.recompute(|number| number < 1);
            let flow_4 = graph.output::<Self>(4);
            graph
                .stage(
                    (__rt::movable(split), __rt::movable(join)),
                    (flow_3, flow_4),
                    |(split, join), (flow_3, flow_4), io, cx| {
                        let (x, sums) = io.receive(flow_3);
                        let (x, sum_used, skip_skip) = __rt::with_skips::<
                            2,
                            _,
                        >(__rt::pass(x, split, cx, "split"));
                        let (x, sums) = __rt::add_all::<
                            1,
                            _,
                            _,
                        >((x, sum_used), sums, [(1, "used")], "split");
                        let x = __rt::pass((x, skip_skip), join, cx, "join");
                        io.send_output::<
                                Self,
                            >(
                            flow_4,
                            __rt::output::<
                                Self,
                            >({
                                let [sum_0, sum_1] = sums;
                                (
                                    x,
                                    __rt::slot::<Mean, true>(sum_0, "balance"),
                                    __rt::slot::<Sum, true>(sum_1, "used"),
                                )
                            }),
                        );
                    },
                );
            ::core::result::Result::Ok(())
        }
        fn assemble(layers: &mut __rt::Layers, (): Self::Plain) -> Self {
            let (first, gate) = layers.take::<(First, Gate)>();
            let (experts_0,) = layers.take::<(__rt::Repeated<Expert>,)>();
            let (experts_1,) = layers.take::<(__rt::Repeated<Expert>,)>();
            let (split, join) = layers.take::<(Split, Join)>();
            Self {
                first,
                gate,
                experts: __rt::gather_parts([experts_0, experts_1]),
                split,
                join,
            }
        }
    }
    #[diagnostic::do_not_recommend]
    impl __rt::Layer<__rt::Tensor> for Sums {
        type Out = (__rt::Tensor, Mean, Sum);
        fn run(&self, x: __rt::Tensor, cx: &__rt::Context) -> (__rt::Tensor, Mean, Sum) {
            let Self { first, gate, experts, split, join } = self;
            let sums = __rt::no_sums::<2>();
            let x = __rt::pass(x, first, cx, "first");
            let (x, sums) = __rt::add_all::<
                1,
                _,
                _,
            >(__rt::pass(x, gate, cx, "gate"), sums, [(0, "balance")], "gate");
            let (x, sums) = __rt::each(
                (x, sums),
                experts,
                cx,
                "experts",
                |(x, sums), layer, cx| {
                    let (x, sums) = __rt::add_all::<
                        2,
                        _,
                        _,
                    >(
                        __rt::run(x, layer, cx),
                        sums,
                        [(1, "used"), (0, "balance")],
                        "experts",
                    );
                    (x, sums)
                },
            );
            let (x, sum_used, skip_skip) = __rt::with_skips::<
                2,
                _,
            >(__rt::pass(x, split, cx, "split"));
            let (x, sums) = __rt::add_all::<
                1,
                _,
                _,
            >((x, sum_used), sums, [(1, "used")], "split");
            let x = __rt::pass((x, skip_skip), join, cx, "join");
            __rt::output::<
                Self,
            >({
                let [sum_0, sum_1] = sums;
                (
                    x,
                    __rt::slot::<Mean, true>(sum_0, "balance"),
                    __rt::slot::<Sum, true>(sum_1, "used"),
                )
            })
        }
    }
    use __rt::NestedByDefault as _;
    const _: () = __rt::nests(__rt::Nested::<First>::HAS_DEVICES);
    const _: () = __rt::nests(__rt::Nested::<Gate>::HAS_DEVICES);
    const _: () = __rt::nests(__rt::Nested::<Expert>::HAS_DEVICES);
    const _: () = __rt::nests(__rt::Nested::<Split>::HAS_DEVICES);
    const _: () = __rt::nests(__rt::Nested::<Join>::HAS_DEVICES);
};
const _: () = {
    /// Stashed by `split` (stage 3), popped by `join` (stage 3).
    fn skip() {}
    const _: &[fn()] = &[skip];
};
const _: () = {
    /// Added up by `gate` (stage 0), `experts` (stages 1 to 2).
    fn balance() {}
    /// Added up by `experts` (stages 1 to 2), `split` (stage 3).
    fn used() {}
    const _: &[fn()] = &[balance, balance, used, used];
};
