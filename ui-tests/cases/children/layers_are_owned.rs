//! A stage owns its layers and their parameters, so a layer is not an `Rc` or an `Arc`.

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
