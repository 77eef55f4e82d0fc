//! The tour: requests, what each shows, and whether it held.

use std::time::{Duration, Instant};

use super::shop::Shop;
use super::{Addresses, print};
use crate::clock;

/// Longer than any step takes.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Readers of one page at once.
const CROWD: usize = 50;

/// What a step claims.
#[derive(Default)]
struct Claim {
    /// For the reader.
    says: &'static str,
    verdict: &'static str,
    reason: &'static str,
    /// Requests that reach the shop.
    visits: usize,
    /// What the body contains.
    shows: &'static str,
}

/// What a step saw.
struct Seen {
    verdict: String,
    reason: String,
    body: String,
    time: Duration,
}

struct Tour<'a> {
    at: &'a Addresses,
    shop: &'a Shop,
    agent: ureq::Agent,
    all_held: bool,
}

/// Takes the tour and prints it; tells whether every claim held.
pub fn run(at: &Addresses, shop: &Shop) -> Result<bool, String> {
    let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false);
    // `PURGE` is no method of HTTP itself.
    let config = config.allow_non_standard_methods(true).build();
    let mut tour = Tour { at, shop, agent: ureq::Agent::new_with_config(config), all_held: true };
    let head = format!(
        "\n {:<28}  {:<44} {:<7} {:<12} {:>7} {:>6}  {}",
        "request", "what it shows", "verdict", "reason", "ms", "bytes", "asks the shop"
    );
    print(&head);
    print(&format!(" {}", "─".repeat(head.chars().count())));
    tour.pages()?;
    tour.purges()?;
    tour.visitors()?;
    tour.identities()?;
    print(if tour.all_held {
        "\nevery step did what it claims"
    } else {
        "\nNOT every step did what it claims"
    });
    Ok(tour.all_held)
}

