//! Addresses in object storage: `s3://studio/spring/hero.png`.
//!
//! Behind the bucket stands the key as it is, the way the stores' own tools write it: `%`, `#` and
//! `?` mean themselves.

use std::fmt;
use std::str::FromStr;

use super::printable::is_unsafe;

/// Which kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StoreKind {
    /// Amazon S3 and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Google,
    /// Azure Blob Storage; its bucket is a container.
    Azure,
    /// A folder, on a disk that several machines share. It has no bucket.
    File,
}

impl StoreKind {
    const ALL: [Self; 4] = [Self::S3, Self::Google, Self::Azure, Self::File];

    /// As an address spells it.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3://",
            Self::Google => "gs://",
            Self::Azure => "az://",
            Self::File => "file://",
        }
    }
}

/// The address of an object, or of all those that begin like it. Without a `/` at its ends, and no
/// part of its key is empty, `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectUrl {
    kind: StoreKind,
    bucket: String,
    key: String,
}

/// Why a text is no address in object storage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectUrlError {
    /// Another scheme, or none.
    #[error("it begins with none of s3://, gs://, az:// and file:///")]
    Scheme,
    /// `s3:///x`.
    #[error("it names no bucket: write {0}BUCKET/PATH")]
    NoBucket(&'static str),
    /// `file://host/x`.
    #[error("the path of a file:// address begins with three slashes: file:///mnt/studio")]
    NotAbsolute,
    /// `a//b`, `.`, `..`.
    #[error("its path has an empty part, `.` or `..`")]
    Part,
    /// It could steer a terminal.
    #[error("it has a control character")]
    Control,
    /// A way out of the bucket.
    #[error("it leads out of its bucket")]
    Outside,
}

impl ObjectUrl {
    /// Whether a text is meant as an address and not as a path.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| {
            scheme.len() > 1 && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
    }

    /// The scheme that a text has but for a slash: `s3:/studio`. It would be the path of a folder `s3:`.
    #[must_use]
    pub fn half_meant(text: &str) -> Option<&'static str> {
        let mut schemes = StoreKind::ALL.into_iter().map(StoreKind::scheme);
        schemes.find(|scheme| !text.starts_with(scheme) && text.starts_with(scheme.trim_end_matches("//")))
    }

    /// Which kind of store.
    #[must_use]
    pub const fn kind(&self) -> StoreKind {
        self.kind
    }

    /// The bucket or container; empty for files.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What stands behind the bucket; empty for the bucket as a whole.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The last part of the key, or the bucket where there is no key.
    #[must_use]
    pub fn name(&self) -> &str {
        let last = self.key.rsplit('/').next().unwrap_or_default();
        if last.is_empty() { &self.bucket } else { last }
    }

    /// What it lies in.
    #[must_use]
    pub fn parent(&self) -> Self {
        let key = self.key.rsplit_once('/').map_or("", |(parent, _)| parent);
        Self { key: key.to_owned(), ..self.clone() }
    }

    /// What `relative` means below it; `..` goes up.
    pub fn join(&self, relative: &str) -> Result<Self, ObjectUrlError> {
        if let Some(absolute) = relative.strip_prefix('/') {
            return Self { key: String::new(), ..self.clone() }.join(absolute);
        }
        let mut parts: Vec<&str> = self.key.split('/').filter(|part| !part.is_empty()).collect();
        for part in relative.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop().ok_or(ObjectUrlError::Outside)?),
                part => parts.push(part),
            }
        }
        let key = parts.join("/");
        if key.chars().any(is_unsafe) {
            return Err(ObjectUrlError::Control);
        }
        Ok(Self { key, ..self.clone() })
    }
}

impl fmt::Display for ObjectUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let between = if self.key.is_empty() && self.kind != StoreKind::File { "" } else { "/" };
        write!(f, "{}{}{between}{}", self.kind.scheme(), self.bucket, self.key)
    }
}

