//! A schedule to look at.

mod grid;
mod svg;
