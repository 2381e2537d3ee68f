// What `ping_pong.rs` measures, by calls of MPI's own functions. Two processes; the arguments are
// sizes in bytes, each followed by the number of rounds. For each size, the first process prints
// the p50 and p95 of half a round in seconds.

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void finish(MPI_Request *request) {
  for (int done = 0; !done;) MPI_Test(request, &done, MPI_STATUS_IGNORE);
}

static void step(int sends, char *bytes, int size, int other) {
  MPI_Request request;
  if (sends)
    MPI_Isend(bytes, size, MPI_BYTE, other, 1, MPI_COMM_WORLD, &request);
  else
    MPI_Irecv(bytes, size, MPI_BYTE, other, 1, MPI_COMM_WORLD, &request);
  finish(&request);
}

static int compare(const void *left, const void *right) {
  double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

int main(int argc, char **argv) {
  int rank;
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  for (int argument = 1; argument + 1 < argc; argument += 2) {
    int size = atoi(argv[argument]), rounds = atoi(argv[argument + 1]);
    int warm_up = rounds / 10;
    char *sent = malloc(size), *received = malloc(size);
    double *times = malloc((rounds + warm_up) * sizeof *times);
    memset(sent, 1, size);
    memset(received, 2, size);
    for (int round = 0; round < rounds + warm_up; ++round) {
      double start = MPI_Wtime();
      step(rank == 0, rank == 0 ? sent : received, size, 1 - rank);
      step(rank == 1, rank == 1 ? sent : received, size, 1 - rank);
      times[round] = (MPI_Wtime() - start) / 2;
    }
    times += warm_up;
    qsort(times, rounds, sizeof *times, compare);
    if (rank == 0) printf("%.9f %.9f\n", times[rounds / 2], times[rounds * 95 / 100]);
    free(times - warm_up);
    free(received);
    free(sent);
  }
  MPI_Finalize();
  return 0;
}
