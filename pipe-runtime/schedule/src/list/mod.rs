//! Ordered lists of actions, one per rank: their contents, how they are made and written, and what
//! follows from them without times.

mod action;
mod builder;
mod csv;
mod in_flight;
mod index;
mod order;
mod recompute;
mod schedule;

pub use action::{Action, ActionKind, ParseActionError};
pub use builder::{Builder, RankBuilder};
pub use csv::{CellError, CellFault};
pub use order::{DeadlockError, Order, Step};
pub use schedule::Schedule;

pub(crate) use in_flight::InFlight;
pub(crate) use index::Index;
