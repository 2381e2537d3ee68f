//! Stages that own layers, the ports and routes between them, and the functions that generated code
//! calls.

mod generated;
mod graph;
mod merge;
mod movable;
mod nested;
mod pipeline;
mod ports;
mod routes;
mod with_skips;

pub use generated::{keep, output};
pub use graph::{Graph, Layers};
pub use movable::{movable, movable_part};
pub use nested::{Nested, NestedByDefault, nests};
pub use pipeline::Pipeline;
pub use ports::{Io, Port};
pub use with_skips::with_skips;

pub(crate) use graph::Stage;
pub(crate) use ports::{Recorded, Sent};
pub(crate) use routes::{Crossing, Route, crossings};
