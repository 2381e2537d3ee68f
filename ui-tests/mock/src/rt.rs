//! The items that generated code calls.

use std::marker::PhantomData;
use std::ops::Deref;

use crate::nn::ModuleT;

pub use crate::movable::{movable, movable_part};
pub use crate::nn::{Path, Tensor};
pub use crate::parts::whole;
pub use crate::reading::{Reading1, Reading2, Reading3};
use crate::sums::{Adding, Slot};
pub use crate::with_skips::with_skips;
pub use pipe_macros::__Pipeline;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug)]
pub struct Error;

#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a layer that takes `{In}`",
    label = "this layer would have to take `{In}`",
    note = "a layer is a `tch::nn::Module` or `ModuleT` (takes and gives a `Tensor`), or implements `pipe_runtime::Layer<Input>`",
    note = "a layer with `#[pop(a)]` or `#[read(a)]` takes a tuple of its input and what it pops and reads, in the written order: it implements `Layer<(Input, A)>`; a block that declares `read(a: A)` needs `#[read(a)]`",
    note = "a layer above that returns `(output, a)` needs `#[stash(a)]` or `#[sum(a)]`, or all of it flows on; a block that declares `sum(a: A)` needs `#[sum(a)]`",
    note = "a function is a layer of the type `tch::nn::Func<'static>`, made by `tch::nn::func(..)`; a setting, such as a number, is marked with `#[not_a_layer]`"
)]
pub trait Layer<In> {
    type Out;
    fn run(&self, input: In, cx: &Context) -> Self::Out;
}

#[diagnostic::do_not_recommend]
impl<M: ModuleT> Layer<Tensor> for M {
    type Out = Tensor;
    fn run(&self, input: Tensor, cx: &Context) -> Tensor {
        self.forward_t(&input, true)
    }
}

#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross a stage boundary or be kept for a later layer",
    label = "this value would have to be `Flow`",
    note = "tensors, tuples, arrays, `Vec`, `Option`, numbers, `bool`, `String`, `Arc<T>`, `Replicate`, `Along`, `PerRow`, `Rows` and `Each` are, and by `#[derive(Flow)]` structs of them"
)]
pub trait Flow: Sized + Send + 'static {}

impl Flow for Tensor {}
impl Flow for i64 {}
impl<A: Flow, B: Flow> Flow for (A, B) {}
impl<A: Flow, B: Flow, C: Flow> Flow for (A, B, C) {}
impl<A: Flow, B: Flow, C: Flow, D: Flow> Flow for (A, B, C, D) {}
impl<T: Flow> Flow for Option<T> {}
impl<T: Flow> Flow for Vec<T> {}
impl<T: Flow, const N: usize> Flow for [T; N] {}
impl Flow for Sum {}
impl Flow for Mean {}
impl<T: Send + Sync + 'static> Flow for std::sync::Arc<T> {}

#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot go to another process",
    label = "this value would have to be `Portable`",
    note = "tensors, numbers, `bool`, `char`, `String`, tuples, arrays, `Vec`, `Option` and the wrappers of them are, and by `#[derive(Flow)]` structs of them; `Arc<T>` is not: put both layers into one process, or send what the value is made of"
)]
pub trait Portable: Flow {}

impl Portable for Tensor {}
impl Portable for i64 {}
impl<A: Portable, B: Portable> Portable for (A, B) {}
impl<T: Portable> Portable for Option<T> {}
impl<T: Portable> Portable for Vec<T> {}
impl<T: Portable, const N: usize> Portable for [T; N] {}

pub struct Context;