impl FromStr for ObjectUrl {
    type Err = ObjectUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut known = StoreKind::ALL.into_iter();
        let found = known.find_map(|kind| Some((kind, text.strip_prefix(kind.scheme())?)));
        let (kind, rest) = found.ok_or(ObjectUrlError::Scheme)?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if kind == StoreKind::File {
            if !bucket.is_empty() || key.is_empty() {
                return Err(ObjectUrlError::NotAbsolute);
            }
        } else if bucket.is_empty() {
            return Err(ObjectUrlError::NoBucket(kind.scheme()));
        }
        if text.chars().any(is_unsafe) {
            return Err(ObjectUrlError::Control);
        }
        let key = key.strip_suffix('/').unwrap_or(key);
        if !key.is_empty() && key.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(ObjectUrlError::Part);
        }
        Ok(Self { kind, bucket: bucket.to_owned(), key: key.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> ObjectUrl {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_is_taken_apart_and_comes_back_without_its_last_slash() {
        let check = |text: &str, bucket: &str, key: &str, name: &str, shown: &str| {
            let url = url(text);
            assert_eq!((url.bucket(), url.key(), url.name()), (bucket, key, name), "{text}");
            assert_eq!(url.to_string(), shown);
            assert_eq!(shown.parse(), Ok(url));
        };
        check("s3://studio/spring/", "studio", "spring", "spring", "s3://studio/spring");
        check("gs://studio", "studio", "", "studio", "gs://studio");
        check("az://box/a/b #1?.csv", "box", "a/b #1?.csv", "b #1?.csv", "az://box/a/b #1?.csv");
        check("file:///mnt/nas/", "", "mnt/nas", "nas", "file:///mnt/nas");
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_reason() {
        let check = |text: &str, expect| assert_eq!(text.parse::<ObjectUrl>(), Err(expect), "{text}");
        check("ftp://host/x", ObjectUrlError::Scheme);
        check("out/spring", ObjectUrlError::Scheme);
        check("s3:///spring", ObjectUrlError::NoBucket("s3://"));
        check("file://mnt/x", ObjectUrlError::NotAbsolute);
        check("s3://b/a//c", ObjectUrlError::Part);
        check("s3://b/../c", ObjectUrlError::Part);
        check("s3://b/a\u{1b}", ObjectUrlError::Control);
        assert!(ObjectUrl::is_meant("ftp://x") && ObjectUrl::is_meant("s3://x"));
        assert!(
            !ObjectUrl::is_meant("out/x") && !ObjectUrl::is_meant("C://x") && !ObjectUrl::is_meant("a b://x")
        );
    }

    #[test]
    fn an_address_that_lacks_a_slash_is_told_from_a_path() {
        let check = |text: &str, expect| assert_eq!(ObjectUrl::half_meant(text), expect, "{text}");
        check("s3:/studio/a", Some("s3://"));
        check("file:/mnt/a", Some("file://"));
        check("az:a", Some("az://"));
        check("s3://studio/a", None);
        check("./s3:/studio/a", None);
        check("out/s3", None);
    }

    #[test]
    fn a_relative_path_is_taken_below_an_address_and_does_not_leave_the_bucket() {
        let check = |base: &str, relative: &str, expect: Result<&str, ObjectUrlError>| {
            assert_eq!(url(base).join(relative), expect.map(url), "{base} {relative}");
        };
        check("s3://b/jobs", "refs/a.png", Ok("s3://b/jobs/refs/a.png"));
        check("s3://b/jobs", "../refs/./a.png", Ok("s3://b/refs/a.png"));
        check("s3://b", "a.png", Ok("s3://b/a.png"));
        check("s3://b/jobs", "/a.png", Ok("s3://b/a.png"));
        check("s3://b/jobs", "../../a.png", Err(ObjectUrlError::Outside));
        assert_eq!(url("s3://b/jobs/x.csv").parent(), url("s3://b/jobs"));
        assert_eq!(url("s3://b/x.csv").parent(), url("s3://b"));
    }
}
