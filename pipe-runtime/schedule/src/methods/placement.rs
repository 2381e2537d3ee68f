/// How stages are assigned to ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placement {
    /// The stages go from the first rank to the last, then again from the first.
    Loop,
    /// The stages go from the first rank to the last, then back to the first. With two stages per
    /// rank, the first and the last stage are on one rank.
    V,
}

impl Placement {
    /// The rank of `stage`; 0 if there are no ranks.
    pub const fn rank_of(self, stage: usize, ranks: usize) -> usize {
        if ranks == 0 {
            return 0;
        }
        match self {
            Placement::V if (stage / ranks) % 2 == 1 => ranks - 1 - stage % ranks,
            _ => stage % ranks,
        }
    }

    pub(super) const fn words(self) -> &'static str {
        match self {
            Placement::Loop => "the stages go from the first rank to the last, then again from the first",
            Placement::V => "the stages go from the first rank to the last, then back to the first",
        }
    }
}
