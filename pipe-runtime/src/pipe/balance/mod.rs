//! Finds out which layers belong in which stage: measures them, divides them exactly, and writes
//! the result down.
//!
//! [`Balance`] runs a model unpipelined, layer by layer, and divides its layers into stages so that
//! the slowest (or largest) stage is as small as possible. The result, a [`Profile`], prints as a
//! table with the annotations to paste, and can be written to a file.

mod advise;
mod annotations;
mod division;
mod file;
mod profile;
mod report;
mod settings;
mod traffic;

use std::collections::HashSet;
use std::time::Duration;

use pipe_schedule::ScheduleKind;
use pipe_schedule::support::bytes;
use pipe_schedule::support::partition::{Chain, Misfit};
use tch::nn::{Path, VarStore};
use tch::{Device, Tensor};

pub use advise::Choice;
pub use report::{LayerProfile, Measure, Profile, SkipProfile, StageProfile};

use crate::error::{Error, Result};
use crate::flow::{IntoFlow, PackedValue, Scattered, scatter};
use crate::model::{Devices, Layer, Model, Vars};
use crate::threads::IntraOpThreads;
use crate::torch::Kept;
use crate::world::MessagePrice;
use profile::{Bench, Passes};
use settings::Settings;
use traffic::{LayerKey, Traffic};

/// Divides a model's layers into stages by their measured costs.
///
/// The layers are measured unpipelined, in training mode, on one micro-batch. All variables must be
/// on one device, the CPU or an accelerator. The model does not change: parameters, gradients,
/// running statistics and the caller's random numbers are left alone, whatever the layers do. State
/// that a layer keeps outside the variables is not known, so it is not restored.
///
/// ```
/// use pipe_runtime::{Devices, balance::Balance, pipeline};
/// use std::time::Duration;
/// use tch::{Device, Kind, Tensor, nn};
///
/// #[pipeline]
/// struct Net {
///     #[device("cpu")]
///     wide: nn::Linear,
///     #[device("cpu")]
///     narrow: nn::Linear,
///     head: nn::Linear,
/// }
///
/// let vars = Net::vars(&Devices::cpu(Net::STAGES))?;
/// let net = Net {
///     wide: nn::linear(vars.wide(), 64, 512, Default::default()),
///     narrow: nn::linear(vars.narrow(), 512, 8, Default::default()),
///     head: nn::linear(vars.head(), 8, 2, Default::default()),
/// };
/// let sample = Tensor::randn([32, 64], (Kind::Float, Device::Cpu));
/// let balance = Balance::of(&net, &vars).stages(2).timeout(Duration::from_millis(50));
/// let profile = balance.by_time(&sample)?;
/// assert_eq!(profile.layers().len(), 3);
/// assert_eq!(profile.balance().len(), 2);
/// println!("{profile}");
/// # Ok::<(), pipe_runtime::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing is measured until `by_time` or `by_size` is called"]
pub struct Balance<'m, M> {
    model: &'m M,
    variables: Vec<Variable>,
    /// Whether this process has the memory of all variables.
    is_whole: bool,
    stages: Option<usize>,
    devices: Option<Devices>,
    chunks: Option<usize>,
    timeout: Duration,
    param_scale: f64,
    memory_limit: Option<u64>,
    /// The schedule for whose micro-batches in flight layers may be recomputed.
    recompute: Option<ScheduleKind>,
    /// The schedules of which [`Balance::advise`] may choose.
    schedules: Vec<ScheduleKind>,
    seconds_per_byte: f64,
    /// The number of processes, and what a message between them costs.
    processes: Option<(usize, MessagePrice)>,
    intra_op_threads: Option<usize>,
}

/// A variable of the model, with its name below the model.
#[derive(Debug)]
struct Variable {
    name: String,
    tensor: Tensor,
    trained: bool,
}

