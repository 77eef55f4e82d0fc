//! Which of several servers gets a request.

use std::hash::{DefaultHasher, Hash, Hasher};

/// How requests are spread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// In turn, the heavier more often.
    #[default]
    RoundRobin,
    /// To the one with the fewest requests under way, by its weight.
    LeastConn,
    /// To the same server for the same visitor or page, as long as it is there.
    Hash(HashBy),
}

/// What is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashBy {
    /// The client's address.
    Client,
    /// Host, path and query.
    Url,
    /// The value of this cookie; without it the client's address.
    Cookie(String),
}

/// A server that may get the request.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// How many requests it takes beside the others; above zero.
    pub weight: f64,
    /// How many it has.
    pub in_flight: usize,
    /// What it is owed of earlier turns.
    pub owed: f64,
    /// What its name hashes to.
    pub seed: u64,
}

/// Chooses one, and notes who is owed how much. `hash` is what the request's own part hashes to.
pub fn choose(balance: &Balance, hash: u64, candidates: &mut [Candidate]) -> Option<usize> {
    match balance {
        Balance::RoundRobin => in_turn(candidates, |_| true),
        Balance::LeastConn => {
            let load = |candidate: &Candidate| (candidate.in_flight + 1) as f64 / candidate.weight;
            let least = candidates.iter().map(load).min_by(f64::total_cmp)?;
            in_turn(candidates, |candidate| load(candidate) <= least)
        }
        // Rendezvous hashing: when a server goes, only what it had goes elsewhere.
        Balance::Hash(_) => {
            let score =
                |candidate: &Candidate| -candidate.weight / unit(hashed(&(candidate.seed, hash))).ln();
            let scores = candidates.iter().map(score).enumerate();
            scores.max_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(index, _)| index)
        }
    }
}

/// Smooth weighted round robin: each is owed its weight with every turn, and who is owed most pays for all.
fn in_turn(candidates: &mut [Candidate], fits: impl Fn(&Candidate) -> bool) -> Option<usize> {
    let mut sum = 0.0;
    let mut most: Option<usize> = None;
    for index in 0..candidates.len() {
        if !fits(&candidates[index]) {
            continue;
        }
        sum += candidates[index].weight;
        candidates[index].owed += candidates[index].weight;
        if most.is_none_or(|most| candidates[index].owed > candidates[most].owed) {
            most = Some(index);
        }
    }
    candidates[most?].owed -= sum;
    most
}

/// What a value hashes to: the same in every process of this build.
pub fn hashed(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A number between 0 and 1, and neither.
fn unit(hash: u64) -> f64 {
    ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(weights: &[f64]) -> Vec<Candidate> {
        let candidate = |(index, weight): (usize, &f64)| Candidate {
            weight: *weight,
            in_flight: 0,
            owed: 0.0,
            seed: hashed(&index),
        };
        weights.iter().enumerate().map(candidate).collect()
    }

    #[test]
    fn turns_are_smooth_and_by_weight() {
        let mut servers = candidates(&[5.0, 1.0, 1.0]);
        let turns: Vec<usize> =
            (0..7).filter_map(|_| choose(&Balance::RoundRobin, 0, &mut servers)).collect();
        assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(choose(&Balance::RoundRobin, 0, &mut []), None);
    }

    #[test]
    fn the_least_loaded_gets_it_and_equals_take_turns() {
        let mut servers = candidates(&[1.0, 1.0, 2.0]);
        servers[0].in_flight = 3;
        servers[1].in_flight = 1;
        servers[2].in_flight = 3;
        let turns: Vec<usize> = (0..4).filter_map(|_| choose(&Balance::LeastConn, 0, &mut servers)).collect();
        assert!(!turns.contains(&0) && turns.contains(&1) && turns.contains(&2), "{turns:?}");
    }

    #[test]
    fn when_a_server_goes_only_what_it_had_goes_elsewhere() {
        let all = candidates(&[1.0, 1.0, 1.0, 3.0]);
        let by = Balance::Hash(HashBy::Client);
        let mut counts = [0; 4];
        for hash in 0..6000 {
            let hash = hashed(&hash);
            let chosen = choose(&by, hash, &mut all.clone()).unwrap();
            counts[chosen] += 1;
            let without = choose(&by, hash, &mut all[1..].to_vec()).unwrap() + 1;
            assert!(chosen == 0 || chosen == without);
        }
        assert!(counts[..3].iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert!((2700..3300).contains(&counts[3]), "{counts:?}");
    }
}
