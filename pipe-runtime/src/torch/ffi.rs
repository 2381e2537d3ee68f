//! The functions of the shim, and the conversion of their statuses and pointers.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{self, NonNull};

use tch::{Device, Tensor};
use torch_sys::C_tensor;

use super::TorchError;
use super::optimizer::FusedRule;

macro_rules! opaque {
    ($($name:ident),*) => {$(
        #[repr(C)]
        pub(super) struct $name {
            _opaque: [u8; 0],
        }
    )*};
}

opaque!(
    BackwardClock,
    Counter,
    EnteredState,
    Event,
    Generator,
    Graph,
    MeterHandle,
    MeteredStep,
    Observation,
    Offloaded,
    OnStream,
    Parameters,
    SavingPass,
    Sums,
    ThreadLocalState,
    Variables,
    Watch
);

/// A piece of a parameter, and of the tensors that an update of it uses. Null stands for an absent
/// one.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) parameter: *const C_tensor,
    pub(crate) state: [*const C_tensor; 3],
    pub(crate) average: *const C_tensor,
    pub(crate) start: i64,
    pub(crate) length: i64,
}

/// The bytes that a stage and its rank hold, by what holds them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metering {
    /// Of the rank, now.
    pub(crate) now: [i64; 5],
    /// The most of the rank since its current step began, without values under way.
    pub(crate) peak_of_step: i64,
    /// Of the stage, when its rank held most.
    pub(crate) at_peak: [i64; 5],
}

/// A read, by one layer, of a value that another layer made.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Read {
    /// A unique number of the value.
    pub(crate) value: u64,
    /// The layer that made it or changed it last; the first layer for the model's input.
    pub(crate) from: i64,
    /// The layer that read the value.
    pub(crate) to: i64,
    pub(crate) bytes: i64,
    /// 1 if a gradient flows back to the value, else 0.
    pub(crate) gradient: i64,
    /// 1 if the value's memory is still in use, else 0.
    pub(crate) kept: i64,
}

/// What a layer keeps after a forward that was observed, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// What it allocated and is still in use.
    pub(crate) bytes: i64,
    /// The part of it that later layers have used, too.
    pub(crate) used_later: i64,
    /// What earlier layers allocated, this one has used, and is free again.
    pub(crate) freed_inputs: i64,
}

/// The most memory that was in use while a layer ran, in bytes, of all that was allocated since the
/// observation started.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peaks {
    pub(crate) forward: i64,
    pub(crate) backward: i64,
}

/// A device stream, by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    id: i64,
    device_index: i64,
    device_type: i64,
}

/// The memory that a device's allocator has handed out, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) allocated: i64,
    pub(crate) peak_allocated: i64,
    pub(crate) reserved: i64,
    pub(crate) peak_reserved: i64,
}

pub(super) type BackwardFn = extern "C" fn(
    state: *mut c_void,
    gradients: *const *mut C_tensor,
    keep_graph: c_int,
    results: *mut *mut C_tensor,
    message: *mut *mut c_char,
) -> c_int;

