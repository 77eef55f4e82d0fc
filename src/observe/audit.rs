//! Who purged what: an append-only record, in the operator's log, in memory for `GET /purges`, and in a file where the
//! configuration names one.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// The most entries kept in memory; the file keeps all.
const MAX_RECENT: usize = 1000;

/// The most selectors of an entry that are told one by one, and the most characters of each.
const MAX_SELECTORS: usize = 50;
const MAX_SELECTOR: usize = 200;

/// How much of the end of the file is read at the start, in bytes.
const MAX_TAIL: u64 = 4 << 20;

/// One purge.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Entry {
    /// When, in RFC 3339.
    pub at: String,
    /// The instance that carried it out.
    pub instance: String,
    /// Its place in the order of purges of that instance, since its start.
    pub sequence: u64,
    /// `api`, `client` or `reload`.
    pub cause: String,
    /// The name of the token, or the method of a client of the main listener.
    pub by: String,
    /// The address it came from, or the configuration file.
    pub from: String,
    /// What it named: the first 50, each cut after 200 characters.
    pub selectors: Vec<String>,
    /// How many selectors there were.
    pub selector_count: usize,
    /// Whether what it named only expired.
    pub soft: bool,
    /// Stored responses.
    pub entries: usize,
    /// Bytes they were charged with.
    pub bytes: u64,
    /// Whether these are all: a purge by patterns is counted when every entry has been looked at, and recorded once more.
    pub counted: bool,
}

impl Entry {
    /// The moment as entries write it.
    pub fn time(at: Timestamp) -> String {
        humantime::format_rfc3339_millis(SystemTime::from(at)).to_string()
    }

    /// What is told of the selectors.
    pub fn shown(selectors: &[String]) -> Vec<String> {
        let cut = |text: &String| text.chars().take(MAX_SELECTOR).collect();
        selectors.iter().take(MAX_SELECTORS).map(cut).collect()
    }
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the audit log {}: {cause}", path.display())]
pub struct AuditError {
    path: PathBuf,
    cause: io::Error,
}

/// The record.
#[derive(Default)]
pub struct AuditLog {
    recent: Mutex<VecDeque<Entry>>,
    file: Option<(PathBuf, Mutex<File>)>,
}

impl AuditLog {
    /// A record that goes on with the file, where there is one.
    pub fn open(path: Option<&Path>) -> Result<Self, AuditError> {
        let Some(path) = path else { return Ok(Self::default()) };
        let fail = |cause| AuditError { path: path.to_owned(), cause };
        let mut file = open(path).map_err(fail)?;
        let recent = tail(&mut file).map_err(fail)?;
        Ok(Self { recent: Mutex::new(recent), file: Some((path.to_owned(), Mutex::new(file))) })
    }

    /// Goes on with a new file where the old one has been moved away.
    pub fn reopen(&self) -> Result<(), AuditError> {
        let Some((path, file)) = &self.file else { return Ok(()) };
        *file.lock() = open(path).map_err(|cause| AuditError { path: path.clone(), cause })?;
        Ok(())
    }

    /// Adds an entry, in memory in the place of one that was not counted yet; an error tells that the file has not got it.
    pub fn record(&self, entry: &Entry) -> io::Result<()> {
        tracing::info!(
            target: "parvis::audit",
            by = entry.by,
            from = entry.from,
            selectors = entry.selectors.join(", "),
            soft = entry.soft,
            entries = entry.entries,
            bytes = entry.bytes,
            sequence = entry.sequence,
            "purged"
        );
        let written = self.file.as_ref().map_or(Ok(()), |(_, file)| append(&mut file.lock(), entry));
        let mut recent = self.recent.lock();
        let same =
            |known: &&mut Entry| !known.counted && (known.sequence, &known.at) == (entry.sequence, &entry.at);
        if let Some(known) = recent.iter_mut().rev().find(same) {
            *known = entry.clone();
            return written;
        }
        if recent.len() >= MAX_RECENT {
            recent.pop_front();
        }
        recent.push_back(entry.clone());
        written
    }

    /// The latest entries, newest first.
    pub fn recent(&self, max: usize) -> Vec<Entry> {
        self.recent.lock().iter().rev().take(max).cloned().collect()
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).read(true).open(path)
}

/// One write per line, so that lines of several processes do not mix.
fn append(file: &mut File, entry: &Entry) -> io::Result<()> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    file.write_all(&line)
}

/// The last entries of a file; lines that are none are left alone.
fn tail(file: &mut File) -> io::Result<VecDeque<Entry>> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_TAIL)))?;
    let mut text = Vec::new();
    file.take(MAX_TAIL).read_to_end(&mut text)?;
    let lines = text.split(|byte| *byte == b'\n');
    let mut entries: VecDeque<Entry> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    entries.drain(..entries.len().saturating_sub(MAX_RECENT));
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u64) -> Entry {
        Entry {
            at: Entry::time(Timestamp(784_111_777_123)),
            instance: "web-1".into(),
            sequence,
            cause: "api".into(),
            by: "ci".into(),
            from: "127.0.0.1:9".into(),
            selectors: vec!["tag a".into()],
            selector_count: 1,
            soft: false,
            entries: 2,
            bytes: 3,
            counted: true,
        }
    }

    #[test]
    fn a_file_goes_on_where_it_ended() {
        let directory = std::env::temp_dir().join(format!("parvis-audit-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("purges.jsonl");
        AuditLog::open(Some(&path)).unwrap().record(&entry(1)).unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"half a li\n").unwrap();
        let log = AuditLog::open(Some(&path)).unwrap();
        log.record(&entry(2)).unwrap();
        assert_eq!(log.recent(9), [entry(2), entry(1)]);
        assert_eq!(log.recent(1), [entry(2)]);
        assert_eq!(entry(1).at, "1994-11-06T08:49:37.123Z");
        std::fs::rename(&path, directory.join("purges.1")).unwrap();
        log.reopen().unwrap();
        log.record(&entry(3)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        assert!(AuditLog::open(Some(&directory)).is_err());
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_purge_that_is_counted_later_is_one_entry() {
        let log = AuditLog::default();
        for entry in [Entry { counted: false, entries: 0, ..entry(1) }, entry(2), entry(1)] {
            log.record(&entry).unwrap();
        }
        assert_eq!(log.recent(9), [entry(2), entry(1)]);
    }

    #[test]
    fn what_is_kept_in_memory_is_bounded() {
        let log = AuditLog::default();
        (0..=MAX_RECENT as u64).for_each(|n| log.record(&entry(n)).unwrap());
        let recent = log.recent(usize::MAX);
        assert_eq!((recent.len(), recent[0].sequence), (MAX_RECENT, MAX_RECENT as u64));
        assert_eq!(Entry::shown(&vec!["x".repeat(999); 99])[0].len(), MAX_SELECTOR);
        assert_eq!(Entry::shown(&vec!["x".to_owned(); 99]).len(), MAX_SELECTORS);
    }
}
