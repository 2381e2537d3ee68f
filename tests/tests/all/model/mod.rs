//! The annotated struct, its skips and its variables: `docs/language.md`.

mod array_skips;
mod balance_file;
mod files;
mod language;
mod lent;
mod optional;
mod picture;
mod skips;
mod strict;
mod sums;
mod tied;
mod vars;
