//! From one division to the next one that is tried, and which of them is better.

/// How good a way is. Of those that do not fit, the one that needs least memory leads to one that
/// fits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Score {
    /// The memory of all ranks beyond their limit.
    pub(super) excess: f64,
    pub(super) time: f64,
}

impl Score {
    pub(super) fn is_lower(&self, other: &Self) -> bool {
        self.excess.total_cmp(&other.excess).then(self.time.total_cmp(&other.time)).is_lt()
    }
}

/// The divisions that differ in one layer, which another stage has: a neighbour, or one that is
/// farther away. The stages between the two hand on a layer each.
pub(super) fn moves(stages: &[usize], is_far: bool) -> Vec<Vec<usize>> {
    let numbers = 0..stages.len();
    let pairs = numbers.clone().flat_map(|from| numbers.clone().map(move |to| (from, to)));
    let wanted = pairs.filter(|&(from, to)| stages[from] > 1 && from != to && (from.abs_diff(to) > 1) == is_far);
    let moved = |(from, to): (usize, usize)| {
        let mut moved = stages.to_vec();
        (moved[from], moved[to]) = (moved[from] - 1, moved[to] + 1);
        moved
    };
    wanted.map(moved).collect()
}
