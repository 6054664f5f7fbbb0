//! The watched processes, as the sampling loop last named them.

use std::{sync::Arc, time::Duration};

use profiler_readings::{ProcessId, WatchedProcess};
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::command::{Command, EngineHandle, Member};

/// Time between two questions: a process that is watched anew is read from so much later on, and from one round after that.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Rounds are not quite even; one of them must not leave a question out.
const EARLY: Duration = Duration::from_millis(100);

/// The watched processes. Asks for them and goes on: the answer is taken when it is there.
#[derive(Debug)]
pub(super) struct Members {
    engine: EngineHandle,
    due: Duration,
    asked: Option<oneshot::Receiver<Vec<Member>>>,
    known: Vec<Member>,
}

impl Members {
    /// None are known yet.
    pub(super) fn new(engine: EngineHandle) -> Self {
        Self {
            engine,
            due: Duration::ZERO,
            asked: None,
            known: Vec::new(),
        }
    }

    /// Takes the answer to the last question if it is there, and asks again when it is time. Whether others are known than
    /// before.
    pub(super) fn follow(&mut self, now: Duration) -> bool {
        let is_new = self.take_answer();
        if self.asked.is_none() && now + EARLY >= self.due {
            self.due = now + ASK_EVERY;
            // A full queue is counted, and asked again.
            self.asked = self.engine.begin(|reply| Command::ListMembers { reply }).ok();
        }
        is_new
    }

    /// Those known, by their ids.
    pub(super) fn known(&self) -> &[Member] {
        &self.known
    }

    /// The same, as samplers take them.
    pub(super) fn to_read(&self) -> impl Iterator<Item = WatchedProcess> {
        self.known.iter().map(|member| WatchedProcess {
            id: ProcessId {
                pid: member.pid.0,
                start_ticks: member.start_ticks,
            },
            service: (!member.service.is_empty()).then(|| Arc::clone(&member.service)),
            executed: member.executed,
        })
    }

    fn take_answer(&mut self) -> bool {
        let Some(answer) = &mut self.asked else { return false };
        match answer.try_recv() {
            Ok(members) => {
                self.asked = None;
                let is_new = members != self.known;
                self.known = members;
                is_new
            }
            Err(TryRecvError::Empty) => false,
            // The loop has ended. What was watched is what can be read of processes.
            Err(TryRecvError::Closed) => {
                self.asked = None;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{command, kernel::records::Pid};

    /// A round a second: what is watched when one begins is known to the next, so that a service that listens at once is looked
    /// at within two seconds.
    #[test]
    fn each_round_knows_what_was_watched_at_the_one_before() {
        let (engine, mut commands) = command::channel();
        let mut members = Members::new(engine);
        for second in 1..20_u32 {
            let is_new = members.follow(Duration::from_millis(
                u64::from(second) * 1000 + u64::from(second % 2) * 20,
            ));
            assert_eq!(is_new, second > 1);
            assert_eq!(
                members.known().iter().map(|member| member.pid.0).max().unwrap_or(0),
                second - 1
            );
            let Ok(Command::ListMembers { reply }) = commands.try_recv() else {
                panic!("it asks in round {second}");
            };
            let member = Member {
                pid: Pid(second),
                start_ticks: 100,
                executed: None,
                name: Arc::from("a"),
                service: Arc::from("shop"),
            };
            reply.send(vec![member]).unwrap();
        }
    }

    #[test]
    fn a_loop_that_does_not_answer_is_not_waited_for() {
        let (engine, mut commands) = command::channel();
        let mut members = Members::new(engine);
        let at = Duration::from_secs;
        assert!(!members.follow(at(1)));
        for second in 2..10 {
            assert!(!members.follow(at(second)));
        }
        let Ok(Command::ListMembers { reply }) = commands.try_recv() else {
            panic!("it asked");
        };
        assert!(commands.try_recv().is_err(), "once, while nothing is answered");
        let member = Member {
            pid: Pid(7),
            start_ticks: 100,
            executed: None,
            name: Arc::from("a"),
            service: Arc::from("shop"),
        };
        reply.send(vec![member.clone()]).unwrap();
        assert!(members.follow(at(10)));
        assert_eq!(members.known(), [member]);
        // Asked again at once, because the question was due; the loop ends without an answer.
        drop(commands);
        assert!(!members.follow(at(13)) && !members.follow(at(20)));
        assert_eq!(members.known().len(), 1);
    }
}
