//! What the environment says about the launcher of this process.

/// The launcher, as far as it has left traces in the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Launcher {
    pub family: Family,
    /// The variable that says so, with its value.
    pub trace: String,
    /// The number of processes, if it is known.
    pub size: Option<usize>,
}

/// Whose MPI the launcher serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    OpenMpi,
    Mpich,
    /// The launcher serves no MPI in particular.
    Unknown,
}

/// The variables of the launchers: one that is always there, one with the number of processes, and
/// the family. The first one that fits counts. Open MPI's own variables come first: its `mpiexec`
/// may have been called below another launcher.
const TRACES: [(&str, &str, Family); 5] = [
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", Family::OpenMpi),
    ("PMIX_RANK", "SLURM_STEP_NUM_TASKS", Family::OpenMpi),
    ("PMI_RANK", "PMI_SIZE", Family::Mpich),
    // `SLURM_NTASKS` is set in batch scripts too, which start one process. This one is set by
    // `srun` alone.
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", Family::Unknown),
    // torchrun. No MPI understands it, but its processes must not take themselves for alone.
    ("LOCAL_RANK", "WORLD_SIZE", Family::Unknown),
];

impl Launcher {
    /// Reads the environment. `None` if no launcher has started this process.
    pub(crate) fn of_this_process() -> Option<Self> {
        Self::find(|name| std::env::var(name).ok())
    }

    fn find(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        TRACES.iter().find_map(|(rank, size, family)| {
            let value = variable(rank)?;
            let count = variable(size).and_then(|value| value.parse().ok());
            let has_started = *family != Family::Unknown || count.is_some_and(|count: usize| count > 1);
            let trace = count.map_or_else(|| format!("{rank}={value}"), |count| format!("{size}={count}"));
            has_started.then_some(Self { family: *family, trace, size: count })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(variables: &[(&str, &str)]) -> Option<(Family, Option<usize>)> {
        let value =
            |name: &str| variables.iter().find(|(other, _)| name == *other).map(|(_, value)| (*value).to_owned());
        Launcher::find(value).map(|launcher| (launcher.family, launcher.size))
    }

    #[test]
    fn each_launcher_is_recognised() {
        let openmpi = [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "1"), ("PMIX_RANK", "0")];
        assert_eq!(find(&openmpi), Some((Family::OpenMpi, Some(1))));
        assert_eq!(find(&[("PMI_RANK", "3"), ("PMI_SIZE", "4")]), Some((Family::Mpich, Some(4))));
        let slurm = [("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "4")];
        assert_eq!(find(&slurm), Some((Family::Unknown, Some(4))));
        assert_eq!(find(&[slurm[0], slurm[1], ("PMIX_RANK", "0")]), Some((Family::OpenMpi, Some(4))));
        assert_eq!(find(&[("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")]), Some((Family::Unknown, Some(2))));
    }

    #[test]
    fn a_process_without_a_launcher_is_alone() {
        assert_eq!(find(&[]), None);
        assert_eq!(find(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")]), None, "a batch script");
        assert_eq!(find(&[("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")]), None);
    }
}
