//! Floor 5: files. Where a run's files lie, how an answer's bytes become a whole picture in
//! the spool, and how that picture gets its name in `images/`, in a folder or in a bucket, without
//! anything torn ever standing there.
//!
//! Read in this order: `spool`, `publish`, [`Results`], then `bucket`.

mod blocking;
mod bucket;
mod folder;
mod objects;
mod picture;
mod publish;
mod report;
mod results;
mod s3;
mod spool;
mod store;

pub use crate::platform::{Disk, Free, LocalDisk, host_name, memory_available, open_files_max};
pub(crate) use blocking::blocking;
#[cfg(test)]
pub(crate) use blocking::{STEP_HOOK, Step};
pub use bucket::{Bucket, NewObject};
pub use folder::RunFolder;
pub use objects::Buckets;
pub use picture::{Picture, PictureCheck, PictureError};
pub use publish::{PublishError, Published, Record};
pub use report::NewReport;
pub use results::Results;
pub use spool::{DeadFolder, SpoolDir, SpoolError, SpoolFile, SpooledPicture, dead_folders, worker_is_dead};
pub use store::{StoreError, Trouble};