impl Tour<'_> {
    fn pages(&mut self) -> Result<(), String> {
        let page = "/products/7";
        self.get(
            "GET /products/7",
            page,
            &[],
            Claim {
                says: "the first reader waits for the shop",
                verdict: "miss",
                visits: 1,
                shows: "Price: 107",
                ..Claim::default()
            },
        )?;
        self.get(
            "GET /products/7",
            page,
            &[],
            Claim { says: "the second does not", verdict: "hit", shows: "Price: 107", ..Claim::default() },
        )?;
        self.get(
            "  ?utm_source=mail, _ga=1",
            "/products/7?utm_source=mail",
            &[("Cookie", "_ga=1")],
            Claim { says: "nor one who comes from a campaign", verdict: "hit", ..Claim::default() },
        )?;
        self.crowd()?;
        self.step(
            "PUT /api/products/7",
            "/api/products/7",
            |tour| tour.put("/api/products/7", "42"),
            &Claim {
                says: "a write removes what it changed",
                verdict: "pass",
                reason: "method",
                visits: 1,
                shows: "42",
            },
        )?;
        self.get(
            "GET /products/7",
            page,
            &[],
            Claim {
                says: "the next reader gets the new price",
                verdict: "miss",
                visits: 1,
                shows: "Price: 42",
                ..Claim::default()
            },
        )?;
        Ok(())
    }

    /// By a content management system as it would purge a Varnish, and by CI.
    fn purges(&mut self) -> Result<(), String> {
        let page = "/products/8";
        let after = |says, verdict| {
            let visits = usize::from(verdict == "miss");
            Claim { says, verdict, visits, ..Claim::default() }
        };
        self.get("GET /products/8", page, &[], after("and the others are still there", "hit"))?;
        let claim = Claim { says: "a CMS removes a page", reason: "purged", ..Claim::default() };
        self.step("PURGE /products/8", page, |tour| tour.purge_page(page), &claim)?;
        self.get("GET /products/8", page, &[], after("and it is made anew", "miss"))?;
        self.purge()?;
        self.get("GET /products/8", page, &[], after("and again", "miss"))
    }

    fn purge_page(&self, path: &str) -> Result<Seen, String> {
        let request =
            http::Request::builder().method("PURGE").uri(format!("http://{}{path}", self.at.parvis));
        let request = request.body(()).map_err(|error| error.to_string())?;
        let started = clock::start();
        seen(self.agent.run(request), started)
    }

    fn visitors(&mut self) -> Result<(), String> {
        self.get(
            "GET /hello, sessionid=ada",
            "/hello",
            &[("Cookie", "sessionid=ada")],
            Claim {
                says: "a page made for one visitor is not cached",
                verdict: "pass",
                reason: "cookie",
                visits: 1,
                shows: "Hello ada!",
            },
        )?;
        self.get(
            "GET /hello",
            "/hello",
            &[],
            Claim {
                says: "and strangers never see it",
                verdict: "miss",
                visits: 1,
                shows: "Hello stranger!",
                ..Claim::default()
            },
        )?;
        self.get(
            "GET /basket",
            "/basket",
            &[],
            Claim {
                says: "what sets a cookie is not stored",
                verdict: "miss",
                reason: "set-cookie",
                visits: 1,
                ..Claim::default()
            },
        )?;
        self.get(
            "GET /basket",
            "/basket",
            &[],
            Claim {
                says: "and next time nobody waits in line for it",
                verdict: "pass",
                reason: "uncacheable",
                visits: 1,
                ..Claim::default()
            },
        )
    }

    /// Pages of one visitor, where the route says how; and where it says wrong.
    fn identities(&mut self) -> Result<(), String> {
        let ada: &[(&str, &str)] = &[("Cookie", "sessionid=ada")];
        let bob: &[(&str, &str)] = &[("Cookie", "sessionid=bob")];
        let steps = [
            ("/orders", ada, "a session can have entries of its own", "miss", "", "Hello ada!"),
            ("/orders", ada, "so that its next visit is a hit", "hit", "", "Hello ada!"),
            ("/orders", bob, "and another's is another's", "miss", "", "Hello bob!"),
            ("/news", ada, "said to be for all: on probation", "miss", "probation", "Hello ada!"),
            ("/news", bob, "the guard compares, and it is not", "miss", "probation", "Hello bob!"),
            ("/news", ada, "so nobody shares it", "pass", "personalised", "Hello ada!"),
        ];
        for (path, fields, says, verdict, reason, shows) in steps {
            let label = format!("GET {path}, {}", fields[0].1);
            let visits = usize::from(verdict != "hit");
            self.get(&label, path, fields, Claim { says, verdict, reason, visits, shows })?;
        }
        Ok(())
    }

    /// Many readers of a page that is not stored yet: one asks the shop.
    fn crowd(&mut self) -> Result<(), String> {
        let claim = Claim {
            says: "one asks the shop, the others read along",
            verdict: "miss",
            reason: "collapsed",
            visits: 1,
            ..Claim::default()
        };
        let label = format!("GET /products/8, {CROWD} at once");
        self.step(
            &label,
            "/products/8",
            |tour| {
                let results: Vec<Result<Seen, String>> = std::thread::scope(|scope| {
                    let readers: Vec<_> =
                        (0..CROWD).map(|_| scope.spawn(|| tour.fetch("/products/8", &[]))).collect();
                    readers
                        .into_iter()
                        .map(|reader| reader.join().unwrap_or_else(|_| Err("a reader died".into())))
                        .collect()
                });
                let seen = results.into_iter().collect::<Result<Vec<_>, _>>()?;
                // All but the one that leads, unless some came late enough for a hit.
                seen.into_iter()
                    .max_by_key(|seen| (seen.reason == "collapsed", seen.time))
                    .ok_or_else(|| "nobody came".into())
            },
            &claim,
        )
    }

    fn purge(&mut self) -> Result<(), String> {
        let claim =
            Claim { says: "CI removes a tag after a deploy", shows: "\"entries\"", ..Claim::default() };
        self.step(
            "POST /purge, tag products",
            "",
            |tour| {
                let url = format!("http://{}/purge", tour.at.admin);
                let started = clock::start();
                let bearer = format!("Bearer {}", tour.at.token);
                let request = tour.agent.post(&url).header("Authorization", bearer);
                seen(request.send_json(serde_json::json!({"tags": ["products"]})), started)
            },
            &claim,
        )
    }

    fn get(&mut self, label: &str, path: &str, fields: &[(&str, &str)], claim: Claim) -> Result<(), String> {
        let counted = path.split('?').next().unwrap_or(path).to_owned();
        self.step(label, &counted, |tour| tour.fetch(path, fields), &claim)
    }

    fn fetch(&self, path: &str, fields: &[(&str, &str)]) -> Result<Seen, String> {
        let mut request = self.agent.get(format!("http://{}{path}", self.at.parvis));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let started = clock::start();
        seen(request.call(), started)
    }

    fn put(&self, path: &str, body: &str) -> Result<Seen, String> {
        let request = self.agent.put(format!("http://{}{path}", self.at.parvis));
        let started = clock::start();
        seen(request.send(body), started)
    }

    /// Runs one step and prints its line.
    fn step(
        &mut self,
        label: &str,
        counted: &str,
        run: impl FnOnce(&Self) -> Result<Seen, String>,
        claim: &Claim,
    ) -> Result<(), String> {
        let before = self.shop.visits(counted);
        let seen = run(self).map_err(|error| format!("{label}: {error}"))?;
        let visits = self.shop.visits(counted) - before;
        let held = seen.verdict == claim.verdict
            && seen.reason == claim.reason
            && visits == claim.visits
            && seen.body.contains(claim.shows);
        self.all_held &= held;
        let asks = match visits {
            0 => "no".to_owned(),
            1 => "once".to_owned(),
            n => format!("{n} times"),
        };
        print(&format!(
            " {label:<28}  {:<44} {:<7} {:<12} {:>7.1} {:>6}  {asks:<13} {}",
            claim.says,
            seen.verdict,
            seen.reason,
            seen.time.as_secs_f64() * 1000.0,
            seen.body.len(),
            if held { "✓" } else { "✗" },
        ));
        Ok(())
    }
}

fn seen(response: Result<http::Response<ureq::Body>, ureq::Error>, started: Instant) -> Result<Seen, String> {
    let mut response = response.map_err(|error| error.to_string())?;
    let status =
        response.headers().get("cache-status").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (verdict, reason) = read_status(status);
    let body = response.body_mut().read_to_string().map_err(|error| error.to_string())?;
    Ok(Seen { verdict, reason, body, time: started.elapsed() })
}

/// The verdict and its reason from `Cache-Status`.
fn read_status(status: &str) -> (String, String) {
    let parts: Vec<&str> = status.split("; ").collect();
    let verdict = match () {
        () if parts.contains(&"hit") => "hit",
        () if parts.contains(&"fwd=miss") => "miss",
        () if parts.contains(&"fwd=stale") => "revalidate",
        () if parts.iter().any(|part| part.starts_with("fwd=")) => "pass",
        () => "",
    };
    let reason = match () {
        () if parts.contains(&"collapsed") => "collapsed",
        () if parts.contains(&"fwd=method") => "method",
        () => parts.iter().find_map(|part| part.strip_prefix("detail=")).unwrap_or_default(),
    };
    (verdict.to_owned(), reason.to_owned())
}
