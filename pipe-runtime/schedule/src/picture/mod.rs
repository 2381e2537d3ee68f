//! Pictures of schedules and traces.

mod grid;
mod svg;
mod trace;
