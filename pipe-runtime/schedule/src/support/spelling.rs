//! The distance between names, for suggestions in messages. `pipe-macros` uses it too.

/// The cost of turning `a` into `b` (optimal string alignment): 1 for each letter that is inserted,
/// deleted or replaced, and `swap` for each exchange of two neighbours. Two replacements also
/// exchange two neighbours, at a cost of 2, so a `swap` of 2 gives the Levenshtein distance.
pub fn distance(a: &str, b: &str, swap: usize) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in table.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in table[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = table[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(table[i - 1][j] + 1).min(table[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(table[i - 2][j - 2] + swap);
            }
            table[i][j] = best;
        }
    }
    table[a.len()][b.len()]
}

/// The candidate closest to `name`, if one is close enough to be a misspelling. Two exchanged
/// letters count as one error.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = |name: &str| name.chars().count();
    candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate, 1), candidate))
        .filter(|(distance, candidate)| *distance <= length(name).max(length(candidate)) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_of_neighbours_costs_what_is_said() {
        assert_eq!([1, 2, 3].map(|swap| distance("zvb", "zbv", swap)), [1, 2, 2]);
        assert_eq!([1, 2].map(|swap| distance("kitten", "sitting", swap)), [3, 3]);
        assert_eq!([distance("", "abc", 1), distance("abc", "", 1), distance("é", "e", 1)], [3, 3, 1]);
    }

    #[test]
    fn the_nearest_name_is_found_through_a_typo() {
        assert_eq!(nearest("chunk", ["chunks", "checkpoint"]), Some("chunks"));
        assert_eq!(nearest("levle1", ["level1", "level2"]), Some("level1"));
    }

    #[test]
    fn a_name_unlike_all_others_has_no_nearest() {
        assert_eq!(nearest("banana", ["chunks", "checkpoint"]), None);
        assert_eq!(nearest("a", ["b"]), None);
    }
}
