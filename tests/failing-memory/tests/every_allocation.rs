//! Steps and forwards of which an allocation fails, wherever it is: the call is an error, nothing
//! is changed, and the next call has the bits that it would have had.

use pipe_failing_memory::{fail_at, left};
use pipe_tests::torture::{FailingMemory, INWARD, STATEFUL, Stack, Tally, WEIGHTS, starve};
use pipe_tests::zoo::train::{MODES, calls};
use pipe_tests::zoo::{Creature, Stack2, Stack4};

/// One of so many allocations fails, in one of eight calls, modes, models and numbers of stages.
/// With `PIPE_STRIDE`, it is another one, in all of them: `PIPE_STRIDE=1` is for a night.
fn strides() -> (i64, usize) {
    std::env::var("PIPE_STRIDE").map_or((97, 8), |text| (text.parse().expect("a number"), 1))
}

fn all<M: Stack>(creatures: &[Creature; 8], number: &mut usize, tally: &mut Tally) {
    let memory = FailingMemory { fail_at, left };
    let (stride, share) = strides();
    for call in calls(M::PLAN.stages.len()) {
        for mode in MODES {
            *number += 1;
            if number.is_multiple_of(share) {
                let first = *number as i64 * 37;
                tally.add(starve::<M>(&M::of(creatures), (call, mode), memory, |at| (at + first) % stride == 0));
            }
        }
    }
}

#[test]
fn a_call_of_which_an_allocation_fails_changes_nothing() {
    let _serial = pipe_tests::serial();
    let (mut number, mut tally) = (0, Tally::default());
    for creatures in [STATEFUL, INWARD, WEIGHTS] {
        all::<Stack2>(&creatures, &mut number, &mut tally);
        all::<Stack4>(&creatures, &mut number, &mut tally);
    }
    println!("{} allocations failed, {} misses", tally.count(), tally.misses.len());
    assert!(tally.count() > 0 && tally.misses.is_empty(), "{:#?}", tally.misses);
}
