//! Pipeline schedules as data.
//!
//! A [`Schedule`] is one ordered list of [`Action`]s per rank (a device, or an executor that stands for one). It says
//! nothing about time: an action runs as soon as the one before it on its rank is done and its inputs
//! are there. [`Schedule::order`] turns the lists into one total order, which exists exactly if the lists can finish.

#![deny(missing_docs)]

mod action;
mod csv;
mod in_flight;
mod index;
mod methods;
mod order;
mod recompute;
mod schedule;
mod simulate;

pub use action::{Action, Kind, NotAnAction};
pub use csv::BadCell;
pub use methods::{Illegal, Method, Placement, UnknownMethod, gpipe};
pub use order::{Order, Step, Stuck};
pub use schedule::Schedule;
pub use simulate::{Costs, Simulation, Skip, Span, StageCosts, Transfer, Unsimulated, simulate};
