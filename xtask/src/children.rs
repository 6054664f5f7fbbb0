//! Programs that run beside us and must not outlive us, whether we end well, with an error or by Ctrl-C.

use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How often we look whether a program has ended or somebody wants us to.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long a program may take to end when it is asked to.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Whether somebody asked us to stop. As long as it lives, Ctrl-C does not end us at once: waits return an error, and
/// what we started is stopped on the way out.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over the signals that ask us to stop.
    pub(crate) fn install() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag)).context("cannot take over signals")?;
        }
        Ok(Self(flag))
    }

    /// Waits until `poll` has an answer.
    ///
    /// # Errors
    /// `poll` fails, or somebody asked us to stop.
    pub(crate) fn wait_for<T>(&self, mut poll: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        loop {
            if let Some(answer) = poll()? {
                return Ok(answer);
            }
            if self.0.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Sleeps.
    ///
    /// # Errors
    /// Somebody asked us to stop.
    pub(crate) fn sleep(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        self.wait_for(|| Ok((Instant::now() >= end).then_some(())))
    }
}

/// A program that is stopped when this value goes away.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
}

impl Running {
    /// Starts `command`.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
        Ok(Self { child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, once it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot wait for a program")
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(mut self, interrupt: &Interrupt) -> Result<ExitStatus> {
        interrupt.wait_for(|| self.ended())
    }

    /// Asks it to end, then makes it.
    fn stop(&mut self) -> Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).context("cannot stop a program")?;
        let end = Instant::now() + END_WITHIN;
        while Instant::now() < end {
            if self.ended()?.is_some() {
                return Ok(());
            }
            thread::sleep(LOOK_EVERY);
        }
        self.child.kill().context("cannot kill a program")?;
        self.child.wait().context("cannot wait for a program")?;
        bail!("process {} did not end when asked and was killed", self.pid())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("warning: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interrupt() -> Interrupt {
        Interrupt(Arc::new(AtomicBool::new(false)))
    }

    #[test]
    fn a_program_ends_with_its_owner() {
        let running = Running::start(Command::new("sleep").arg("60")).unwrap();
        let pid = running.pid();
        drop(running);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn the_status_of_a_program_arrives() {
        let running = Running::start(Command::new("sh").args(["-c", "exit 3"])).unwrap();
        assert_eq!(running.wait(&interrupt()).unwrap().code(), Some(3));
    }

    #[test]
    fn an_interrupt_ends_a_wait_and_the_program() {
        let interrupt = interrupt();
        interrupt.0.store(true, Ordering::Relaxed);
        let running = Running::start(Command::new("sleep").arg("60")).unwrap();
        assert_eq!(running.wait(&interrupt).unwrap_err().to_string(), "interrupted");
        assert!(interrupt.sleep(Duration::from_secs(60)).is_err());
    }
}
