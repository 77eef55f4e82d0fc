//! An oracle: what the rules say of thousands of random exchanges is compared with another implementation of
//! the same RFC, `http-cache-semantics`.
//!
//! Two questions are asked of both: may the response be stored, and may a later request have it without
//! asking the origin. The configuration is as near to the RFC as parvis has it. Where the two differ, the
//! difference is listed in [`exceptions`] with the sentence that says who is right, or the test fails. It
//! also fails when an exception explains nothing any more.
//!
//! `cargo nextest run oracle --success-output final` shows how often each was needed.

mod case;
mod exceptions;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use http_cache_semantics as other;
use parvis::clock::Timestamp;
use parvis::rules::admission::{self, Admission, DiscardReason, Kept};
use parvis::rules::client_control::ClientControl;
use parvis::rules::freshness::Exchange;
use parvis::rules::head::{Field, Fields, RequestHead, ResponseHead};
use parvis::rules::key::CacheKey;
use parvis::rules::lookup;
use parvis::rules::policy::*;
use parvis::rules::target::{Scheme, Target};
use parvis::rules::verdict::{self, Verdict};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

use case::{Case, Line, RECEIVED};
use exceptions::{EXCEPTIONS, Exception, Kind};

const CASES: u32 = 10_000;

/// Any number: the same cases every time.
const SEED: u64 = 9111;

/// The most exceptions at once that may explain a case.
const MOST: usize = 6;

/// What one side makes of a case.
#[derive(Debug)]
pub struct Answer {
    /// Whether the response is stored.
    stored: bool,
    /// Whether the later request has it without asking the origin.
    served: bool,
    /// Why parvis does not store it.
    refusal: Option<DiscardReason>,
    /// Whether the other side calls it stale from the beginning.
    stale_on_arrival: bool,
}

impl Answer {
    fn same(&self, other: &Self) -> bool {
        (self.stored, self.served) == (other.stored, other.served)
    }
}

/// As near to the RFC as a route can be.
static POLICY: LazyLock<CachePolicy> = LazyLock::new(|| CachePolicy {
    heuristic: Some(Heuristic { percent: 10, max: Duration::MAX }),
    set_cookie: SetCookie::Store,
    authorization: Authorization::Rfc9111,
    guard: Guard::Off,
    extension_must_match: false,
    ..CachePolicy::default()
});

fn lend(lines: &[Line]) -> Vec<Field<'_>> {
    lines.iter().map(|(name, value)| (*name, value.as_bytes())).collect()
}

/// What parvis makes of a case.
fn ours(case: &Case) -> Answer {
    let admission = admit(case);
    let refusal = match &admission {
        Some(Admission::Discard(reason)) => Some(*reason),
        _ => None,
    };
    match admission {
        Some(Admission::Keep(kept)) => {
            Answer { stored: true, served: serves(case, &kept), refusal, stale_on_arrival: false }
        }
        _ => Answer { stored: false, served: false, refusal, stale_on_arrival: false },
    }
}

/// `None` where the request already says that nothing is to be stored.
fn admit(case: &Case) -> Option<Admission> {
    let (request, response) = (case.first.lines(), case.response());
    let (request, response) = (lend(&request), lend(&response));
    let received_at = Timestamp(RECEIVED * 1000);
    let client = ClientControl::heeded(Fields::new(&request), &POLICY);
    let fetched = verdict::judge(None, &client, received_at) == Verdict::Miss;
    if !fetched || lookup::allowed(&head(case.first.method, &request), &POLICY).is_err() {
        return None;
    }
    // The other side knows no moment of sending.
    let exchange = Exchange { requested_at: received_at, received_at, authorized: case.first.authorized };
    let response = ResponseHead { status: case.status, fields: Fields::new(&response) };
    Some(admission::judge("/", &response, &POLICY, u64::MAX, exchange))
}

fn serves(case: &Case, kept: &Kept) -> bool {
    let (first, later) = (case.first.lines(), case.later.lines());
    let (first, later) = (lend(&first), lend(&later));
    let request = head(case.later.method, &later);
    let primary = CacheKey::primary("all", &request, &POLICY);
    let variant = |fields: &[Field<'_>]| primary.variant(&kept.vary, Fields::new(fields));
    let stored = (variant(&first) == variant(&later)).then_some(&kept.freshness);
    let client = ClientControl::heeded(request.fields, &POLICY);
    let verdict = verdict::judge(stored, &client, Timestamp((RECEIVED + case.after) * 1000));
    lookup::allowed(&request, &POLICY).is_ok() && matches!(verdict, Verdict::Hit | Verdict::HitStale(_))
}

fn head<'a>(method: &'a str, fields: &'a [Field<'a>]) -> RequestHead<'a> {
    let target = Target::new(Scheme::Http, "shop", "/page");
    RequestHead { method, target, fields: Fields::new(fields), has_body: false, believed: &[] }
}

