//! What every request writes to, cut into stripes: with one table for all, its cache lines would travel from core to
//! core with every request.

use std::hash::{Hash, Hasher};
use std::num::NonZero;
use std::thread;

use parking_lot::Mutex;

/// The most stripes. Threads share them where there are more.
const MAX_STRIPES: usize = 128;

/// Stripes per core: threads are numbered as they start, and neighbours are to have stripes of their own.
const PER_CORE: usize = 2;

/// A value per stripe, behind a lock that only the threads of that stripe and now and then a reader take.
pub struct Stripes<T>(Box<[Stripe<T>]>);

/// Two lines, since processors fetch lines in pairs.
#[repr(align(128))]
struct Stripe<T>(Mutex<T>);

impl<T: Default> Stripes<T> {
    /// As many as this machine's cores need.
    pub fn new() -> Self {
        Self::of(thread::available_parallelism().map_or(1, NonZero::get) * PER_CORE)
    }

    /// At least `count`, at most [`MAX_STRIPES`]: a power of two.
    pub fn of(count: usize) -> Self {
        let count = count.clamp(1, MAX_STRIPES).next_power_of_two();
        Self((0..count).map(|_| Stripe(Mutex::default())).collect())
    }
}

impl<T> Stripes<T> {
    /// The stripe of a thread.
    pub fn at(&self, place: Place) -> &Mutex<T> {
        // A power of two: the remainder is a mask.
        &self.0[place.0 & (self.0.len() - 1)].0
    }

    /// Every stripe.
    pub fn iter(&self) -> impl Iterator<Item = &Mutex<T>> {
        self.0.iter().map(|stripe| &stripe.0)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// Where a thread writes: asked once per request, used for all that it writes.
#[derive(Clone, Copy, Debug)]
pub struct Place(usize);

impl Place {
    /// That of the calling thread.
    pub fn here() -> Self {
        let mut number = Number(0);
        thread::current().id().hash(&mut number);
        Self(number.0)
    }

    /// That of a thread with this number.
    #[cfg(test)]
    pub fn at(number: usize) -> Self {
        Self(number)
    }
}

/// Takes the number of a thread as it is: threads that start one after another have neighbouring numbers.
struct Number(usize);

impl Hasher for Number {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ usize::from(*byte));
    }

    fn write_u64(&mut self, number: u64) {
        // On machines of 32 bits the lower half will do.
        self.0 = number as usize;
    }

    fn finish(&self) -> u64 {
        self.0 as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_its_stripe_and_the_next_one_has_another() {
        let stripes = Stripes::<u32>::of(3);
        assert_eq!(stripes.count(), 4);
        assert_eq!(Stripes::<u32>::of(usize::MAX).count(), MAX_STRIPES);
        assert_eq!(Stripes::<u32>::of(0).count(), 1);
        *stripes.at(Place::here()).lock() += 1;
        *stripes.at(Place::here()).lock() += 1;
        assert_eq!(stripes.iter().map(|stripe| *stripe.lock()).max(), Some(2));
        let used = |places: [Place; 2]| places.map(|place| std::ptr::from_ref(stripes.at(place)));
        let [one, other] = used([Place(7), Place(8)]);
        assert_ne!(one, other);
    }
}
