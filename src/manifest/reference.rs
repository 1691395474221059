//! Reference images, in files and in object storage: found, told by their bytes, and digested once.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf, absolute};
use std::time::UNIX_EPOCH;

use sha2::{Digest as _, Sha256};

use super::diagnostic::excerpt;
use super::objects::{BlockingObjects, ObjectError, ObjectStamp};
use crate::job::{Digest, MediaType, ObjectUrl, ObjectUrlError, Reference};
use crate::platform::inode;

/// Bytes that are read at once while a file is digested.
const CHUNK_BYTES: usize = 64 << 10;

/// Why a file cannot be a reference image.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// It is not there, or may not be read.
    #[error("cannot read it: {0}")]
    Unreadable(#[from] io::Error),
    /// The same in object storage.
    #[error("cannot read it: {0}")]
    Object(#[from] ObjectError),
    /// Its address means nothing.
    #[error("it is no address in object storage: {0}")]
    BadAddress(#[from] ObjectUrlError),
    /// Nobody was told how to read from object storage.
    #[error("object storage is not read from here")]
    NoObjects,
    /// A folder, a device, a pipe.
    #[error("it is not a regular file")]
    NotAFile,
    /// Some other format; the name does not matter.
    #[error("it is no PNG, JPEG or WebP by its bytes; it begins with {0}")]
    NotAPicture(String),
    /// No request could carry it.
    #[error("its {bytes} bytes are more than a request may have ({bytes_max} bytes)")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The most that a request may have.
        bytes_max: u64,
    },
    /// Someone writes it right now.
    #[error("it changed while it was read; try again when it is complete")]
    Changed,
}

/// What references of a manifest are relative to.
#[derive(Debug, Clone)]
pub(super) enum Base {
    /// The manifest's folder.
    Folder(PathBuf),
    /// The same in object storage.
    Bucket(ObjectUrl),
}

impl Base {
    /// The path or address that a reference means.
    pub(super) fn resolve(&self, reference: &str) -> Result<PathBuf, ReferenceError> {
        if ObjectUrl::is_meant(reference) {
            return Ok(reference.parse::<ObjectUrl>()?.to_string().into());
        }
        match self {
            Self::Folder(folder) => Ok(folder.join(reference)),
            Self::Bucket(folder) => Ok(folder.join(reference)?.to_string().into()),
        }
    }
}

/// A file's digest as it is kept from one run to the next: valid as long as path, size, time
/// and inode are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestEntry {
    /// Absolute path, or the address of an object.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was last changed, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// Its inode; 0 where there are none. Of an object, a number made of the store's mark.
    pub inode: u64,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its format, by its bytes.
    pub media: MediaType,
}

impl DigestEntry {
    fn is_of(&self, stamp: Stamp) -> bool {
        (Stamp { bytes: self.bytes, modified_ns: self.modified_ns, inode: self.inode }) == stamp
    }

    fn reference(&self) -> Reference {
        Reference { path: self.path.clone(), digest: self.digest, bytes: self.bytes, media: self.media }
    }
}

/// Digests of reference images by path, so that no file is read twice while it stays the same.
#[derive(Debug, Default)]
pub struct DigestCache {
    entries: HashMap<PathBuf, DigestEntry>,
    /// Paths whose stamps were compared since [`DigestCache::recheck`].
    checked: HashSet<PathBuf>,
    objects: Option<BlockingObjects>,
}

impl DigestCache {
    /// A cache with what an earlier run knew.
    #[must_use]
    pub fn from_entries(entries: impl IntoIterator<Item = DigestEntry>) -> Self {
        let entries = entries.into_iter().map(|entry| (entry.path.clone(), entry)).collect();
        Self { entries, ..Self::default() }
    }

    /// The same, for a manifest whose references may be in object storage.
    #[must_use]
    pub fn with_objects(self, objects: BlockingObjects) -> Self {
        Self { objects: Some(objects), ..self }
    }

    /// All that is known, in no order.
    pub fn entries(&self) -> impl Iterator<Item = &DigestEntry> {
        self.entries.values()
    }

    /// From here on every file is looked at once more before it is believed to be the same.
    pub(super) fn recheck(&mut self) {
        self.checked.clear();
    }

    /// As [`DigestCache::probe`], after looking at the file once more.
    pub fn probe_again(&mut self, path: &Path, bytes_max: u64) -> Result<Reference, ReferenceError> {
        self.recheck();
        self.probe(path, bytes_max)
    }

    /// The reference image at `path`, which may be the address of an object, digested unless it is known and
    /// unchanged.
    pub fn probe(&mut self, path: &Path, bytes_max: u64) -> Result<Reference, ReferenceError> {
        if let Some(text) = path.to_str().filter(|text| ObjectUrl::is_meant(text)) {
            return self.probe_object(&text.parse()?, bytes_max);
        }
        let path = absolute(path)?;
        if self.checked.contains(&path)
            && let Some(entry) = self.entries.get(&path)
        {
            return Ok(entry.reference());
        }
        // A pipe is found out before it is opened, since opening it would wait for a writer.
        if !fs::metadata(&path)?.is_file() {
            return Err(ReferenceError::NotAFile);
        }
        let file = File::open(&path)?;
        let stamp = Stamp::of(&file.metadata()?);
        let known = self.entries.get(&path).filter(|entry| entry.is_of(stamp)).cloned();
        let entry = match known {
            Some(entry) => entry,
            None => digest_file(file, path.clone(), bytes_max)?,
        };
        Ok(self.learn(path, entry))
    }

