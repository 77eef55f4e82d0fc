//! Random schedules of fetches, purges, crashes, cuts and losses, by the real scripts in a real Redis, held against what the origin
//! had: once all instances are in touch again, nothing is served that was purged.

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use uuid::Uuid;

use super::connect::{Link, connect};
use super::log::follow::{Follower, Obey};
use super::log::{Log, Mark, Orders};
use super::tier::{Recalled, Share};
use super::{Held, Shared};
use crate::clock;
use crate::observe::shared::Figures;
use crate::plan::Memory as Budget;
use crate::plan::redis::{Redis, Topology};
use crate::rules::freshness::Freshness;
use crate::rules::head::{Fields, RequestHead, ResponseHead};
use crate::rules::key::{CacheKey, Vary};
use crate::rules::selector::{Facts, Selector};
use crate::rules::tags::Tags;
use crate::rules::target::{Scheme, Target};
use crate::rules::testing;
use crate::store::Store;
use crate::store::ban::Effect;
use crate::store::fence::Sequence;
use crate::store::response::{Head, StoredResponse};

const SCHEDULES: u64 = 1000;
const STEPS: usize = 60;
const INSTANCES: usize = 3;
const PAGES: usize = 3;
const BUDGET: Budget = Budget { max_size: 1 << 20, max_object_size: 1 << 18 };
const HOUR: Duration = Duration::from_secs(3600);

/// A server on a socket of its own.
struct Server {
    child: Child,
    directory: std::path::PathBuf,
}

