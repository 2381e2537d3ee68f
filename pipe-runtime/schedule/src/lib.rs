//! Pipeline schedules as data.
//!
//! A [`Schedule`] is one ordered list of [`Action`]s per rank (a device, or an executor that stands
//! for one). It contains no times: an action runs as soon as the action before it on its rank has
//! ended and its inputs have arrived.
//!
//! * It is made by a [`ScheduleKind`] (one of the published schedules), by a [`Builder`], or from
//!   text (`str::parse`).
//! * [`Schedule::validate`] proves it valid, down to the messages of [`Schedule::lower`].
//! * [`Schedule::order`] turns it into one total order, which exists exactly if the lists can
//!   finish.
//! * [`simulate`] times it, [`advise`] compares schedules, and `to_string` and
//!   [`Simulation::to_svg`] draw it.
//! * A [`Trace`] records what really ran, for comparison.
//!
//! No malformed schedule or setting makes anything here panic, and all output is deterministic.
//!
//! ```
//! use pipe_schedule::{Costs, Limits, ScheduleKind, simulate};
//!
//! let schedule = ScheduleKind::ZbH1.schedule(2, 1, 3)?; // ranks, stages per rank, micro-batches
//! schedule.validate(&Limits::of(ScheduleKind::ZbH1, 2, 1, 3)?)?;
//! assert_eq!(
//!     schedule.to_string(),
//!     "rank 0  F0 F1 .  I0 W0 F2 I1 W1 I2 W2\n\
//!      rank 1  .  F0 I0 F1 I1 W0 F2 I2 W1 W2\n"
//! );
//! let simulation = simulate(&schedule, &Costs::equal(2, 1., 1., 1.))?;
//! assert_eq!((simulation.makespan, simulation.peak_in_flight), (10., vec![2, 2]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod advise;
mod cheap_outputs;
mod checkpoint;
mod list;
mod lower;
mod methods;
mod picture;
mod simulate;
#[doc(hidden)]
pub mod support;
mod timeline;
mod trace;
mod validate;

pub use advise::{
    Advice, Candidate, Crossing, Division, LayerAdvice, LayerCandidate, LayerCosts, LayerOptions, LayerSkip, Layers,
    Options, Stages, Units, advise, advise_layers,
};
pub use cheap_outputs::{CheapOutputs, UnknownCheapOutputsError};
pub use checkpoint::{Checkpoint, UnknownCheckpointError};
pub use list::{
    Action, ActionKind, Builder, CellError, CellFault, DeadlockError, Order, ParseActionError, RankBuilder, Schedule,
    Step,
};
pub use lower::{Lowered, Message, MessageFault, Op, Transport};
pub use methods::{Placement, PlacementError, ScheduleKind, ScheduleKindError, UnknownScheduleError, gpipe};
pub use simulate::{Costs, Simulation, SimulationError, Skip, StageCosts, Transfer, simulate};
pub use timeline::{Span, Timeline};
pub use trace::{Run, Trace, TracedStep};
pub use validate::{Cycle, Fault, Limits, Missing, Route, ValidationError};
