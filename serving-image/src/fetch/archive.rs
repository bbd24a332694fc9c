//! Reads untrusted archives: only listed files are extracted, as plain files of their listed size.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use super::error::FetchError;
use super::layout::Wanted;
use super::listing::Listed;
use crate::artefact::{Digest, MANIFEST_FILE, MAX_MANIFEST};

/// Most entries of an archive, folders and unlisted files included.
const MAX_ENTRIES: usize = 100_000;
/// Longest name, and largest block of further header fields.
const MAX_NAME: u64 = 4096;
const MAX_FIELDS: u64 = 64 << 10;

/// Beginning of the name of a file in an image's layer that deletes one of a layer below it.
pub(super) const WHITEOUT: &str = ".wh.";

/// An archive on disk.
pub(super) struct Tar<'a> {
    pub path: &'a Path,
    pub gzip: bool,
    /// Most bytes that may come out of it: what else is in it counts too.
    pub limit: u64,
}

/// One file of an archive.
pub(super) struct Member<'a, R: Read> {
    pub path: String,
    pub size: u64,
    pub content: &'a mut R,
}

type TarMember<'a, 'b> = Member<'a, tar::Entry<'b, Box<dyn Read>>>;

impl Tar<'_> {
    /// The artefact's manifest, and the folder of the archive that holds it: empty, or one name and
    /// a slash. `None` where it has no manifest. An error where the archive cannot be read, or its
    /// manifest is too large.
    pub fn manifest(&self) -> Result<Option<(Vec<u8>, String)>, FetchError> {
        let mut found = None;
        self.each("", |member| {
            let folder = member.path.strip_suffix(MANIFEST_FILE);
            let at_top = |folder: &&str| {
                folder.is_empty() || (folder.ends_with('/') && folder.matches('/').count() == 1)
            };
            let Some(folder) = folder.filter(at_top).map(str::to_owned) else {
                return Ok(true);
            };
            if member.size > MAX_MANIFEST {
                return Err(hostile(&format!(
                    "its {MANIFEST_FILE} has {} bytes, more than {MAX_MANIFEST}",
                    member.size
                )));
            }
            let mut bytes = Vec::new();
            member.content.read_to_end(&mut bytes).map_err(broken)?;
            found = Some((bytes, folder));
            Ok(false)
        })?;
        Ok(found)
    }

    /// Writes the listed files below `folder` of the archive into `directory`; gives the paths of
    /// those that were in it. An error where the archive cannot be read, a file differs from its
    /// list entry, or it cannot be written.
    pub fn extract(
        &self,
        folder: &str,
        files: &[Listed],
        directory: &Path,
    ) -> Result<BTreeSet<String>, FetchError> {
        let mut open: BTreeMap<&str, &Listed> = files
            .iter()
            .map(|file| (file.path.as_str(), file))
            .collect();
        let mut done = BTreeSet::new();
        self.each("", |member| {
            let Some(path) = member.path.strip_prefix(folder) else {
                return Ok(true);
            };
            if done.contains(path) {
                return Err(hostile(&format!("it holds {path:?} twice")));
            }
            if let Some(file) = open.remove(path) {
                write_member(member.size, member.content, file, directory)?;
                done.insert(path.to_owned());
            }
            Ok(true)
        })?;
        Ok(done)
    }

    /// Visits each regular file below a folder until `visit` says that it is enough. Anything but
    /// files and folders is refused there; what is elsewhere is left alone, such as the links of an
    /// image's operating system.
    pub fn each(
        &self,
        below: &str,
        mut visit: impl FnMut(TarMember<'_, '_>) -> Result<bool, FetchError>,
    ) -> Result<(), FetchError> {
        let file = File::open(self.path).map_err(|error| FetchError::storage(self.path, error))?;
        let file = io::BufReader::with_capacity(1 << 20, file);
        let plain: Box<dyn Read> = if self.gzip {
            Box::new(MultiGzDecoder::new(file))
        } else {
            Box::new(file)
        };
        let bounded: Box<dyn Read> = Box::new(Bounded {
            inner: plain,
            left: self.limit,
        });
        let mut archive = tar::Archive::new(bounded);
        // Raw: the crate reads long names and further fields into memory whatever their size.
        let entries = archive.entries().map_err(broken)?.raw(true);
        let mut long_name = None;
        for (index, entry) in entries.enumerate() {
            if index >= MAX_ENTRIES {
                return Err(hostile(&format!("it has more than {MAX_ENTRIES} entries")));
            }
            let mut entry = entry.map_err(broken)?;
            let kind = entry.header().entry_type();
            match kind {
                EntryType::GNULongName => {
                    let name = read_small(&mut entry, MAX_NAME)?;
                    long_name = Some(name.trim_end_matches('\0').to_owned());
                }
                EntryType::XHeader => {
                    let fields = read_bytes(&mut entry, MAX_FIELDS)?;
                    if let Some(name) = path_of_fields(&fields)? {
                        long_name = Some(name);
                    }
                }
                EntryType::XGlobalHeader => {}
                // Of a link: it follows.
                EntryType::GNULongLink if !below.is_empty() => {}
                _ if is_elsewhere(long_name.as_deref(), &entry.path_bytes(), below) => {
                    long_name = None;
                }
                EntryType::Regular | EntryType::Directory => {
                    let name = match long_name.take() {
                        Some(name) => name,
                        None => String::from_utf8(entry.path_bytes().into_owned())
                            .map_err(|_| hostile("a name is no text"))?,
                    };
                    let path = inner_path(&name)?;
                    // Old archives write a folder as a file whose name ends in a slash.
                    let folder = kind == EntryType::Directory || name.ends_with('/');
                    let size = entry.header().entry_size().map_err(broken)?;
                    let member = Member {
                        path,
                        size,
                        content: &mut entry,
                    };
                    if !folder && !visit(member)? {
                        return Ok(());
                    }
                }
                other => {
                    let name = long_name.take().unwrap_or_else(|| {
                        String::from_utf8_lossy(&entry.path_bytes()).into_owned()
                    });
                    return Err(hostile(&format!(
                        "{name:?} is {}; only files and folders are accepted",
                        kind_in_words(other)
                    )));
                }
            }
        }
        Ok(())
    }
}

