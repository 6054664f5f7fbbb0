//! Recording: the daemon watches the target for as long as this is held.

use std::time::{Duration, SystemTime};

use profiler_proto::v1::WatchProcessResponse;
use tokio::time::Instant;
use tonic::Streaming;

use super::{interrupt::Interrupt, target::Target};
use crate::{
    client::{Client, ClientError, refusal},
    error::CliError,
    output::{Progress, percent, thousands},
    span::span_text,
};

/// How often the time is shown where no reports of the daemon drive it.
const TICK: Duration = Duration::from_millis(100);

/// How a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Its time was over.
    Complete,
    /// Ctrl-C.
    Interrupted,
    /// The process exited.
    Exited,
}

/// A recording that has ended. While it is held, the daemon keeps watching, so that nothing of it is let go.
#[derive(Debug)]
pub(super) struct Recording {
    /// When it began.
    pub(super) start: SystemTime,
    /// When it ended.
    pub(super) end: SystemTime,
    /// How long it took.
    pub(super) elapsed: Duration,
    /// How it ended.
    pub(super) ending: Ending,
    /// The watch; none for a service, whose processes are watched already.
    _watch: Option<Streaming<WatchProcessResponse>>,
}

impl Recording {
    /// Records the target for `duration`, or until Ctrl-C, or until its process exits; with `exact`, its calls for memory too.
    pub(super) async fn take(
        client: &Client,
        target: &Target,
        duration: Duration,
        exact: bool,
        interrupt: &mut Interrupt,
    ) -> Result<Self, CliError> {
        let start = SystemTime::now();
        let mut watch = match target.pid() {
            Some(pid) => {
                let opening = async {
                    Ok(match exact {
                        true => client.watch_mappings(pid).await?,
                        false => client.watch_process(pid).await?,
                    })
                };
                Some(interrupt.guard(opening).await?)
            }
            None => None,
        };
        let begin = Instant::now();
        let progress = Progress::begin(&format!("recording {target}"), duration);
        let mut seen = WatchProcessResponse::default();
        let deadline = begin + duration;
        let ending = loop {
            progress.update(
                begin.elapsed(),
                progress_text(begin.elapsed(), duration, &seen, watch.is_some()),
            );
            tokio::select! {
                biased;
                () = interrupt.wait() => break Ending::Interrupted,
                () = tokio::time::sleep_until(deadline) => break Ending::Complete,
                report = next(watch.as_mut()) => match report? {
                    Some(report) => {
                        let exited = report.exited;
                        seen = report;
                        if exited {
                            break Ending::Exited;
                        }
                    }
                    // The daemon ends the stream only when the process has exited.
                    None => break Ending::Exited,
                },
                () = tokio::time::sleep(TICK) => {}
            }
        };
        let elapsed = begin.elapsed();
        progress.end(&ending_text(target, ending, elapsed));
        Ok(Self {
            start,
            end: SystemTime::now(),
            elapsed,
            ending,
            _watch: watch,
        })
    }
}

/// The next report; never for a service.
async fn next(
    watch: Option<&mut Streaming<WatchProcessResponse>>,
) -> Result<Option<WatchProcessResponse>, ClientError> {
    match watch {
        Some(watch) => watch.message().await.map_err(|status| refusal(&status)),
        None => std::future::pending().await,
    }
}

fn progress_text(elapsed: Duration, duration: Duration, seen: &WatchProcessResponse, counted: bool) -> String {
    let time = format!("{:.1} of {} s", elapsed.as_secs_f64(), duration.as_secs_f64());
    match seen.samples {
        _ if !counted => time,
        0 => format!("{time}, no samples yet"),
        samples => {
            let share = percent(seen.rooted_samples, samples);
            format!("{time}, {} samples, {share} with a proven root", thousands(samples))
        }
    }
}

fn ending_text(target: &Target, ending: Ending, elapsed: Duration) -> String {
    let elapsed = span_text(elapsed);
    match ending {
        Ending::Complete => format!("recorded {target} for {elapsed}"),
        Ending::Interrupted => format!("interrupted after {elapsed}; showing what was recorded"),
        Ending::Exited => format!("{target} exited after {elapsed}; showing what was recorded"),
    }
}