impl<'m, M> Balance<'m, M>
where
    M: Model + Layer<M::Input, Out = M::Output>,
{
    /// Measures a model with devices. Its variables must be on one device: make them with
    /// `Devices::new(vec![device; STAGES])` or [`Devices::cpu`].
    pub fn of(model: &'m M, vars: &Vars) -> Self {
        Self { is_whole: vars.across().is_none(), ..Self::with(model, variables(vars.var_store(), &[])) }
    }

    /// Measures a model without devices, whose variables were made below `path` in `store`.
    pub fn of_block(model: &'m M, store: &VarStore, path: &Path<'_>) -> Self {
        Self::with(model, variables(store, &path.components().collect::<Vec<_>>()))
    }

    fn with(model: &'m M, variables: Vec<Variable>) -> Self {
        Self {
            model,
            variables,
            is_whole: true,
            stages: None,
            devices: None,
            chunks: None,
            timeout: Duration::from_secs(1),
            param_scale: 2.,
            memory_limit: None,
            recompute: None,
            schedules: ScheduleKind::ALL.to_vec(),
            seconds_per_byte: 0.,
            processes: None,
            intra_op_threads: None,
        }
    }

    /// Sets the number of stages. The default is the number of devices that were set, or else the
    /// annotated number of stages.
    pub fn stages(mut self, stages: usize) -> Self {
        self.stages = Some(stages);
        self
    }

    /// Sets the device of each stage, for the annotations and the file. They need not exist on this
    /// machine. The default is the annotated devices, if there are as many as stages, or else
    /// `cuda:0`, `cuda:1` and so on.
    pub fn devices(mut self, devices: &Devices) -> Self {
        self.devices = Some(devices.clone());
        self
    }

    /// Sets the number of micro-batches that the sample is split into; one of them is measured. The
    /// default is the annotated number, or 1.
    pub fn chunks(mut self, chunks: usize) -> Self {
        self.chunks = Some(chunks);
        self
    }

    /// Sets how long passes are repeated; one second is the default. At least three are made, after
    /// a first one that does not count.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how much memory training takes per byte of a trained parameter: for the parameter, its
    /// gradient, and the optimizer's state. The default is 2. Usual values are 2 to 3 for SGD, 4 to
    /// 5 for Adam, 4 for Adadelta, 3 for Adagrad, 3 to 5 for RMSprop. Other variables count once.
    pub fn param_scale(mut self, scale: f64) -> Self {
        self.param_scale = scale;
        self
    }

    /// Sets the greatest size of a stage in bytes: its variables, scaled by
    /// [`param_scale`](Self::param_scale), and the activations of one micro-batch. Without
    /// checkpointing, a stage keeps the activations of all micro-batches: set
    /// [`chunks`](Self::chunks) to 1 for that, or let layers be
    /// [recomputed](Self::recompute). There is no limit by default.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// Lets layers be recomputed where a stage would not fit into
    /// [`memory_limit`](Self::memory_limit): cuts and recomputed layers together make the slowest
    /// stage as fast as possible. The limit is then one of all micro-batches that a stage has in
    /// flight at once under this schedule, with [`chunks`](Self::chunks) micro-batches that are not
    /// checkpointed.
    ///
    /// A recomputed layer costs its forward once more. The annotations have `#[recompute]` on it,
    /// and the file says it. What is marked in the struct already makes no difference here. The
    /// limit is one of each stage: where a schedule runs two stages on a device, give a half.
    ///
    /// ```no_run
    /// use pipe_runtime::{ScheduleKind, balance::Balance};
    /// # use pipe_runtime::{Layer, Model, Vars};
    /// # use tch::Tensor;
    /// # fn example<M>(net: &M, vars: &Vars, sample: Tensor) -> pipe_runtime::Result<()>
    /// # where M: Model<Input = Tensor> + Layer<Tensor, Out = M::Output>,
    /// # {
    ///
    /// let balance = Balance::of(net, vars).stages(4).chunks(8).param_scale(4.); // Adam
    /// let balance = balance.memory_limit(8 << 30).recompute(ScheduleKind::OneFOneB);
    /// let profile = balance.by_time(sample)?;
    /// profile.write("balance.toml")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn recompute(mut self, schedule: ScheduleKind) -> Self {
        self.recompute = Some(schedule);
        self
    }

    /// Sets the schedules of which [`advise`](Self::advise) may choose; all is the default.
    pub fn schedules(mut self, schedules: impl IntoIterator<Item = ScheduleKind>) -> Self {
        self.schedules = schedules.into_iter().collect();
        self
    }

    /// Sets what a byte that crosses a boundary costs each of the two stages, in seconds: the
    /// inverse of a bandwidth. Values count in the forward and gradients in the backward. A skip
    /// counts for the stage that stashes it and the one that pops it. The default is 0, for
    /// transfers that overlap with computation. It has no effect on [`by_size`](Self::by_size).
    pub fn seconds_per_byte(mut self, seconds: f64) -> Self {
        self.seconds_per_byte = seconds;
        self
    }

    /// Divides for a number of processes: each has consecutive ranks of the annotated schedule, as
    /// [`Devices::across`] gives them, or the annotated stages. What crosses between two processes
    /// costs each of the two stages a message, with the value in the forward and another one with
    /// the gradient in the backward; [`World::message_price`](crate::World::message_price) measures
    /// it. The annotations and the file say which process each stage is in.
    ///
    /// ```no_run
    /// use pipe_runtime::{World, balance::Balance};
    /// # use pipe_runtime::{Layer, Model, Vars};
    /// # use tch::Tensor;
    /// # fn example<M>(net: &M, vars: &Vars, sample: Tensor) -> pipe_runtime::Result<()>
    /// # where M: Model<Input = Tensor> + Layer<Tensor, Out = M::Output>,
    /// # {
    ///
    /// let world = World::init()?; // `mpiexec -n 2`
    /// let price = world.message_price()?;
    /// if world.is_first() {
    ///     let profile = Balance::of(net, vars).stages(4).processes(2, price).by_time(sample)?;
    ///     profile.write("balance.toml")?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn processes(mut self, count: usize, price: MessagePrice) -> Self {
        self.processes = Some((count, price));
        self
    }

    /// Sets the number of threads that libtorch uses inside one operator; the caller's number is
    /// the default. In a pipeline on the CPU, a stage has only its share of them.
    pub fn intra_op_threads(mut self, threads: usize) -> Self {
        self.intra_op_threads = Some(threads);
        self
    }

    /// Divides by time. A layer costs the median time of its forward plus that of its backward, in
    /// seconds.
    ///
    /// The backward of a layer is the backward of the autograd nodes that its forward made.
    ///
    /// # Errors
    ///
    /// Fails if there are no stages or more stages than layers, if a setting is out of range, if a
    /// parameter already has a gradient, if the variables are on several devices, if no partition
    /// fits the memory limit, or if a layer fails.
    #[doc(alias = "balance_by_time")]
    pub fn by_time(self, sample: impl IntoFlow<M::Input>) -> Result<Profile> {
        self.no_gradients()?;
        self.profile(Measure::Time, sample.into_flow())
    }

    /// Divides by memory. A layer costs the bytes of its variables, where trained ones are scaled
    /// by [`param_scale`](Self::param_scale), plus the bytes that its forward of one micro-batch
    /// keeps for the backward.
    ///
    /// # Errors
    ///
    /// Fails in the same cases as [`by_time`](Self::by_time), except that parameters may have
    /// gradients.
    #[doc(alias = "balance_by_size")]
    pub fn by_size(self, sample: impl IntoFlow<M::Input>) -> Result<Profile> {
        self.profile(Measure::Size, sample.into_flow())
    }

    fn no_gradients(&self) -> Result<()> {
        if self.variables.iter().any(|variable| variable.trained && variable.tensor.grad().defined()) {
            let text = "some parameter already has gradient: balance a model before its first backward";
            return Err(Error::Setting(text.into()));
        }
        Ok(())
    }

    /// Handles of some variables.
    fn handles(&self, wanted: fn(&Variable) -> bool) -> Vec<Tensor> {
        self.variables.iter().filter(|one| wanted(one)).map(|one| one.tensor.shallow_clone()).collect()
    }

    fn profile(self, measure: Measure, sample: M::Input) -> Result<Profile> {
        let Settings { stages, devices, process_of } = self.settings()?;
        let chunks = self.chunks.or(M::DEFAULTS.chunks).unwrap_or(1);
        let in_flight = match (self.recompute, measure, self.memory_limit) {
            (None, ..) => None,
            (Some(_), Measure::Time, Some(_)) => Some(self.in_flight(stages, devices.known, chunks)?),
            (Some(_), _, None) => {
                let text = "layers are recomputed to fit into memory, and there is no limit: set `memory_limit`";
                return Err(Error::Setting(text.into()));
            }
            (Some(_), Measure::Size, _) => {
                let text = "what recomputing a layer costs is its time: divide with `by_time`";
                return Err(Error::Setting(text.into()));
            }
        };
        let Scattered { micro_batches, shape: batch, .. } = scatter(&PackedValue::of(sample), chunks, false)?;
        let first = micro_batches.first().ok_or_else(|| Error::Input("the sample is empty".into()))?;
        let rows = batch.rows().first().copied().unwrap_or_default();

        let (observed, timed) = {
            let device = self.device(|| first.tensors.first().map_or(Device::Cpu, |item| item.tensor.device()))?;
            let _threads = IntraOpThreads::choose(self.intra_op_threads, 1).enter();
            let bench = Bench::new(self.model, first, device, self.handles(|_| true), self.handles(|one| one.trained))?;
            let observed = bench.observe()?;
            if observed.layers.len() < stages {
                return Err(misfit(Misfit::TooFewLayers, stages, &observed.layers, &Chain::default()));
            }
            let timed = if measure == Measure::Time {
                let mut passes = Passes::default();
                bench.time(self.timeout, None, &mut passes)?;
                Some(passes.measured())
            } else {
                None
            };
            (observed, timed)
        };

        let traffic = Traffic::new(&observed.reads, &observed.layers, &M::PLAN);
        let mut layers: Vec<_> =
            observed.layers.iter().zip(&observed.kept).map(|(&key, &kept)| self.layer(key, kept)).collect();
        if let Some(timed) = &timed {
            timed.tell(&mut layers);
        }
        for (layer, crossed) in layers.iter_mut().zip(&traffic.boundaries) {
            layer.crossing_bytes = crossed.total();
        }

        let mut chain = self.chain(measure, &layers, &traffic, in_flight);
        let prices = self.prices(measure, stages, &process_of);
        let partition = self
            .partition(measure, &mut chain, &prices, &process_of, &traffic)
            .map_err(|why| misfit(why, stages, &observed.layers, &chain))?;
        let mut end = 0;
        let stages = partition.into_iter().zip(devices.names).enumerate().map(|(stage, (count, device))| {
            let range = end..end + count;
            end = range.end;
            let recomputed = chain.recomputed(stage, range.clone()).unwrap_or_default().recomputed;
            for (number, layer) in layers[range.clone()].iter_mut().enumerate() {
                layer.stage = stage;
                layer.recomputed = recomputed.get(number) == Some(&true);
            }
            StageProfile {
                device,
                process: process_of.get(stage).copied(),
                cost: chain.cost(stage, range.clone(), &prices),
                memory_bytes: chain.size(stage, range.clone()) as u64,
                layers: range,
            }
        });
        let stages = stages.collect();
        let skips = traffic.skips.iter().map(SkipProfile::of);
        Ok(Profile {
            model: M::PLAN.name,
            measure,
            passes: timed.map_or(1, |timed| timed.passes),
            rows,
            layers,
            stages,
            skips: skips.collect(),
            devices_known: devices.known,
            recomputes: self.recompute.is_some(),
            choice: None,
        })
    }

    /// The profile of a layer before it is timed.
    fn layer(&self, key: LayerKey, kept: Kept) -> LayerProfile {
        let (mut parameter_bytes, mut buffer_bytes) = (0, 0);
        for variable in self.variables.iter().filter(|variable| variable.is_of(key)) {
            let bytes = variable.tensor.numel() * variable.tensor.kind().elt_size_in_bytes();
            *if variable.trained { &mut parameter_bytes } else { &mut buffer_bytes } += bytes as u64;
        }
        LayerProfile {
            name: key.name,
            index: key.index,
            forward: Duration::ZERO,
            backward: Duration::ZERO,
            spread: Duration::ZERO,
            activation_bytes: kept.bytes.unsigned_abs(),
            recomputed_bytes: kept.used_later.unsigned_abs() + kept.freed_inputs.unsigned_abs(),
            parameter_bytes,
            buffer_bytes,
            crossing_bytes: 0,
            stage: 0,
            recomputed: false,
            marked: M::PLAN.is_recomputed(key.name, key.index),
        }
    }
}