/// What the other side makes of it.
fn theirs(case: &Case) -> Answer {
    let request = |asked: &case::Request| {
        let builder = http::Request::builder().method(asked.method).uri("http://shop/page");
        let lines = asked.lines();
        lines.iter().fold(builder, |head, (name, value)| head.header(*name, value)).body(()).unwrap()
    };
    let builder = http::Response::builder().status(case.status);
    let lines = case.response();
    let response = lines
        .iter()
        .fold(builder, |head, (name, value)| head.header(*name, value.as_bytes()))
        .body(())
        .unwrap();
    let received_at = SystemTime::UNIX_EPOCH + Duration::from_secs(RECEIVED);
    let options = other::CacheOptions { shared: true, cache_heuristic: 0.1, ..Default::default() };
    let stored = other::CachePolicy::new_options(&request(&case.first), &response, received_at, options);
    let at = received_at + Duration::from_secs(case.after);
    let served = || stored.before_request(&request(&case.later), at).satisfies_without_revalidation();
    Answer {
        stored: stored.is_storable(),
        served: stored.is_storable() && served(),
        refusal: None,
        stale_on_arrival: stored.is_stale(received_at),
    }
}

/// The fewest exceptions that explain a case, none where there is nothing to explain; `None` where nothing
/// does.
fn explain(case: &Case) -> Option<Vec<&'static Exception>> {
    let before = ours(case);
    let applicable = applicable(case);
    (0..=MOST).find_map(|count| {
        choices(&applicable, count).into_iter().find_map(|chosen| {
            let mut rewritten = case.clone();
            chosen.iter().for_each(|exception| rewritten = rewrite(exception, &rewritten));
            let (ours, theirs) = (ours(&rewritten), theirs(&rewritten));
            if !ours.same(&before) {
                return None;
            }
            if ours.same(&theirs) {
                return Some(chosen);
            }
            let abstains = |exception: &&Exception| match exception.is {
                Kind::Abstention(holds) => !ours.stored && holds(&rewritten, &ours, &theirs),
                Kind::Equivalent(_) | Kind::Near(_) => false,
            };
            let abstention = EXCEPTIONS.iter().find(abstains)?;
            Some(chosen.into_iter().chain([abstention]).collect())
        })
    })
}

/// The exceptions that have something to say of a case, or of what those before them make of it.
fn applicable(case: &Case) -> Vec<&'static Exception> {
    let mut plain = case.clone();
    let says_something = |exception: &&Exception| {
        let before = plain.clone();
        plain = rewrite(exception, &before);
        plain != before || rewrite(exception, case) != *case
    };
    EXCEPTIONS.iter().filter(says_something).collect()
}

fn rewrite(exception: &Exception, case: &Case) -> Case {
    let mut rewritten = case.clone();
    if let Kind::Equivalent(apply) | Kind::Near(apply) = exception.is {
        apply(&mut rewritten);
    }
    rewritten
}

/// The same case in the plainest words.
fn plain(case: &Case) -> Case {
    let equivalent = |exception: &&Exception| matches!(exception.is, Kind::Equivalent(_));
    EXCEPTIONS.iter().filter(equivalent).fold(case.clone(), |case, exception| rewrite(exception, &case))
}

/// Every choice of so many of these, each in their order.
fn choices<T: Copy>(from: &[T], count: usize) -> Vec<Vec<T>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let with_first = |(at, first): (usize, &T)| {
        let rest = choices(&from[at + 1..], count - 1);
        rest.into_iter().map(|rest| [vec![*first], rest].concat()).collect::<Vec<_>>()
    };
    from.iter().enumerate().flat_map(with_first).collect()
}

#[test]
fn parvis_and_another_cache_differ_only_where_the_rfc_says_who_is_right() {
    let used = RefCell::new(BTreeMap::<&str, u32>::new());
    let count = |what: &'static str| *used.borrow_mut().entry(what).or_default() += 1;
    let config = Config {
        cases: CASES,
        rng_seed: RngSeed::Fixed(SEED),
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&case::cases(), |case| {
        let (ours, theirs) = (ours(&case), theirs(&case));
        if !self::ours(&plain(&case)).same(&ours) {
            let reason = format!("parvis answers this otherwise: {:?}", plain(&case));
            return Err(TestCaseError::fail(reason));
        }
        let explained = explain(&case).ok_or_else(|| {
            TestCaseError::fail(format!("no exception explains this\n  ours {ours:?}\n  theirs {theirs:?}"))
        })?;
        explained.iter().for_each(|exception| count(exception.name));
        count(if explained.is_empty() { "(agreed)" } else { "(differed)" });
        if ours.stored {
            count("(stored)");
        }
        if ours.served {
            count("(served)");
        }
        Ok(())
    });
    let used = used.into_inner();
    let times = |what: &str| used.get(what).copied().unwrap_or_default();
    for what in ["(agreed)", "(differed)", "(stored)", "(served)"] {
        println!("{:>6} {what}", times(what));
        assert!(outcome.is_err() || times(what) > CASES / 20, "too few cases to mean anything: {what}");
    }
    EXCEPTIONS.iter().for_each(|exception| {
        println!("{:>6} {}: {}", times(exception.name), exception.name, exception.says)
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let idle: Vec<_> =
        EXCEPTIONS.iter().map(|exception| exception.name).filter(|name| times(name) == 0).collect();
    assert!(idle.is_empty(), "these exceptions explain nothing: {idle:?}");
}
