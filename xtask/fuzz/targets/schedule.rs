//! A schedule's text is read or refused, and what is read is written and read again as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pipe_fuzz::MEMORY;
use pipe_schedule::{Limits, Schedule};

fuzz_target!(init: MEMORY.set_limit(64 << 20).expect("less is in use"), |text: &str| {
    let Ok(schedule) = text.parse::<Schedule>() else { return };
    let again: Schedule = schedule.to_csv().parse().expect("what is written can be read");
    assert_eq!(again.ranks, schedule.ranks);
    // Numbers of any size are no reason to allocate as much.
    let _ = schedule.validate(&Limits::default());
});