impl Variable {
    fn is_of(&self, layer: LayerKey) -> bool {
        let mut segments = self.name.split('.');
        let named = segments.next() == Some(layer.name);
        named && layer.index.is_none_or(|index| segments.next() == Some(&index.to_string()))
    }
}

/// Lists the variables below a path, sorted by name.
fn variables(store: &VarStore, path: &[&str]) -> Vec<Variable> {
    let trainable: HashSet<_> = store.trainable_variables().iter().map(Tensor::data_ptr).collect();
    let prefix: String = path.iter().map(|segment| format!("{segment}.")).collect();
    let below = |(name, tensor): (String, Tensor)| {
        let name = name.strip_prefix(&prefix)?.to_owned();
        let trained = tensor.requires_grad() && trainable.contains(&tensor.data_ptr());
        Some(Variable { name, tensor, trained })
    };
    let mut variables: Vec<_> = store.variables().into_iter().filter_map(below).collect();
    variables.sort_by(|a, b| a.name.cmp(&b.name));
    variables
}

fn misfit(why: Misfit, stages: usize, layers: &[LayerKey], chain: &Chain) -> Error {
    Error::Setting(match why {
        Misfit::NoStages => format!("partitions must be a positive integer ({stages} < 1)"),
        Misfit::TooFewLayers => format!(
            "sequence is shorter than intended partitions ({} < {stages}): every stage needs a layer",
            layers.len()
        ),
        Misfit::Limit(needed) => {
            let limit = chain.limit.unwrap_or_default();
            let too_large = layers.iter().zip(&chain.sizes).find(|(_, size)| **size > limit);
            let hint = match too_large {
                Some((layer, size)) if chain.recompute.is_none() => {
                    format!("layer `{layer}` alone takes {}", bytes(*size))
                }
                _ => format!("the best of {stages} stages take up to {}", bytes(needed)),
            };
            format!("no partition keeps every stage within {}: {hint}", bytes(limit))
        }
    })
}
