//! Skips of each layer of an array: `#[stash(level[..])]` and `#[pop(level[..])]`. The first layer
//! of the array that pops takes the skip of the last one that stashes.

use super::plan::Split;
use super::repeat::Each;
use crate::error::{Error, Result};
use crate::flow::Flow;

/// The skips before the first layer.
#[doc(hidden)]
pub fn no_skips<T>() -> Vec<T> {
    Vec::new()
}

/// Adds a layer's skip.
#[doc(hidden)]
pub fn put_skip<T>(mut skips: Vec<T>, skip: T) -> Vec<T> {
    skips.push(skip);
    skips
}

/// Takes the skip of the last layer that has one.
///
/// # Panics
///
/// If there is none left, because the arrays of an unpipelined run have other lengths.
#[doc(hidden)]
pub fn take_skip<T>(mut skips: Vec<T>, name: &str) -> (Vec<T>, T) {
    match skips.pop() {
        Some(skip) => (skips, skip),
        None => panic!("there is no `{name}` left: more layers pop it than have stashed it"),
    }
}

/// Checks that all skips were taken.
///
/// # Panics
///
/// If some are left.
#[doc(hidden)]
pub fn all_taken<T>(skips: Vec<T>, name: &str) {
    if !skips.is_empty() {
        panic!("{} of `{name}` are left: fewer layers pop it than have stashed it", skips.len());
    }
}

/// Joins what several parts have stashed, in their order.
#[doc(hidden)]
pub fn join_skips<T, const PARTS: usize>(parts: [Vec<T>; PARTS]) -> Vec<T> {
    parts.into_iter().flatten().collect()
}

/// Other handles of those skips of a part, `stashing`, that part `part` of the layers pops, which
/// are as many and divided by `split`.
#[doc(hidden)]
pub fn matching<T: Flow, E: Each>(skips: &[T], stashing: &E, split: Split, part: usize) -> Vec<T> {
    let (first, total) = (stashing.first(), stashing.total());
    let popping = split.range(part, total);
    let wanted = total - popping.end..total - popping.start;
    let own = skips.iter().enumerate().filter(|(offset, _)| wanted.contains(&(first + offset)));
    own.map(|(_, skip)| skip.share()).collect()
}

/// Checks at compile time that as many layers of an array pop a skip as layers of another one stash
/// it. The error is reported at the caller.
///
/// # Panics
///
/// With the message `wrong`, if the numbers differ.
#[doc(hidden)]
#[track_caller]
pub const fn as_many([popped, stashed]: [usize; 2], wrong: &str) {
    assert!(popped == stashed, "{}", wrong);
}

/// Checks that as many layers pop a skip as stash one, if one of the fields is a `Vec`.
#[doc(hidden)]
pub fn same_length(name: &str, (from, stashing): (&str, &impl Each), (to, popping): (&str, &impl Each)) -> Result<()> {
    let (stashed, popped) = (stashing.total(), popping.total());
    match stashed == popped {
        true => Ok(()),
        false => Err(Error::Setting(format!(
            "each layer of `{from}` stashes `{name}`, and each of `{to}` pops one: there are {stashed} and {popped} of \
             them, and must be as many"
        ))),
    }
}
