//! The digest of what an image is made from.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// One thing that goes into an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A file, or a folder with all below it: relative names and bytes count.
    Path(PathBuf),
    /// A file by name, size and time of change, for binaries of 100 MB that a package manager put
    /// there.
    Installed(PathBuf),
    /// A value, such as the compiler's version.
    Value(String),
}

/// The key of `inputs`, 64 hex digits; their order counts.
pub fn of(inputs: &[Input]) -> Result<String> {
    let mut digest = Sha256::new();
    for input in inputs {
        match input {
            Input::Path(path) => add_tree(&mut digest, path, Path::new(""))?,
            Input::Installed(path) => {
                let meta =
                    fs::metadata(path).with_context(|| format!("{} is missing", path.display()))?;
                add(
                    &mut digest,
                    format!("{} {} {:?}", path.display(), meta.len(), meta.modified()?).as_bytes(),
                );
            }
            Input::Value(value) => add(&mut digest, value.as_bytes()),
        }
    }
    Ok(hex(&digest.finalize()))
}

/// The key of an image that rests on another one.
pub fn combine(key: &str, base: &str) -> String {
    hex(&Sha256::digest(format!("{key} {base}")))
}

fn add_tree(digest: &mut Sha256, path: &Path, name: &Path) -> Result<()> {
    add(digest, name.as_os_str().as_encoded_bytes());
    if !path.is_dir() {
        add(
            digest,
            &fs::read(path).with_context(|| format!("cannot read {}", path.display()))?,
        );
        return Ok(());
    }
    let mut children: Vec<_> = fs::read_dir(path)?.collect::<Result<_, _>>()?;
    children.sort_by_key(fs::DirEntry::file_name);
    for child in children {
        add_tree(digest, &child.path(), &name.join(child.file_name()))?;
    }
    Ok(())
}

/// The length goes first, so that `ab` + `c` and `a` + `bc` differ.
fn add(digest: &mut Sha256, bytes: &[u8]) {
    digest.update((bytes.len() as u64).to_le_bytes());
    digest.update(bytes);
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing into a String never fails.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn key_follows_names_and_bytes_but_not_the_place() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for root in [a.path(), b.path()] {
            fs::create_dir(root.join("src")).unwrap();
            fs::write(root.join("src/lib.rs"), "one").unwrap();
        }
        let key = |root: &Path| of(&[Input::Path(root.to_owned())]).unwrap();
        assert_eq!(key(a.path()), key(b.path()));

        fs::write(b.path().join("src/lib.rs"), "two").unwrap();
        assert_ne!(key(a.path()), key(b.path()), "changed bytes");

        fs::write(b.path().join("src/lib.rs"), "one").unwrap();
        fs::rename(b.path().join("src/lib.rs"), b.path().join("src/main.rs")).unwrap();
        assert_ne!(key(a.path()), key(b.path()), "changed name");
    }

    #[test]
    fn values_do_not_run_into_each_other() {
        let key =
            |values: [&str; 2]| of(&values.map(|value| Input::Value(value.to_owned()))).unwrap();
        assert_ne!(key(["ab", "c"]), key(["a", "bc"]));
    }
}
