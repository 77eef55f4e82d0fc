//! Puts the parts together and runs them until a signal ends it.
//!
//! TERM and QUIT end gracefully: no new connections, requests under way are finished, at most for
//! [`GRACE`]. INT ends at once. HUP reads the configuration again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::apps::HttpServerOptions;
use pingora::listeners::ListenerConfig;
use pingora::listeners::tls::{ALPN, TlsSettings};
use pingora::protocols::l4::stream::L4BufferSettings;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::background::{BackgroundService, background_service};
use pingora::services::listening::Service;
use pingora::tls::ssl::{SslConnector, SslMethod, SslVerifyMode};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use crate::admin::Admin;
use crate::front::Front;
use crate::front::proxy_protocol::BeforeTls;
use crate::front::tls::{Certificates, Chooser};
use crate::observe::Observer;
use crate::observe::audit::{AuditError, AuditLog};
use crate::observe::log::{self, AccessLog};
use crate::observe::metrics::Cause;
use crate::origin::{self, Pools};
use crate::plan::listeners::Listener;
use crate::plan::{LoadError, Plan};
use crate::proxy::purge::Asker;
use crate::proxy::{App, Blank, Live, MAX_AUDITS, MAX_LATE_PURGES, Parvis};
use crate::rules::invalidate::Expires;
use crate::rules::selector::Selector;
use crate::shared::{self, Shared};
use crate::store::Store;

/// How long requests under way are waited for after TERM.
pub const GRACE: Duration = Duration::from_secs(20);

/// How long opening the listeners may take.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How often to look whether listeners are open, or the last request has ended.
const STEP: Duration = Duration::from_millis(20);

/// Connections to origins kept for reuse, in all.
const MAX_IDLE_ORIGIN_CONNECTIONS: usize = 256;

/// Attempts per request at most; what an upstream allows is less.
const MAX_ATTEMPTS: usize = 16;

/// How long the last purges may take to be told.
const LAST_PURGES: Duration = Duration::from_secs(1);

/// Why the server did not start or ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// What the system says.
        cause: std::io::Error,
    },
    /// TLS cannot be spoken.
    #[error("TLS: {0}")]
    Tls(String),
    /// The audit log cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A thread of the server could not be started, or ended by itself.
    #[error("the server ended unexpectedly; see the log")]
    Died,
}

/// What a server is started with.
pub struct Settings {
    /// The configuration.
    pub plan: Plan,
    /// The file to read again on HUP; without one HUP does nothing.
    pub file: Option<PathBuf>,
    /// Threads that serve requests.
    pub threads: usize,
    /// Whether the front answers plain hits by itself. If not, all goes the full way, to compare the two.
    pub shortcut: bool,
}

/// A running server.
pub struct Running {
    app: App,
    stopped: Receiver<Stop>,
    stop: Option<Stop>,
    // Writes out what is left of the access log when dropped.
    _access_log: log::Guard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Gracefully,
    AtOnce,
}

/// Allows as many descriptors as the process may allow itself: each connection takes one, and 1,024 is what systems begin
/// with for the sake of old programs.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of descriptors stays as it is");
    }
}

