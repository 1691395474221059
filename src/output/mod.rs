//! Floor 5: files. Where a run's files lie, how an answer's bytes become a whole picture in
//! the spool, and how that picture gets its name in `images/` without anything torn ever
//! standing there.

mod folder;
mod picture;
mod publish;
mod spool;

pub use crate::platform::{Disk, Free, LocalDisk, host_name, memory_available, open_files_max};
pub use folder::RunFolder;
pub use picture::{Picture, PictureCheck, PictureError};
pub use publish::{
    PublishError, Published, check_images, matches_record, publish, remove_replaced, rename_published,
};
pub use spool::{DeadFolder, SpoolDir, SpoolError, SpoolFile, SpooledPicture, dead_folders, worker_is_dead};
