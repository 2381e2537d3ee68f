//! Replaces a file so that it is complete at every moment.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Writes `file` with `write`, which gets the path to write to: a new file in the same folder. Once
/// that is on the disk, it takes the place of `file` in one step. An error, or the end of the
/// process at any moment, leaves the old file as it was.
pub(super) fn replace<E: From<io::Error>>(file: &Path, write: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    // The file that a link leads to is replaced, and not the link.
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_path_buf());
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let mut builder = tempfile::Builder::new();
    let new = builder.prefix(".").suffix(".partial");
    #[cfg(unix)]
    let new = new.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let new = new.tempfile_in(&folder)?;
    if let Ok(old) = fs::metadata(&file) {
        new.as_file().set_permissions(old.permissions())?;
    }
    write(new.path())?;
    // Without this, a crash of the machine could leave the new name with old or no contents.
    new.as_file().sync_all()?;
    new.persist(&file).map_err(|error| error.error)?;
    File::open(&folder)?.sync_all()?;
    Ok(())
}