/// Starts the server in threads of its own, and lets the process have as many descriptors as it may. The access log goes to
/// `access_log`.
pub fn start(
    settings: Settings,
    access_log: impl std::io::Write + Send + 'static,
) -> Result<Running, ServeError> {
    let Settings { plan, file, threads, shortcut } = settings;
    check_addresses(&plan)?;
    let listeners = plan.listen.clone();
    let addresses: Vec<String> = listeners.iter().map(|listener| listener.address.to_string()).collect();
    let admin_address = plan.admin.listen;
    // Before the store, which takes its share of them.
    allow_descriptors();
    let (app, access_log_guard) = assemble(plan, access_log)?;

    let mut server = Server::new_with_opt_and_conf(None, configuration(threads));
    server.bootstrap();
    let mut proxy = pingora::proxy::http_proxy(&server.configuration, app.clone());
    // Of HTTP/2; those of HTTP/1 are the front's.
    let mut options = HttpServerOptions::default();
    options.h2_idle_timeout = Some(app.live.load().plan.clients.idle_timeout);
    proxy.server_options = Some(options);
    let mut front = Service::new("front".to_owned(), Front::new(app.clone(), proxy, shortcut));
    front.endpoints().set_pre_tls_callback(Arc::new(BeforeTls(app.clone())));
    let mut certificates = Vec::new();
    for listener in &listeners {
        // Unbuffered: Pingora would hold back the beginning of a slow body, take 64 KiB per idle connection, and send a
        // head after the file that the front sends behind it.
        let unbuffered = L4BufferSettings::unbuffered();
        let mut config = ListenerConfig::tcp(listener.address.to_string()).l4_buffer(unbuffered);
        if !listener.certificates.is_empty() {
            let (settings, shown) = tls_of(listener).map_err(ServeError::Tls)?;
            config = config.tls(settings);
            certificates.push(shown);
        }
        front.add_listener(config);
    }
    server.add_service(front);
    server.add_service(background_service("admin", Admin { app: app.clone(), listen: admin_address }));
    if !certificates.is_empty() {
        server.add_service(background_service("certificates", Watcher { certificates }));
    }
    server.add_service(background_service("origin", Keeper { app: app.clone() }));
    if let Some(shared) = &app.shared {
        server.add_service(background_service("shared", Linker { app: app.clone(), shared: shared.clone() }));
    }
    let (listens, listening) = channel();
    let reloads = file.is_some();
    if let Some(file) = file {
        server.add_service(background_service("reload", Reload { app: app.clone(), file, listens }));
    }
    let (stop, stopped) = channel();
    let run = move || server.run(RunArgs { shutdown_signal: Box::new(Signals(stop)) });
    let spawned = std::thread::Builder::new().name("server".to_owned()).spawn(run);
    let server = spawned.map_err(|_| ServeError::Died)?;
    let mut running = Running { app, stopped, stop: None, _access_log: access_log_guard };
    for listener in &listeners {
        // Where the PROXY protocol comes first there is no handshake with us.
        let has_tls = !listener.certificates.is_empty() && !listener.proxy_protocol;
        running.wait_until_listening(listener.address, has_tls, &server)?;
    }
    running.wait_until_listening(admin_address, false, &server)?;
    // Before that a HUP would end the process.
    if reloads && running.stop.is_none() && listening.recv_timeout(START_TIMEOUT).is_err() {
        return Err(ServeError::Died);
    }
    tracing::info!(listen = addresses.join(", "), admin = %admin_address, "parvis is listening");
    Ok(running)
}

/// Shakes hands with a listener of our own: who leaves without that is an error to Pingora, which the operator would read at every
/// start.
fn greet(stream: TcpStream) {
    // It does not wait for ever.
    let limited = stream.set_read_timeout(Some(START_TIMEOUT));
    let greeted = SslConnector::builder(SslMethod::tls()).and_then(|mut connector| {
        connector.set_verify(SslVerifyMode::NONE);
        connector.build().configure()
    });
    let greeted = greeted.map_err(|error| error.to_string()).and_then(|configured| {
        limited.map_err(|error| error.to_string())?;
        let connected = configured.verify_hostname(false).connect("localhost", stream);
        connected.map_err(|error| error.to_string())
    });
    if let Err(error) = greeted {
        tracing::debug!(error, "a listener was not greeted");
    }
}

/// How TLS is spoken on a listener, and its certificates.
fn tls_of(listener: &Listener) -> Result<(TlsSettings, Arc<Certificates>), String> {
    let certificates = Arc::new(Certificates::read(&listener.certificates)?);
    // Mozilla's intermediate recommendation: TLS 1.2 and 1.3.
    let settings = TlsSettings::with_callbacks(Box::new(Chooser(certificates.clone())));
    let mut settings = settings.map_err(|error| error.to_string())?;
    // Otherwise each record takes two reads from the system, one for its length.
    settings.set_read_ahead(true);
    settings.set_alpn(if listener.http2 { ALPN::H2H1 } else { ALPN::H1 });
    Ok((settings, certificates))
}

/// Puts everything together that answers requests, and listens to none yet. What is left of the access log is written
/// when its guard is dropped.
pub fn assemble(
    plan: Plan,
    access_log: impl std::io::Write + Send + 'static,
) -> Result<(App, log::Guard), ServeError> {
    let pools = origin::pools(&plan, None);
    let store = Arc::new(Store::new(plan.memory));
    let audit = AuditLog::open(plan.admin.audit_log.as_deref())?;
    let (access_log, guard) = AccessLog::new(access_log).map_err(|_| ServeError::Died)?;
    let observer = Observer::new(store.clone(), access_log);
    let redis = plan.redis.clone();
    let shared =
        redis.map(|redis| Arc::new(Shared::new(redis, plan.instance.clone(), observer.metrics.shared())));
    let app = App(Arc::new(Parvis {
        live: ArcSwap::from_pointee(Live::new(plan, pools)),
        store,
        observer,
        active: Arc::default(),
        late_purges: Arc::new(Semaphore::new(MAX_LATE_PURGES)),
        sweeps: Semaphore::new(1),
        audit,
        audits: Arc::new(Semaphore::new(MAX_AUDITS)),
        limits: Arc::default(),
        shared,
        blank: Blank::default(),
        reloaded: Notify::new(),
    }));
    Ok((app, guard))
}

