//! A number that was measured several times.

use std::fmt;

/// Median and quartiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    /// Computes them from at least one number.
    pub fn of(numbers: impl IntoIterator<Item = f64>) -> Self {
        let mut numbers: Vec<f64> = numbers.into_iter().collect();
        numbers.sort_by(f64::total_cmp);
        Self { median: quantile(&numbers, 0.5), low: quantile(&numbers, 0.25), high: quantile(&numbers, 0.75) }
    }

    /// Makes a spread of one exact number.
    #[cfg(test)]
    pub fn exact(number: f64) -> Self {
        Self { median: number, low: number, high: number }
    }
}

/// Interpolates between the two nearest of sorted numbers; NaN if there are none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * sorted.len().saturating_sub(1) as f64;
    let at = |place: f64| sorted.get(place as usize).copied().unwrap_or(f64::NAN);
    let (below, above) = (at(place.floor()), at(place.ceil()));
    below + (above - below) * place.fract()
}

/// Formats with as many digits as are significant.
pub fn digits(number: f64) -> String {
    let decimals = match number.abs() {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{number:.decimals$}")
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, low, high] = [self.median, self.low, self.high].map(digits);
        match low == high {
            true => write!(f, "{median}"),
            false => write!(f, "{median} ({low} to {high})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_numbers() {
        let spread = Spread::of([4., 1., 3., 2.]);
        assert_eq!(spread, Spread { median: 2.5, low: 1.75, high: 3.25 });
        assert_eq!(spread.to_string(), "2.50 (1.75 to 3.25)");
        assert_eq!(Spread::of([7.]), Spread::exact(7.));
    }

    #[test]
    fn large_numbers_have_no_decimals() {
        assert_eq!(["0.05", "12.3", "123"], [0.051, 12.34, 123.4].map(digits).each_ref().map(String::as_str));
    }
}
