//! A request as it was received, seen as the rules see it.
//!
//! Two parsers read requests: the front's and Pingora's. Both lend what they found to [`Received`], which alone decides
//! which host a request is for and what of its fields counts; so they cannot come to different answers.

use smallvec::SmallVec;

use super::forwarding::{Client, is_believed};
use super::head::{Field, Fields, RequestHead};
use super::hop;
use super::target::{Scheme, Target, is_host};

const FORWARDED_HOST: &str = "x-forwarded-host";

/// As many fields as a browser sends, with some that proxies add, fit without an allocation.
pub type FieldList<'a> = SmallVec<[Field<'a>; 32]>;

/// The parts of a request head, lent by whoever parsed it, and what follows from who sent it.
pub struct Received<'a> {
    method: &'a str,
    /// Of a target in absolute form.
    authority: Option<&'a str>,
    path_and_query: &'a str,
    scheme: Scheme,
    fields: FieldList<'a>,
    /// Of a trusted proxy.
    believed: SmallVec<[Field<'a>; 4]>,
}

impl<'a> Received<'a> {
    /// A request of `client`. `fields` are all lines as received; `authority` and `path_and_query` are the parts of its
    /// target, `/` where it has no path.
    pub fn new(
        method: &'a str,
        authority: Option<&'a str>,
        path_and_query: &'a str,
        mut fields: FieldList<'a>,
        client: &Client,
    ) -> Self {
        hop::retain_end_to_end(&mut fields);
        let scheme = client.scheme;
        let mut received =
            Self { method, authority, path_and_query, scheme, fields, believed: SmallVec::new() };
        if client.via_trusted {
            received.believe();
        }
        received
    }

    /// Takes over what a trusted proxy says, where it says more than the request itself.
    fn believe(&mut self) {
        let own = self.own_host();
        let says_more = |(name, value): &&Field<'a>| {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            is_believed(name) && !(is(FORWARDED_HOST) && *value == own.as_bytes())
        };
        self.believed = self.fields.iter().filter(says_more).copied().collect();
        if self.host() != own {
            // The origin is sent both.
            self.believed.push(("host", own.as_bytes()));
        }
    }

    /// The method as sent.
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// The host that the page is of: what a trusted proxy says that its client asked for, else the request's own.
    pub fn host(&self) -> &'a str {
        let forwarded =
            self.believed.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case(FORWARDED_HOST));
        // The last of several is what the nearest proxy says.
        let host = forwarded.and_then(|(_, hosts)| std::str::from_utf8(hosts).ok()?.rsplit(',').next());
        host.map_or_else(|| self.own_host(), str::trim)
    }

    /// Where the request itself is aimed at: the authority of an absolute target wins over `Host` (RFC 9112 section
    /// 3.2.2).
    pub fn own_host(&self) -> &'a str {
        match self.authority {
            Some(authority) => authority,
            None => self
                .fields
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case("host"))
                .and_then(|(_, value)| std::str::from_utf8(value).ok())
                .unwrap_or_default(),
        }
    }

    /// Whether the client named a host that is one.
    pub fn has_valid_host(&self) -> bool {
        let is_text = |value: &[u8]| std::str::from_utf8(value).is_ok();
        let named = |list: &[Field<'_>], name: &str| {
            let lines = list.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
            lines.map(|(_, value)| *value).all(is_text)
        };
        let names_none = self.host().is_empty() && !self.own_host().is_empty();
        named(&self.fields, "host")
            && named(&self.believed, FORWARDED_HOST)
            && is_host(self.own_host())
            && is_host(self.host())
            && !names_none
    }

    /// The target in origin form; `/` for an absolute one without a path.
    pub fn path_and_query(&self) -> &'a str {
        self.path_and_query
    }

    /// The field lines, without those that `Connection` nominates.
    pub fn fields(&self) -> Fields<'_> {
        Fields(&self.fields)
    }

    /// The head for the rules.
    pub fn head(&self) -> RequestHead<'_> {
        let fields = self.fields();
        let has_length = fields.text("content-length").is_some_and(|length| length.trim() != "0");
        RequestHead {
            method: self.method,
            target: Target::new(self.scheme, self.host(), self.path_and_query),
            fields,
            has_body: has_length || fields.has("transfer-encoding"),
            believed: &self.believed,
        }
    }
}
