//! Files that are there whole, or not at all.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;

/// Writes a file, in a folder that is made if it is not there. Whoever looks sees the old file or the new one. What is
/// there and is no file (a pipe, a device) is written into.
///
/// # Errors
///
/// What `write` says; and when there is no room or no right to write.
pub(crate) fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        let mut there = fs::OpenOptions::new().write(true).open(path)?;
        write(&mut there)?;
        return Ok(there.flush()?);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    // To be read by whom the umask lets, unlike temporary files.
    let mode = Permissions::from_mode(0o666);
    let mut file = tempfile::Builder::new().permissions(mode).tempfile_in(folder)?;
    let mut buffered = std::io::BufWriter::new(&mut file);
    write(&mut buffered)?;
    buffered.flush()?;
    drop(buffered);
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_a_device_is_written_into() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/results");
        for text in ["long and first", "short"] {
            write_whole(&path, |file| Ok(file.write_all(text.as_bytes())?)).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let failed = write_whole(&path, |_| anyhow::bail!("no"));
        assert!(failed.is_err() && fs::read_to_string(&path).unwrap() == "short");
        let full = write_whole(Path::new("/dev/full"), |file| Ok(file.write_all(b"x")?));
        assert!(full.unwrap_err().to_string().contains("No space left"));
        assert!(!fs::metadata("/dev/full").unwrap().is_file());
    }
}
