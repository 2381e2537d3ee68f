// What `replicas.rs` measures, by MPI's own functions: the sum of so many floats over all processes.
// The arguments are that number and the number of rounds. The first process prints the median and
// the least time of a round in seconds.

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static int compare(const void *left, const void *right) {
  double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

int main(int argc, char **argv) {
  int rank, floats = argc > 2 ? atoi(argv[1]) : 0, rounds = argc > 2 ? atoi(argv[2]) : 0;
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  float *values = malloc(floats * sizeof *values);
  double *times = malloc((rounds + 2) * sizeof *times);
  for (int i = 0; i < floats; ++i) values[i] = 1e-30f;
  for (int round = 0; round < rounds + 2; ++round) {
    MPI_Barrier(MPI_COMM_WORLD);
    double start = MPI_Wtime();
    MPI_Allreduce(MPI_IN_PLACE, values, floats, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    times[round] = MPI_Wtime() - start;
  }
  qsort(times + 2, rounds, sizeof *times, compare);
  if (rank == 0 && rounds > 0) printf("%.9f %.9f\n", times[2 + rounds / 2], times[2]);
  MPI_Finalize();
  return 0;
}
