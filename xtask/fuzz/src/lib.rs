//! What the targets share.

use std::alloc::System;
use std::path::Path;

use cap::Cap;
use syn::{Data, DeriveInput, Member};

/// The memory of Rust's code. libFuzzer sees what is allocated only under a sanitizer, so a target
/// sets a limit here: what goes beyond it ends the process, as a fault.
#[global_allocator]
pub static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// A folder that takes no time of a disk, where the system has one.
pub fn folder_in_memory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a folder can be made")
}

/// Whether the compiler refuses an item before a derive sees it: what is no item of a kind that has
/// derives, or has a field `_`, which syn reads.
pub fn is_refused(item: syn::Result<DeriveInput>) -> bool {
    let is_underscore = |name: Member| matches!(name, Member::Named(name) if name == "_");
    match item.map(|item| item.data) {
        Ok(Data::Struct(data)) => data.fields.members().any(is_underscore),
        Ok(Data::Enum(_) | Data::Union(_)) => false,
        Err(_) => true,
    }
}