fn write_member(
    size: u64,
    content: &mut impl Read,
    file: &Listed,
    directory: &Path,
) -> Result<(), FetchError> {
    if size != file.size {
        return Err(FetchError::Content(format!(
            "size mismatch: {} has {size} bytes in the archive, but the manifest says {}",
            file.path, file.size
        )));
    }
    let path = directory.join(&file.path);
    let error = |error| FetchError::storage(&path, error);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(error)?;
    }
    let mut written = File::create_new(&path).map_err(error)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = content.read(&mut buffer).map_err(broken)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        written.write_all(&buffer[..read]).map_err(error)?;
    }
    let found = Digest::from_hash(hash).hex();
    if found == file.sha256 {
        return Ok(());
    }
    Err(FetchError::Content(format!(
        "sha256 mismatch: {} in the archive has {found}, but the manifest says {}",
        file.path, file.sha256
    )))
}

impl Listed {
    /// What the file must be.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            size: self.size,
            sha256: self.sha256.clone(),
        }
    }
}

fn hostile(what: &str) -> FetchError {
    FetchError::Content(format!(
        "the archive is not accepted: {what}. Pack the artefact's own files, and nothing else"
    ))
}

#[allow(clippy::needless_pass_by_value)] // for `map_err(broken)`
pub(super) fn broken(error: io::Error) -> FetchError {
    // The tar reader wraps what the bounded one said.
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        let wrapped = inner
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if inner.is::<TooMuch>() || matches!(wrapped, Some(wrapped) if wrapped.is::<TooMuch>()) {
            return too_large();
        }
        cause = wrapped.map_or_else(|| inner.source(), |wrapped| Some(wrapped));
    }
    FetchError::Content(format!("the archive cannot be read: {error}"))
}

