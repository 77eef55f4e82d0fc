//! A request as it was received, seen as the rules see it.
//!
//! Two parsers read requests: the front's and Pingora's. Both lend what they found to [`Received`], which alone decides
//! which host a request is for and what of its fields counts; so they cannot come to different answers.

use smallvec::SmallVec;

use super::forwarded;
use super::forwarding::{Client, ToldBy, is_believed};
use super::head::{Field, FieldLines, Fields, RequestHead};
use super::hop;
use super::target::{Scheme, Target, is_host};

const FORWARDED_HOST: &str = "x-forwarded-host";

/// As many fields as a browser sends, with some that proxies add, fit without an allocation.
pub type FieldList<'a> = SmallVec<[Field<'a>; 32]>;

/// The parts of a request head, lent by whoever parsed it, and what follows from who sent it.
pub struct Received<'a> {
    method: &'a str,
    path_and_query: &'a str,
    scheme: Scheme,
    fields: FieldLines<'a>,
    own_host: &'a str,
    host: &'a str,
    /// Whether all hosts that it names are text, and what trusted proxies say can be read.
    is_readable: bool,
    /// Of a trusted proxy.
    believed: SmallVec<[Field<'a>; 4]>,
}

impl<'a> Received<'a> {
    /// A request of `client`. `fields` are all lines as received; `authority` is that of a target in absolute form, and
    /// `path_and_query` the rest of the target, `/` where it has no path.
    pub fn new(
        method: &'a str,
        authority: Option<&'a str>,
        path_and_query: &'a str,
        fields: impl Into<FieldLines<'a>>,
        client: &Client,
    ) -> Self {
        let fields = hop::end_to_end(fields.into());
        let (mut named, mut is_readable) = (None, true);
        for host in fields.all("host") {
            let host = std::str::from_utf8(host);
            is_readable &= host.is_ok();
            named = named.or(host.ok());
        }
        // The authority of an absolute target wins over `Host` (RFC 9112 section 3.2.2).
        let own_host = authority.or(named).unwrap_or_default();
        let mut received = Self {
            method,
            path_and_query,
            scheme: client.scheme,
            fields,
            own_host,
            host: own_host,
            is_readable,
            believed: SmallVec::new(),
        };
        match client.told_by {
            None => {}
            Some(ToldBy::XForwarded) => received.believe_x_forwarded(),
            Some(ToldBy::Forwarded) => received.believe_forwarded(),
        }
        received
    }

    /// Takes over what a trusted proxy says, where it says more than the request itself.
    fn believe_x_forwarded(&mut self) {
        let own = self.own_host;
        let says_more = |(name, value): &&Field<'a>| {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            is_believed(name) && !(is(FORWARDED_HOST) && *value == own.as_bytes())
        };
        self.believed = self.fields.lines().iter().filter(says_more).copied().collect();
        let forwarded = self.believed.iter().filter(|(name, _)| name.eq_ignore_ascii_case(FORWARDED_HOST));
        for (_, hosts) in forwarded {
            let hosts = std::str::from_utf8(hosts);
            self.is_readable &= hosts.is_ok();
            // The last of several is what the nearest proxy says.
            let host = hosts.ok().and_then(|hosts| hosts.rsplit(',').next());
            self.host = host.map_or(own, str::trim);
        }
        self.note_other_host();
    }

    /// The same, of one that writes `Forwarded` and hands the other fields on, whoever wrote them.
    fn believe_forwarded(&mut self) {
        let Some(elements) = forwarded::elements(self.fields.all("forwarded")) else {
            // What the client has broken hides what the proxy says, and the request would be the proxy's own.
            self.is_readable = false;
            return;
        };
        let host = elements.last().and_then(|nearest| nearest.host);
        if let Some(host) = host.filter(|host| *host != self.own_host) {
            self.host = host;
            self.believed.push((FORWARDED_HOST, host.as_bytes()));
        }
        self.note_other_host();
    }

    /// The origin is sent both.
    fn note_other_host(&mut self) {
        if self.host != self.own_host {
            self.believed.push(("host", self.own_host.as_bytes()));
        }
    }

    /// The method as sent.
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// The host that the page is of: what a trusted proxy says that its client asked for, else the request's own.
    pub fn host(&self) -> &'a str {
        self.host
    }

    /// Where the request itself is aimed at.
    pub fn own_host(&self) -> &'a str {
        self.own_host
    }

    /// Whether the client named a host that is one, and nobody on the way said what cannot be read.
    pub fn has_valid_host(&self) -> bool {
        let names_none = self.host.is_empty() && !self.own_host.is_empty();
        self.is_readable && is_host(self.own_host.as_bytes()) && is_host(self.host.as_bytes()) && !names_none
    }

    /// The target in origin form; `/` for an absolute one without a path.
    pub fn path_and_query(&self) -> &'a str {
        self.path_and_query
    }

    /// The field lines, without those that `Connection` nominates.
    pub fn fields(&self) -> Fields<'_> {
        self.fields.fields()
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