pub fn pass<L, In, Out>(input: In, layer: &L, cx: &Context, name: &'static str) -> Out
where
    L: Layer<In, Out = Out>,
{
    layer.run(input, cx)
}

pub fn pass_if_some<T, L>(input: T, layer: &Option<L>, cx: &Context, name: &'static str) -> T
where
    L: Layer<T, Out = T>,
{
    input
}

pub fn run_each<T, E: Each>(input: T, each: &E, cx: &Context, name: &'static str) -> T
where
    E::Layer: Layer<T, Out = T>,
{
    input
}

pub fn each<S, E: Each>(
    state: S,
    each: &E,
    cx: &Context,
    name: &'static str,
    run: impl FnMut(S, &E::Layer, &Context) -> S,
) -> S {
    state
}

pub fn one<S, L>(
    state: S,
    part: &Repeated<L>,
    number: usize,
    cx: &Context,
    name: &'static str,
    run: impl FnOnce(S, &L, &Context) -> S,
) -> S {
    state
}

pub fn run<L, In, Out>(input: In, layer: &L, cx: &Context) -> Out
where
    L: Layer<In, Out = Out>,
{
    layer.run(input, cx)
}

pub fn no_skips<T>() -> Vec<T> {
    Vec::new()
}

pub fn put_skip<T>(skips: Vec<T>, skip: T) -> Vec<T> {
    skips
}

pub fn take_skip<T>(skips: Vec<T>, name: &str) -> (Vec<T>, T) {
    unreachable!()
}

pub fn all_taken<T>(skips: Vec<T>, name: &str) {}

pub fn join_skips<T, const PARTS: usize>(parts: [Vec<T>; PARTS]) -> Vec<T> {
    Vec::new()
}

pub fn matching<T: Flow, E: Each>(skips: &[T], stashing: &E, split: Split, part: usize) -> Vec<T> {
    Vec::new()
}

#[track_caller]
pub const fn as_many([popped, stashed]: [usize; 2], wrong: &str) {
    assert!(popped == stashed, "{}", wrong);
}

pub fn same_length(name: &str, stashing: (&str, &impl Each), popping: (&str, &impl Each)) -> Result<()> {
    Ok(())
}

pub fn run_one<T, L>(input: T, part: &Repeated<L>, number: usize, cx: &Context, name: &'static str) -> T
where
    L: Layer<T, Out = T>,
{
    input
}

/// An output that is added up over the micro-batches.
pub struct Sum(pub Tensor);

/// An output that is averaged over the micro-batches.
pub struct Mean(pub Tensor);

type Sums<const COUNT: usize> = [Option<Tensor>; COUNT];
type Name = (usize, &'static str);

pub fn no_sums<const COUNT: usize>() -> Sums<COUNT> {
    unreachable!()
}

pub fn add_all<const ADDED: usize, const COUNT: usize, R: Adding<ADDED>>(
    returned: R,
    sums: Sums<COUNT>,
    names: [Name; ADDED],
    layer: &str,
) -> (R::Output, Sums<COUNT>) {
    unreachable!()
}

pub fn slot<S: Slot<PIPELINE>, const PIPELINE: bool>(sum: Option<Tensor>, name: &str) -> S {
    unreachable!()
}

pub fn keep<T: Flow>(value: &T) -> T {
    unreachable!()
}

pub fn release<T>(_value: T) {}

#[diagnostic::on_unimplemented(
    message = "`{Self}` has no value that another layer could be tied to",
    label = "a `#[lend(.. = tied)]` stands on this layer, so it would have to implement `Tied`",
    note = "`tch::nn::Embedding` and `Linear` lend their weights; implement `pipe_runtime::Tied` for other layers"
)]
pub trait Tied {
    type Value: Flow;
}

impl Tied for crate::nn::Linear {
    type Value = Tensor;
}

pub fn lend<L: Tied<Value = V>, V>(layer: &L) -> V {
    unreachable!()
}

pub trait Repeat {
    type Layer;
}

impl<L, const N: usize> Repeat for [L; N] {
    type Layer = L;
}

impl<L> Repeat for Vec<L> {
    type Layer = L;
}

pub struct Repeated<L>(pub(crate) PhantomData<L>);

pub trait Each {
    type Layer;
}

impl<L> Each for Repeated<L> {
    type Layer = L;
}

impl<L> Each for Vec<L> {
    type Layer = L;
}

impl<L, const N: usize> Each for [L; N] {
    type Layer = L;
}

pub fn spread<R: Repeat, const PARTS: usize>(
    layers: R,
    name: &'static str,
    split: Split,
) -> Result<[Repeated<R::Layer>; PARTS]> {
    Err(Error)
}

pub fn gather_parts<R: Repeat, const PARTS: usize>(parts: [Repeated<R::Layer>; PARTS]) -> R {
    unreachable!()
}

pub struct Port<T>(PhantomData<fn() -> T>);

impl<T> Clone for Port<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Port<T> {}

pub struct Ports<T>(PhantomData<fn() -> T>);

impl<T> Clone for Ports<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Ports<T> {}

type Around<In, T, Out> = (fn(In) -> T, fn(T) -> Out);

pub struct Graph;

impl Graph {
    pub fn input<M: Model>(&mut self) -> Port<M::Input> {
        Port(PhantomData)
    }

    pub fn port<T: Flow>(&mut self, number: usize, from: usize, to: usize) -> Port<T> {
        Port(PhantomData)
    }

    pub fn ports<T: Flow>(&mut self, from: usize, ends: &'static [(usize, usize)]) -> Ports<T> {
        Ports(PhantomData)
    }

    pub fn output<M: Model>(&mut self, number: usize) -> Port<M::Output> {
        Port(PhantomData)
    }

    pub fn stage<L, P>(&mut self, layers: L, ports: P, run: fn(&L, P, &mut Io<'_>, &Context))
    where
        L: Send + 'static,
        P: Copy + Send + 'static,
    {
    }

    pub fn stage_of_each<L, In: Flow, T: Flow, Out: Flow, P>(
        &mut self,
        layers: Repeated<L>,
        flow: (Port<In>, Port<Out>),
        around: Around<In, T, Out>,
        ports: P,
        run: fn(T, Element<'_, L>, P, &mut Io<'_>, &Context) -> T,
    ) where
        L: Send + 'static,
        P: Copy + Send + 'static,
    {
    }

    pub fn goes_on(&mut self) {}

    pub fn recompute(&mut self, which: impl Fn(usize) -> bool) {}
}

pub enum Element<'e, L> {
    Before,
    One(&'e Repeated<L>, usize),
    After(&'e Repeated<L>),
}

pub struct Io<'a>(PhantomData<&'a ()>);

impl Io<'_> {
    pub fn receive_lent<T: Flow>(&mut self, ports: Ports<T>, stage: usize) -> T {
        unreachable!()
    }

    pub fn receive_each<T: Flow, L>(&mut self, ports: Ports<T>, stage: usize, part: &Repeated<L>, number: usize) -> T {
        unreachable!()
    }

    pub fn receive<T: Flow>(&mut self, port: Port<T>) -> T {
        unreachable!()
    }

    pub fn receive_input<M: Model>(&mut self, port: Port<M::Input>) -> M::Input {
        unreachable!()
    }

    pub fn send_output<M: Model>(&mut self, port: Port<M::Output>, value: M::Output) {}

    pub fn send<T: Flow>(&mut self, port: Port<T>, value: T) {}

    pub fn send_away<T: Portable>(&mut self, port: Port<T>, value: T) {}

    pub fn send_all<T: Flow>(&mut self, ports: Ports<T>, value: T) {}

    pub fn send_all_away<T: Portable>(&mut self, ports: Ports<T>, value: T) {}
}

pub struct Layers;

impl Layers {
    pub fn take<L: 'static>(&mut self) -> L {
        unreachable!()
    }
}

pub trait Model {
    type Input: Flow;
    type Output: Flow;
    const PLAN: Plan;
    const DEFAULTS: Defaults;
}

pub struct Nested<L>(PhantomData<L>);

impl<M: Pipeline> Nested<M> {
    pub const HAS_DEVICES: bool = true;
}

pub trait NestedByDefault {
    const HAS_DEVICES: bool = false;
}

impl<L> NestedByDefault for Nested<L> {}

#[track_caller]
pub const fn nests(has_devices: bool) {
    assert!(
        !has_devices,
        "this model has devices of its own, so it does not nest as a layer\n\nhelp: remove its `#[device]`, `#[devices]` and \
         `#[stage]`: without devices it is a block and runs where the outer model says"
    );
}

#[diagnostic::on_unimplemented(
    message = "the last layer gives `{Self}`, but the output of the model is `{M}`",
    label = "this layer gives `{Self}`",
    note = "the output is a `Tensor` unless the struct says otherwise: `#[pipeline(output = (Tensor, Tensor))]`",
    note = "a last layer that returns `(output, a)` needs `#[sum(a)]`, or all of it is the output; so does a block that declares `sum(a: A)`"
)]
pub trait Gives<M> {
    fn given(self) -> M;
}

impl<M> Gives<M> for M {
    fn given(self) -> M {
        self
    }
}

pub fn output<M: Model>(value: impl Gives<M::Output>) -> M::Output {
    value.given()
}

pub trait Pipeline: Model + Sized + 'static {
    type Plain;
    fn disassemble(self, graph: &mut Graph) -> Result<Self::Plain>;
    fn assemble(layers: &mut Layers, plain: Self::Plain) -> Self;
}

