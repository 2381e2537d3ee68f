//! All schedules by name, on placements that they take.
#![deny(warnings)]

use pipe_runtime::__rt::{self, ScheduleKind};
use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

/// Four stages on the CPU, for which every schedule has a placement.
macro_rules! annotated {
    ($variant:ident: $name:expr) => {{
        #[pipeline(chunks = 4, schedule = $name)]
        struct Model {
            #[device("cpu")]
            first: Linear,
            #[device("cpu")]
            second: Linear,
            #[device("cpu")]
            third: Linear,
            #[device("cpu")]
            fourth: Linear,
        }
        assert!(matches!(<Model as __rt::Model>::DEFAULTS.schedule, Some(ScheduleKind::$variant)));
    }};
}

/// Accelerators to the last one and back.
#[pipeline(schedule = zbv)]
struct Folded {
    #[device("cuda:0")]
    first: Linear,
    #[device("cuda:1")]
    second: Linear,
    #[stage]
    third: Linear,
    #[device("cuda:0")]
    fourth: Linear,
}

/// Accelerators from the first to the last, twice.
#[pipeline(chunks = 6, schedule = interleaved)]
struct Looped {
    #[device("cuda:0")]
    first: Linear,
    #[devices("cuda:1", "cuda:0", "cuda:1")]
    others: Vec<Linear>,
}

/// Devices in an order that only GPipe takes.
#[pipeline(schedule = gpipe)]
struct Mixed {
    #[device("cuda:0")]
    first: Linear,
    #[device("cpu")]
    second: Linear,
    #[device("cuda:0")]
    third: Linear,
}

fn main() {
    annotated!(GPipe: gpipe);
    annotated!(OneFOneB: "1f1b");
    annotated!(Interleaved: interleaved);
    annotated!(LoopedBfs: looped_bfs);
    annotated!(ZbH1: zb_h1);
    annotated!(ZbH2: zb_h2);
    annotated!(Zbv: zbv);
    annotated!(DualPipeV: dualpipe_v);
    annotated!(VHalf: v_half);
    annotated!(VMin: v_min);
    assert_eq!(Folded::STAGES, 4);
    assert_eq!(Looped::STAGES, 4);
    assert_eq!(Mixed::STAGES, 3);
}
