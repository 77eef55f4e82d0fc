//! Who asks: all of a request but its method and target, and what is decided of that before these are looked at.

use std::cell::Cell;
use std::net::IpAddr;
use std::ptr;

use crate::proxy::Live;
use crate::rules::encoding::{self, Formats, Wish};
use crate::rules::forwarding::{self, Client};
use crate::rules::framing;
use crate::rules::head::{FieldLines, RequestHead};
use crate::rules::lookup;
use crate::rules::request::Envelope;
use crate::rules::route::Route;
use crate::rules::target::Scheme;

/// The sender of a request, under one configuration.
pub struct Caller<'r> {
    /// Who it is.
    pub client: Client,
    /// What is said beside method and target.
    pub envelope: Envelope<'r>,
    /// Whether another request may follow on the connection.
    pub keeps: bool,
    /// Where the route lies that was the last to let these fields be answered from the store.
    cleared: Cell<Option<usize>>,
    /// What was offered last, and what it got of that.
    negotiated: Cell<Option<(Formats, Wish)>>,
}

impl<'r> Caller<'r> {
    /// The sender of these field lines, on a connection from `peer`.
    pub fn new(
        live: &Live,
        fields: impl Into<FieldLines<'r>>,
        minor_version: u8,
        (peer, scheme): (IpAddr, Scheme),
    ) -> Self {
        let fields = fields.into();
        let client = forwarding::identify(peer, scheme, &live.plan.trust, fields.fields());
        let keeps = framing::persists(minor_version, fields.fields());
        Self::of(client, Envelope::new(None, fields, &client), keeps)
    }

    /// The same, taken apart already.
    pub fn of(client: Client, envelope: Envelope<'r>, keeps: bool) -> Self {
        Self { client, envelope, keeps, cleared: Cell::default(), negotiated: Cell::default() }
    }

    /// Whether a request that this caller reads with may be answered from the store ([`lookup::allowed`]). The fields are
    /// judged once for each route that comes in succession.
    pub fn may_be_looked_up(&self, request: &RequestHead<'_>, route: &Route) -> bool {
        debug_assert!(request.is_read(), "others are never answered here");
        // Routes stay where they are as long as their configuration, and so the caller, is in use.
        let place = Some(ptr::from_ref(route).addr());
        if self.cleared.get() != place {
            if lookup::allowed_by_fields(request, &route.cache).is_err() {
                return false;
            }
            self.cleared.set(place);
        }
        lookup::allowed_by_target(&request.target).is_ok()
    }

    /// What it gets of the codings on offer ([`encoding::negotiate`]).
    pub fn wish(&self, offered: Formats) -> Wish {
        match self.negotiated.get() {
            Some((before, wish)) if before == offered => wish,
            _ => {
                let wish = encoding::negotiate(self.envelope.fields(), offered);
                self.negotiated.set(Some((offered, wish)));
                wish
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::config::load;
    use crate::origin;
    use crate::plan::Plan;
    use crate::rules::encoding::Coding::{Brotli, Gzip};

    fn caller<'r>(live: &Live, more: (&'r str, &'r [u8])) -> Caller<'r> {
        let lines = vec![("host", &b"shop"[..]), more];
        Caller::new(live, lines, 1, (IpAddr::V4(Ipv4Addr::LOCALHOST), Scheme::Http))
    }

    /// A configuration with one upstream and what `yaml` says besides.
    pub fn live(yaml: &str) -> Live {
        let yaml = format!("upstreams: {{app: {{servers: [\"127.0.0.1:1\"]}}}}\n{yaml}\n");
        let plan = Plan::from_loaded(&load::parse("test.yaml", &yaml, &|_| None)).unwrap().0;
        let pools = origin::pools(&plan, None);
        Live::new(plan, pools)
    }

    #[test]
    fn a_caller_negotiates_anew_about_another_offer() {
        let caller = caller(&live("routes: [{name: rest}]"), ("accept-encoding", b"gzip, br;q=0.5"));
        for offered in [Formats::new([Gzip, Brotli]), Formats::new([Brotli]), Formats::NONE] {
            let wish = encoding::negotiate(caller.envelope.fields(), offered);
            assert_eq!([caller.wish(offered), caller.wish(offered)], [wish, wish]);
            assert_eq!(wish.codings.as_slice().len(), offered.as_slice().len());
        }
    }

    #[test]
    fn each_route_judges_a_caller() {
        let live = live(
            "routes:\n  - {name: shop, match: {path: /shop/*}, cache: {ttl: 1m, ignore_cookies: [basket]}}\n  - {name: rest, cache: {ttl: 1m}}\n",
        );
        let caller = caller(&live, ("cookie", b"basket=7"));
        let may = |route: usize, path: &str| {
            let route = &live.plan.routes[route];
            assert_eq!(
                caller.may_be_looked_up(&caller.envelope.head("GET", path), route),
                lookup::allowed(&caller.envelope.head("GET", path), &route.cache).is_ok(),
            );
            caller.may_be_looked_up(&caller.envelope.head("GET", path), route)
        };
        for _ in 0..2 {
            assert!(may(0, "/shop/1") && may(0, "/shop/2") && !may(0, "/shop/../me"));
            assert!(!may(1, "/"));
        }
    }
}
