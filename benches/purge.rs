//! What a purge of very many entries costs who asks for it, and those who read meanwhile: `cargo bench --bench purge`.
#![allow(clippy::disallowed_methods)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parvis::clock::Timestamp;
use parvis::plan::Memory as Budget;
use parvis::rules::freshness::Freshness;
use parvis::rules::head::{Fields, RequestHead};
use parvis::rules::key::{CacheKey, Vary};
use parvis::rules::policy::{CachePolicy, QueryPolicy};
use parvis::rules::selector::{Facts, Selector};
use parvis::rules::tags::Tags;
use parvis::rules::target::{Scheme, Target};
use parvis::store::Store;
use parvis::store::ban::Effect;
use parvis::store::response::{Head, StoredResponse};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ENTRIES: usize = 100_000;

fn request(path: &str) -> RequestHead<'_> {
    let target = Target::new(Scheme::Http, "shop.example", path);
    RequestHead { method: "GET", target, fields: Fields::default(), has_body: false, believed: &[] }
}

fn path(n: usize) -> String {
    format!("/products/{n}/details")
}

fn key(path: &str) -> CacheKey {
    CacheKey::primary("rest", &request(path), &CachePolicy::default())
}

fn freshness() -> Freshness {
    Freshness {
        stored_at: Timestamp(0),
        initial_age: Duration::ZERO,
        lifetime: Duration::from_secs(3600),
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        stale_on_disconnect: Duration::ZERO,
        stale_forbidden: false,
        always_revalidate: false,
        is_purged: false,
    }
}

fn filled() -> Arc<Store> {
    let store = Arc::new(Store::new(Budget { max_size: 1 << 30, max_object_size: 1 << 20 }));
    for n in 0..ENTRIES {
        let path = path(n);
        let tags = Tags::new(["products".into(), format!("product:{n}").into()]);
        let facts = Facts::new(&request(&path), &QueryPolicy::default(), tags);
        let head = Head::from_fields(200, [("content-type", &b"text/html"[..])].into_iter());
        let body = vec![b'x'; 1024].into();
        let stored = StoredResponse::new(head, body, freshness(), facts, Vary::default(), None);
        store.memory.insert(&key(&path), Arc::new(stored), store.memory.begin(), 1000).expect("stored");
    }
    assert_eq!(store.memory.entries(), ENTRIES);
    store
}

/// Looks pages up, until told to stop: how long each lookup took, in nanoseconds, the slowest last.
fn read(store: &Store, stop: &AtomicBool) -> Vec<u64> {
    let keys: Vec<CacheKey> = (0..1000).map(|n| key(&path(n * (ENTRIES / 1000)))).collect();
    let mut times = Vec::with_capacity(1 << 23);
    while !stop.load(Ordering::Relaxed) {
        for key in &keys {
            let started = Instant::now();
            std::hint::black_box(store.memory.lookup(key, |_| key.clone()));
            times.push(u64::try_from(started.elapsed().as_nanos()).expect("a short time"));
        }
    }
    times.sort_unstable();
    times
}

fn main() {
    println!(
        "{ENTRIES} entries. Answered and swept in milliseconds; lookups of another thread meanwhile in microseconds:"
    );
    println!("99.99 % of them, and the slowest, which may have waited for its processor.");
    println!(
        "{:<24} {:>9} {:>9} {:>8} {:>9} {:>9} {:>9}",
        "purge", "answered", "swept", "entries", "99.99 %", "slowest", "lookups"
    );
    let store = filled();
    report("(nothing)", &store, || (Duration::from_millis(200), Duration::ZERO, 0));
    for (name, selector) in [
        ("tag", Selector::tag("products")),
        ("prefix", Selector::prefix("/products/")),
        ("host", Selector::host("shop.example")),
        ("regex", Selector::regex("^/products/[0-9]+/details$")),
        ("all", Ok(Selector::All)),
        ("tag of one page", Selector::tag("product:77")),
    ] {
        let selector = selector.expect("a selector");
        for (kind, effect) in [("hard", Effect::Remove), ("soft", Effect::Expire(Timestamp(1)))] {
            let store = filled();
            report(&format!("{name}, {kind}"), &store, || {
                let started = Instant::now();
                let purged = store.purge(std::slice::from_ref(&selector), effect);
                let answered = started.elapsed();
                store.sweep();
                let named = purged.ban.map_or(purged.named, |ban| ban.named());
                let entries = named.iter().map(|count| count.entries).sum();
                (answered, started.elapsed(), entries)
            });
        }
    }
}

fn report(name: &str, store: &Arc<Store>, purge: impl FnOnce() -> (Duration, Duration, usize)) {
    let stop = Arc::new(AtomicBool::new(false));
    let reader = thread::spawn({
        let (store, stop) = (store.clone(), stop.clone());
        move || read(&store, &stop)
    });
    // The reader has begun, and goes on for a moment when all is done.
    thread::sleep(Duration::from_millis(20));
    let (answered, swept, entries) = purge();
    if entries == 0 {
        thread::sleep(answered);
    }
    thread::sleep(Duration::from_millis(20));
    stop.store(true, Ordering::Relaxed);
    let times = reader.join().expect("it ends");
    let (lookups, slowest) = (times.len(), times.last().copied().unwrap_or_default());
    let most = times[lookups - 1 - lookups / 10_000];
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let us = |nanoseconds: u64| nanoseconds as f64 / 1e3;
    println!(
        "{name:<24} {:>9.2} {:>9.2} {entries:>8} {:>9.1} {:>9.0} {lookups:>9}",
        ms(answered),
        ms(swept),
        us(most),
        us(slowest)
    );
}
