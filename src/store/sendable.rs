//! Large bodies once more, in files that exist in memory only: the kernel sends a file to a client without copying it,
//! which from some size on is most of what a hit costs.
//!
//! A file takes its body's size again, and a descriptor. So a body gets one only when it is asked for often, its response is
//! charged with it, and all files together may push out only so much of what is stored.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// From this size on a body is worth a file, in bytes.
pub const MIN_LENGTH: usize = 16 * 1024;

/// How often a body is asked for before it gets a file.
const HOT: u32 = 8;

/// The most files at a time.
const MAX_FILES: u64 = 1024;

/// Of the descriptors that the process may have, files take one in so many at most.
const SHARE_OF_DESCRIPTORS: u64 = 8;

/// Of the bytes that may be stored, files take one in so many at most.
const SHARE_OF_STORE: u64 = 8;

/// Pages are what a file occupies.
const PAGE: u64 = 4096;

/// What a file takes besides: the kernel's records of it.
const TABLES: u64 = 1536;

/// All files of a store.
#[derive(Debug)]
pub struct Files {
    max_count: u64,
    max_bytes: u64,
    taken: Mutex<Taken>,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Taken {
    count: u64,
    bytes: u64,
}

impl Files {
    /// None yet, of a store of `max_size` bytes.
    pub fn new(max_size: u64) -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self {
            max_count: MAX_FILES.min(descriptors / SHARE_OF_DESCRIPTORS),
            max_bytes: max_size / SHARE_OF_STORE,
            taken: Mutex::default(),
            refused: AtomicU64::new(0),
        }
    }

    /// Those that were not made because there are too many, or too large ones.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Writes `body` into a new file; `None` where that is one too many.
    ///
    /// # Errors
    ///
    /// What the kernel says: as a rule, that the process has no more descriptors.
    pub fn make(self: &Arc<Self>, body: &[u8]) -> io::Result<Option<File>> {
        let Some(share) = self.take(weight(body.len())) else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        };
        Ok(Some(File { file: written(body)?, share }))
    }

    fn take(self: &Arc<Self>, weight: u64) -> Option<Share> {
        let mut taken = self.taken.lock();
        if taken.count >= self.max_count || taken.bytes + weight > self.max_bytes {
            return None;
        }
        taken.count += 1;
        taken.bytes += weight;
        Some(Share { weight, files: self.clone() })
    }
}

/// What a file takes of what all may; given back when dropped.
#[derive(Debug)]
struct Share {
    weight: u64,
    files: Arc<Files>,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.files.taken.lock();
        taken.count -= 1;
        taken.bytes -= self.weight;
    }
}

/// What a file with a body of this length occupies, in bytes.
pub fn weight(length: usize) -> u64 {
    (length as u64).next_multiple_of(PAGE) + TABLES
}

/// A body in a file, which nobody can change any more.
#[derive(Debug)]
pub struct File {
    file: fs::File,
    share: Share,
}

impl File {
    /// What it occupies, in bytes.
    pub fn weight(&self) -> u64 {
        self.share.weight
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn written(body: &[u8]) -> io::Result<fs::File> {
    let mut file = fs::File::from(created()?);
    file.write_all(body)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}

fn created() -> io::Result<OwnedFd> {
    const NAME: &str = "parvis-body";
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(NAME, flags | MemfdFlags::NOEXEC_SEAL) {
        // Linux before 6.3 does not know the flag, without which a strict one refuses.
        Err(Errno::INVAL) => Ok(memfd_create(NAME, flags)?),
        created => Ok(created?),
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
        // It stays near that number.
        self.asked.load(Ordering::Relaxed) < HOT && self.asked.fetch_add(1, Ordering::Relaxed) + 1 == HOT
    }

    /// It could not be made: it may be asked for again.
    pub(super) fn leave(&self) {
        self.asked.store(0, Ordering::Relaxed);
    }

    pub(super) fn put(&self, file: File) {
        // Only one was told to make it.
        let _ = self.file.set(Arc::new(file));
    }

    pub(super) fn weight(&self) -> u64 {
        self.file().map_or(0, |file| file.weight())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_file_holds_its_body_and_nobody_can_change_it() {
        let files = Arc::new(Files::new(1 << 20));
        let file = files.make(b"body").unwrap().unwrap();
        let mut read = [0; 4];
        file.file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"body");
        assert!(file.file.write_at(b"x", 0).is_err() && file.file.set_len(1).is_err());
        assert_eq!(files.taken.lock().bytes, PAGE + TABLES);
    }

    #[test]
    fn there_are_only_so_many_and_so_large_ones() {
        let files = Arc::new(Files::new(SHARE_OF_STORE * 3 * (PAGE + TABLES)));
        let [one, other, third] = [(); 3].map(|()| files.make(b"body").unwrap());
        assert!(one.is_some() && other.is_some() && third.is_some());
        assert!(files.make(b"body").unwrap().is_none() && files.refused() == 1);
        drop(one);
        assert!(files.make(&[0; PAGE as usize + 1]).unwrap().is_none(), "too large");
        assert!(files.make(&[0; PAGE as usize]).unwrap().is_some());
        drop((other, third));
        let left = |taken: &Taken| (taken.count, taken.bytes);
        assert_eq!(left(&files.taken.lock()), (0, 0));
        files.taken.lock().count = files.max_count;
        assert!(files.make(b"body").unwrap().is_none());
    }

    #[test]
    fn one_is_told_to_make_it() {
        let sendable = Sendable::default();
        let told = |sendable: &Sendable| (1..100).filter(|_| sendable.ask()).collect::<Vec<u32>>();
        assert_eq!((told(&sendable), told(&sendable)), (vec![HOT], vec![]));
        sendable.leave();
        assert_eq!(told(&sendable), [HOT]);
    }
}
