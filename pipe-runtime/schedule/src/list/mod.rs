//! Ordered op lists, one per rank: what is in them, how they are made and written, and what can be
//! read from them without a clock.

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
