//! Where a batch's results go: what `-o` asks for, and what was decided when the batch began. A queue in a
//! database remembers it for all machines; a run folder in a file beside its queue.

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::site::{Database, Site};
use crate::job::{ObjectUrl, printable};
use crate::output::{Bucket, Results, RunFolder};
use crate::queue::Queue;

/// The address in object storage that a person gave where a path could stand; `None` if it is a path.
pub(super) fn address_of(path: &Path) -> Result<Option<ObjectUrl>> {
    if let Some(text) = path.to_str()
        && let Some(scheme) = ObjectUrl::half_meant(text)
    {
        bail!("{} lacks a slash: an address begins with {scheme}, and a path with ./", printable(text));
    }
    path.to_str().filter(|text| ObjectUrl::is_meant(text)).map(address).transpose()
}

fn address(text: &str) -> Result<ObjectUrl> {
    text.parse().with_context(|| format!("{} is no address in object storage", printable(text)))
}

impl Site {
    /// Where results go by what was decided, or by what is asked for where nothing is decided: without a
    /// queue, or for a command that looks only.
    pub(super) async fn results(&self, queue: Option<&dyn Queue>) -> Result<Results> {
        let decided = match (queue, &self.database) {
            (Some(queue), Some(_)) => queue.results().await?.map(|text| address(&text)).transpose()?,
            (_, None) => read(&self.folder)?,
            (None, Some(_)) => None,
        };
        let url = match (&self.bucket, decided) {
            (Some(asked), Some(decided)) if *asked != decided => {
                return self.mismatch(asked, &decided.to_string());
            }
            (Some(url), _) => url.clone(),
            (None, Some(url)) => url,
            (None, None) => return Ok(self.folder.clone().into()),
        };
        Ok(Results::Bucket(Bucket::open(&url, self.folder.clone())?))
    }

    /// The same, and from now on it is decided.
    pub(super) async fn decide_results(&self, queue: &dyn Queue) -> Result<Results> {
        let results = self.results(Some(queue)).await?;
        let Some(asked) = &self.bucket else { return Ok(results) };
        let decided = match &self.database {
            Some(_) => queue.decide_results(&asked.to_string()).await?,
            None => decide(&self.folder, asked)?,
        };
        match decided {
            Some(decided) if decided == asked.to_string() => Ok(results),
            Some(decided) => self.mismatch(asked, &decided),
            None => self.mismatch(asked, "the run folder of each machine, where some are already"),
        }
    }

    fn mismatch<T>(&self, asked: &ObjectUrl, decided: &str) -> Result<T> {
        let another = match &self.database {
            None => {
                let folder = printable(&self.folder.path().display().to_string()).to_string();
                format!("start in another directory, since the run folder {folder} is theirs")
            }
            Some(Database { batch, .. }) => {
                format!("name another batch than `{}` with --batch", printable(batch))
            }
        };
        bail!(
            "the results of this batch go into {}, not to {}; leave -o away to go on with it, or {another}",
            printable(decided),
            printable(&asked.to_string())
        )
    }
}

fn read(folder: &RunFolder) -> Result<Option<ObjectUrl>> {
    let path = folder.results_url();
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            Ok(Some(address(text.trim()).with_context(|| format!("{} is not right", path.display()))?))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes down where results go, unless that stands already or there are results. Returns what stands.
fn decide(folder: &RunFolder, url: &ObjectUrl) -> Result<Option<String>> {
    if let Some(decided) = read(folder)? {
        return Ok(Some(decided.to_string()));
    }
    if std::fs::read_dir(folder.images()).is_ok_and(|mut entries| entries.next().is_some()) {
        return Ok(None);
    }
    let path = folder.results_url();
    write(&path, &format!("{url}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Some(url.to_string()))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(temporary, path)
}
