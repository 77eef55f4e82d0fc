//! Asking for pages before visitors do, and not faster than the application can bear.

use std::collections::VecDeque;
use std::io::Read;
use std::time::Duration;

use clap::Args;
use parking_lot::Mutex;
use serde::Serialize;

use super::Sites;
use super::progress::Progress;
use super::sitemap::{self, Sitemap};
use super::web::{MAX_BODY, Page, REQUEST_TIMEOUT, Site, Web};
use crate::cli::Failure;
use crate::clock;

/// The most pages that are warmed.
const MAX_PAGES: usize = 10_000;
/// The most sitemaps that are read.
const MAX_SITEMAPS: usize = 1_000;
/// How deep an index of sitemaps may name others.
const MAX_NESTING: usize = 2;
/// Requests at the same time: one slow page does not hold up the others.
const WORKERS: usize = 4;

#[derive(Args, Debug)]
#[command(next_help_heading = "After the purge")]
pub struct Warm {
    /// Ask for pages through parvis, before --verify: of a file with a URL per line (`#` comments), `-` for standard
    /// input, or a sitemap (a URL, or a file named *.xml or *.xml.gz). At most 10,000 pages.
    #[arg(long, value_name = "SOURCE")]
    warm: Option<String>,
    /// Pages per second, at most.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    warm_rate: u32,
}

impl Warm {
    /// Reads what is near: a mistake in it is found before anything is purged.
    pub fn read(self, sites: &Sites) -> Result<Option<Warming>, Failure> {
        let Some(source) = self.warm else { return Ok(None) };
        let mut warming = Warming { rate: self.warm_rate, ..Warming::default() };
        if source.contains("://") {
            warming.sitemaps.push_back((Page::parse(&source, None).map_err(Failure::usage)?, 0));
            return Ok(Some(warming));
        }
        let wrong = |mistake: String| Failure::usage(format!("{source}: {mistake}"));
        let bytes = read(&source).map_err(wrong)?;
        if source.ends_with(".xml") || source.ends_with(".xml.gz") {
            let found = sitemap::parse(&bytes).map_err(wrong)?;
            warming.add(found, 0, sites);
        } else {
            warming.pages = list(&bytes, sites.through.as_ref()).map_err(wrong)?;
        }
        Ok(Some(warming))
    }
}

fn read(source: &str) -> Result<Vec<u8>, String> {
    let input: Box<dyn Read> = match source {
        "-" => Box::new(std::io::stdin()),
        file => Box::new(std::fs::File::open(file).map_err(|error| error.to_string())?),
    };
    let mut bytes = Vec::new();
    input.take(sitemap::MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    match bytes.len() as u64 > sitemap::MAX_BYTES {
        true => Err(format!("has more than {} bytes, the limit", sitemap::MAX_BYTES)),
        false => Ok(bytes),
    }
}

/// The pages of a list, one per line.
fn list(bytes: &[u8], base: Option<&Site>) -> Result<Vec<Page>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("is not UTF-8 text: {error}"))?;
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let page = |(at, line)| Page::parse(line, base).map_err(|error| format!("line {}: {error}", at + 1));
    let pages = lines.map(page).collect::<Result<Vec<_>, _>>()?;
    match pages.len() > MAX_PAGES {
        true => Err(format!("{} pages; at most {MAX_PAGES} are warmed: name those that matter", pages.len())),
        false => Ok(pages),
    }
}

/// What is to be warmed.
#[derive(Default)]
pub struct Warming {
    rate: u32,
    pages: Vec<Page>,
    /// With the number of indexes they were found through.
    sitemaps: VecDeque<(Page, usize)>,
    /// How many were found so.
    indexed: usize,
    failures: Vec<String>,
}

/// How it went.
#[derive(Debug, Serialize)]
pub struct Warmed {
    /// What was asked for: the pages, and the sitemaps that could not be read.
    pub urls: usize,
    /// How many of them failed.
    pub failed: usize,
    /// Which, and why.
    #[serde(skip)]
    pub failures: Vec<String>,
}