impl Server {
    fn start() -> Self {
        let directory = std::env::temp_dir().join(format!("parvis-schedules-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&directory).unwrap();
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(directory.join("redis.sock"))
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server, which `scripts/setup test` installs");
        Self { child, directory }
    }

    fn settings(&self, prefix: &str) -> Redis {
        let url = format!("unix://{}", self.directory.join("redis.sock").display());
        Redis {
            urls: vec![url.parse().unwrap()],
            topology: Topology::Single,
            ca: None,
            key_prefix: prefix.into(),
            timeout: Duration::from_secs(10),
            max_object_size: 1 << 20,
            journal: None,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

struct Instance {
    shared: Arc<Shared>,
    store: Store,
    follower: Option<Follower>,
    /// By page, the version that its own purges have asked for, and those that were in the log when it was connected.
    floor: [u64; PAGES],
    logged: [u64; PAGES],
}

struct Purger<'s>(&'s Store);

impl Obey for Purger<'_> {
    async fn obey(&self, orders: Orders) {
        self.0.purge(orders.selectors(), Effect::Remove);
        self.0.sweep();
    }
}

/// A fetch under way.
struct Fetch {
    at: usize,
    page: usize,
    version: u64,
    begun: Sequence,
    mark: Option<Mark>,
}

struct World {
    settings: Redis,
    link: Link,
    instances: Vec<Instance>,
    fetches: Vec<Fetch>,
    /// By page, what the origin has, and what it had when the page was last purged.
    origin: [u64; PAGES],
    purged: [u64; PAGES],
    /// What purges in the log have asked for, and those still to be appended.
    logged: [u64; PAGES],
    asked: HashMap<Uuid, [u64; PAGES]>,
}

fn key(page: usize) -> CacheKey {
    let path = format!("/{page}");
    let target = Target::new(Scheme::Http, "shop", &path);
    let request =
        RequestHead { method: "GET", target, fields: Fields::default(), has_body: false, believed: &[] };
    CacheKey::primary("r", &request, &testing::policy())
}

fn response(page: usize, version: u64) -> StoredResponse {
    let freshness = Freshness {
        stored_at: clock::now(),
        initial_age: Duration::ZERO,
        lifetime: HOUR,
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        stale_on_disconnect: Duration::ZERO,
        stale_forbidden: false,
        always_revalidate: false,
        is_purged: false,
    };
    let facts = Facts {
        host: "shop".into(),
        path: format!("/{page}").into(),
        tags: Tags::new(["shop".into()]),
        ..Facts::default()
    };
    let head = Head::storable(&ResponseHead { status: 200, fields: Fields::default() });
    let body = Bytes::from(version.to_string());
    StoredResponse::new(head, body, freshness, facts, Vary::default(), None)
}

fn version(response: &StoredResponse) -> u64 {
    std::str::from_utf8(&response.body).unwrap().parse().unwrap()
}

impl Instance {
    fn new(settings: &Redis, at: usize) -> Self {
        let shared = Shared::new(settings.clone(), format!("i{at}").into(), Figures::unregistered());
        Self {
            shared: shared.into(),
            store: Store::new(BUDGET),
            follower: None,
            floor: [0; PAGES],
            logged: [0; PAGES],
        }
    }

    fn connect(&mut self, link: &Link, logged: [u64; PAGES]) {
        self.logged = logged;
        self.shared.held.store(Some(Arc::new(Held::new(link.clone(), link.clone()))));
        self.follower = Some(Follower::new(link.clone()));
    }

    fn cut(&mut self) {
        self.shared.held.store(None);
        self.follower = None;
        self.shared.log.lose();
    }

    fn purge(&self, selectors: &[Selector]) {
        self.shared.log.announce(selectors, false);
        self.store.purge(selectors, Effect::Remove);
        self.store.sweep();
    }

    async fn follow(&mut self) {
        let Some(follower) = &mut self.follower else { return };
        self.shared.follow_on(follower, None, &Purger(&self.store)).await.unwrap();
    }

    async fn append(&self) -> bool {
        if self.follower.is_some()
            && let Some(purge) = self.shared.log.next()
            && let Some(at) = self.shared.append(&purge).await.unwrap()
        {
            self.shared.log.appended(purge.nonce, at);
            return true;
        }
        false
    }

    /// What it serves of a page without asking the origin, as the proxy looks for it.
    async fn served(&self, page: usize) -> Option<u64> {
        let (key, memory) = (key(page), &self.store.memory);
        let begun = memory.begin();
        if let Some(stored) = memory.stored(&key) {
            return Some(version(&stored));
        }
        let Some(Recalled::Response(response)) = self.shared.recall(&key, 0, 100).await else { return None };
        let response = Arc::new(*response);
        memory.insert(&key, response.clone(), begun, 10).is_ok().then(|| version(&response))
    }
}

impl World {
    fn new(settings: Redis, link: &Link) -> Self {
        let mut instances: Vec<_> = (0..INSTANCES).map(|at| Instance::new(&settings, at)).collect();
        instances.iter_mut().for_each(|instance| instance.connect(link, [0; PAGES]));
        let (link, fetches) = (link.clone(), Vec::new());
        let (origin, purged, logged) = ([0; PAGES], [0; PAGES], [0; PAGES]);
        Self { settings, link, instances, fetches, origin, purged, logged, asked: HashMap::new() }
    }

    async fn ask(&mut self, at: usize, page: usize) {
        let instance = &self.instances[at];
        let begun = instance.store.memory.begin();
        match instance.served(page).await {
            Some(version) => {
                assert!(version >= instance.floor[page], "its own purge is in force at once");
                let is_current = instance.shared.log.is_current();
                assert!(
                    !is_current || version >= instance.logged[page],
                    "it has read all before it is in touch"
                );
            }
            None => self.fetches.push(Fetch {
                at,
                page,
                version: self.origin[page],
                begun,
                mark: instance.shared.log.mark(),
            }),
        }
    }

    async fn end_fetch(&mut self, number: usize) {
        let Fetch { at, page, version, begun, mark } = self.fetches.swap_remove(number);
        let (instance, response) = (&self.instances[at], Arc::new(response(page, version)));
        let is_stored = instance.store.memory.insert(&key(page), response.clone(), begun, 10).is_ok();
        if let (true, Some(mark)) = (is_stored, mark) {
            let (primary, key) = (key(page), key(page));
            let share = Share { primary, key, stamp: 0, response, mark, held: None };
            // Who is cut off cannot.
            let _ = instance.shared.write(&share, HOUR).await;
        }
    }

    fn purge(&mut self, at: usize, page: usize, everything: bool) {
        let pages = if everything { 0..PAGES } else { page..page + 1 };
        for page in pages {
            self.origin[page] += 1;
            self.purged[page] = self.origin[page];
            self.instances[at].floor[page] = self.origin[page];
        }
        let selector = match everything {
            true => Selector::tag("shop").unwrap(),
            false => Selector::page(&response(page, 0).facts),
        };
        self.instances[at].purge(&[selector]);
        let waiting = self.instances[at].shared.log.untold();
        // It may have joined one before it.
        self.asked.insert(waiting.last().unwrap().nonce, self.purged);
    }

    async fn append(&mut self, at: usize) {
        let next = self.instances[at].shared.log.next();
        if self.instances[at].append().await
            && let Some(asked) = next.and_then(|next| self.asked.get(&next.nonce))
        {
            (0..PAGES).for_each(|page| self.logged[page] = self.logged[page].max(asked[page]));
        }
    }

    /// It begins anew, with what its journal holds.
    fn crash(&mut self, at: usize) {
        let (before, floor) = (self.instances[at].shared.log.untold(), self.instances[at].floor);
        self.instances[at] = Instance::new(&self.settings, at);
        let log = Log::new(before.iter().map(|purge| (**purge).clone()).collect());
        Arc::get_mut(&mut self.instances[at].shared).unwrap().log = log;
        self.instances[at].floor = floor;
        self.fetches.retain(|fetch| fetch.at != at);
    }

    /// As a failover does it to which the last entries have not come.
    async fn lose(&mut self, count: usize) {
        let key = self.instances[0].shared.key("log", "");
        let script = "
            local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', ARGV[1] + 1)
            if #last <= tonumber(ARGV[1]) then return redis.call('DEL', KEYS[1]) end
            for i = 1, ARGV[1] do redis.call('XDEL', KEYS[1], last[i][1]) end
            redis.call('XSETID', KEYS[1], last[#last][1])";
        let mut link = self.link.clone();
        let _: () = redis::Script::new(script).key(key).arg(count).invoke_async(&mut link).await.unwrap();
    }

    /// As very many other purges do it.
    async fn trim(&mut self, at: usize) {
        self.instances[at].purge(&[Selector::tag("other").unwrap()]);
        while self.instances[at].follower.is_some() && self.instances[at].shared.log.next().is_some() {
            self.append(at).await;
            self.instances[at].follow().await;
        }
        let key = self.instances[0].shared.key("log", "");
        let mut trim = redis::cmd("XTRIM");
        let _: u64 = trim.arg(key).arg("MAXLEN").arg(1).query_async(&mut self.link.clone()).await.unwrap();
    }

    async fn step(&mut self, random: &mut TestRng, loses: bool) {
        let mut below = |count: usize| (random.next_u32() as usize) % count;
        let (what, at, page, number) = (below(100), below(INSTANCES), below(PAGES), below(8));
        match what {
            0..40 => self.ask(at, page).await,
            40..60 if number < self.fetches.len() => self.end_fetch(number).await,
            60..65 => self.purge(at, page, number == 0),
            65..74 => self.append(at).await,
            74..86 => self.instances[at].follow().await,
            86..90 => self.instances[at].cut(),
            90..94 if self.instances[at].follower.is_none() => {
                let (link, logged) = (self.link.clone(), self.logged);
                self.instances[at].connect(&link, logged);
            }
            94..96 if loses => {
                self.append(at).await;
                self.instances[at].follow().await;
                self.lose(number / 3 + 1).await;
                // What it had is told again, and is in the log then.
                self.logged = [0; PAGES];
                self.instances.iter_mut().for_each(|instance| instance.logged = [0; PAGES]);
            }
            94..96 => self.crash(at),
            96..100 => self.trim(at).await,
            _ => {}
        }
    }

    /// All are in touch again, and have had their turns.
    async fn heal(&mut self) {
        let link = self.link.clone();
        for instance in self.instances.iter_mut().filter(|instance| instance.follower.is_none()) {
            instance.connect(&link, self.logged);
        }
        while !self.fetches.is_empty() {
            self.end_fetch(0).await;
        }
        for _ in 0..6 {
            for instance in &mut self.instances {
                instance.follow().await;
                while instance.shared.log.next().is_some() {
                    instance.append().await;
                    instance.follow().await;
                }
            }
        }
    }

    async fn check(&self, schedule: u64) -> usize {
        let mut served = 0;
        for (at, instance) in self.instances.iter().enumerate() {
            assert!(instance.shared.log.is_current(), "schedule {schedule}: {at} is back");
            assert_eq!(instance.shared.log.waiting(), 0, "schedule {schedule}: {at} has told all");
            for page in 0..PAGES {
                if let Some(version) = instance.served(page).await {
                    let purged = self.purged[page];
                    assert!(
                        version >= purged,
                        "schedule {schedule}: {at} serves {version} of /{page}, purged {purged}"
                    );
                    served += 1;
                }
            }
        }
        served
    }
}

/// The link to a server that has just been started.
async fn linked(server: &Server) -> Link {
    loop {
        match connect(&server.settings("p:")).await {
            Ok(link) => return link,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

#[tokio::test]
async fn what_was_written_by_who_had_read_what_is_lost_is_refused_before_he_knows() {
    let server = Server::start();
    let link = linked(&server).await;
    let mut world = World::new(server.settings("lost:"), &link);
    for at in [0, 1, 0, 1] {
        world.instances[at].follow().await;
    }
    world.instances[0].purge(&[Selector::tag("other").unwrap()]);
    world.append(0).await;
    world.instances[0].follow().await;
    world.ask(0, 0).await;
    world.end_fetch(0).await;
    // The entry that it had read when it fetched the page is lost, and another one has its place.
    world.lose(1).await;
    world.purge(1, 0, false);
    world.append(1).await;
    for at in [1, 2, 2, 2] {
        world.instances[at].follow().await;
    }
    let both_know = [1, 2].iter().all(|at| world.instances[*at].shared.log.is_current());
    assert!(both_know && world.instances[1].served(0).await.is_none());
    assert!(world.instances[2].served(0).await.is_none());
    world.heal().await;
    world.check(0).await;
}

#[tokio::test]
async fn what_the_log_has_lost_is_told_again_however_much_has_come_since() {
    let server = Server::start();
    let link = linked(&server).await;
    let mut world = World::new(server.settings("since:"), &link);
    for at in [0, 1, 0, 1] {
        world.instances[at].follow().await;
    }
    world.purge(0, 0, false);
    world.append(0).await;
    world.instances[0].follow().await;
    world.lose(1).await;
    for _ in 0..300 {
        world.instances[1].purge(&[Selector::tag("other").unwrap()]);
        world.append(1).await;
    }
    world.instances[0].follow().await;
    let untold = world.instances[0].shared.log.untold();
    assert_eq!(untold.iter().map(|purge| purge.selectors.len()).collect::<Vec<_>>(), [1]);
    world.heal().await;
    world.check(0).await;
}

#[tokio::test]
async fn of_what_nobody_remembers_everything_is_told_again() {
    let server = Server::start();
    let link = linked(&server).await;
    let mut world = World::new(server.settings("many:"), &link);
    for _ in 0..2 {
        world.instances[0].follow().await;
    }
    for _ in 0..300 {
        world.instances[0].purge(&[Selector::tag("other").unwrap()]);
        world.append(0).await;
        world.instances[0].follow().await;
    }
    world.lose(300).await;
    world.instances[0].follow().await;
    let untold = world.instances[0].shared.log.untold();
    assert_eq!((untold.len(), &untold[0].selectors[..]), (257, &[Selector::All][..]));
    world.heal().await;
    world.check(0).await;
}

#[tokio::test]
async fn nothing_is_served_that_was_purged_once_all_are_in_touch() {
    let server = Server::start();
    let link = linked(&server).await;
    let mut served = 0;
    for schedule in 0..SCHEDULES {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&schedule.to_le_bytes());
        let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let mut world = World::new(server.settings(&format!("{schedule}:")), &link);
        for _ in 0..STEPS {
            world.step(&mut random, schedule % 2 == 0).await;
        }
        world.heal().await;
        served += world.check(schedule).await;
    }
    assert!(served > 500, "something is left to be served: {served}");
}
