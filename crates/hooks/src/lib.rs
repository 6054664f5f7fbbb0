//! Optimization hooks: what may be done about an alert, to whom, and what came of it.
//!
//! In: hooks, alerts that fire, what was found out and done on the engine's orders, and the time. Out: [`Order`]s, and each
//! [`Run`] whole after each of its steps, to be kept. Pure: no clock, no I/O; what runs over a restart is put back by
//! [`Engine::restore`].
//!
//! A run is *proposed* and waits for its turn; one runs at a time. The *guard* finds whom to act on: first the rules that
//! nothing switches off, then the hook's own list. By the two switches, the hook's and the global one, the run ends there (it
//! *observes*), is prepared to see what would be done (a *dry run*), or goes on: what is *before* is noted, the target is
//! looked at again, what will be changed is written down, and it is *applied*. What was done *settles*, what is *after* is
//! noted, and the two are held against each other; settings with which the reading is worse are put back at once, others
//! when their time is over, and only where they are still what we set. Then the target *cools down*.
//!
//! No alert has the same hook run twice, and none makes more runs than the rate limit allows. Whatever a run is at when the
//! daemon dies, the next one knows from what was kept whether to wait on, to measure, or to put back.

#![forbid(unsafe_code)]

mod effect;
mod engine;
mod glob;
mod guard;
mod hook;
mod pace;
mod phase;
mod refusal;
mod run;
mod target;
mod undo;

pub use effect::{Effect, Side, Snapshot, Verdict, Watched};
pub use engine::{Answer, Engine, Order, PausedBy, Settings};
pub use glob::{glob, glob_anywhere};
pub use guard::{check, check_again};
pub use hook::{AllowList, Favor, Hook, Kind, Reach, UnknownKind};
pub use phase::{Mode, Outcome, Phase, Stage};
pub use refusal::Refusal;
pub use run::{Boot, Cause, Chosen, Run, RunId, Step};
pub use target::{Candidate, Group, Identity, Process, Target, TargetId};
pub use undo::{Change, Knob, Place, PutBack, Reversal, Undo, UndoReason};