    fn probe_object(&mut self, url: &ObjectUrl, bytes_max: u64) -> Result<Reference, ReferenceError> {
        let path = PathBuf::from(url.to_string());
        if self.checked.contains(&path)
            && let Some(entry) = self.entries.get(&path)
        {
            return Ok(entry.reference());
        }
        let objects = self.objects.clone().ok_or(ReferenceError::NoObjects)?;
        let found = objects.stamp(url)?;
        let stamp = Stamp::of_object(&found);
        let known = self.entries.get(&path).filter(|entry| entry.is_of(stamp)).cloned();
        let entry = match known {
            Some(entry) => entry,
            None if stamp.bytes > bytes_max => {
                return Err(ReferenceError::TooLarge { bytes: stamp.bytes, bytes_max });
            }
            None => digest(&mut objects.read(url, &found)?, path.clone(), (stamp, bytes_max))?,
        };
        Ok(self.learn(path, entry))
    }

    fn learn(&mut self, path: PathBuf, entry: DigestEntry) -> Reference {
        let reference = entry.reference();
        self.checked.insert(path.clone());
        self.entries.insert(path, entry);
        reference
    }
}

fn digest_file(mut file: File, path: PathBuf, bytes_max: u64) -> Result<DigestEntry, ReferenceError> {
    let stamp = Stamp::of(&file.metadata()?);
    let entry = digest(&mut file, path, (stamp, bytes_max))?;
    if Stamp::of(&file.metadata()?) == stamp { Ok(entry) } else { Err(ReferenceError::Changed) }
}

/// The digest of what has this stamp.
fn digest(
    source: &mut dyn io::Read,
    path: PathBuf,
    (stamp, bytes_max): (Stamp, u64),
) -> Result<DigestEntry, ReferenceError> {
    if stamp.bytes > bytes_max {
        return Err(ReferenceError::TooLarge { bytes: stamp.bytes, bytes_max });
    }
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut prefix: Vec<u8> = Vec::with_capacity(MediaType::PREFIX_BYTES);
    let mut bytes = 0;
    loop {
        let read = match source.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        let read = chunk.get(..read).unwrap_or_default();
        let missing = MediaType::PREFIX_BYTES.saturating_sub(prefix.len());
        prefix.extend(read.iter().take(missing));
        if prefix.len() == MediaType::PREFIX_BYTES && MediaType::of(&prefix).is_none() {
            break;
        }
        hasher.update(read);
        bytes += read.len() as u64;
        if bytes > stamp.bytes {
            return Err(ReferenceError::Changed);
        }
    }
    let Some(media) = MediaType::of(&prefix) else {
        return Err(ReferenceError::NotAPicture(beginning(&prefix)));
    };
    if bytes != stamp.bytes {
        return Err(ReferenceError::Changed);
    }
    let Stamp { bytes, modified_ns, inode } = stamp;
    Ok(DigestEntry {
        path,
        bytes,
        modified_ns,
        inode,
        digest: Digest::from_bytes(hasher.finalize().into()),
        media,
    })
}

fn beginning(prefix: &[u8]) -> String {
    if prefix.is_empty() {
        "nothing: it is empty".to_owned()
    } else {
        excerpt(&String::from_utf8_lossy(prefix))
    }
}

/// What tells a changed file from the same one without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified_ns: i64,
    inode: u64,
}

impl Stamp {
    fn of_object(found: &ObjectStamp) -> Self {
        Self { bytes: found.bytes, modified_ns: found.modified_ns, inode: found.number() }
    }

    fn of(metadata: &Metadata) -> Self {
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified_ns = modified.and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or(0);
        Self { bytes: metadata.len(), modified_ns, inode: inode(metadata) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";

    fn probe(cache: &mut DigestCache, path: &Path) -> Result<Reference, String> {
        cache.probe(path, 1 << 20).map_err(|error| error.to_string())
    }

    #[test]
    fn a_picture_is_told_by_its_bytes_and_digested() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("photo.jpg");
        fs::write(&path, PNG).expect("written");
        let reference = probe(&mut DigestCache::default(), &path).expect("a picture");
        assert_eq!(reference.media, MediaType::Png);
        assert_eq!(reference.digest, Digest::of(PNG));
        assert_eq!(reference.bytes, PNG.len() as u64);
        assert!(reference.path.is_absolute());
    }

    #[test]
    fn what_is_no_picture_says_why() {
        let dir = tempfile::tempdir().expect("temp dir");
        let check = |name: &str, bytes: Option<&[u8]>, expect: &str| {
            let path = dir.path().join(name);
            if let Some(bytes) = bytes {
                fs::write(&path, bytes).expect("written");
            }
            let error = probe(&mut DigestCache::default(), &path).expect_err("refused");
            assert!(error.contains(expect), "{error}");
        };
        check("a.png", Some(b"<html><body>no</body></html>"), "begins with `<html><body>`");
        check("b.png", Some(b""), "it is empty");
        check("c.png", None, "cannot read it");
        check(".", None, "not a regular file");
        check("d.png", Some(&[PNG, &vec![0; 2 << 20]].concat()), "more than a request may have");
    }

    #[test]
    fn a_known_file_is_read_again_only_when_it_changed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("a.png");
        fs::write(&path, PNG).expect("written");
        let mut first = DigestCache::default();
        probe(&mut first, &path).expect("a picture");
        let mut kept: Vec<DigestEntry> = first.entries().cloned().collect();
        // A digest that no file has shows whether the cache was believed.
        kept[0].digest = Digest::of(b"from the cache");
        let mut second = DigestCache::from_entries(kept);
        assert_eq!(probe(&mut second, &path).expect("known").digest, Digest::of(b"from the cache"));
        fs::write(&path, [PNG, b"more"].concat()).expect("written");
        assert_eq!(probe(&mut second, &path).expect("checked").digest, Digest::of(b"from the cache"));
        second.recheck();
        assert_eq!(probe(&mut second, &path).expect("changed").digest, Digest::of(&[PNG, b"more"].concat()));
    }
}
