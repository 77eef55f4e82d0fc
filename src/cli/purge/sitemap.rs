//! What a sitemap (<https://www.sitemaps.org/protocol.html>) names, packed or not.

use std::io::Read;

use flate2::read::GzDecoder;
use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};

/// The largest sitemap, unpacked: the protocol's own limit.
pub const MAX_BYTES: u64 = 50 << 20;

/// The first bytes of what gzip packed. Servers name such files, and label them, in several ways.
const GZIP: &[u8] = &[0x1f, 0x8b];

/// What a sitemap names, as it stands there.
#[derive(Debug, PartialEq, Eq)]
pub enum Sitemap {
    /// Pages.
    Pages(Vec<String>),
    /// Other sitemaps.
    Index(Vec<String>),
}

/// Reads a sitemap.
pub fn parse(bytes: &[u8]) -> Result<Sitemap, String> {
    if !bytes.starts_with(GZIP) {
        return parse_xml(bytes);
    }
    let mut unpacked = Vec::new();
    // What was packed twice, or well, must not fill the memory.
    let read = GzDecoder::new(bytes).take(MAX_BYTES + 1).read_to_end(&mut unpacked);
    read.map_err(|error| format!("cannot be unpacked: {error}"))?;
    if unpacked.len() as u64 > MAX_BYTES {
        return Err(format!("is more than {MAX_BYTES} bytes when unpacked, the limit"));
    }
    parse_xml(&unpacked)
}

fn parse_xml(bytes: &[u8]) -> Result<Sitemap, String> {
    let mistake = |error: quick_xml::Error| format!("is not XML: {error}");
    let mut reader = Reader::from_reader(bytes);
    let mut open: Vec<Vec<u8>> = Vec::new();
    let mut kind = None;
    let mut found = Vec::new();
    let mut location = String::new();
    loop {
        match reader.read_event().map_err(mistake)? {
            Event::Start(element) => {
                open.push(name(&element));
                if open.len() == 1 {
                    kind = Some(kind_of(&open[0])?);
                }
            }
            Event::Empty(element) if open.is_empty() => kind = Some(kind_of(&name(&element))?),
            Event::Text(text) if is_location(&open) => {
                location += &text.decode().map_err(|error| mistake(error.into()))?;
            }
            Event::CData(text) if is_location(&open) => {
                location += &text.decode().map_err(|error| mistake(error.into()))?;
            }
            Event::GeneralRef(entity) if is_location(&open) => location += &resolved(&entity)?,
            Event::End(_) => {
                if is_location(&open) {
                    found.push(location.trim().to_owned());
                    location.clear();
                }
                open.pop();
            }
            Event::Eof if open.is_empty() => break,
            Event::Eof => return Err("ends early".to_owned()),
            _ => {}
        }
    }
    kind.map(|kind| kind(found)).ok_or_else(|| "is empty".to_owned())
}

fn name(element: &BytesStart<'_>) -> Vec<u8> {
    element.local_name().as_ref().to_vec()
}

fn kind_of(root: &[u8]) -> Result<fn(Vec<String>) -> Sitemap, String> {
    match root {
        b"urlset" => Ok(Sitemap::Pages),
        b"sitemapindex" => Ok(Sitemap::Index),
        other => Err(format!("is a <{}>, not a sitemap", String::from_utf8_lossy(other).escape_debug())),
    }
}

/// Whether this is the `loc` of a page or sitemap. Images and videos of a page have one too, one level down.
fn is_location(open: &[Vec<u8>]) -> bool {
    matches!(open, [_, entry, loc] if loc == b"loc" && (entry == b"url" || entry == b"sitemap"))
}

fn resolved(entity: &BytesRef<'_>) -> Result<String, String> {
    let name = entity.decode().map_err(|error| error.to_string())?;
    let text = match entity.resolve_char_ref().map_err(|error| error.to_string())? {
        Some(c) => Some(c.to_string()),
        None => resolve_predefined_entity(&name).map(str::to_owned),
    };
    text.ok_or_else(|| format!("has an entity of its own, &{name};"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const PAGES: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
        <!-- made by hand -->
        <urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9" xmlns:image="x">
          <url><loc>
             http://shop.test/?a=1&amp;b=&#50; </loc><lastmod>2026-01-01</lastmod>
             <image:image><image:loc>http://shop.test/a.png</image:loc></image:image></url>
          <url><loc><![CDATA[http://shop.test/c&d]]></loc></url>
        </urlset>"#;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn pages_are_found_and_their_images_are_not() {
        let expected = ["http://shop.test/?a=1&b=2", "http://shop.test/c&d"].map(str::to_owned);
        assert_eq!(parse(PAGES.as_bytes()), Ok(Sitemap::Pages(expected.to_vec())));
        assert_eq!(parse(&packed(PAGES.as_bytes())), Ok(Sitemap::Pages(expected.to_vec())));
        assert_eq!(parse(b"<urlset/>"), Ok(Sitemap::Pages(vec![])));
    }

    #[test]
    fn an_index_names_sitemaps_in_any_namespace_prefix() {
        let index =
            b"<s:sitemapindex xmlns:s='x'><s:sitemap><s:loc>/a.xml</s:loc></s:sitemap></s:sitemapindex>";
        assert_eq!(parse(index), Ok(Sitemap::Index(vec!["/a.xml".to_owned()])));
    }

    #[test]
    fn what_is_no_sitemap_is_said_to_be_none() {
        let bomb = packed(&vec![b' '; usize::try_from(MAX_BYTES).unwrap() + 1]);
        let broken = &packed(PAGES.as_bytes())[..40];
        for (bytes, says) in [
            (&b""[..], "empty"),
            (b"http://shop.test/", "empty"),
            (b"<html></html>", "<html>"),
            (b"<urlset><url><loc>/a", "ends early"),
            (b"<urlset></url>", "not XML"),
            (b"<urlset><url><loc>&own;</loc></url></urlset>", "&own;"),
            (b"<urlset><url><loc>\xff</loc></url></urlset>", "not XML"),
            (bomb.as_slice(), "the limit"),
            (broken, "unpacked"),
        ] {
            let error = parse(bytes).unwrap_err();
            assert!(error.contains(says), "{says}: {error}");
        }
    }
}
