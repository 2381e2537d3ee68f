//! The routes of values between stages, and between a stage and the caller.

use std::collections::HashSet;

/// The sending and the receiving stage of a port; `None` is the caller.
pub(super) type Ends = (Option<usize>, Option<usize>);

/// The sending and the receiving stage of a port. Ports are numbered in the order in which they are
/// received, which is the order in which the unpipelined run would use their values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// The sending stage; `None` is the caller.
    pub(crate) from: Option<usize>,
    /// The receiving stage; `None` is the caller.
    pub(crate) to: Option<usize>,
    /// Whether it carries a skip. If not, it carries the main flow: into the first stage, from a
    /// stage to the next, or out of the last stage.
    pub(crate) is_skip: bool,
    /// The type of its values, if they cannot go to another process.
    pub(crate) local: Option<&'static str>,
}

impl Route {
    /// Whether it stays within one stage: the stages that it connected were merged.
    pub(crate) fn is_inner(&self) -> bool {
        self.from.is_some() && self.from == self.to
    }

    /// The stage that holds a value, or its gradient, between the stages that make and use it: a
    /// skip waits where it was made, other values where they are used.
    pub(crate) fn waits_at(&self, maker: usize, user: Option<usize>) -> usize {
        if self.is_skip { maker } else { user.unwrap_or(maker) }
    }
}

impl Route {
    /// Builds the routes of all ports from their ends, which are in the order of the ports'
    /// numbers.
    pub(super) fn all(ends: impl IntoIterator<Item = Ends>) -> Vec<Self> {
        let mut reached = HashSet::new();
        // The main flow into a stage has a lower number than the skips that are popped in it.
        let route = |(from, to)| Self { from, to, is_skip: !reached.insert(to), local: None };
        ends.into_iter().map(route).collect()
    }
}

/// A route from one stage to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Crossing {
    /// The number of the route.
    pub(crate) route: usize,
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// Whether it carries a skip, as [`Route::is_skip`].
    pub(crate) is_skip: bool,
}

/// Iterates over all routes from one stage to another: without those from and to the caller, and
/// those within a stage.
pub(crate) fn crossings(routes: &[Route]) -> impl Iterator<Item = Crossing> {
    routes.iter().enumerate().filter(|(_, route)| !route.is_inner()).filter_map(|(number, route)| {
        Some(Crossing { route: number, from: route.from?, to: route.to?, is_skip: route.is_skip })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_route_into_a_stage_is_the_main_flow_and_all_others_are_skips() {
        let ends = [
            (None, Some(0)),
            (Some(0), Some(1)),
            (Some(0), Some(1)),
            (Some(1), Some(2)),
            (Some(0), Some(2)),
            (Some(2), None),
        ];
        let routes = Route::all(ends);
        assert_eq!(routes.iter().map(|route| (route.from, route.to)).collect::<Vec<_>>(), ends);
        assert_eq!(
            routes.iter().map(|route| route.is_skip).collect::<Vec<_>>(),
            [false, false, true, false, true, false]
        );
        let skips = crossings(&routes).filter(|crossing| crossing.is_skip);
        assert_eq!(skips.map(|skip| (skip.route, skip.from, skip.to)).collect::<Vec<_>>(), [(2, 0, 1), (4, 0, 2)]);
        assert_eq!(crossings(&routes).count(), 4);
    }
}
