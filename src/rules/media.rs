//! Whether a response is the kind of file that its path promises.
//!
//! `/account/x.css` may reach the page of an account: frameworks cut off what they do not know. A rule for static
//! files would then store it for everyone. So a path that ends like a file is stored only when the response is one.

/// By extension: what the media type of such a file begins with.
const FILES: &[(&[&str], &[&str])] = &[
    (&["css"], &["text/css"]),
    (
        &["js", "mjs"],
        &["text/javascript", "application/javascript", "application/x-javascript", "text/ecmascript"],
    ),
    (&["map", "webmanifest"], &["application/", "text/plain"]),
    (&["avif", "bmp", "gif", "ico", "jpeg", "jpg", "png", "svg", "svgz", "tif", "tiff", "webp"], &["image/"]),
    (
        &["eot", "otf", "ttf", "woff", "woff2"],
        &["font/", "application/font", "application/x-font", "application/vnd.ms-fontobject"],
    ),
    (&["aac", "flac", "m4a", "mid", "midi", "mp3", "ogg", "opus", "wav"], &["audio/", "application/ogg"]),
    (&["avi", "mkv", "mov", "mp4", "mpeg", "mpg", "ogv", "webm"], &["video/"]),
    (&["pdf"], &["application/pdf", "application/x-pdf"]),
    (&["csv"], &["text/csv", "application/csv", "application/vnd.ms-excel", "text/plain"]),
    (&["doc", "docx", "odp", "ods", "odt", "ppt", "pptx", "xls", "xlsx"], &["application/"]),
    (
        &["7z", "apk", "bz2", "dmg", "exe", "gz", "iso", "jar", "rar", "tar", "tgz", "zip", "zst"],
        &["application/"],
    ),
    (&["wasm"], &["application/wasm"]),
];

/// Never a file of those above, although their families begin alike.
const PAGES: &[&str] = &["application/json", "application/problem", "application/xhtml", "application/xml"];

/// A download of any kind.
const UNSPECIFIC: &str = "application/octet-stream";

/// Whether `path` ends like a file of a kind that a response of this media type is not.
pub fn contradicts(path: &str, media_type: Option<&str>) -> bool {
    let last = path.rsplit('/').next().unwrap_or(path);
    // Some origins cut parameters of a segment off, and others do not.
    [last, last.split(';').next().unwrap_or(last)].iter().any(|name| is_other(name, media_type))
}

fn is_other(name: &str, media_type: Option<&str>) -> bool {
    let Some((_, extension)) = name.rsplit_once('.') else { return false };
    let extension = extension.to_ascii_lowercase();
    let Some((_, expected)) = FILES.iter().find(|(extensions, _)| extensions.contains(&&*extension)) else {
        return false;
    };
    let media_type = media_type.unwrap_or_default().trim().to_ascii_lowercase();
    let begins = |with: &&str| media_type.starts_with(with);
    let is_manifest =
        matches!(extension.as_str(), "map" | "webmanifest") && media_type.starts_with("application/json");
    let fits = expected.iter().any(begins) && (is_manifest || !PAGES.iter().any(begins));
    !fits && !media_type.starts_with(UNSPECIFIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_ends_like_a_file_leads_to_one() {
        for (path, media_type, expected) in [
            ("/static/site.css", Some("text/css; charset=utf-8"), false),
            ("/account/x.css", Some("text/html"), true),
            ("/account/x.CSS", Some("text/html"), true),
            ("/account/x.css;v=1", Some("text/html"), true),
            ("/account;x.css", Some("text/html"), true),
            ("/site.css;v=1.2", Some("text/css"), false),
            ("/account%2Fx.js", Some("application/json"), true),
            ("/account/x.css", None, true),
            ("/app.js", Some("Application/JavaScript"), false),
            ("/logo.png", Some("image/webp"), false),
            ("/font.woff2", Some("font/woff2"), false),
            ("/report.zip", Some("application/json"), true),
            (
                "/report.xlsx",
                Some("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
                false,
            ),
            ("/site.webmanifest", Some("application/manifest+json"), false),
            ("/site.js.map", Some("application/json"), false),
            ("/report.pdf", Some("application/octet-stream"), false),
            ("/users/ada.lovelace", Some("text/html"), false),
            ("/feed.xml", Some("text/html"), false),
            ("/v1.2/", Some("text/html"), false),
            ("/", None, false),
        ] {
            assert_eq!(contradicts(path, media_type), expected, "{path} {media_type:?}");
        }
    }
}
