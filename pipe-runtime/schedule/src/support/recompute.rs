//! Which layers of a stage are recomputed, so that it fits into memory: the fastest choice.
//!
//! A 0/1 knapsack with one more number, the largest inside that is made again at once. Dynamic
//! programming over the layers keeps, for each amount of memory, the choices that no other one
//! beats. Amounts are rounded up to 1/1024 of the limit: the choice fits, and it is the fastest one
//! within a limit that is smaller by at most as many of these as there are layers.

use std::collections::BTreeMap;
use std::rc::Rc;

/// What a layer takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Inside {
    /// The bytes of its variables, their gradients and the optimizer's state.
    pub fixed: f64,
    /// The bytes that one micro-batch keeps of it.
    pub kept: f64,
    /// The bytes that remain if it is recomputed: what later layers, and the recomputation, take.
    pub remaining: f64,
    /// The time of making it again.
    pub seconds: f64,
}

impl Inside {
    /// The bytes that are made again for one micro-batch at a time.
    fn again(&self) -> f64 {
        (self.kept - self.remaining).max(0.)
    }
}

/// The memory of a stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Room {
    /// How many micro-batches are in flight at most.
    pub in_flight: usize,
    /// The bytes that there are.
    pub limit: f64,
}

/// A choice of layers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// Whether each layer is recomputed.
    pub recomputed: Vec<bool>,
    /// The time that this adds for a micro-batch.
    pub seconds: f64,
    /// The bytes that the stage takes.
    pub bytes: f64,
}

/// The parts into which a limit is divided.
const PARTS: f64 = 1024.;

impl Room {
    /// The bytes of a stage: its variables, those of the micro-batches in flight, and the inside of
    /// one layer that is made again.
    pub fn bytes(self, layers: &[Inside], recomputed: &[bool]) -> f64 {
        let (mut fixed, mut kept, mut again) = (0., 0., 0_f64);
        for (layer, &recomputed) in layers.iter().zip(recomputed) {
            fixed += layer.fixed;
            kept += if recomputed { layer.remaining } else { layer.kept };
            again = again.max(if recomputed { layer.again() } else { 0. });
        }
        fixed + self.in_flight as f64 * kept + again
    }

    /// The least bytes that a stage can take.
    pub fn least(self, layers: &[Inside]) -> f64 {
        self.smallest(layers).0
    }

    /// The least bytes that a stage can take, and what is recomputed then.
    fn smallest(self, layers: &[Inside]) -> (f64, Vec<bool>) {
        // All layers are recomputed whose inside is not larger than the largest one.
        let largest = layers.iter().map(Inside::again).filter(|again| *again > 0.);
        let choices = largest.map(|largest| {
            let recomputed = |layer: &Inside| layer.kept > layer.remaining && layer.again() <= largest;
            let recomputed: Vec<_> = layers.iter().map(recomputed).collect();
            (self.bytes(layers, &recomputed), recomputed)
        });
        let none = vec![false; layers.len()];
        let none = (self.bytes(layers, &none), none);
        choices.fold(none, |best, choice| if choice.0 < best.0 { choice } else { best })
    }

    /// Returns the choice that adds the least time and fits; `None` if none fits.
    pub fn fastest(self, layers: &[Inside]) -> Option<Choice> {
        let mut stage = Growing::new(self);
        layers.iter().for_each(|layer| stage.push(*layer));
        let (seconds, recomputed) = stage.fastest()?;
        Some(Choice { bytes: self.bytes(layers, &recomputed), recomputed, seconds })
    }
}

/// Which of these items, each with what it frees and the time that it takes, take the least time
/// and free so much together; `None` if all of them free less. What they free is rounded down to
/// 1/1024 of what is needed.
pub fn least_to_free(items: &[(f64, f64)], needed: f64) -> Option<Vec<bool>> {
    if needed <= 0. {
        return Some(vec![false; items.len()]);
    }
    let parts: Vec<usize> = items.iter().map(|item| ((item.0 / needed).max(0.) * PARTS).floor() as usize).collect();
    let all = PARTS as usize;
    // The least time that frees so many parts, or more, of those that have been decided on.
    let mut least = vec![f64::INFINITY; all + 1];
    least[0] = 0.;
    let mut takes = vec![vec![false; all + 1]; items.len()];
    for ((&(_, seconds), &parts), takes) in
        items.iter().zip(&parts).zip(&mut takes).filter(|((_, parts), _)| **parts > 0)
    {
        for freed in (0..=all).rev() {
            let with = least[freed.saturating_sub(parts)] + seconds;
            if with < least[freed] {
                (least[freed], takes[freed]) = (with, true);
            }
        }
    }
    if least[all].is_infinite() {
        // What is rounded down can be what is missing.
        let together: f64 = items.iter().map(|item| item.0.max(0.)).sum();
        return (together >= needed).then(|| items.iter().map(|item| item.0 > 0.).collect());
    }
    let mut freed = all;
    let mut chosen = vec![false; items.len()];
    for (number, takes) in takes.iter().enumerate().rev() {
        if takes[freed] {
            chosen[number] = true;
            freed = freed.saturating_sub(parts[number]);
        }
    }
    Some(chosen)
}

