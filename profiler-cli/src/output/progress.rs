//! Progress of a recording on stderr: a bar on a terminal, else one line at its start and one at its end. And of an answer
//! that takes its time, on a terminal only.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Pictures a second; the rest of a recording is waiting.
const DRAWS_PER_SECOND: u8 = 10;
/// Columns beside the bar.
const TEMPLATE: &str = "{prefix} [{bar:24}] {msg}";

/// Progress of a recording, or of an answer.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Shows that a recording has begun. `title` must be printable.
    pub(crate) fn begin(title: &str, duration: Duration) -> Self {
        if !io::stderr().is_terminal() {
            say(&format!("{title} for {} s", duration.as_secs_f64()));
            return Self { bar: None };
        }
        let length = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND);
        let bar = ProgressBar::with_draw_target(Some(length), target).with_prefix(title.to_owned());
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        }
        Self { bar: Some(bar) }
    }

    /// Shows on a terminal that an answer is waited for. `title` must be printable.
    pub(crate) fn wait(title: &'static str) -> Self {
        if !io::stderr().is_terminal() {
            return Self { bar: None };
        }
        let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND);
        let bar = ProgressBar::with_draw_target(None, target).with_message(title);
        bar.set_style(ProgressStyle::default_spinner());
        bar.enable_steady_tick(Duration::from_secs(1) / DRAWS_PER_SECOND.into());
        Self { bar: Some(bar) }
    }

    /// Shows how far it is.
    pub(crate) fn update(&self, elapsed: Duration, message: String) {
        if let Some(bar) = &self.bar {
            bar.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
            bar.set_message(message);
        }
    }

    /// Shows that it has ended, and how.
    pub(crate) fn end(self, message: &str) {
        drop(self);
        say(message);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // Whatever is said next, an error too, must find a clean line.
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A line for people. Without a stderr there is nobody to tell.
fn say(line: &str) {
    drop(writeln!(anstream::stderr(), "{line}"));
}