pub struct PipeBuilder<'v, M>(M, &'v Vars);

impl<'v, M: Pipeline> PipeBuilder<'v, M> {
    pub fn new(model: M, vars: &'v Vars) -> Self {
        Self(model, vars)
    }

    pub fn build(self) -> Result<Pipe<M>> {
        Err(Error)
    }
}

pub struct Pipe<M: Pipeline>(M::Plain);

impl<M: Pipeline> Deref for Pipe<M> {
    type Target = M::Plain;

    fn deref(&self) -> &M::Plain {
        &self.0
    }
}

pub struct Unpipelined<'m, M>(&'m M);

impl<'m, M: Model> Unpipelined<'m, M> {
    pub fn new(model: &'m M) -> Self {
        Self(model)
    }

    pub fn forward(self, input: M::Input) -> Result<M::Output>
    where
        M: Layer<M::Input, Out = M::Output>,
    {
        Ok(self.0.run(input, &Context))
    }
}

#[derive(Clone, Copy)]
pub struct Defaults {
    pub chunks: Option<usize>,
    pub checkpoint: Option<Checkpoint>,
    pub cheap_outputs: Option<CheapOutputs>,
    pub schedule: Option<ScheduleKind>,
}

impl Defaults {
    pub const NONE: Self = Self { chunks: None, checkpoint: None, cheap_outputs: None, schedule: None };
}

