//! Who waits for a place at a server: in the order of arrival, routes in turn, clients before refreshes.
//!
//! A server with eight workers answers eight requests at once; the ninth would wait inside it, unseen. Here it waits where
//! it can be told in time that it is too late, and where one busy route cannot keep the others waiting.

use std::collections::VecDeque;
use std::sync::Arc;

/// How urgent a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody waits for it.
    Client,
    /// Nobody does: it refreshes what is still served meanwhile.
    Background,
}

/// Names one that waits. Later ones are larger.
pub type Ticket = u64;

/// Those who wait.
#[derive(Debug)]
pub struct Queue<T> {
    lanes: [Lane<T>; 2],
    length: usize,
    last: Ticket,
}

/// Those of one urgency: each route has a line of its own, whose turn comes round.
#[derive(Debug)]
struct Lane<T>(VecDeque<(Arc<str>, Line<T>)>);

/// In the order of their tickets.
type Line<T> = VecDeque<(Ticket, T)>;

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { lanes: [Lane(VecDeque::new()), Lane(VecDeque::new())], length: 0, last: 0 }
    }
}

/// What came of joining.
#[derive(Debug, PartialEq, Eq)]
pub enum Joined<T> {
    /// It waits.
    Waits(Ticket),
    /// It waits in the place of this one, the last of the less urgent.
    Instead(Ticket, T),
    /// There is no room.
    Full(T),
}

impl<T> Queue<T> {
    /// Joins the line of a route, where at most `size` may wait in all.
    pub fn join(&mut self, size: usize, urgency: Urgency, route: &Arc<str>, waiter: T) -> Joined<T> {
        let mut displaced = None;
        if self.length >= size {
            displaced = match urgency {
                Urgency::Client => self.lanes[Urgency::Background as usize].pop_last(),
                Urgency::Background => None,
            };
            if displaced.is_none() {
                return Joined::Full(waiter);
            }
            self.length -= 1;
        }
        self.last += 1;
        self.length += 1;
        self.lanes[urgency as usize].push(route, self.last, waiter);
        displaced.map_or(Joined::Waits(self.last), |displaced| Joined::Instead(self.last, displaced))
    }

    /// The one whose turn it is.
    pub fn first(&self) -> Option<&T> {
        let line = self.lanes.iter().find_map(|lane| lane.0.front())?;
        line.1.front().map(|(_, waiter)| waiter)
    }

    /// Takes out the one whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        let waiter = self.lanes.iter_mut().find_map(Lane::pop_first);
        self.length -= usize::from(waiter.is_some());
        waiter
    }

    /// Takes one out that waits no longer; `None` when it is not there.
    pub fn leave(&mut self, ticket: Ticket) -> Option<T> {
        let waiter = self.lanes.iter_mut().find_map(|lane| lane.remove(ticket));
        self.length -= usize::from(waiter.is_some());
        waiter
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl<T> Lane<T> {
    fn push(&mut self, route: &Arc<str>, ticket: Ticket, waiter: T) {
        match self.0.iter_mut().find(|(name, _)| name == route) {
            Some((_, line)) => line.push_back((ticket, waiter)),
            None => self.0.push_back((route.clone(), VecDeque::from([(ticket, waiter)]))),
        }
    }

    fn pop_first(&mut self) -> Option<T> {
        let (route, mut line) = self.0.pop_front()?;
        let first = line.pop_front();
        if !line.is_empty() {
            // The others' turn comes first.
            self.0.push_back((route, line));
        }
        first.map(|(_, waiter)| waiter)
    }

    fn pop_last(&mut self) -> Option<T> {
        let latest = |line: &Line<T>| line.back().map(|(ticket, _)| *ticket);
        let ticket = self.0.iter().filter_map(|(_, line)| latest(line)).max()?;
        self.remove(ticket)
    }

    fn remove(&mut self, ticket: Ticket) -> Option<T> {
        for at in 0..self.0.len() {
            let line = &mut self.0[at].1;
            if let Ok(place) = line.binary_search_by_key(&ticket, |(ticket, _)| *ticket) {
                let waiter = line.remove(place);
                if line.is_empty() {
                    self.0.remove(at);
                }
                return waiter.map(|(_, waiter)| waiter);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Urgency::{Background, Client};

    fn join(queue: &mut Queue<&'static str>, urgency: Urgency, route: &str, name: &'static str) -> Ticket {
        match queue.join(100, urgency, &Arc::from(route), name) {
            Joined::Waits(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    fn rest(queue: &mut Queue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn a_busy_route_does_not_keep_the_others_waiting() {
        let mut queue = Queue::default();
        for (route, name) in [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1"), ("b", "b2")] {
            join(&mut queue, Client, route, name);
        }
        assert_eq!(rest(&mut queue), ["a1", "b1", "c1", "a2", "b2", "a3"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn clients_come_before_refreshes() {
        let mut queue = Queue::default();
        join(&mut queue, Background, "a", "refresh");
        join(&mut queue, Client, "a", "client");
        assert_eq!(rest(&mut queue), ["client", "refresh"]);
    }

    #[test]
    fn who_leaves_frees_its_place() {
        let mut queue = Queue::default();
        let tickets = ["1", "2", "3"].map(|name| join(&mut queue, Client, "a", name));
        assert_eq!((queue.leave(tickets[1]), queue.leave(tickets[1])), (Some("2"), None));
        assert_eq!(queue.len(), 2);
        assert_eq!(rest(&mut queue), ["1", "3"]);
        assert_eq!(queue.leave(tickets[0]), None);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn a_full_queue_takes_a_client_in_the_place_of_a_refresh() {
        let (mut queue, route) = (Queue::default(), Arc::from("a"));
        join(&mut queue, Background, "a", "first");
        join(&mut queue, Background, "b", "last");
        assert_eq!(queue.join(2, Background, &route, "another"), Joined::Full("another"));
        assert_eq!(queue.join(2, Client, &route, "client"), Joined::Instead(3, "last"));
        assert_eq!(queue.join(2, Client, &route, "second"), Joined::Instead(4, "first"));
        assert_eq!(queue.join(2, Client, &route, "third"), Joined::Full("third"));
        assert_eq!(rest(&mut queue), ["client", "second"]);
    }
}
