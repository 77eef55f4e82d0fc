//! A request as it was received, seen as the rules see it.
//!
//! Two parsers read requests: the front's and Pingora's. Both lend what they found to [`Envelope`], which alone decides
//! which host a request is for and what of its fields counts; so they cannot come to different answers.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::forwarded;
use super::forwarding::{Client, ToldBy, is_believed};
use super::head::{Field, FieldLines, Fields, RequestHead};
use super::hop;
use super::target::{Scheme, Target, is_host, normal_host};

const FORWARDED_HOST: &str = "x-forwarded-host";

/// As many fields as a browser sends, with some that proxies add, fit without an allocation.
pub type FieldList<'a> = SmallVec<[Field<'a>; 32]>;

/// Everything that a request says but its method and target, and what follows from who sent it. Requests of one connection
/// often share it.
pub struct Envelope<'a> {
    scheme: Scheme,
    fields: FieldLines<'a>,
    own_host: &'a str,
    host: &'a str,
    normal_host: Cow<'a, str>,
    /// Whether all hosts that it names are text, and what trusted proxies say can be read.
    is_readable: bool,
    has_valid_host: bool,
    has_body: bool,
    /// Of a trusted proxy.
    believed: Vec<Field<'a>>,
}

impl<'a> Envelope<'a> {
    /// That of a request of `client`. `fields` are all lines as received; `authority` is that of a target in absolute form.
    pub fn new(authority: Option<&'a str>, fields: impl Into<FieldLines<'a>>, client: &Client) -> Self {
        let fields = hop::end_to_end(fields.into());
        let (mut named, mut is_readable) = (None, true);
        for host in fields.all("host") {
            let host = std::str::from_utf8(host);
            is_readable &= host.is_ok();
            named = named.or(host.ok());
        }
        // The authority of an absolute target wins over `Host` (RFC 9112 section 3.2.2).
        let own_host = authority.or(named).unwrap_or_default();
        let lent = fields.fields();
        let has_length = lent.text("content-length").is_some_and(|length| length.trim() != "0");
        let has_body = has_length || lent.has("transfer-encoding");
        let mut envelope = Self {
            scheme: client.scheme,
            fields,
            own_host,
            host: own_host,
            normal_host: Cow::default(),
            is_readable,
            has_valid_host: false,
            has_body,
            believed: Vec::new(),
        };
        match client.told_by {
            None => {}
            Some(ToldBy::XForwarded) => envelope.believe_x_forwarded(),
            Some(ToldBy::Forwarded) => envelope.believe_forwarded(),
        }
        envelope.normal_host = normal_host(envelope.scheme, envelope.host);
        envelope.has_valid_host = envelope.names_a_host();
        envelope
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

    fn names_a_host(&self) -> bool {
        let names_none = self.host.is_empty() && !self.own_host.is_empty();
        self.is_readable && is_host(self.own_host.as_bytes()) && is_host(self.host.as_bytes()) && !names_none
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
        self.has_valid_host
    }

    /// The field lines, without those that `Connection` nominates.
    pub fn fields(&self) -> Fields<'_> {
        self.fields.fields()
    }

    /// The head of a request with this method and target, for the rules.
    pub fn head<'r>(&'r self, method: &'r str, path_and_query: &'r str) -> RequestHead<'r> {
        RequestHead {
            method,
            target: Target::at(self.scheme, Cow::Borrowed(&self.normal_host), path_and_query),
            fields: self.fields(),
            has_body: self.has_body,
            believed: &self.believed,
        }
    }
}

/// The parts of a request head, lent by whoever parsed it.
pub struct Received<'a> {
    method: &'a str,
    path_and_query: &'a str,
    envelope: Envelope<'a>,
}

impl<'a> Received<'a> {
    /// A request. `path_and_query` is the target without its authority, `/` where it has no path.
    pub fn new(method: &'a str, path_and_query: &'a str, envelope: Envelope<'a>) -> Self {
        Self { method, path_and_query, envelope }
    }

    /// The method as sent.
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// The target in origin form; `/` for an absolute one without a path.
    pub fn path_and_query(&self) -> &'a str {
        self.path_and_query
    }

    /// See [`Envelope::host`].
    pub fn host(&self) -> &'a str {
        self.envelope.host()
    }

    /// See [`Envelope::own_host`].
    pub fn own_host(&self) -> &'a str {
        self.envelope.own_host()
    }

    /// See [`Envelope::has_valid_host`].
    pub fn has_valid_host(&self) -> bool {
        self.envelope.has_valid_host()
    }

    /// See [`Envelope::fields`].
    pub fn fields(&self) -> Fields<'_> {
        self.envelope.fields()
    }

    /// The head for the rules.
    pub fn head(&self) -> RequestHead<'_> {
        self.envelope.head(self.method, self.path_and_query)
    }
}
