//! Helpers that the crates of this workspace share. They are not for users and change without
//! notice.

pub mod partition;
pub mod recompute;
pub mod spelling;
pub mod table;

/// The median. For an even number of values, it is the mean of the two in the middle; for none, it
/// is 0.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

/// A number of bytes with its unit: `1.5 KiB`.
pub fn bytes(bytes: f64) -> String {
    let mut scaled = (bytes, "B");
    for unit in ["KiB", "MiB", "GiB", "TiB"] {
        if scaled.0 < 1024. {
            break;
        }
        scaled = (scaled.0 / 1024., unit);
    }
    format!("{} {}", short(scaled.0), scaled.1)
}

/// A number with three significant digits, or with all digits before the point if there are more.
pub fn short(value: f64) -> String {
    let digits = match value.abs() {
        value if value >= 100. => 0,
        value if value >= 10. => 1,
        value if value >= 0.1 || value == 0. => 2,
        _ => 5,
    };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outlier_does_not_move_the_median() {
        assert_eq!(median(&[2., 100., 1.]), 2.);
        assert_eq!(median(&[2., 100., 1., 3.]), 2.5);
        assert_eq!(median(&[]), 0.);
    }

    #[test]
    fn bytes_have_units() {
        let texts = [0., 1023., 1024., 1536., 5e9].map(bytes);
        assert_eq!(texts, ["0 B", "1023 B", "1 KiB", "1.5 KiB", "4.66 GiB"]);
    }

    #[test]
    fn numbers_are_as_long_as_they_need_to_be() {
        let texts = [0., 0.00006, 0.126, 4., 12.34, 99.96, 678.4].map(short);
        assert_eq!(texts, ["0", "0.00006", "0.13", "4", "12.3", "100", "678"]);
    }
}