pub(super) fn too_large() -> FetchError {
    FetchError::Refused(
        "the archive unpacks to more than the platform allows (--max-size)".to_owned(),
    )
}

/// The path inside the archive, without `./` at its front. Absolute paths and `..` are refused, not
/// repaired.
fn inner_path(name: &str) -> Result<String, FetchError> {
    let escapes = || hostile(&format!("the path {name:?} leads out of it"));
    if name.contains(['\\', '\0']) || name.len() as u64 > MAX_NAME {
        return Err(escapes());
    }
    let mut path = PathBuf::new();
    for part in Path::new(name).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => path.push(part),
            _ => return Err(escapes()),
        }
    }
    Ok(path.to_string_lossy().into_owned())
}

/// Whether a path is not below a folder of the archive. One that leads out is not elsewhere: it is
/// refused.
fn is_elsewhere(long_name: Option<&str>, name: &[u8], below: &str) -> bool {
    let short = String::from_utf8_lossy(name);
    let name = long_name.unwrap_or(&short);
    let deletes_it = |path: &str| path.strip_prefix(WHITEOUT) == below.strip_suffix('/');
    inner_path(name).is_ok_and(|path| !format!("{path}/").starts_with(below) && !deletes_it(&path))
}

fn read_small(entry: &mut impl Read, limit: u64) -> Result<String, FetchError> {
    let bytes = read_bytes(entry, limit)?;
    String::from_utf8(bytes).map_err(|_| hostile("a name is no text"))
}

fn read_bytes(entry: &mut impl Read, limit: u64) -> Result<Vec<u8>, FetchError> {
    let mut text = Vec::new();
    let read = entry
        .take(limit + 1)
        .read_to_end(&mut text)
        .map_err(broken)?;
    if read as u64 > limit {
        return Err(hostile(&format!(
            "a name or header has more than {limit} bytes"
        )));
    }
    Ok(text)
}

/// The path in a block of PAX fields, `LENGTH NAME=VALUE\n` each. Values of others, such as those
/// of extended attributes, may be no text.
fn path_of_fields(mut fields: &[u8]) -> Result<Option<String>, FetchError> {
    let malformed = || hostile("its further header fields are malformed");
    let split = |bytes: &'_ [u8], at: u8| bytes.iter().position(|byte| *byte == at);
    let mut path = None;
    while !fields.is_empty() {
        let space = split(fields, b' ').ok_or_else(malformed)?;
        let length = std::str::from_utf8(&fields[..space]).map_err(|_| malformed())?;
        let end: usize = length.parse().map_err(|_| malformed())?;
        let field = fields.get(space + 1..end).ok_or_else(malformed)?;
        let field = field.strip_suffix(b"\n").ok_or_else(malformed)?;
        let equals = split(field, b'=').ok_or_else(malformed)?;
        let name = std::str::from_utf8(&field[..equals]).map_err(|_| malformed())?;
        match name {
            "path" => {
                let value = std::str::from_utf8(&field[equals + 1..]);
                path = Some(value.map_err(|_| hostile("a name is no text"))?.to_owned());
            }
            // The content's true size, where it is not the header's.
            "size" => {
                return Err(hostile(
                    "a file of 8 GiB or more in the PAX format; write it by `tar --format=gnu`, \
                     or publish the files one by one",
                ));
            }
            name if name.starts_with("GNU.sparse") => {
                return Err(hostile("a file is sparse; only whole files are accepted"));
            }
            _ => {}
        }
        fields = &fields[end..];
    }
    Ok(path)
}

fn kind_in_words(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Symlink => "a symbolic link",
        EntryType::Link => "a hard link",
        EntryType::Char | EntryType::Block => "a device",
        EntryType::Fifo => "a pipe",
        EntryType::GNUSparse => "a sparse file",
        EntryType::GNULongLink => "a link with a long name",
        _ => "of an unknown kind",
    }
}

