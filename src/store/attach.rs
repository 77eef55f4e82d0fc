//! What is added to a response that is stored already: encoded forms, and files of large bodies.
//!
//! Both come late and from other threads. So each is put in its place under the lock of the books, only where its response is
//! still stored, and the response is charged with it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use quick_cache::Weighter;

use super::forms::{Form, Forms};
use super::index::EntryId;
use super::memory::{ByBytes, Memory, Slot};
use super::response::StoredResponse;
use super::sendable;

/// A response and its encoded forms take one in so many parts of a shard at most: beyond it a form would push its own response
/// out.
const MAX_SHARE_OF_SHARD: u64 = 2;

impl Memory {
    /// The stored response that these forms are of; of several the latest.
    pub fn response_with(&self, forms: &Arc<Forms>) -> Option<Arc<StoredResponse>> {
        let (response, _) = self.by_id(forms.place())?;
        response.forms.as_ref().is_some_and(|own| Arc::ptr_eq(own, forms)).then_some(response)
    }

    /// Adds an encoded form to a stored response, which is charged with it. Tells whether that could be done: not when it has been
    /// purged or replaced meanwhile, nor when it would take too much of its shard.
    pub fn attach(&self, forms: &Arc<Forms>, form: Form) -> bool {
        self.recharge(forms.place(), |response| {
            let are_its = response.forms.as_ref().is_some_and(|own| Arc::ptr_eq(own, forms));
            let weight = response.weight_with(Some(&form));
            are_its.then_some((weight, || forms.put(form)))
        })
    }

    /// Makes a file of the body of `stored`, or of its `form`, and charges it with that.
    ///
    /// # Errors
    ///
    /// Those of [`sendable::Files::make`].
    pub fn attach_file(&self, stored: &Arc<StoredResponse>, form: Option<&Arc<Form>>) -> io::Result<()> {
        let (body, sendable) = match form {
            Some(form) => (&form.body, form.sendable.as_ref()),
            None => (&stored.body, stored.sendable.as_deref()),
        };
        let Some(sendable) = sendable else { return Ok(()) };
        if stored.weight() + sendable::weight(body.len()) > self.max_weight() {
            // It would never fit: it is not left, so that nobody asks again.
            return Ok(());
        }
        // After an error it is not left either: one warning per body is enough.
        let Some(file) = self.files.make(body)? else {
            sendable.leave();
            return Ok(());
        };
        let is_its = |response: &StoredResponse| match form {
            None => response.sendable.as_deref().is_some_and(|own| std::ptr::eq(own, sendable)),
            Some(form) => response.form(form.coding).is_some_and(|own| Arc::ptr_eq(&own, form)),
        };
        let is_attached = self.recharge(stored.place(), |response| {
            let weight = response.weight() + file.weight();
            is_its(response).then_some((weight, || sendable.put(file)))
        });
        if !is_attached {
            sendable.leave();
        }
        Ok(())
    }

    /// The most that a response may weigh for something to be added to it.
    fn max_weight(&self) -> u64 {
        self.map.shard_capacity() / MAX_SHARE_OF_SHARD
    }

    /// Changes what a stored response is charged with and for, and tells whether that was done. `change` tells both, or that this
    /// is not the response that is meant.
    fn recharge<P: FnOnce()>(
        &self,
        id: EntryId,
        change: impl FnOnce(&Arc<StoredResponse>) -> Option<(u64, P)>,
    ) -> bool {
        let mut books = self.books.lock();
        let Some((key, _)) = books.index.get(id) else { return false };
        let key = key.clone();
        let (response, vouched) = match self.map.peek(&key) {
            Some(Slot::Response { id: found, response, vouched, .. }) if found == id => (response, vouched),
            _ => return false,
        };
        let Some((weight, put)) = change(&response) else { return false };
        if weight > self.max_weight() {
            return false;
        }
        let slot = Slot::Response { id, response, vouched, weight };
        books.index.recharge(id, ByBytes.weight(&key, &slot));
        put();
        let mut pushed_out = Vec::new();
        // It is still there: all that changes the map holds the books. Should it be pushed out itself, it comes twice.
        let _ = self.map.replace_with_lifecycle(key.clone(), slot, true, &mut pushed_out);
        let itself = pushed_out.iter().position(|(_, gone)| *gone == id);
        itself.inspect(|at| drop(pushed_out.swap_remove(*at)));
        for (_, gone) in pushed_out {
            books.index.remove(gone);
            self.evictions.fetch_add(1, Ordering::Relaxed);
        }
        true
    }
}