/// A stage to which layers are added one by one.
#[derive(Clone, Debug)]
pub struct Growing {
    room: Room,
    layers: Vec<Inside>,
    /// The choices of the first layers, by the parts of the limit that they take.
    states: BTreeMap<u64, Vec<State>>,
    /// How many layers these choices are of: none as long as everything fits.
    chosen: usize,
}

impl Growing {
    /// Makes a stage without layers.
    pub fn new(room: Room) -> Self {
        Self { room, layers: Vec::new(), states: BTreeMap::from([(0, vec![State::default()])]), chosen: 0 }
    }

    /// Adds a layer.
    pub fn push(&mut self, layer: Inside) {
        self.layers.push(layer);
    }

    /// Returns the least time that fits, and whether each layer is recomputed for it.
    pub fn fastest(&mut self) -> Option<(f64, Vec<bool>)> {
        let none = vec![false; self.layers.len()];
        if self.room.bytes(&self.layers, &none) <= self.room.limit {
            return Some((0., none));
        }
        let part = self.room.limit / PARTS;
        let fixed: f64 = self.layers.iter().map(|layer| layer.fixed).sum();
        let kept: f64 = self.layers.iter().map(|layer| layer.kept.min(layer.remaining)).sum();
        // Whatever is recomputed, it takes so much.
        let at_least = fixed + self.room.in_flight as f64 * kept;
        if part.is_nan() || part <= 0. || at_least > self.room.limit {
            return None;
        }
        let most = ((self.room.limit - fixed) / part).floor();
        let fits = |taken: u64, state: &State| taken as f64 + state.again / part <= most;
        for number in self.chosen..self.layers.len() {
            self.choose(number, part, fits);
        }
        self.chosen = self.layers.len();
        let fitting = self.states.iter().flat_map(|(&taken, states)| states.iter().map(move |state| (taken, state)));
        let fitting = fitting.filter(|(taken, state)| fits(*taken, state)).map(|(_, state)| state);
        let Some(fastest) = fitting.reduce(|a, b| if b.seconds < a.seconds { b } else { a }) else {
            // What is rounded up can be what is missing.
            let (bytes, recomputed) = self.room.smallest(&self.layers);
            let again = self.layers.iter().zip(&recomputed).filter(|(_, recomputed)| **recomputed);
            let seconds = again.map(|(layer, _)| layer.seconds).sum();
            return (bytes <= self.room.limit).then_some((seconds, recomputed));
        };
        let mut recomputed = none;
        let mut link = fastest.recomputed.as_ref();
        while let Some(Link { layer, before }) = link.map(Rc::as_ref) {
            recomputed[*layer] = true;
            link = before.as_ref();
        }
        Some((fastest.seconds, recomputed))
    }

    /// Decides about a layer in both ways.
    fn choose(&mut self, number: usize, part: f64, fits: impl Fn(u64, &State) -> bool) {
        let layer = self.layers[number];
        let parts = |bytes: f64| (self.room.in_flight as f64 * bytes / part).ceil() as u64;
        let (kept, remaining) = (parts(layer.kept), parts(layer.remaining));
        let mut next: BTreeMap<u64, Vec<State>> = BTreeMap::new();
        for (taken, state) in std::mem::take(&mut self.states)
            .into_iter()
            .flat_map(|(taken, states)| states.into_iter().map(move |state| (taken, state)))
        {
            let link = Link { layer: number, before: state.recomputed.clone() };
            let recomputed = State {
                again: state.again.max(layer.again()),
                seconds: state.seconds + layer.seconds,
                recomputed: Some(Rc::new(link)),
            };
            for (taken, state) in [(taken + kept, state), (taken + remaining, recomputed)] {
                if fits(taken, &state) {
                    add(next.entry(taken).or_default(), state);
                }
            }
        }
        self.states = not_beaten(next);
    }
}

/// A choice of the first layers.
#[derive(Clone, Debug, Default)]
struct State {
    /// The largest inside that is made again.
    again: f64,
    seconds: f64,
    /// The last layer that is recomputed.
    recomputed: Option<Rc<Link>>,
}

/// A layer that is recomputed, and the one before it: choices share what they begin with.
#[derive(Debug)]
struct Link {
    layer: usize,
    before: Option<Rc<Link>>,
}

impl State {
    fn beats(&self, other: &Self) -> bool {
        self.again <= other.again && self.seconds <= other.seconds
    }
}

