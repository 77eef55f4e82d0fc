//! Large bodies once more, in files that exist in memory only: the kernel sends a file to a client without copying it,
//! which from some size on is most of what a hit costs.
//!
//! A file takes its body's size again, and a descriptor. So a body gets one only when it is asked for often, and its response
//! is charged with it.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// From this size on a body is worth a file, in bytes.
pub const MIN_LENGTH: usize = 16 * 1024;

/// How often a body is asked for before it gets a file.
const HOT: u32 = 8;

/// The most files at a time.
const MAX_FILES: usize = 1024;

/// Pages are what a file occupies.
const PAGE: usize = 4096;

/// What a file takes besides: the kernel's records of it.
const TABLES: usize = 1536;

/// A body in a file, which nobody can change any more.
#[derive(Debug)]
pub struct File {
    file: fs::File,
    length: usize,
    /// Of all files.
    count: Arc<AtomicUsize>,
}

impl File {
    /// Writes `body` into a new file. Of those that share `count` there are [`MAX_FILES`] at most: `None` beyond them.
    ///
    /// # Errors
    ///
    /// What the kernel says: as a rule, that the process has no more descriptors.
    pub fn new(body: &[u8], count: &Arc<AtomicUsize>) -> io::Result<Option<Self>> {
        if count.fetch_add(1, Ordering::Relaxed) >= MAX_FILES {
            count.fetch_sub(1, Ordering::Relaxed);
            return Ok(None);
        }
        let file = written(body).inspect_err(|_| {
            count.fetch_sub(1, Ordering::Relaxed);
        })?;
        Ok(Some(Self { file, length: body.len(), count: count.clone() }))
    }

    /// What it occupies, in bytes.
    pub fn weight(&self) -> usize {
        self.length.next_multiple_of(PAGE) + TABLES
    }
}

fn written(body: &[u8]) -> io::Result<fs::File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = fs::File::from(memfd_create("parvis-body", flags)?);
    file.write_all(body)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The file of a body, once there is one.
#[derive(Debug, Default)]
pub struct Sendable {
    asked: AtomicU32,
    file: OnceLock<Arc<File>>,
}

impl Sendable {
    /// The file.
    pub fn file(&self) -> Option<&Arc<File>> {
        self.file.get()
    }

    /// Counts that it is wanted. Tells the one who is to make it so, once.
    pub fn ask(&self) -> bool {
        // Far from where it would wrap: there is a file soon, or there never will be one.
        self.asked.load(Ordering::Relaxed) < HOT && self.asked.fetch_add(1, Ordering::Relaxed) + 1 == HOT
    }

    pub(super) fn put(&self, file: File) {
        // Only one was told to make it.
        let _ = self.file.set(Arc::new(file));
    }

    pub(super) fn weight(&self) -> usize {
        self.file().map_or(0, |file| file.weight())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_file_holds_its_body_and_nobody_can_change_it() {
        let count = Arc::default();
        let file = File::new(b"body", &count).unwrap().unwrap();
        let mut read = [0; 4];
        file.file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"body");
        assert!(file.file.write_at(b"x", 0).is_err() && file.file.set_len(1).is_err());
        assert_eq!(count.load(Ordering::Relaxed), 1);
        drop(file);
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn there_are_only_so_many() {
        let count = Arc::new(AtomicUsize::new(MAX_FILES - 1));
        let last = File::new(b"body", &count).unwrap();
        assert!(last.is_some() && File::new(b"body", &count).unwrap().is_none());
        drop(last);
        assert!(File::new(b"body", &count).unwrap().is_some());
    }

    #[test]
    fn one_is_told_to_make_it() {
        let sendable = Sendable::default();
        let told: Vec<u32> = (1..100).filter(|_| sendable.ask()).collect();
        assert_eq!(told, [HOT]);
    }
}
