//! A schedule, or what ran of it, to look at.

mod grid;
mod svg;
mod trace;