#[derive(Clone, Copy)]
pub enum CheapOutputs {
    Keep,
    RecomputePointwise,
    RecomputeAll,
}

#[derive(Clone, Copy)]
pub enum ScheduleKind {
    GPipe,
    OneFOneB,
    Interleaved,
    LoopedBfs,
    ZbH1,
    ZbH2,
    Zbv,
    DualPipeV,
    VHalf,
    VMin,
}

#[derive(Clone, Copy)]
pub enum Checkpoint {
    Always,
    ExceptLast,
    Never,
}

#[derive(Clone, Copy)]
pub struct Plan {
    pub name: &'static str,
    pub stages: &'static [StagePlan],
    pub skips: &'static [SkipPlan],
    pub lent: &'static [LentPlan],
    pub sums: &'static [SumPlan],
    pub recomputed: &'static [RecomputedPlan],
    pub processes: &'static [usize],
    pub costs: &'static [u64],
}

impl Plan {
    pub const EMPTY: Self =
        Self { name: "", stages: &[], skips: &[], lent: &[], sums: &[], recomputed: &[], processes: &[], costs: &[] };
}

#[derive(Clone, Copy)]
pub struct StagePlan {
    pub device: &'static str,
    pub layers: &'static [LayerPlan],
}

#[derive(Clone, Copy)]
pub struct LayerPlan {
    pub name: &'static str,
    pub repeated: Option<(usize, Split, Option<usize>)>,
}

impl LayerPlan {
    pub const fn layer(name: &'static str) -> Self {
        Self { name, repeated: None }
    }

    pub const fn layers<const N: usize>(names: [&'static str; N]) -> [Self; N] {
        [Self::layer(""); N]
    }

    pub const fn repeated(name: &'static str, part: usize, split: Split, len: Option<usize>) -> Self {
        Self { name, repeated: Some((part, split, len)) }
    }
}

#[derive(Clone, Copy)]
pub struct SumPlan {
    pub name: &'static str,
    pub layers: &'static [&'static str],
}

#[derive(Clone, Copy)]
pub struct RecomputedPlan {
    pub layer: &'static str,
    pub which: Recomputed,
}

#[derive(Clone, Copy)]
pub enum Recomputed {
    All,
    First(usize),
    Of(&'static [usize]),
}

#[derive(Clone, Copy)]
pub struct LentPlan {
    pub name: &'static str,
    pub lender: &'static str,
    pub from: usize,
    pub readers: &'static [(usize, usize)],
}

#[derive(Clone, Copy)]
pub struct SkipPlan {
    pub name: &'static str,
    pub stash: &'static str,
    pub from: usize,
    pub pop: &'static str,
    pub to: usize,
}

#[derive(Clone, Copy)]
pub enum Split {
    Evenly(usize),
    Counts(&'static [usize]),
}

pub struct Devices;

impl Devices {
    pub fn annotated<M: Model>() -> Self {
        Self
    }

    pub fn cpu(stages: usize) -> Self {
        Self
    }
}

#[derive(Debug)]
pub struct Vars;

impl Vars {
    pub fn new(plan: &Plan, devices: &Devices) -> Result<Self> {
        Err(Error)
    }

    pub fn layer(&self, name: &str) -> Path<'_> {
        unreachable!()
    }

    pub fn layers_array<const N: usize>(&self, name: &str) -> [Path<'_>; N] {
        unreachable!()
    }

    pub fn layers(&self, name: &str, len: usize) -> Vec<Path<'_>> {
        unreachable!()
    }
}

pub fn sub_paths<'a, const N: usize>(path: &Path<'a>, name: &str) -> [Path<'a>; N] {
    unreachable!()
}

pub fn sub_paths_vec<'a>(path: &Path<'a>, name: &str, len: usize) -> Vec<Path<'a>> {
    unreachable!()
}
