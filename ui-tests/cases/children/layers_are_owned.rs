//! One stage owns a layer and its parameters, so a layer is not behind a shared pointer.

use std::rc::Rc;

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Model {
    one: Rc<Linear>,
    two: std::sync::Arc<Linear>,
    #[repeat]
    three: [Rc<Linear>; 2],
}

fn main() {}
