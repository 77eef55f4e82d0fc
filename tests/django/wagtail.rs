//! What an editor publishes or takes back in Wagtail's admin, the next visitor sees at once: Wagtail's own module for
//! caches in front of it tells parvis which pages changed, and nobody else's page is fetched again.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::expect;
use super::gunicorn::Django;
use super::visitor::Visitor;
use crate::support::{Client, Parvis, Response};

/// The lifetime is longer than the test: what is fetched again was purged.
const CONFIG: &str = r#"
listen: "{listen}"
admin: {listen: "{admin}"}
upstreams:
  blog: {servers: ["{django}"], timeouts: {idle: 1500ms}}
routes: [{name: all, cache: {ttl: 5m}}]
"#;

const HOME: &str = "/";
const ENTRY: &str = "/entry-2/";
/// A page that shows nothing of the entry.
const UNRELATED: &str = "/entry-3/";

/// parvis in front of the blog. parvis ends first: without its connections gunicorn ends at once.
struct Blog {
    parvis: Parvis,
    django: Django,
}

impl Blog {
    fn open() -> Self {
        let in_front = |django: SocketAddr| Parvis::start(&CONFIG.replace("{django}", &django.to_string()));
        let (django, parvis) = Django::start_blog(in_front);
        Self { parvis, django }
    }

    /// A stranger's GET.
    fn get(&self, path: &str) -> Response {
        Visitor::default().get(&self.parvis.client(), path)
    }

    /// A stranger gets the page from the application, the next one from the store, and both see `text`.
    #[track_caller]
    fn expect_fetched_anew(&self, path: &str, text: &str) {
        for verdict in ["miss", "hit"] {
            self.expect_shows(path, verdict, text);
        }
    }

    #[track_caller]
    fn expect_shows(&self, path: &str, verdict: &str, text: &str) {
        let response = self.get(path);
        expect(&response, 200, verdict);
        assert_eq!(response.field("set-cookie"), None, "{}", response.head);
        let page = response.text();
        assert!(page.contains(text), "{path} shows {text}: {page}");
        assert!(!page.contains("wagtail-userbar"), "{path} shows a stranger the editor's menu: {page}");
    }
}

/// Someone who writes in the admin, through parvis.
struct Editor {
    browser: Visitor,
    client: Client,
}

impl Editor {
    fn log_in(blog: &Blog) -> Self {
        let mut editor = Self { browser: Visitor::new("editor"), client: blog.parvis.client() };
        let account = [("username", "editor"), ("password", "editor-secret")];
        editor.submit("/admin/login/", "class=\"login-form\"", &account);
        assert!(editor.browser.has_session());
        editor
    }

    /// Where the admin keeps a page, as the menu tells that Wagtail shows only to editors.
    fn place_of(&self, path: &str) -> String {
        let page = self.browser.get(&self.client, path);
        expect(&page, 200, "pass");
        let text = page.text();
        assert!(text.contains("wagtail-userbar"), "{path} shows its editor the menu: {text}");
        let (before, _) = text.split_once("/edit/").expect("a link to its form");
        let number: u32 = before.rsplit('/').next().unwrap_or_default().parse().expect("its number");
        format!("/admin/pages/{number}")
    }

    fn edit(&mut self, place: &str, changes: &[(&str, &str)]) {
        self.submit(&format!("{place}/edit/"), "id=\"page-edit-form\"", changes);
    }

    fn unpublish(&mut self, place: &str) {
        let path = format!("{place}/unpublish/");
        self.submit(&path, &format!("action=\"{path}\""), &[]);
    }

    /// Opens the form behind `mark`, changes these fields and sends all of them, as a browser does.
    fn submit(&mut self, path: &str, mark: &str, changes: &[(&str, &str)]) {
        let page = self.browser.get(&self.client, path);
        assert_eq!(page.status, 200, "{path}: {}", page.head);
        self.browser.keep_cookies(&page);
        let mut form = fields(&page.text(), mark);
        form.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let pairs: Vec<_> = form.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let answer = self.browser.write(&self.client, "POST", path, &pairs.join("&"));
        // Wagtail shows a form that it refuses once more, with 200.
        assert_eq!(answer.status, 302, "{path}: {}{}", answer.head, answer.text());
        self.browser.keep_cookies(&answer);
    }
}

/// What a browser would send of the form behind `mark`: its inputs without boxes that are not ticked, and its text
/// areas. Buttons are up to who presses them.
fn fields(page: &str, mark: &str) -> BTreeMap<String, String> {
    let start = page.find(mark).unwrap_or_else(|| panic!("{mark} in {page}"));
    let form = page[start..].split("</form>").next().unwrap_or_default();
    let tags = form.split('<').skip(1).filter_map(|tag| {
        let name = attribute(tag, "name")?;
        let ticked = attribute(tag, "type") != Some("checkbox") || tag.contains(" checked");
        let value = match () {
            () if tag.starts_with("input") && ticked => attribute(tag, "value").unwrap_or_default(),
            // A line end right behind the tag is no part of the text.
            () if tag.starts_with("textarea") => tag.split_once('>')?.1.trim_start_matches(['\r', '\n']),
            () => return None,
        };
        assert!(!value.contains('&'), "nothing in the blog is escaped: {value}");
        Some((name.to_owned(), value.to_owned()))
    });
    tags.collect()
}

fn attribute<'t>(tag: &'t str, name: &str) -> Option<&'t str> {
    let (_, behind) = tag.split_once(&format!(" {name}=\""))?;
    behind.split('"').next()
}

/// For the body of a form.
fn encoded(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let letters = value.bytes().map(|byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    letters.collect()
}

#[test]
fn what_an_editor_publishes_in_wagtail_the_next_visitor_sees() {
    let blog = Blog::open();
    blog.expect_fetched_anew(ENTRY, "text 2");
    blog.expect_fetched_anew(HOME, ">entry 2<");
    blog.expect_fetched_anew(UNRELATED, "text 3");

    let mut editor = Editor::log_in(&blog);
    let place = editor.place_of(ENTRY);
    // A draft is no business of visitors.
    editor.edit(&place, &[("title", "draft"), ("text", "half a text")]);
    blog.expect_shows(ENTRY, "hit", "text 2");
    blog.expect_shows(HOME, "hit", ">entry 2<");

    let publish = ("action-publish", "action-publish");
    editor.edit(&place, &[("title", "second title"), ("text", "second text"), publish]);
    blog.expect_fetched_anew(ENTRY, "second text");
    blog.expect_fetched_anew(HOME, ">second title<");
    blog.expect_shows(UNRELATED, "hit", "text 3");

    editor.unpublish(&place);
    expect(&blog.get(ENTRY), 404, "miss");
    blog.expect_fetched_anew(HOME, ">entry 3<");
    assert!(!blog.get(HOME).text().contains("second title"), "the list shows what was taken back");
    blog.expect_shows(UNRELATED, "hit", "text 3");
    assert_eq!(blog.django.count(&format!("GET {UNRELATED}")), 1);
}
