//! Pipelines over several processes. Each test starts processes of this binary by `mpiexec`, with
//! Open MPI and with MPICH, and in each of them runs the test's part for a process.

mod cannot_travel;
mod failures;
mod launch;
mod lent_and_summed;
mod losses;
mod model;
mod replicas;
mod same_numbers;
mod traces;
mod values;
