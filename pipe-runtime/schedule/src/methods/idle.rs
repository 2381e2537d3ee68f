use super::ScheduleKind;

impl ScheduleKind {
    /// The idle time of a rank in a step, if there is a formula for it: the time from its first
    /// action to the end of its last, minus its work, for the rank where that is longest
    /// ([`Simulation::period`](crate::Timeline::period) minus the work).
    ///
    /// `forward`, `backward_input` and `backward_weight` (F, I and W; B is I + W) are the times of
    /// a whole rank. They are the same for all ranks, and spread evenly over the stages of a rank.
    /// Transfers take no time. There are `p` ranks, `v` stages on each, and `m` micro-batches:
    ///
    /// | | idle | where |
    /// |---|---|---|
    /// | GPipe, 1F1B | (p - 1)(F + B) | |
    /// | interleaved, looped BFS, GPipe on looped stages | (p - 1)(F + B) / v | m >= p |
    /// | ZB-H1 | (p - 1) max(F + I - W, I) / v | m >= p |
    /// | ZB-H2 | (p - 1) max(F + I - 2W, I - F, 0) | m >= 2p - 1 |
    /// | ZBV | (p - 1)(I - W) | I >= F >= W, m >= 2p - 1 |
    /// | DualPipeV | (p - 1)(F + I - W) / 2 | F >= I >= W |
    /// | V-Half | (3p - 7) F / 2 for even p, (3p - 4) F / 2 for odd p | F = I = W, p >= 3, m >= p |
    /// | V-Min | (4p - 7) F / 2 if 3 divides p, else (4p - 5) F / 2 | F = I = W, p >= 3, m >= p |
    ///
    /// The formulas for GPipe to ZB-H2 are published, but without the second and third terms of the
    /// maxima, which matter if W is long. Those for ZBV, DualPipeV, V-Half and V-Min were found by
    /// simulation, and hold exactly for p from 2 to 16 and m up to 64.
    pub fn idle(
        self,
        ranks: usize,
        stages_per_rank: usize,
        micro_batches: usize,
        [forward, backward_input, backward_weight]: [f64; 3],
    ) -> Option<f64> {
        self.check(ranks, stages_per_rank, micro_batches).ok()?;
        if ranks == 1 {
            return Some(0.);
        }
        let (f, i, w) = (forward, backward_input, backward_weight);
        let (p, v) = (ranks as f64, stages_per_rank as f64);
        let equal = f == i && i == w;
        match self {
            ScheduleKind::GPipe | ScheduleKind::LoopedBfs | ScheduleKind::Interleaved | ScheduleKind::OneFOneB => {
                let fills = stages_per_rank == 1 || micro_batches >= ranks;
                fills.then_some((p - 1.) * (f + i + w) / v)
            }
            ScheduleKind::ZbH1 => (micro_batches >= ranks).then_some((p - 1.) * (f + i - w).max(i) / v),
            ScheduleKind::ZbH2 => {
                (micro_batches >= 2 * ranks - 1).then_some((p - 1.) * (f + i - 2. * w).max(i - f).max(0.))
            }
            ScheduleKind::Zbv => (i >= f && f >= w && micro_batches >= 2 * ranks - 1).then_some((p - 1.) * (i - w)),
            ScheduleKind::DualPipeV => (f >= i && i >= w).then_some((p - 1.) * (f + i - w) / 2.),
            ScheduleKind::VHalf => {
                let holds = equal && ranks >= 3 && micro_batches >= ranks;
                holds.then_some((3. * p - if ranks.is_multiple_of(2) { 7. } else { 4. }) * f / 2.)
            }
            ScheduleKind::VMin => {
                let holds = equal && ranks >= 3 && micro_batches >= ranks;
                holds.then_some((4. * p - if ranks.is_multiple_of(3) { 7. } else { 5. }) * f / 2.)
            }
        }
    }
}
