//! Where a command works: its run folder, the database of its queue if that is not in the folder, and the
//! bucket that was asked for.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use super::destination::address_of;
use super::folder;
use super::options::{FolderArgs, QueueOptions};
use crate::job::{ObjectUrl, Provider, printable};
use crate::output::RunFolder;
use crate::queue::postgres::{Address, PostgresQueue};

/// Batches that an error lists.
const LISTED_MAX: usize = 10;

/// A run folder and, for a queue of many machines, its batch. Where results go is another matter: see
/// [`Site::results`].
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub(super) folder: RunFolder,
    pub(super) database: Option<Database>,
    /// Where `-o` wants the results.
    pub(super) bucket: Option<ObjectUrl>,
}

/// One batch in a database.
#[derive(Debug, Clone)]
pub(super) struct Database {
    pub(super) address: Address,
    pub(super) batch: String,
    /// When a worker of another machine is dead.
    pub(super) silent_after: Duration,
}

impl Site {
    /// What the batch is called: without a database as its folder is.
    pub(super) fn batch_name(&self) -> String {
        let in_database = self.database.as_ref().map(|database| database.batch.clone());
        in_database.or_else(|| name_of(&self.folder)).unwrap_or_default()
    }

    /// Of a command that has a manifest. A batch without a name is called as its folder is.
    pub(super) fn of_manifest(
        args: &FolderArgs,
        queue: &QueueOptions,
        (manifest, provider): (&Path, Provider),
    ) -> Result<Self> {
        let (given, bucket) = place(args)?;
        let mut folder = match given {
            Some(folder) => folder,
            None => folder::of_manifest(manifest, provider)?,
        };
        let database = match queue.address()? {
            None => None,
            Some(address) => {
                let Some(batch) = queue.batch.clone().or_else(|| name_of(&folder)) else {
                    bail!("{} gives the batch no name; name it with --batch NAME", folder.path().display())
                };
                if bucket.is_some() {
                    folder = folder::below_out(&batch)?;
                }
                Some(Database { address, batch, silent_after: queue.silence() })
            }
        };
        Ok(Self { folder, database, bucket })
    }

    /// Of a command without one. Where only the database is named, it must hold one batch, or `-o` or
    /// `--batch` chooses; results go to `out/<batch>` then.
    pub(super) async fn of_run(args: &FolderArgs, queue: &QueueOptions, current: &Path) -> Result<Self> {
        let (folder, bucket) = place(args)?;
        let Some(address) = queue.address()? else {
            let folder = match folder {
                Some(folder) => folder,
                None => folder::of_run(current)?,
            };
            return Ok(Self { folder, database: None, bucket });
        };
        let named = queue.batch.clone().or_else(|| folder.as_ref().and_then(name_of));
        let batch = match named {
            Some(batch) => batch,
            None => only_batch(&address).await?,
        };
        // With or without a bucket's address, the same one: answers may wait in its spool.
        let folder = match folder.filter(|_| bucket.is_none()) {
            Some(folder) => folder,
            None => folder::below_out(&batch)?,
        };
        let silent_after = queue.silence();
        Ok(Self { folder, database: Some(Database { address, batch, silent_after }), bucket })
    }

    /// What other commands are told to find it by, without a password.
    pub(super) fn flags(&self) -> String {
        let folder = match &self.bucket {
            None => self.folder.path().display().to_string(),
            Some(url) => url.to_string(),
        };
        match &self.database {
            None => format!("-o {}", for_shell(&folder)),
            Some(Database { address, batch, .. }) => {
                let address = for_shell(&address.to_string());
                format!("--queue {address} --batch {} -o {}", for_shell(batch), for_shell(&folder))
            }
        }
    }
}

/// A word that a shell takes as it is, in quotes where it needs them.
fn for_shell(word: &str) -> String {
    let word = printable(word).to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word;
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, batch `{}`", self.address, printable(&self.batch))
    }
}

/// The run folder that `-o` names, and the bucket: then the folder is below `out/`, and called as the address ends
/// or, with a database, as its batch.
fn place(args: &FolderArgs) -> Result<(Option<RunFolder>, Option<ObjectUrl>)> {
    let Some(output) = args.output.as_deref() else { return Ok((None, None)) };
    match address_of(output)? {
        None => Ok((Some(folder::given(output)?), None)),
        Some(url) => Ok((Some(folder::below_out(url.name())?), Some(url))),
    }
}

fn name_of(folder: &RunFolder) -> Option<String> {
    Some(folder.path().file_name()?.to_string_lossy().into_owned())
}

async fn only_batch(address: &Address) -> Result<String> {
    let mut batches = PostgresQueue::batches(address.clone()).await?;
    match (batches.len(), batches.pop()) {
        (1, Some(only)) => Ok(only),
        (_, None) => bail!("there is no batch at {address}; `nightpress load MANIFEST --queue …` makes one"),
        (several, Some(last)) => {
            batches.push(last);
            let shown: Vec<String> =
                batches.iter().rev().take(LISTED_MAX).map(|name| printable(name).to_string()).collect();
            let more = if several > LISTED_MAX { ", …" } else { "" };
            bail!("{address} holds {several} batches; choose one with --batch: {}{more}", shown.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_take_them_apart() {
        let check = |word: &str, expect: &str| assert_eq!(for_shell(word), expect);
        check("s3://studio/spring", "s3://studio/spring");
        check("postgres://press@db:5432/press", "postgres://press@db:5432/press");
        check("file:///mnt/my bucket", "'file:///mnt/my bucket'");
        check("spring night", "'spring night'");
        check("it's $(here)", r"'it'\''s $(here)'");
        check("", "''");
    }
}