/// More came out than may.
#[derive(Debug, thiserror::Error)]
#[error("too much")]
struct TooMuch;

/// Fails once more than `left` bytes came out: small archives can hold terabytes of zeros.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other(TooMuch))?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tar::{Builder, Header};

    use super::*;

    /// A member as an attacker would write it: the name goes into the header as it is.
    fn member(kind: u8, name: &[u8], content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..11].copy_from_slice(b"/etc/passwd");
        header.set_entry_type(EntryType::new(kind));
        header.set_size(content.len() as u64);
        header.set_mode(0o4755);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn listed(path: &str, content: &[u8]) -> Listed {
        Listed {
            path: path.to_owned(),
            size: content.len() as u64,
            sha256: Digest::of(content).hex(),
        }
    }

    /// What comes of extracting `members`, and the names of all files that are there afterwards.
    fn extract(
        members: &[Vec<u8>],
        files: &[Listed],
    ) -> (Result<BTreeSet<String>, FetchError>, Vec<String>) {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("a.tar");
        let mut bytes = members.concat();
        bytes.resize(bytes.len() + 1024, 0);
        std::fs::write(&archive, bytes).unwrap();
        let inside = directory.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        let tar = Tar {
            path: &archive,
            gzip: false,
            limit: 1 << 20,
        };
        let outcome = tar.extract("", files, &inside);
        let names = |path: &Path| {
            let entries = std::fs::read_dir(path).unwrap();
            entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect::<Vec<_>>()
        };
        let mut there = names(&inside);
        there.extend(
            names(directory.path())
                .into_iter()
                .filter(|name| name != "a.tar" && name != "inside"),
        );
        (outcome, there)
    }

    #[test]
    fn hostile_members_are_refused_and_leave_nothing() {
        let wanted = [listed("w", b"wxyz")];
        let pax = |fields: &str| member(b'x', b"pax", fields.as_bytes());
        let plain = member(b'0', b"w", b"wxyz");
        for (members, word) in [
            (vec![member(b'0', b"../w", b"wxyz")], "leads out"),
            (vec![member(b'0', b"a/../../w", b"wxyz")], "leads out"),
            (vec![member(b'0', b"/tmp/w", b"wxyz")], "leads out"),
            (vec![member(b'5', b"../d", b"")], "leads out"),
            (vec![member(b'0', b"a\\w", b"wxyz")], "leads out"),
            (vec![member(b'2', b"w", b"")], "symbolic link"),
            (vec![member(b'1', b"w", b"")], "hard link"),
            (vec![member(b'3', b"w", b"")], "device"),
            (vec![member(b'4', b"w", b"")], "device"),
            (vec![member(b'6', b"w", b"")], "pipe"),
            (vec![member(b'S', b"w", b"")], "sparse"),
            (vec![member(b'K', b"w", b"x")], "link with a long name"),
            (vec![member(b'V', b"w", b"")], "unknown kind"),
            (
                vec![
                    member(b'L', b"l", b"../../w\0"),
                    member(b'0', b"w", b"wxyz"),
                ],
                "leads out",
            ),
            (vec![member(b'L', b"l", &[b'a'; 5000])], "more than 4096"),
            (vec![pax("13 path=../w\n"), plain.clone()], "leads out"),
            (
                vec![pax(&format!("70000 comment={}", "x".repeat(69_000)))],
                "more than 65536",
            ),
            (vec![pax("13 path=../w")], "malformed"),
            (vec![pax("x path=../w\n")], "malformed"),
            (vec![pax("99 path=../w\n")], "malformed"),
            (vec![pax("1 path=../w\n")], "malformed"),
            (vec![pax("10 size=9\n"), plain.clone()], "8 GiB"),
            (
                vec![pax("22 GNU.sparse.major=1\n"), plain.clone()],
                "sparse",
            ),
            (vec![plain.clone(), plain.clone()], "twice"),
            (vec![member(b'0', b"w", b"wxy")], "size mismatch"),
            (vec![member(b'0', b"w", b"wxyZ")], "sha256 mismatch"),
            (
                vec![b"no archive at all, but longer than nothing".repeat(20)],
                "cannot be read",
            ),
            (vec![plain[..100].to_vec()], "cannot be read"),
            (vec![member(b'0', b"bomb", &vec![0; 2 << 20])], "--max-size"),
        ] {
            let (outcome, there) = extract(&members, &wanted);
            let refused = outcome.unwrap_err();
            assert!(refused.to_string().contains(word), "{word}: {refused}");
            assert!(matches!(refused.exit_code(), 3 | 5), "{refused}");
            assert!(there.iter().all(|name| name == "w"), "{word}: {there:?}");
        }
    }

    #[test]
    fn only_listed_files_come_out_whatever_writes_the_archive() {
        let long = format!("deep/{}/w.bin", "n".repeat(150));
        let files = [listed("w", b"wxyz"), listed(&long, b"long")];
        let mut pax = Vec::new();
        let field = format!(" path={long}\n");
        let length = field.len() + 3;
        pax.push(member(b'x', b"pax", format!("{length}{field}").as_bytes()));
        pax.push(member(b'0', b"short", b"long"));
        pax.push(member(b'g', b"global", b"18 comment=global\n"));
        pax.push(member(b'0', b"./w", b"wxyz"));
        pax.push(member(b'0', b"unlisted", b"unlisted"));
        let (outcome, there) = extract(&pax, &files);
        assert_eq!(
            outcome.unwrap(),
            BTreeSet::from(["w".to_owned(), long.clone()])
        );
        assert_eq!(there.len(), 2, "{there:?}");

        let mut gnu = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(4);
        gnu.append_data(&mut header, &long, &b"long"[..]).unwrap();
        gnu.append_data(&mut header, "w", &b"wxyz"[..]).unwrap();
        let (outcome, _) = extract(&[gnu.into_inner().unwrap()], &files);
        assert_eq!(outcome.unwrap().len(), 2);
    }

    #[test]
    fn a_small_archive_of_terabytes_ends_at_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bomb.tgz");
        let mut gzip = GzEncoder::new(File::create(&path).unwrap(), Compression::fast());
        let mut header = Header::new_gnu();
        header.set_path("zeros").unwrap();
        header.set_size(1 << 40);
        header.set_cksum();
        gzip.write_all(header.as_bytes()).unwrap();
        for _ in 0..64 {
            gzip.write_all(&vec![0; 1 << 20]).unwrap();
        }
        gzip.finish().unwrap();
        let tar = Tar {
            path: &path,
            gzip: true,
            limit: 8 << 20,
        };
        for refused in [
            tar.manifest().map(|_| ()).unwrap_err(),
            tar.extract("", &[], directory.path())
                .map(|_| ())
                .unwrap_err(),
        ] {
            assert_eq!(refused.exit_code(), 3, "{refused}");
        }
    }

    #[test]
    fn the_manifest_is_found_at_the_top_or_in_one_folder() {
        for (name, folder) in [
            ("serin-model.json", Some("")),
            ("./serin-model.json", Some("")),
            ("iris/serin-model.json", Some("iris/")),
            ("a/b/serin-model.json", None),
            ("not-serin-model.json", None),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("a.tar");
            let mut bytes = member(b'0', name.as_bytes(), b"{}");
            bytes.resize(bytes.len() + 1024, 0);
            std::fs::write(&path, bytes).unwrap();
            let tar = Tar {
                path: &path,
                gzip: false,
                limit: 1 << 20,
            };
            let found = tar.manifest().unwrap();
            assert_eq!(found.map(|(_, folder)| folder).as_deref(), folder, "{name}");
        }
    }
}