impl Warming {
    /// Asks for the pages. What fails does not keep the others from it.
    pub fn run(mut self, web: &Web, sites: &Sites, progress: Progress) -> Warmed {
        self.read_sitemaps(web, sites, progress);
        let phase = progress.begin("warming", Some(self.pages.len()));
        let started = clock::start();
        let queue = Mutex::new(self.pages.iter().zip(0..));
        let failures = Mutex::new(Vec::new());
        let work = || loop {
            let Some((page, before)) = ({
                let mut queue = queue.lock();
                let next = queue.next();
                if let Some((_, before)) = next {
                    // With the lock held: the others' turn comes later still.
                    let due = Duration::from_secs(1) * before / self.rate;
                    std::thread::sleep(due.saturating_sub(started.elapsed()));
                }
                next
            }) else {
                return;
            };
            if let Err(error) = warm(web, page, sites.through(page)) {
                failures.lock().push((before, format!("{page}: {error}")));
            }
            phase.step();
        };
        std::thread::scope(|scope| {
            for _ in 0..WORKERS.min(self.pages.len()) {
                scope.spawn(work);
            }
        });
        let mut failed = failures.into_inner();
        failed.sort();
        let urls = self.pages.len() + self.failures.len();
        self.failures.extend(failed.into_iter().map(|(_, failure)| failure));
        let failed = self.failures.len();
        phase.end(&format!("{} of {urls}", urls - failed));
        Warmed { urls, failed, failures: self.failures }
    }

    fn read_sitemaps(&mut self, web: &Web, sites: &Sites, progress: Progress) {
        if self.sitemaps.is_empty() {
            return;
        }
        let phase = progress.begin("reading sitemaps", None);
        while let Some((page, depth)) = self.sitemaps.pop_front() {
            match fetch(web, &page, sites) {
                Ok(Sitemap::Index(_)) if depth >= MAX_NESTING => {
                    self.failures.push(format!("{page}: an index below {MAX_NESTING} others was not read"));
                }
                Ok(found) => self.add(found, depth, sites),
                Err(error) => self.failures.push(format!("{page}: {error}")),
            }
        }
        phase.end(&format!("{} pages", self.pages.len()));
    }

    /// Takes up what a sitemap names.
    fn add(&mut self, found: Sitemap, depth: usize, sites: &Sites) {
        let (urls, is_index) = match found {
            Sitemap::Pages(urls) => (urls, false),
            Sitemap::Index(urls) => (urls, true),
        };
        for url in urls {
            if is_index && self.indexed == MAX_SITEMAPS {
                self.failures.push(format!("more than {MAX_SITEMAPS} sitemaps: the others were not read"));
                return;
            }
            if self.pages.len() + self.failures.len() >= MAX_PAGES {
                self.failures.push(format!("more than {MAX_PAGES} pages: the others were not warmed"));
                self.sitemaps.clear();
                return;
            }
            match Page::parse(&url, sites.through.as_ref()) {
                Ok(page) if is_index => {
                    self.indexed += 1;
                    self.sitemaps.push_back((page, depth + 1));
                }
                Ok(page) => self.pages.push(page),
                Err(error) => self.failures.push(error),
            }
        }
    }
}

/// A sitemap as the application has it now: a stored one may be from before the deploy.
fn fetch(web: &Web, page: &Page, sites: &Sites) -> Result<Sitemap, String> {
    let from = sites.origin.as_ref().unwrap_or(&page.site);
    let answer = web.get(page, from, sitemap::MAX_BYTES, REQUEST_TIMEOUT)?;
    match answer.status {
        200 => sitemap::parse(&answer.body),
        status => Err(format!("{from} answered {status}")),
    }
}

fn warm(web: &Web, page: &Page, through: &Site) -> Result<(), String> {
    match web.get(page, through, MAX_BODY, REQUEST_TIMEOUT)?.status {
        status if status < 400 => Ok(()),
        status => Err(format!("status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_a_url_per_line_comments_and_blank_lines() {
        let base = "http://127.0.0.1:8080".parse().unwrap();
        let pages = list(b"# the shop\r\n\r\n  http://shop.test/a#b \n/c\n", Some(&base)).unwrap();
        let pages: Vec<_> = pages.iter().map(Page::to_string).collect();
        assert_eq!(pages, ["http://shop.test/a", "http://127.0.0.1:8080/c"]);
        assert!(list(b"\n/c", None).unwrap_err().starts_with("line 2: `/c` has no host"));
        assert!(list(b"\xff", None).unwrap_err().contains("UTF-8"));
        assert_eq!(list(&b"/\n".repeat(MAX_PAGES), Some(&base)).unwrap().len(), MAX_PAGES);
        assert!(list(&b"/\n".repeat(MAX_PAGES + 1), Some(&base)).unwrap_err().contains("10001 pages"));
    }

    #[test]
    fn more_pages_than_are_warmed_are_said_to_be_left_out() {
        let mut warming = Warming::default();
        let urls = vec!["http://shop.test/".to_owned(); MAX_PAGES + 2];
        warming.add(Sitemap::Index(vec!["http://shop.test/next.xml".to_owned()]), 0, &Sites::default());
        warming.add(Sitemap::Pages(urls), 1, &Sites::default());
        assert_eq!((warming.pages.len(), warming.sitemaps.len()), (MAX_PAGES, 0));
        assert_eq!(warming.failures.len(), 1, "{:?}", warming.failures);
    }
}
