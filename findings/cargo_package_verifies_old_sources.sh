#!/usr/bin/env bash
# cargo 1.95.0: `cargo package` of a workspace where one crate depends on another.
#
# Guess: each crate is verified with the other crates as they were just packaged.
# Seen: Cargo unpacks the dependency into $CARGO_HOME/registry/src/HASH, where HASH comes from the path
# of the target folder alone, and does not look again at a version that lies there. The second run at
# the same path verifies against the first run's sources, though it packaged new ones. Deleting the
# target folder, or a new clone at the same path, changes nothing. A new target folder does.
# Who is hit: continuous integration that clones to a fixed path and keeps Cargo's home. There, a change
# that needs two crates fails; worse, a change that breaks another crate passes.
#
# Needs Cargo, 1.95.0 to compare with. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export CARGO_HOME="$folder/home"
cargo --version

crate() { # NAME, DEPENDENCIES
  mkdir -p "$folder/crates/$1/src"
  cat >"$folder/crates/$1/Cargo.toml" <<TOML
[package]
name = "$1"
version = "0.1.0"
edition = "2021"
license = "MIT"
description = "an example"
[dependencies]
$2
TOML
}
package() { # TARGET
  (cd "$folder/crates" && cargo package --offline --quiet --allow-dirty --target-dir "$1" 2>"$folder/err")
}

mkdir "$folder/crates"
printf '[workspace]\nmembers = ["lower", "upper"]\nresolver = "2"\n' >"$folder/crates/Cargo.toml"
crate lower ""
crate upper 'lower = { path = "../lower", version = "0.1.0" }'
echo 'pub fn old() {}' >"$folder/crates/lower/src/lib.rs"
echo 'pub fn call() { lower::old() }' >"$folder/crates/upper/src/lib.rs"
package "$folder/target"
echo "first run: verified"

echo 'pub fn new() {}' >"$folder/crates/lower/src/lib.rs"
echo 'pub fn call() { lower::new() }' >"$folder/crates/upper/src/lib.rs"
rm -rf "$folder/target"
if package "$folder/target"; then
  echo "changed: the second run verifies with the new sources"
  exit 1
fi
grep "cannot find function \`new\`" "$folder/err"
tar -xzOf "$folder/target/package/tmp-registry/lower-0.1.0.crate" lower-0.1.0/src/lib.rs
echo "second run, same path: fails, though the packaged crate has the function"

package "$folder/other"
echo "third run, another path: verified"
echo "as found"
