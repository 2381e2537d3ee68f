//! Stages that own layers, the ports and routes between them, and the functions that generated code
//! calls.

mod generated;
mod graph;
mod movable;
mod nested;
mod parts;
mod pieces;
mod pipeline;
mod ports;
mod routes;
mod with_skips;

pub use generated::{keep, output, release};
pub use graph::{Element, Graph, Layers};
pub use movable::{movable, movable_part};
pub use nested::{Nested, NestedByDefault, nests};
pub use parts::whole;
pub use pipeline::Pipeline;
pub use ports::{Io, Port, Ports};
pub use with_skips::with_skips;

pub(crate) use pieces::{Segment, StageBody};
pub(crate) use ports::{Recorded, Sent, is_inner};
pub(crate) use routes::{Crossing, Route, crossings};
