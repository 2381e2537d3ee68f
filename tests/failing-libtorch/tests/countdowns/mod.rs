//! What can fail in libtorch.

use pipe_failing_libtorch::{allocations, operators};
use pipe_tests::torture::Countdown;

pub const ALLOCATION: Countdown =
    Countdown { what: "allocation", fail_at: allocations::fail_at, left: allocations::left, says: "not enough memory" };

pub const OPERATOR: Countdown =
    Countdown { what: "operator", fail_at: operators::fail_at, left: operators::left, says: "fails on purpose" };