/// Binds all addresses at once, and lets them go: Pingora would panic in a thread of its own.
fn check_addresses(plan: &Plan) -> Result<(), ServeError> {
    let bind = |address: &SocketAddr| {
        TcpListener::bind(address).map_err(|cause| ServeError::Listen { address: *address, cause })
    };
    let own = plan.listen.iter().map(|listener| &listener.address);
    let all = own.chain([&plan.admin.listen]).map(bind).collect::<Result<Vec<_>, _>>()?;
    drop(all);
    Ok(())
}

fn configuration(threads: usize) -> ServerConf {
    ServerConf {
        threads,
        // Each thread serves its own connections, in turn. A worker that others may steal from has a short queue, and what does
        // not fit there waits many times as long when hundreds of connections are busy.
        work_stealing: false,
        // Pingora sleeps through all of it; `Running::wait` leaves as soon as the last request has ended.
        grace_period_seconds: Some(GRACE.as_secs()),
        graceful_shutdown_timeout_seconds: Some(1),
        upstream_keepalive_pool_size: MAX_IDLE_ORIGIN_CONNECTIONS,
        max_retries: MAX_ATTEMPTS,
        ..ServerConf::default()
    }
}

impl Running {
    /// Pingora opens its listeners in threads of its own; a server that says it listens does.
    fn wait_until_listening(
        &mut self,
        address: SocketAddr,
        has_tls: bool,
        server: &JoinHandle<()>,
    ) -> Result<(), ServeError> {
        let reachable = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => {
                SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port())
            }
            IpAddr::V6(ip) if ip.is_unspecified() => {
                SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port())
            }
            _ => address,
        };
        let started = crate::clock::start();
        while self.stop.is_none() {
            if let Ok(stream) = TcpStream::connect_timeout(&reachable, START_TIMEOUT) {
                if has_tls {
                    greet(stream);
                }
                break;
            }
            if server.is_finished() || started.elapsed() > START_TIMEOUT {
                return Err(ServeError::Died);
            }
            std::thread::sleep(STEP);
            // A signal may come this early.
            self.stop = self.stopped.try_recv().ok();
        }
        Ok(())
    }

    /// Gives the last purges a moment to be told to the other instances; those that cannot be told are written to the journal.
    fn tell_purges(&self) {
        let Some(shared) = &self.app.shared else { return };
        let started = crate::clock::start();
        while shared.state().is_ok() && shared.log.waiting() > 0 && started.elapsed() < LAST_PURGES {
            std::thread::sleep(STEP);
        }
        shared.write_journal();
    }

    /// Waits for a signal, and then for the requests under way.
    pub fn wait(self) -> Result<(), ServeError> {
        let stop = match self.stop {
            Some(stop) => stop,
            None => self.stopped.recv().map_err(|_| ServeError::Died)?,
        };
        let waiting = crate::clock::start();
        while stop == Stop::Gracefully && self.app.active_requests() > 0 && waiting.elapsed() < GRACE {
            std::thread::sleep(STEP);
        }
        if stop == Stop::Gracefully {
            // A plain hit that its client takes at once is not counted: it is sent within microseconds.
            std::thread::sleep(STEP);
        }
        if stop == Stop::Gracefully {
            self.tell_purges();
        }
        let cut_off = self.app.active_requests();
        tracing::info!(cut_off, "parvis has ended");
        Ok(())
    }
}

struct Signals(Sender<Stop>);

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let (mut terminate, mut quit, mut interrupt) = (
            listen_for(SignalKind::terminate()),
            listen_for(SignalKind::quit()),
            listen_for(SignalKind::interrupt()),
        );
        let (stop, shutdown) = tokio::select! {
            () = next(&mut terminate) => (Stop::Gracefully, ShutdownSignal::GracefulTerminate),
            () = next(&mut quit) => (Stop::Gracefully, ShutdownSignal::GracefulTerminate),
            () = next(&mut interrupt) => (Stop::AtOnce, ShutdownSignal::FastShutdown),
        };
        // The receiver is gone only when the process is ending anyway.
        let _ = self.0.send(stop);
        shutdown
    }
}

