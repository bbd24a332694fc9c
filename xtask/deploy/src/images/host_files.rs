//! A root file system made of this machine's own programs, for images that cannot be pulled.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use cluster::process;

/// Copies `programs` (from, to) into `root`, with the shared libraries and the loader that they
/// name, and the public certificate authorities.
pub fn stage(root: &Path, programs: &[(PathBuf, &str)]) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for (from, to) in programs {
        copy(from, &root.join(to))?;
        let listing = process::output(Command::new("ldd").arg(from))?;
        libraries.extend(
            parse_ldd(&listing).with_context(|| format!("libraries of {}", from.display()))?,
        );
    }
    for library in libraries {
        copy(&library, &root.join(library.strip_prefix("/")?))?;
    }
    copy(
        Path::new("/etc/ssl/certs/ca-certificates.crt"),
        &root.join("etc/ssl/certs/ca-certificates.crt"),
    )?;
    // Programs that write need somewhere to: the pods mount an emptyDir there.
    fs::create_dir_all(root.join("tmp"))?;
    Ok(())
}

/// The files that an output of `ldd` names. A line is `libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6
/// (0x…)`, the loader's `/lib64/ld-linux-x86-64.so.2 (0x…)`; the kernel's vdso has no file.
fn parse_ldd(listing: &str) -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for line in listing.lines().map(str::trim) {
        let target = line.split_once(" => ").map_or(line, |(_, target)| target);
        if target.starts_with("not found") {
            bail!("{line}");
        }
        if target.starts_with('/') {
            files.insert(PathBuf::from(target.split(" (").next().unwrap_or(target)));
        }
    }
    Ok(files)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ldd_names_libraries_and_loader_but_not_the_vdso() {
        let listing = "\tlinux-vdso.so.1 (0x00007f7d)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f7d)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f7d)\n";
        let files: Vec<_> = parse_ldd(listing).unwrap().into_iter().collect();
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(files, expected.map(PathBuf::from));
    }

    #[test]
    fn a_missing_library_is_an_error() {
        let error = parse_ldd("\tlibssl.so.9 => not found\n").unwrap_err();
        assert!(error.to_string().contains("libssl.so.9"), "{error}");
    }

    #[test]
    fn a_static_program_has_no_libraries() {
        assert!(parse_ldd("\tstatically linked\n").unwrap().is_empty());
    }
}
