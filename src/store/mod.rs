//! Where responses are kept, and how they leave.
//!
//! | module | holds |
//! |---|---|
//! | [`response`] | one stored response: serialised head, body, freshness |
//! | [`forms`] | its encoded forms, and which of them a client gets |
//! | [`encoder`] | the threads that make them |
//! | [`sendable`] | large bodies in files, which the kernel sends without copying |
//! | `attach` | what is added to a response that is stored already |
//! | [`memory`] | the byte-budgeted memory tier, its index by path and tag, and the fence |
//! | [`ban`] | a purge in force that is still to be carried out |
//! | [`purging`] | how a purge of many entries takes effect at once |
//! | [`fence`] | which purges a fetch under way has missed |
//! | [`index`] | which keys a purge means, without a scan |
//! | [`memo`] | which keys proved uncacheable or personalised a moment ago |
//! | [`fill`] | one response on its way from the origin, and its readers |
//! | [`collect`] | a body that is collected for a comparison |
//! | [`fills`] | all of them, so that one fetch serves all who ask for the same key |

mod attach;
pub mod ban;
pub mod collect;
pub mod encoder;
pub mod fence;
pub mod fill;
pub mod fills;
pub mod forms;
mod index;
pub mod memo;
pub mod memory;
pub mod purging;
pub mod response;
pub mod sendable;

use std::sync::Arc;

use ban::Effect;
use forms::Selected;
use purging::Purged;
use response::StoredResponse;
use sendable::File;

use crate::plan::Memory as Budget;
use crate::rules::selector::Selector;

/// Everything that outlives a request: the memory tier and what encodes for it, the fetches under way, the memo.
pub struct Store {
    /// Stored responses.
    pub memory: Arc<memory::Memory>,
    /// What makes encoded forms of them.
    pub encoder: encoder::Encoder,
    /// Responses on their way.
    pub fills: Arc<fills::Fills>,
    /// Keys that proved uncacheable or personalised.
    pub memo: memo::Memo,
}

impl Store {
    /// An empty store within `budget`.
    pub fn new(budget: Budget) -> Self {
        let memory = Arc::new(memory::Memory::new(budget));
        Self {
            encoder: encoder::Encoder::new(memory.clone()),
            memory,
            fills: Arc::new(fills::Fills::new(budget.max_size / fills::SHARE_OF_STORE)),
            memo: memo::Memo::default(),
        }
    }

    /// The file of the body that is `selected` of a response, if it has one. Where it is large and asked for often, it gets one, away
    /// from the requests.
    pub fn file(&self, stored: &Arc<StoredResponse>, selected: &Selected) -> Option<Arc<File>> {
        let sendable = selected.sendable(stored)?;
        if sendable.ask() {
            self.make_file(stored, selected);
        }
        sendable.file().cloned()
    }

    fn make_file(&self, stored: &Arc<StoredResponse>, selected: &Selected) {
        let (memory, stored, form) = (self.memory.clone(), stored.clone(), selected.form.clone());
        // Nobody waits for it.
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = memory.attach_file(&stored, form.as_ref()) {
                tracing::warn!(%error, "a body is sent by copying it: there is no file for it");
            }
        }));
    }

    /// Purges what `selectors` name. When this returns, no request that begins later is answered from any of
    /// it: stored responses are gone or expired, fetches under way will not be stored, and nobody new joins them.
    pub fn purge(&self, selectors: &[Selector], effect: Effect) -> Purged {
        let purged = self.memory.purge(selectors, effect);
        self.fills.detach(selectors, purged.sequence);
        let at_once = |selector: &&Selector| purged.ban.is_none() || !selector.is_lazy();
        self.memo.forget(selectors.iter().filter(at_once));
        purged
    }

    /// Carries out all purges that are in force and wait: see [`memory::Memory::sweep`]. Keys that proved uncacheable and that
    /// patterns name are forgotten then; until then they pass.
    pub fn sweep(&self) {
        for ban in self.memory.sweep() {
            self.memo.forget(ban.selectors().iter().filter(|selector| selector.is_lazy()));
        }
    }
}
