//! Purges that could not be told yet, in a file: a restart does not lose them.
//!
//! It is written only while there is no way to the log, and whole: it is small. Without a file they are lost with the process.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::entry::Purge;

/// The file, and what is in it.
pub struct Journal {
    file: Option<PathBuf>,
    /// `None` where that is not known.
    held: Option<Vec<Arc<Purge>>>,
    is_told: bool,
}

impl Journal {
    /// One whose file, if there is one, may hold anything.
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file, held: None, is_told: false }
    }

    /// Makes the file hold these.
    pub async fn hold(&mut self, purges: Vec<Arc<Purge>>) {
        let Some(file) = self.file.clone() else { return };
        // One may have been joined by others.
        if self.held.as_ref() == Some(&purges) {
            return;
        }
        let held = purges.clone();
        let written = tokio::task::spawn_blocking(move || write(&file, &purges)).await;
        match written.map_err(io::Error::other).and_then(|written| written) {
            Ok(()) => (self.held, self.is_told) = (Some(held), false),
            // Once, until it works again.
            Err(error) if !self.is_told => {
                tracing::error!(%error, "purges that wait for the Redis cannot be written to the journal");
                self.is_told = true;
            }
            Err(_) => {}
        }
    }
}

/// The purges in a file; none where there is no file.
///
/// # Errors
///
/// When it cannot be read, or is not a journal.
pub fn read(file: &Path) -> io::Result<Vec<Purge>> {
    match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Replaces the file, so that it is whole at any moment; removes it when there is nothing to hold.
///
/// # Errors
///
/// When it cannot be written.
pub fn write(file: &Path, purges: &[Arc<Purge>]) -> io::Result<()> {
    if purges.is_empty() {
        return match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    let aside = file.with_extension("new");
    let mut written = fs::File::create(&aside)?;
    serde_json::to_writer(&written, purges)?;
    written.flush()?;
    written.sync_all()?;
    fs::rename(&aside, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::selector::Selector;
    use uuid::Uuid;

    fn purge(tag: &str) -> Arc<Purge> {
        let selectors = vec![Selector::tag(tag).unwrap(), Selector::regex("^/a+$").unwrap(), Selector::All];
        Arc::new(Purge { nonce: Uuid::new_v4(), selectors, soft: true })
    }

    #[tokio::test]
    async fn what_waits_is_in_the_file_for_as_long_as_it_waits() {
        let directory = std::env::temp_dir().join(format!("parvis-journal-{}", Uuid::new_v4()));
        fs::create_dir(&directory).unwrap();
        let file = directory.join("purges");
        let mut journal = Journal::new(Some(file.clone()));
        let purges = vec![purge("a"), purge("b")];
        journal.hold(purges.clone()).await;
        let read_back: Vec<_> = read(&file).unwrap().into_iter().map(Arc::new).collect();
        assert_eq!(read_back, purges);
        // One that others have joined since.
        let mut joined = (*purges[1]).clone();
        joined.selectors.push(Selector::tag("c").unwrap());
        let purges = vec![purges[0].clone(), Arc::new(joined)];
        journal.hold(purges.clone()).await;
        assert_eq!(read(&file).unwrap()[1], *purges[1]);
        // After a restart, and with nothing left.
        Journal::new(Some(file.clone())).hold(Vec::new()).await;
        assert!(!file.exists() && read(&file).unwrap().is_empty());
        fs::write(&file, "{").unwrap();
        assert!(read(&file).is_err());
        fs::remove_dir_all(&directory).unwrap();
    }
}
