//! Replaces a file so that it is complete at every moment.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Writes `file` with `write`: into a new file in the same folder, which takes the place of `file`
/// in one step once it is on the disk. After an error, or the end of the process at any moment,
/// `file` is the old one.
pub(crate) fn replace(file: &Path, write: impl FnOnce(&mut File) -> Result<(), String>) -> Result<(), String> {
    let words = |error: io::Error| error.to_string();
    // The file that a link leads to is replaced, and not the link.
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_path_buf());
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix(".").suffix(".partial");
    // As any new file, and not as a secret one. The process's mask applies.
    #[cfg(unix)]
    let builder = builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut new = builder.tempfile_in(&folder).map_err(words)?;
    if let Ok(old) = fs::metadata(&file) {
        if !old.is_file() {
            return Err("it is not a file".into());
        }
        new.as_file().set_permissions(old.permissions()).map_err(words)?;
    }
    write(new.as_file_mut())?;
    // Without this, a crash of the machine could leave the new name with old or no contents.
    new.as_file().sync_all().map_err(words)?;
    new.persist(&file).map_err(|error| words(error.error))?;
    sync_folder(&folder).map_err(words)
}

/// Writes the names in a folder to the disk.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