// SAFETY: the declarations match the definitions in `shim/*.cpp`, which let no exception escape.
unsafe extern "C" {
    fn pipe_error() -> *const c_char;

    pub(super) fn pipe_graph_new(stage: i64, graph: *mut *mut Graph) -> c_int;
    pub(super) fn pipe_graph_end(graph: *mut Graph) -> c_int;
    pub(super) fn pipe_graph_reaches_parameters(graph: *const Graph) -> c_int;
    pub(super) fn pipe_graph_free(graph: *mut Graph);
    pub(super) fn pipe_graph_receive(graph: *mut Graph, value: *const C_tensor, received: *mut *mut C_tensor) -> c_int;
    pub(super) fn pipe_graph_send(
        graph: *mut Graph,
        value: *const C_tensor,
        sent: *mut *mut C_tensor,
        is_root: *mut c_int,
    ) -> c_int;
    pub(super) fn pipe_graph_backward(
        graph: *mut Graph,
        gradients: *const *const C_tensor,
        keep_graph: c_int,
        parameters: *const Parameters,
        sums: *mut Sums,
        last: c_int,
        received: *mut *mut C_tensor,
    ) -> c_int;
    pub(super) fn pipe_graph_backward_input(
        graph: *mut Graph,
        gradients: *const *const C_tensor,
        parameters: *const Parameters,
        sums: *mut Sums,
        received: *mut *mut C_tensor,
    ) -> c_int;
    pub(super) fn pipe_graph_backward_weight(
        graph: *mut Graph,
        parameters: *const Parameters,
        sums: *mut Sums,
        last: c_int,
    ) -> c_int;
    pub(super) fn pipe_parameters_new(fuse: c_int, parameters: *mut *mut Parameters) -> c_int;
    pub(super) fn pipe_parameters_free(parameters: *mut Parameters);
    pub(super) fn pipe_parameters_push(parameters: *mut Parameters, tensor: *const C_tensor) -> c_int;
    pub(super) fn pipe_parameters_has(parameters: *const Parameters, index: usize, tensor: *const C_tensor) -> c_int;
    pub(super) fn pipe_parameters_install(parameters: *const Parameters) -> c_int;
    pub(super) fn pipe_parameters_remove(parameters: *const Parameters);
    pub(super) fn pipe_parameters_complain(parameters: *const Parameters) -> c_int;
    pub(super) fn pipe_engine_is_choosy() -> c_int;
    pub(super) fn pipe_sums_new(joined: c_int, by_engine: c_int, sums: *mut *mut Sums) -> c_int;
    pub(super) fn pipe_sums_free(sums: *mut Sums);
    pub(super) fn pipe_sums_merge(into: *mut Sums, from: *mut Sums) -> c_int;
    pub(super) fn pipe_sums_used_here(sums: *const Sums) -> c_int;
    pub(super) fn pipe_sums_commit(sums: *mut Sums, parameters: *const Parameters) -> c_int;
    pub(super) fn pipe_sums_put(sums: *mut Sums, index: usize, gradient: *const C_tensor) -> c_int;
    pub(super) fn pipe_sums_take(sums: *mut Sums, index: usize, gradient: *mut *mut C_tensor) -> c_int;

    pub(super) fn pipe_node_attach(
        outputs: *const *const C_tensor,
        differentiable: *const u8,
        output_count: usize,
        inputs: *const *const C_tensor,
        input_count: usize,
        state: *mut c_void,
        backward: BackwardFn,
        drop_state: extern "C" fn(*mut c_void),
        drop_message: extern "C" fn(*mut c_char),
    ) -> c_int;

    pub(super) fn pipe_modes_capture(modes: *mut *mut ThreadLocalState) -> c_int;
    pub(super) fn pipe_modes_free(modes: *mut ThreadLocalState);
    pub(super) fn pipe_modes_enter(modes: *const ThreadLocalState, entered: *mut *mut EnteredState) -> c_int;
    pub(super) fn pipe_modes_leave(entered: *mut EnteredState);
    pub(super) fn pipe_autocast_set(
        cuda: c_int,
        enabled: c_int,
        half: c_int,
        enabled_before: *mut c_int,
        half_before: *mut c_int,
    ) -> c_int;
    pub(super) fn pipe_grad_mode() -> c_int;
    pub(super) fn pipe_set_grad_mode(enabled: c_int);
    pub(super) fn pipe_version(tensor: *const C_tensor) -> u64;
    pub(super) fn pipe_memory_of(tensor: *const C_tensor, offset: *mut i64) -> u64;

    pub(super) fn pipe_meter_new(rank_of: *const usize, stages: usize, meter: *mut *mut MeterHandle) -> c_int;
    pub(super) fn pipe_meter_free(meter: *mut MeterHandle);
    pub(super) fn pipe_meter_enter(
        meter: *mut MeterHandle,
        stage: usize,
        holder: usize,
        step: *mut *mut MeteredStep,
    ) -> c_int;
    pub(super) fn pipe_meter_leave(step: *mut MeteredStep);
    pub(super) fn pipe_meter_send(
        meter: *mut MeterHandle,
        tensor: *const C_tensor,
        stage: usize,
        handles: usize,
    ) -> c_int;
    pub(super) fn pipe_meter_receive(
        meter: *mut MeterHandle,
        tensor: *const C_tensor,
        stage: usize,
        holder: usize,
    ) -> c_int;
    pub(super) fn pipe_meter_under_way(meter: *mut MeterHandle, tensor: *const C_tensor) -> i64;
    pub(super) fn pipe_meter_hold_sums(meter: *mut MeterHandle, sums: *const Sums, stage: usize) -> c_int;
    pub(super) fn pipe_meter_read(meter: *mut MeterHandle, stage: usize, found: *mut Metering) -> c_int;

    pub(super) fn pipe_keep_freed_memory();

    pub(super) fn pipe_layer_key_install(drawing: *mut usize, writing: *mut usize) -> c_int;
    pub(super) fn pipe_saving_enter(noted: c_int, pass: *mut *mut SavingPass) -> c_int;
    pub(super) fn pipe_saving_leave(pass: *mut SavingPass);
    pub(super) fn pipe_saving_offload(
        out: *const Stream,
        back: *const Stream,
        min_bytes: usize,
        offloaded: *mut *mut Offloaded,
    ) -> c_int;
    pub(super) fn pipe_offloaded_prefetch(offloaded: *mut Offloaded) -> c_int;
    pub(super) fn pipe_offloaded_release(offloaded: *mut Offloaded) -> c_int;
    pub(super) fn pipe_offloaded_free(offloaded: *mut Offloaded);
    pub(super) fn pipe_elsewhere_install() -> c_int;
    pub(super) fn pipe_is_same(a: *const C_tensor, b: *const C_tensor) -> c_int;
    pub(super) fn pipe_is_elsewhere(tensor: *const C_tensor) -> c_int;
    pub(super) fn pipe_random_enter() -> c_int;
    pub(super) fn pipe_random_leave(before: c_int);
    pub(super) fn pipe_random_restart(seed: u64);
    pub(super) fn pipe_random_draw(number: *mut u64, before: *mut *mut Generator) -> c_int;
    pub(super) fn pipe_random_undo(before: *const Generator) -> c_int;
    pub(super) fn pipe_random_forget(before: *mut Generator);
    pub(super) fn pipe_random_state(state: *mut *mut C_tensor) -> c_int;
    pub(super) fn pipe_random_set_state(state: *const C_tensor) -> c_int;

    pub(super) fn pipe_variables_new(variables: *mut *mut Variables) -> c_int;
    pub(super) fn pipe_variables_free(variables: *mut Variables);
    pub(super) fn pipe_variables_push(
        variables: *mut Variables,
        tensor: *const C_tensor,
        name: *const c_char,
        stage: i64,
    ) -> c_int;
    pub(super) fn pipe_gradient_drop(variable: *const C_tensor) -> c_int;
    pub(super) fn pipe_variables_stand(variables: *const Variables, stage: i64) -> c_int;
    pub(super) fn pipe_variables_again(variables: *const Variables, stage: i64, fresh: *mut *mut Variables) -> c_int;
    pub(super) fn pipe_watch_start(
        variables: *const Variables,
        stage: i64,
        uses: c_int,
        watch: *mut *mut Watch,
    ) -> c_int;
    pub(super) fn pipe_watch_free(watch: *mut Watch);
    pub(super) fn pipe_watch_counts(watch: *mut Watch, moved: *mut usize, used: *mut usize) -> c_int;
    pub(super) fn pipe_watch_read(
        watch: *mut Watch,
        moved: *mut usize,
        before: *mut *mut C_tensor,
        statistic: *mut u8,
        used: *mut usize,
    ) -> c_int;
    pub(super) fn pipe_is_finite(tensor: *const C_tensor, finite: *mut c_int) -> c_int;
    pub(super) fn pipe_digest(tensor: *const C_tensor, number: *mut u64) -> c_int;

    pub(super) fn pipe_counter_of(tensor: *const C_tensor, counter: *mut *mut Counter) -> c_int;
    pub(super) fn pipe_counter_free(counter: *mut Counter);
    pub(super) fn pipe_counter_now(counter: *const Counter) -> u64;
    pub(super) fn pipe_counter_bump(counter: *mut Counter) -> c_int;

    pub(super) fn pipe_stream_new(device: c_int, stream: *mut Stream) -> c_int;
    pub(super) fn pipe_stream_current(of: *const Stream, current: *mut Stream) -> c_int;
    pub(super) fn pipe_stream_enter(stream: *const Stream, entered: *mut *mut OnStream) -> c_int;
    pub(super) fn pipe_stream_leave(entered: *mut OnStream);
    pub(super) fn pipe_stream_wait(stream: *const Stream, event: *const Event) -> c_int;
    pub(super) fn pipe_stream_uses(stream: *const Stream, tensor: *const C_tensor) -> c_int;
    pub(super) fn pipe_event_record(stream: *const Stream, event: *mut *mut Event) -> c_int;
    pub(super) fn pipe_event_free(event: *mut Event);
    pub(super) fn pipe_event_is_past(event: *const Event, is_past: *mut bool) -> c_int;
    pub(super) fn pipe_stream_handle(stream: *const Stream, handle: *mut *mut c_void) -> c_int;
    pub(super) fn pipe_transfer(
        value: *const C_tensor,
        ready: *const Event,
        from: *const Stream,
        to: *const Stream,
        consumer: *const Stream,
        device: c_int,
        arrived: *mut *mut C_tensor,
    ) -> c_int;
    pub(super) fn pipe_compact(value: *const C_tensor, compact: *mut *mut C_tensor) -> c_int;

    pub(super) fn pipe_times(value: *const C_tensor, factor: f64, product: *mut *mut C_tensor) -> c_int;
    pub(super) fn pipe_divide(value: *mut C_tensor, divisor: f64) -> c_int;
    pub(super) fn pipe_full_like(value: *const C_tensor, number: f64, full: *mut *mut C_tensor) -> c_int;

    pub(super) fn pipe_gradient_prepare(parameter: *const C_tensor, state: *mut i32) -> c_int;
    pub(super) fn pipe_gradient_squares(pieces: *const Piece, count: usize, sums: *mut f64) -> c_int;
    pub(super) fn pipe_fused_update(rule: *const FusedRule, pieces: *const Piece, count: usize) -> c_int;

    pub(super) fn pipe_memory(device: c_int, counted: *mut c_int, memory: *mut Memory) -> c_int;
    pub(super) fn pipe_memory_reset_peaks(device: c_int) -> c_int;
    pub(super) fn pipe_cuda_fault() -> *const c_char;

    pub(super) fn pipe_sequence_number() -> u64;
    pub(super) fn pipe_synchronize(on: *const C_tensor) -> c_int;
    pub(super) fn pipe_observation_start(on: *const C_tensor, observation: *mut *mut Observation) -> c_int;
    pub(super) fn pipe_observation_free(observation: *mut Observation);
    pub(super) fn pipe_observation_layer(observation: *mut Observation, layer: i64);
    pub(super) fn pipe_observation_read(observation: *mut Observation, tensor: *const C_tensor) -> c_int;
    pub(super) fn pipe_observation_kept(observation: *mut Observation, layers: usize, kept: *mut Kept) -> c_int;
    pub(super) fn pipe_observation_in_use(observation: *mut Observation) -> i64;
    pub(super) fn pipe_observation_peaks(observation: *mut Observation, layers: usize, peaks: *mut Peaks) -> c_int;
    pub(super) fn pipe_observation_read_count(observation: *const Observation) -> usize;
    pub(super) fn pipe_observation_reads(observation: *const Observation, reads: *mut Read) -> c_int;
    pub(super) fn pipe_backward_clock_start(
        on: *const C_tensor,
        firsts: *const u64,
        ends: *const u64,
        layers: usize,
        clock: *mut *mut BackwardClock,
    ) -> c_int;
    pub(super) fn pipe_backward_clock_free(clock: *mut BackwardClock);
    pub(super) fn pipe_backward_clock_read(clock: *mut BackwardClock, seconds: *mut f64) -> c_int;
}