fn listen_for(kind: SignalKind) -> Option<Signal> {
    signal(kind).inspect_err(|error| tracing::error!(%error, ?kind, "cannot listen for a signal")).ok()
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Looks whether certificates have changed.
struct Watcher {
    certificates: Vec<Arc<Certificates>>,
}

#[async_trait]
impl BackgroundService for Watcher {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut watches = JoinSet::new();
        for certificates in &self.certificates {
            let certificates = certificates.clone();
            watches.spawn(async move { certificates.watch().await });
        }
        // They end with the server only.
        while shutdown.changed().await.is_ok() && !*shutdown.borrow() {}
    }
}

/// Looks after the pools that there are.
struct Keeper {
    app: App,
}

#[async_trait]
impl BackgroundService for Keeper {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut kept: Pools = Pools::new();
        loop {
            let pools = self.app.live.load().pools.clone();
            for (name, pool) in &pools {
                // One of an earlier plan ends by itself when nobody has it any longer.
                if kept.get(name).is_none_or(|other| !Arc::ptr_eq(other, pool)) {
                    tokio::spawn(origin::health::keep(Arc::downgrade(pool)));
                }
            }
            kept = pools;
            tokio::select! {
                () = self.app.reloaded.notified() => {}
                _ = shutdown.changed() => return,
            }
        }
    }
}

/// Keeps the link to the Redis up, tells the other instances of purges, and hears of theirs.
struct Linker {
    app: App,
    shared: Arc<Shared>,
}

#[async_trait]
impl BackgroundService for Linker {
    async fn start(&self, _: ShutdownWatch) {
        // Until the process ends: requests that are still answered purge too.
        tokio::join!(
            shared::connect::keep(Arc::downgrade(&self.shared)),
            shared::log::append::append(self.shared.clone()),
            shared::log::follow::follow(self.shared.clone(), self.app.clone()),
        );
    }
}

struct Reload {
    app: App,
    file: PathBuf,
    /// Hears when HUP is listened for.
    listens: Sender<()>,
}

#[async_trait]
impl BackgroundService for Reload {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut hangup = listen_for(SignalKind::hangup());
        // Who started it may have been told to stop, and waits no longer.
        let _ = self.listens.send(());
        loop {
            tokio::select! {
                () = next(&mut hangup) => self.reload().await,
                _ = shutdown.changed() => return,
            }
        }
    }
}

impl Reload {
    /// Takes the file over if it has no mistakes; otherwise the configuration stays as it is.
    async fn reload(&self) {
        // By itself: a file with mistakes is no reason to write on into one that was moved away.
        if let Err(error) = self.app.audit.reopen() {
            tracing::error!(%error, "the audit log goes on in the old file");
        }
        let result = match self.try_reload().await {
            Ok(()) => "ok",
            Err(error) => {
                tracing::error!("the configuration was not reloaded:\n{error}");
                "refused"
            }
        };
        self.app.observer.metrics.reload(result);
    }

    async fn try_reload(&self) -> Result<(), String> {
        let (mut plan, _) = Plan::load(&self.file).map_err(|error: LoadError| error.to_string())?;
        let before = self.app.live.load_full();
        let (looked_up, pools) = (plan.clone(), before.clone());
        // It waits for the resolver, in a thread of its own.
        let pools = tokio::task::spawn_blocking(move || origin::pools(&looked_up, Some(&pools.pools)));
        let pools = pools.await.map_err(|error| error.to_string())?;
        let restart = before.plan.needs_restart(&plan);
        if !restart.is_empty() {
            tracing::warn!(changed = restart.join(", "), "takes effect only after a restart");
        }
        // What is said of the listeners is asked of each connection: it is true of those that there are.
        plan.listen.clone_from(&before.plan.listen);
        // There is the one of the start, and another one goes on being told of.
        plan.redis.clone_from(&before.plan.redis);
        plan.instance.clone_from(&before.plan.instance);
        let routes = plan.routes.len();
        let forgets = !plan.remember_queries_of(&before.plan);
        let elsewhere = before.plan.leads_elsewhere(&plan) || forgets;
        self.app.live.store(Arc::new(Live::new(plan, pools)));
        self.app.reloaded.notify_one();
        if elsewhere {
            let asker =
                Asker { by: "reload".into(), from: self.file.display().to_string(), cause: Cause::Reload };
            let report = self.app.purge(vec![Selector::All], Expires::No, asker).await;
            // An error is logged where it happens.
            let entries = report.map_or(0, |report| report.total.entries);
            let reason = match forgets {
                true => "queries have been spelled in too many ways",
                false => "a route leads to another application",
            };
            tracing::warn!(entries, reason, "nothing stored is kept");
        }
        tracing::info!(routes, file = %self.file.display(), "the configuration was reloaded");
        Ok(())
    }
}
