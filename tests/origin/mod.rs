//! Between parvis and its servers: who gets a request, how many at once, and what becomes of those that fail.

mod breaker;
mod faults;
mod health;
mod queue;
mod reach;
mod retries;
mod slow;
mod spread;

use std::sync::mpsc;

use crate::support::{Origin, Parvis, Response};

/// Routes that store nothing.
const PASSING: &str = "routes: [{name: all, cache: {mode: off}}]";

/// Several servers behind one parvis.
struct Servers {
    origins: Vec<Origin>,
    parvis: Parvis,
}

impl Servers {
    /// So many, with these settings of the upstream, and these routes.
    fn new(count: usize, settings: &str, routes: &str) -> Self {
        let origins: Vec<Origin> = (0..count).map(|_| Origin::start()).collect();
        let addresses: Vec<String> = origins.iter().map(|origin| format!("\"{}\"", origin.address)).collect();
        let parvis = started(&addresses.join(", "), settings, routes);
        Self { origins, parvis }
    }

    fn get(&self, path: &str) -> Response {
        self.parvis.client().get(path)
    }

    /// How many requests each server got for a path.
    fn counts(&self, path: &str) -> Vec<usize> {
        self.origins.iter().map(|origin| origin.count(path)).collect()
    }

    /// Sends so many requests at once, and the responses as they come.
    fn crowd(&self, count: usize, path: &str) -> mpsc::Receiver<Response> {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..count {
            let (client, sender, path) = (self.parvis.client(), sender.clone(), path.to_owned());
            std::thread::spawn(move || sender.send(client.get(&path)));
        }
        receiver
    }

    fn waiting(&self) -> f64 {
        self.parvis.metric("parvis_upstream_waiting", "upstream=\"app\"")
    }
}

/// A parvis in front of `servers`, a list of YAML.
fn started(servers: &str, settings: &str, routes: &str) -> Parvis {
    Parvis::start(&format!(
        "listen: {{listen}}\nadmin: {{listen: {{admin}}}}\nupstreams:\n  app: {{servers: [{servers}], {settings}}}\n{routes}\n"
    ))
}

fn states(parvis: &Parvis, state: &str) -> f64 {
    parvis.metric("parvis_upstream_server_state", &format!("state=\"{state}\""))
}
