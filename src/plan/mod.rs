//! The configuration, compiled: validated, immutable, and in the form the request path uses.
//!
//! [`compile`](compile::compile) turns a [`crate::config::Config`] into a [`Plan`] and reports every mistake that
//! only the whole shows. A plan is swapped whole on reload, so a request sees one plan from its beginning to its
//! end.

mod admin;
pub mod compile;
mod encode;
mod headers;
mod limits;
pub mod listeners;
mod policies;
pub mod redis;
mod removals;
mod risks;
mod routes;
pub mod upstreams;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::{self, Report, schema::Scope};
use crate::rules::forwarding::Trust;
use crate::rules::headers::HeaderPolicy;
use crate::rules::pace::LeastPace;
use crate::rules::policy::QueryPolicy;
use crate::rules::route::{Route, Routes};
use listeners::Listener;
use redis::Redis;
use upstreams::{Server, Upstream};

/// The most spellings of one URL that a purge looks for, those of earlier plans included: one for every route at most.
const MAX_QUERY_POLICIES: usize = 1000;

/// A validated configuration.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where clients connect.
    pub listen: Vec<Listener>,
    /// Who is believed about clients.
    pub trust: Trust,
    /// Whose purges on the main listener are carried out.
    pub purge_clients: Vec<IpNet>,
    /// What clients are allowed.
    pub clients: Clients,
    /// What this instance is called.
    pub instance: Arc<str>,
    /// The operators' listener.
    pub admin: Admin,
    /// The applications, by name.
    pub upstreams: BTreeMap<Arc<str>, Upstream>,
    /// The memory tier.
    pub memory: Memory,
    /// The Redis that several instances share.
    pub redis: Option<Redis>,
    /// In file order.
    pub routes: Routes,
    /// The distinct query policies of the routes: the spellings under which one URL may be stored.
    pub query_policies: Vec<QueryPolicy>,
    /// What is done to the fields of responses that no route has.
    pub response_headers: HeaderPolicy,
    /// Whether requests are logged.
    pub access_log: bool,
    /// From when a request counts as slow.
    pub slow_request: Duration,
}

/// What a client's connection is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clients {
    /// Bytes of a request's head.
    pub max_header_size: usize,
    /// From the first byte of a head to its last.
    pub header_timeout: Duration,
    /// How long a connection without a request is kept.
    pub idle_timeout: Duration,
    /// How long it may stand still in the middle of an exchange.
    pub stall_timeout: Duration,
    /// The least bytes per second while the client is waited for.
    pub min_rate: u64,
}

impl Clients {
    /// How fast a client has to be.
    pub fn least_pace(&self) -> LeastPace {
        LeastPace { rate: self.min_rate, patience: self.stall_timeout }
    }
}

/// The operators' listener.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Loopback unless the operator says otherwise.
    pub listen: SocketAddr,
    /// Who may do what.
    pub tokens: Vec<Token>,
    /// The file of the audit log.
    pub audit_log: Option<PathBuf>,
}

/// A bearer token, kept as its digest only.
#[derive(Clone, Debug)]
pub struct Token {
    /// For the audit log.
    pub name: String,
    /// SHA-256 of the secret: equal lengths make the comparison constant in time.
    pub digest: [u8; 32],
    /// What it allows.
    pub scopes: Vec<Scope>,
}

/// Budgets of the memory tier, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// For all that is stored.
    pub max_size: u64,
    /// For one body.
    pub max_object_size: u64,
}

/// Why a file gave no plan.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be read.
    #[error("{0}")]
    Unreadable(String),
    /// It has mistakes.
    #[error("{0}")]
    Mistakes(Box<Report>),
}

impl Plan {
    /// Reads and compiles a file. The report of a usable file holds its warnings.
    pub fn load(file: &Path) -> Result<(Self, Report), LoadError> {
        let loaded = config::load(file).map_err(LoadError::Unreadable)?;
        Self::from_loaded(&loaded)
    }

    /// Compiles what was read.
    pub fn from_loaded(loaded: &config::Loaded) -> Result<(Self, Report), LoadError> {
        let (plan, mistakes) = compile::compile(&loaded.config);
        let report = loaded.report(mistakes);
        match plan {
            Some(plan) if !report.has_errors() => Ok((plan, report)),
            _ => Err(LoadError::Mistakes(Box::new(report))),
        }
    }

    /// Whether pages stored under this plan may be another application's under `next`: a route leads to another
    /// upstream, or an upstream has none of its servers any longer.
    pub fn leads_elsewhere(&self, next: &Self) -> bool {
        let moved = |route: &Arc<Route>| {
            let same = next.routes.iter().find(|other| other.name == route.name);
            same.is_some_and(|other| other.upstream != route.upstream)
        };
        let replaced = |(name, upstream): (&Arc<str>, &Upstream)| {
            let listed = |servers: &[Server], server: &Server| {
                servers.iter().any(|other| other.address == server.address)
            };
            let next = next.upstreams.get(name).map(|next| &next.servers);
            next.is_some_and(|next| !upstream.servers.iter().any(|server| listed(next, server)))
        };
        self.routes.iter().any(moved) || self.upstreams.iter().any(replaced)
    }

    /// Goes on spelling URLs to purge by the query policies of an earlier plan too: a later reload may bring a route back, and
    /// with it what was stored under them. Tells whether that could be done.
    pub fn remember_queries_of(&mut self, earlier: &Self) -> bool {
        for policy in &earlier.query_policies {
            if !self.query_policies.iter().any(|known| known.spells_like(policy)) {
                self.query_policies.push(policy.clone());
            }
        }
        self.query_policies.len() <= MAX_QUERY_POLICIES || {
            self.query_policies.truncate(MAX_QUERY_POLICIES);
            false
        }
    }

    /// The listener that a connection to this address has come by.
    pub fn listener(&self, local: SocketAddr) -> Option<&Listener> {
        let is_its = |listener: &&Listener| {
            let own = listener.address;
            own.port() == local.port() && (own.ip() == local.ip() || own.ip().is_unspecified())
        };
        self.listen.iter().find(is_its)
    }

    /// What of another plan cannot take effect without a restart.
    pub fn needs_restart(&self, next: &Self) -> Vec<&'static str> {
        let mut changed = Vec::new();
        if self.listen != next.listen {
            changed.push("listen");
        }
        if self.admin.listen != next.admin.listen {
            changed.push("admin.listen");
        }
        if self.admin.audit_log != next.admin.audit_log {
            changed.push("admin.audit_log");
        }
        if self.memory != next.memory {
            changed.push("storage.memory");
        }
        if self.instance != next.instance {
            changed.push("instance");
        }
        if self.redis != next.redis {
            changed.push("storage.redis");
        }
        changed
    }
}
