//! What is open for each CPU, kept in step with the CPUs that are online.
//!
//! In: the CPUs that are online now. Out: what was open for CPUs that went away, and which CPUs came. The kernel does not
//! revive the events of a CPU that comes back, so that one that was away between two looks has to be found as well.

use std::io;

use aya::util::online_cpus;

use super::load::LoadError;

/// Something that is open for one CPU.
pub(super) trait PerCpu {
    /// Which.
    fn cpu(&self) -> u32;
}

/// What changed.
#[derive(Debug)]
pub(super) struct Changes<T> {
    /// What was open for CPUs that went away, or were away for a while.
    pub(super) gone: Vec<T>,
    /// CPUs for which it has been opened.
    pub(super) come: Vec<u32>,
    /// What kept some from being opened; they are tried again.
    pub(super) failure: Option<LoadError>,
}

/// The CPUs that are online.
pub(super) fn online() -> Result<Vec<u32>, LoadError> {
    online_cpus().map_err(|(path, source)| LoadError::Cpus {
        path: path.to_owned(),
        source,
    })
}

/// Opens what CPUs that are online lack, and takes out of `held` what is of other CPUs and of those that were `away`. A CPU
/// that goes away meanwhile is no failure, and a failure on one CPU leaves the others alone.
pub(super) fn follow<T: PerCpu>(
    held: &mut Vec<T>,
    online: &[u32],
    away: &[u32],
    mut open: impl FnMut(u32) -> Result<T, LoadError>,
) -> Changes<T> {
    let is_there = |one: &T| online.contains(&one.cpu()) && !away.contains(&one.cpu());
    let (kept, gone) = std::mem::take(held).into_iter().partition(is_there);
    *held = kept;
    let mut changes = Changes {
        gone,
        come: Vec::new(),
        failure: None,
    };
    for &cpu in online {
        if held.iter().any(|one| one.cpu() == cpu) {
            continue;
        }
        match open(cpu) {
            Ok(one) => {
                held.push(one);
                changes.come.push(cpu);
            }
            Err(error) if is_absent(&error) => {}
            Err(error) => changes.failure = changes.failure.or(Some(error)),
        }
    }
    changes
}

/// Whether an event could not be opened because its CPU is not there.
fn is_absent(error: &LoadError) -> bool {
    let code = |source: &io::Error| source.raw_os_error() == Some(libc::ENODEV);
    matches!(error, LoadError::PerfEvent { source, .. } if code(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Event {
        cpu: u32,
        opened: u32,
    }

    impl PerCpu for Event {
        fn cpu(&self) -> u32 {
            self.cpu
        }
    }

    /// CPUs that cannot be opened, and how often something was.
    #[derive(Default)]
    struct Host {
        absent: Vec<u32>,
        refusing: Vec<u32>,
        opened: u32,
        held: Vec<Event>,
    }

    impl Host {
        #[track_caller]
        fn check(&mut self, online: &[u32], away: &[u32], gone: &[u32], come: &[u32], failed: Option<u32>) {
            let (absent, refusing, opened) = (&self.absent, &self.refusing, &mut self.opened);
            let open = |cpu| {
                let code = match () {
                    () if absent.contains(&cpu) => libc::ENODEV,
                    () if refusing.contains(&cpu) => libc::EMFILE,
                    () => {
                        *opened += 1;
                        return Ok(Event { cpu, opened: *opened });
                    }
                };
                Err(LoadError::perf_event("a test", cpu, io::Error::from_raw_os_error(code)))
            };
            let changes = follow(&mut self.held, online, away, open);
            let gone_now: Vec<u32> = changes.gone.iter().map(PerCpu::cpu).collect();
            let failed_now = changes.failure.map(|failure| match failure {
                LoadError::PerfEvent { cpu, .. } => cpu,
                other => panic!("{other}"),
            });
            assert_eq!((&gone_now[..], &changes.come[..], failed_now), (gone, come, failed));
        }
    }

    #[test]
    fn cpus_come_and_go() {
        let mut host = Host::default();
        host.check(&[0, 1, 3], &[], &[], &[0, 1, 3], None);
        host.check(&[0, 1, 3], &[], &[], &[], None);
        host.check(&[0, 3], &[], &[1], &[], None);
        host.check(&[0, 1, 2, 3], &[], &[], &[1, 2], None);
        assert_eq!(host.held.len(), 4);
    }

    #[test]
    fn a_cpu_that_was_away_between_two_looks_is_opened_again() {
        let mut host = Host::default();
        host.check(&[0, 1], &[], &[], &[0, 1], None);
        host.check(&[0, 1], &[1], &[1], &[1], None);
        assert_eq!(host.held, [Event { cpu: 0, opened: 1 }, Event { cpu: 1, opened: 3 }]);
    }

    #[test]
    fn one_that_goes_away_meanwhile_is_no_failure_and_one_that_fails_stops_no_other() {
        let mut host = Host {
            absent: vec![0],
            refusing: vec![1],
            ..Host::default()
        };
        host.check(&[0, 1, 2], &[], &[], &[2], Some(1));
        (host.absent, host.refusing) = (Vec::new(), Vec::new());
        host.check(&[0, 1, 2], &[], &[], &[0, 1], None);
    }
}
