//! What an operator sees of `check` and `explain`, and the corpus of good and bad files.

use std::path::{Path, PathBuf};

use crate::support::process::command;

fn corpus(kind: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(kind);
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Exit code, standard output, standard error; with the directory taken off file names.
fn check(file: &Path) -> (Option<i32>, String, String) {
    let output = command(&["check", "-c", file.to_str().unwrap()], &[]);
    let directory = format!("{}/", file.parent().unwrap().display());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&directory, "");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Compares with the file beside it; `UPDATE_GOLDEN=1` writes it anew, for a person to read.
fn golden(file: &Path, found: &str) {
    let expected = file.with_extension("txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&expected, found).unwrap();
    }
    let expected = std::fs::read_to_string(&expected).unwrap_or_default();
    assert_eq!(found, expected, "{}", file.display());
}

#[test]
fn every_mistake_in_a_file_is_reported_at_once_with_place_and_remedy() {
    for file in corpus("invalid") {
        let (code, out, errors) = check(&file);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{}", file.display());
        assert!(errors.contains(&format!("{}:", file.file_name().unwrap().display())), "{errors}");
        assert!(
            !errors.contains("hunter2") && !errors.contains("another-secret") && !errors.contains("tooshort")
        );
        golden(&file, &errors);
    }
}

#[test]
fn a_usable_file_is_said_to_be_and_its_risks_are_named() {
    for file in corpus("valid") {
        let (code, out, errors) = check(&file);
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{}", file.display());
        golden(&file, &out);
    }
}

#[test]
fn nothing_starts_with_a_file_that_has_mistakes() {
    let file = &corpus("invalid")[0];
    let output = command(&["run", "-c", file.to_str().unwrap()], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
}

#[test]
fn arguments_that_make_no_sense_are_refused_with_exit_code_2() {
    for (arguments, says) in [
        (&["run"][..], "--config"),
        (&["run", "-c", "/nonexistent.yaml"][..], "cannot read /nonexistent.yaml"),
        (&["run", "-c", "/etc", "--origin", "http://x"][..], "cannot be used with"),
        (&["run", "--origin", "ftp://x"][..], "is not a server"),
        (&["run", "--origin", "nonsense"][..], "no port"),
        (&["check", "-c", "/nonexistent.yaml"][..], "cannot read"),
        (&["explain", "-c", "config.example.yaml", "products"][..], "is not a URL"),
        (&["explain", "-c", "config.example.yaml", "http://ba d/"][..], "is not a host"),
        (&["explain", "-c", "config.example.yaml", "/", "--status", "103"][..], "not in 200..=999"),
        (&["explain", "-c", "config.example.yaml", "/", "-H", "nonsense"][..], "is not a field"),
        (&["dance"][..], "unrecognized"),
    ] {
        let output = command(arguments, &[]);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(says), "{says}: {errors}");
    }
}

fn explain(arguments: &[&str]) -> String {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.yaml");
    let output = command(&[&["explain", "-c", file], arguments].concat(), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn explain_tells_route_key_and_verdict_in_the_words_of_the_header() {
    assert_eq!(
        explain(&["http://Shop.example/products/7?b=1&utm_source=x&a=2", "-H", "Cookie: _ga=1"]),
        "not route   static: path does not match
route       products
upstream    django
not sent    Cookie: a fetch for the store leaves it out
key         products http shop.example /products/7 ?a=2&b=1
verdict     miss, then hit: a 200 like this is stored
fresh for   5m (ttl of the route)
stale       for 30s more while it is refreshed
stale       for 1h more when the origin fails
tags        products
"
    );
    for (arguments, says) in [
        (&["/products/7", "-H", "Cookie: sessionid=1"][..], "verdict     pass (cookie)"),
        (&["/products/7", "-H", "Authorization: x"][..], "verdict     pass (authorization)"),
        (&["/products/7", "--status", "404"][..], "fresh for   30s (status_ttl of the route)"),
        (&["/about"][..], "not stored (no-ttl)"),
        (&["/products/7", "--response-header", "Set-Cookie: a=b"][..], "not stored (set-cookie)"),
        (
            &["/about", "--response-header", "Cache-Control: max-age=60"][..],
            "fresh for   1m (max-age of the response)",
        ),
        (
            &["/products/7", "--response-header", "CDN-Cache-Control: max-age=5, private=\"x-user\""][..],
            "fresh for   5s (CDN-Cache-Control of the response)",
        ),
        (
            &["/products/7", "--response-header", "Cache-Control: private=\"x-user\""][..],
            "withheld    x-user: not stored",
        ),
        (&["/products/7", "-H", "If-Match: \"a\""][..], "verdict     pass (precondition)"),
        (
            &["/products/7", "-H", "Cache-Control: no-cache"][..],
            "miss, then revalidate (the client asks for fresher)",
        ),
        (&["/products/7", "-H", "Cache-Control: no-store"][..], "hit if stored, else pass (client-no-store)"),
        (&["/products/7", "-H", "Cache-Control: only-if-cached"][..], "hit if stored, else 504"),
        (&["-X", "PUT", "/api/products/7"][..], "removes     tag products"),
        (&["-X", "PUT", "/api/products/7", "--status", "403"][..], "removes     nothing"),
        (
            &["/my/posts", "-H", "Cookie: sessionid=1; _ga=2"][..],
            "keyed on    cookie sessionid\nkey         my-posts http /my/posts identity=",
        ),
        (&["/my/posts", "-H", "Cookie: basket=1"][..], "verdict     pass (cookie)"),
        (
            &["/api/me/", "-H", "Authorization: Bearer e30.eyJzdWIiOiJhZGEifQ.c2ln"][..],
            "guard       on probation: the application is sent, and the key has not: field authorization",
        ),
        (&["/search/?q=a&x=1"][..], "mode        this route's cache mode is shadow"),
        (&["/search/?q=a&x=1", "-H", "User-Agent: Mobi"][..], "sent        X-Device-Class: mobile"),
        (&["/products/7", "-H", "Accept-Language: de, fr;q=0.5"][..], "sent        Accept-Language: fr"),
        (&["/products/x.css", "--response-header", "Content-Type: text/html"][..], "not stored (extension)"),
        (
            &["/products/7", "--status", "400", "--response-header", "Cache-Control: max-age=9"][..],
            "not stored (provoked)",
        ),
        (&["http://api.example.com/v1/x", "-H", "Accept: application/json"][..], "verdict     pass (off)"),
    ] {
        let told = explain(arguments);
        assert!(told.contains(says), "{arguments:?}: {told}");
    }
}