/// Adds a state, unless one of the same memory beats it.
fn add(states: &mut Vec<State>, state: State) {
    if !states.iter().any(|other| other.beats(&state)) {
        states.retain(|other| !state.beats(other));
        states.push(state);
    }
}

/// Drops the states that one with less memory beats.
fn not_beaten(states: BTreeMap<u64, Vec<State>>) -> BTreeMap<u64, Vec<State>> {
    let mut best: Vec<State> = Vec::new();
    let mut left = BTreeMap::new();
    for (taken, states) in states {
        let new: Vec<State> = states.into_iter().filter(|state| !best.iter().any(|other| other.beats(state))).collect();
        for state in &new {
            add(&mut best, state.clone());
        }
        if !new.is_empty() {
            left.insert(taken, new);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layer(kept: f64, remaining: f64, seconds: f64) -> Inside {
        Inside { fixed: 0., kept, remaining, seconds }
    }

    #[test]
    fn what_frees_the_most_for_its_time_is_recomputed() {
        let layers = [layer(10., 1., 5.), layer(10., 1., 1.), layer(4., 1., 1.)];
        let fastest = |limit: f64| Room { in_flight: 2, limit }.fastest(&layers);
        assert_eq!(fastest(48.).unwrap().recomputed, [false; 3]);
        // 2 * (10 + 1 + 4), and 9 that are made again.
        let choice = fastest(39.1).unwrap();
        assert_eq!((choice.recomputed, choice.seconds, choice.bytes), (vec![false, true, false], 1., 39.));
        assert_eq!(fastest(33.1).unwrap().recomputed, [false, true, true]);
        assert_eq!(fastest(15.1).unwrap().recomputed, [true; 3]);
        assert_eq!(fastest(14.9), None);
        assert_eq!(Room { in_flight: 2, limit: 0. }.least(&layers), 15.);
    }

    #[test]
    fn layers_without_an_inside_are_never_recomputed() {
        let layers = vec![layer(1., 1., 0.); 5];
        assert_eq!(Room { in_flight: 1, limit: 4. }.fastest(&layers), None);
        assert_eq!(Room { in_flight: 1, limit: 5. }.fastest(&layers).unwrap().recomputed, [false; 5]);
        assert_eq!(Room { in_flight: 0, limit: 0. }.fastest(&layers).unwrap().seconds, 0.);
    }

    /// All choices of so many layers.
    fn choices(layers: usize) -> impl Iterator<Item = Vec<bool>> {
        (0..1_u32 << layers).map(move |bits| (0..layers).map(|number| bits >> number & 1 == 1).collect())
    }

    /// The least time of all choices that fit.
    fn by_trying(room: Room, layers: &[Inside]) -> Option<f64> {
        let fitting = choices(layers.len()).filter(|choice| room.bytes(layers, choice) <= room.limit);
        let seconds = |choice: Vec<bool>| {
            layers.iter().zip(choice).filter(|(_, recomputed)| *recomputed).map(|(layer, _)| layer.seconds).sum::<f64>()
        };
        fitting.map(seconds).reduce(f64::min)
    }

    proptest! {
        #[test]
        fn no_choice_that_fits_is_faster(
            layers in prop::collection::vec((0..30_u32, 0..50_u32, 0..50_u32, 0..9_u32), 1..9),
            in_flight in 1..5_usize,
            limit in 1..900_u32,
        ) {
            let layer = |(fixed, kept, remaining, seconds): (u32, u32, u32, u32)| Inside {
                fixed: fixed.into(),
                kept: kept.into(),
                remaining: remaining.into(),
                seconds: seconds.into(),
            };
            let layers: Vec<_> = layers.into_iter().map(layer).collect();
            let room = Room { in_flight, limit: limit.into() };
            let mut growing = Growing::new(room);
            for (number, layer) in layers.iter().enumerate() {
                growing.push(*layer);
                let layers = &layers[..=number];
                let less = Room { limit: room.limit * (1. - (layers.len() + 1) as f64 / PARTS), ..room };
                match growing.fastest() {
                    Some((seconds, recomputed)) => {
                        prop_assert!(room.bytes(layers, &recomputed) <= room.limit);
                        prop_assert!(seconds >= by_trying(room, layers).unwrap());
                        prop_assert!(by_trying(less, layers).is_none_or(|least| seconds <= least));
                        prop_assert_eq!(room.fastest(layers).map(|choice| choice.seconds), Some(seconds));
                    }
                    None => prop_assert!(room.least(layers) > room.limit),
                }
            }
            let least = choices(layers.len()).map(|choice| room.bytes(&layers, &choice)).fold(f64::INFINITY, f64::min);
            prop_assert_eq!(room.least(&layers), least);
        }
    }
}
