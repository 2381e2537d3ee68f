// What is written:

#[pipeline(input = (Tensor, Mask), output = Logits)]
struct Skips {
    #[device("cpu")]
    #[stash(returned, taken = input, made = output)]
    one: One,
    #[pop(made)]
    two: Two,
    #[device("cpu")]
    #[pop(taken, returned)]
    three: Three,
}

// What is generated beside it:

/// Parameter paths of [`Skips`]: one per layer, each on its stage's device.
#[derive(::core::fmt::Debug)]
struct SkipsVars {
    vars: ::pipe_runtime::__rt::Vars,
}
const _: () = {
    use ::pipe_runtime::__rt;
    #[allow(dead_code)]
    impl Skips {
        /// Layers and device of each stage, and route of each skip. Prints as a table.
        pub const PLAN: __rt::Plan = __rt::Plan {
            name: "Skips",
            stages: &[
                __rt::StagePlan {
                    device: "cpu",
                    layers: &__rt::LayerPlan::layers(["one", "two"]),
                },
                __rt::StagePlan {
                    device: "cpu",
                    layers: &__rt::LayerPlan::layers(["three"]),
                },
            ],
            skips: &[
                __rt::SkipPlan {
                    name: "returned",
                    stash: "one",
                    from: 0,
                    pop: "three",
                    to: 1,
                },
                __rt::SkipPlan {
                    name: "taken",
                    stash: "one",
                    from: 0,
                    pop: "three",
                    to: 1,
                },
                __rt::SkipPlan {
                    name: "made",
                    stash: "one",
                    from: 0,
                    pop: "two",
                    to: 0,
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
        pub fn vars(devices: &__rt::Devices) -> __rt::Result<SkipsVars> {
            __rt::Vars::new(&Self::PLAN, devices).map(|vars| SkipsVars { vars })
        }
        /// Prepares the pipelined run. The builder's settings override the annotations.
        pub fn pipe(self, vars: &SkipsVars) -> __rt::PipeBuilder<'_, Self> {
            __rt::PipeBuilder::new(self, vars)
        }
        /// Prepares the unpipelined run: all layers on one device, one micro-batch at a time.
        pub fn unpipelined(&self) -> __rt::Unpipelined<'_, Self> {
            __rt::Unpipelined::new(self)
        }
    }
    #[allow(dead_code)]
    impl SkipsVars {
        /// Path of layer `one`.
        pub fn one(&self) -> __rt::Path<'_> {
            self.vars.layer("one")
        }
        /// Path of layer `two`.
        pub fn two(&self) -> __rt::Path<'_> {
            self.vars.layer("two")
        }
        /// Path of layer `three`.
        pub fn three(&self) -> __rt::Path<'_> {
            self.vars.layer("three")
        }
    }
    impl ::core::ops::Deref for SkipsVars {
        type Target = __rt::Vars;
        fn deref(&self) -> &__rt::Vars {
            &self.vars
        }
    }
    impl __rt::Model for Skips {
        type Input = (Tensor, Mask);
        type Output = Logits;
        const PLAN: __rt::Plan = Self::PLAN;
        const DEFAULTS: __rt::Defaults = __rt::Defaults::NONE;
    }
    impl __rt::Pipeline for Skips {
        type Plain = ();
        fn disassemble(self, graph: &mut __rt::Graph) -> __rt::Result<Self::Plain> {
            let Self { one, two, three } = self;
            let flow_0 = graph.input::<Self>();
            let flow_1 = graph.port(1, 0, 1);
            let port_taken = graph.port(2, 0, 1);
            let port_returned = graph.port(3, 0, 1);
            graph
                .stage(
                    (__rt::movable(one), __rt::movable(two)),
                    (flow_0, flow_1, port_taken, port_returned),
                    |(one, two), (flow_0, flow_1, port_taken, port_returned), io, cx| {
                        let x = io.receive_input::<Self>(flow_0);
                        io.send(port_taken, __rt::keep(&x));
                        let (x, skip_returned) = __rt::with_skips::<
                            1,
                            _,
                        >(__rt::pass(x, one, cx, "one"));
                        io.send(port_returned, skip_returned);
                        let skip_made = __rt::keep(&x);
                        let x = __rt::pass((x, skip_made), two, cx, "two");
                        io.send(flow_1, x);
                    },
                );
            let flow_2 = graph.output::<Self>(4);
            graph
                .stage(
                    (__rt::movable(three),),
                    (flow_1, flow_2, port_taken, port_returned),
                    |(three,), (flow_1, flow_2, port_taken, port_returned), io, cx| {
                        let x = io.receive(flow_1);
                        let skip_taken = io.receive(port_taken);
                        let skip_returned = io.receive(port_returned);
                        let x = __rt::pass(
                            (x, skip_taken, skip_returned),
                            three,
                            cx,
                            "three",
                        );
                        io.send_output::<Self>(flow_2, __rt::output::<Self>(x));
                    },
                );
            ::core::result::Result::Ok(())
        }
        fn assemble(layers: &mut __rt::Layers, (): Self::Plain) -> Self {
            let (one, two) = layers.take::<(One, Two)>();
            let (three,) = layers.take::<(Three,)>();
            Self { one, two, three }
        }
    }
    #[diagnostic::do_not_recommend]
    impl __rt::Layer<(Tensor, Mask)> for Skips {
        type Out = Logits;
        fn run(&self, x: (Tensor, Mask), cx: &__rt::Context) -> Logits {
            let Self { one, two, three } = self;
            let skip_taken = __rt::keep(&x);
            let (x, skip_returned) = __rt::with_skips::<
                1,
                _,
            >(__rt::pass(x, one, cx, "one"));
            let skip_made = __rt::keep(&x);
            let x = __rt::pass((x, skip_made), two, cx, "two");
            let x = __rt::pass((x, skip_taken, skip_returned), three, cx, "three");
            __rt::output::<Self>(x)
        }
    }
    use __rt::NestedByDefault as _;
    const _: () = __rt::nests(__rt::Nested::<One>::HAS_DEVICES);
    const _: () = __rt::nests(__rt::Nested::<Two>::HAS_DEVICES);
    const _: () = __rt::nests(__rt::Nested::<Three>::HAS_DEVICES);
};
const _: () = {
    /// Stashed by `one` (stage 0), popped by `three` (stage 1).
    fn returned() {}
    /// Stashed by `one` (stage 0), popped by `three` (stage 1).
    fn taken() {}
    /// Stashed by `one` (stage 0), popped by `two` (stage 0).
    fn made() {}
    const _: &[fn()] = &[returned, taken, made];
};
