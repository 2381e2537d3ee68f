//! Steps and forwards of which an allocation or an operator fails, wherever it is: the call is an
//! error, nothing is changed, and the next call has the bits that it would have had.

use pipe_failing_libtorch::in_use;
use pipe_tests::torture::{Countdown, Counters, INWARD, STATEFUL, Stack, Tally, WEIGHTS, torture_libtorch};
use pipe_tests::zoo::train::{MODES, calls};
use pipe_tests::zoo::{Creature, Stack2, Stack4};

mod countdowns;

/// One of so many fails, in one of `share` calls, modes, models and numbers of stages. With
/// `PIPE_STRIDE`, it is another one, in all of them: `PIPE_STRIDE=1` is for a night.
fn strides(share: usize) -> (i64, usize) {
    std::env::var("PIPE_STRIDE").map_or((97, share), |text| (text.parse().expect("a number"), 1))
}

fn all<M: Stack>(
    creatures: &[Creature; 8],
    (countdown, share): (Countdown, usize),
    number: &mut usize,
    tally: &mut Tally,
) {
    let (stride, share) = strides(share);
    let with = (countdown, Counters { in_use });
    for call in calls(M::PLAN.stages.len()) {
        for mode in MODES {
            *number += 1;
            if number.is_multiple_of(share) {
                let first = *number as i64 * 37;
                let takes = |at| (at + first) % stride == 0;
                tally.add(torture_libtorch::<M>(&M::of(creatures), (call, mode), with, takes));
            }
        }
    }
}

/// The share is one that the modes, which take turns, have no factor in common with.
fn changes_nothing(countdown: Countdown, share: usize) {
    let _serial = pipe_tests::serial();
    let (mut number, mut tally) = (0, Tally::default());
    for creatures in [STATEFUL, INWARD, WEIGHTS] {
        all::<Stack2>(&creatures, (countdown, share), &mut number, &mut tally);
        all::<Stack4>(&creatures, (countdown, share), &mut number, &mut tally);
    }
    println!("{} times, an {} failed, {} misses", tally.count(), countdown.what, tally.misses.len());
    assert!(tally.count() > 0 && tally.misses.is_empty(), "{:#?}", tally.misses);
}

#[test]
fn a_call_of_which_an_allocation_fails_changes_nothing() {
    changes_nothing(countdowns::ALLOCATION, 7);
}

#[test]
fn a_call_of_which_an_operator_fails_changes_nothing() {
    changes_nothing(countdowns::OPERATOR, 49);
}