/// Converts the status of a shim call into a `Result`.
pub(super) fn check(status: c_int) -> Result<(), TorchError> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: the pointer is never null; the string is NUL-terminated and valid until this thread's
    // next shim call.
    let message = unsafe { CStr::from_ptr(pipe_error()) };
    Err(TorchError(message.to_string_lossy().into_owned()))
}

/// Takes ownership of an object for which the shim wrote a pointer.
pub(super) fn owned<T>(make: impl FnOnce(&mut *mut T) -> c_int) -> Result<NonNull<T>, TorchError> {
    let mut made = ptr::null_mut();
    check(make(&mut made))?;
    Ok(NonNull::new(made).expect("the shim wrote a pointer"))
}

/// Takes ownership of a tensor that the shim made with `new at::Tensor`, as tch does; `None` for
/// null.
pub(super) fn take(tensor: *mut C_tensor) -> Option<Tensor> {
    // SAFETY: the shim hands each such pointer out once and never frees it.
    (!tensor.is_null()).then(|| unsafe { Tensor::from_ptr(tensor) })
}

/// tch's number of a device, which the shim also uses.
pub(super) fn number(device: Device) -> c_int {
    match device {
        Device::Cpu => -1,
        Device::Mps => -2,
        Device::Vulkan => -3,
        Device::Cuda(index) => c_int::try_from(index).unwrap_or(c_int::MAX),
    }
}
