//! No Rust line exceeds 100 columns. rustfmt says nothing of a string or a comment that does, and
//! leaves the whole function around such a string as it is.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// rustfmt's `max_width`.
const COLUMNS: usize = 100;
/// Lines that are named; their number is.
const NAMED: usize = 20;

/// Fails with file, line and width of what is too long.
pub fn check(repository: &Path) -> Result<()> {
    let mut long = Vec::new();
    search(repository, Path::new(""), &mut long)?;
    if long.is_empty() {
        return Ok(());
    }
    let more = long.len().saturating_sub(NAMED);
    let count = long.len();
    long.truncate(NAMED);
    if more > 0 {
        long.push(format!("and {more} more"));
    }
    bail!(
        "{count} lines exceed {COLUMNS} columns; wrap the comment, or break the string with \
         `\\`:\n{}",
        long.join("\n")
    )
}

/// Looks through a folder, in the order of names. `name` is its path below the repository.
fn search(folder: &Path, name: &Path, long: &mut Vec<String>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", name.display()))?;
    let mut entries: Vec<_> = entries.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let file = entry.file_name();
        let name = name.join(&file);
        if entry.file_type()?.is_dir() {
            let hidden = file.as_encoded_bytes().starts_with(b".");
            if !hidden && file != "target" {
                search(&entry.path(), &name, long)?;
            }
        } else if name.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(entry.path())
                .with_context(|| format!("cannot read {}", name.display()))?;
            long.extend(
                too_long(&text)
                    .map(|(line, columns)| format!("{}:{line}: {columns} columns", name.display())),
            );
        }
    }
    Ok(())
}

/// The numbers and widths of the lines of a text that are too long.
fn too_long(text: &str) -> impl Iterator<Item = (usize, usize)> {
    text.lines()
        .map(|line| line.chars().count())
        .zip(1..)
        .filter(|(columns, _)| *columns > COLUMNS)
        .map(|(columns, line)| (line, columns))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_long_as_its_characters() {
        let fits = "é".repeat(COLUMNS);
        assert_eq!(too_long(&fits).count(), 0);
        let text = format!("{fits}\n\n{fits}x\n");
        assert_eq!(too_long(&text).collect::<Vec<_>>(), [(3, COLUMNS + 1)]);
    }

    #[test]
    fn every_file_outside_of_builds_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let long = "x".repeat(COLUMNS + 5);
        for name in ["a/b.rs", "a/c.txt", "target/d.rs", ".git/e.rs"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, &long).unwrap();
        }
        let error = check(folder.path()).unwrap_err().to_string();
        assert!(error.contains("1 lines"), "{error}");
        assert!(error.ends_with("\na/b.rs:1: 105 columns"), "{error}");
    }
}
