//! What was kept with an alert, as a flame graph.

use profiler_profile::compare::Comparison;
use profiler_proto::v1::{Alert, Evidence, KeptProfile};

use super::query::Rendering;
use crate::{
    args::FlamegraphArgs,
    client::Client,
    commands::diff,
    convert,
    error::CliError,
    output::{Format, printable},
};

/// Most bytes shown of the name of a limit.
const MAX_NAME_BYTES: usize = 80;

/// Renders, of an alert about memory, the code that touched first what grew; of any other the difference between its beginning
/// and the time before; or the beginning alone, of a process that was killed its own last minute.
pub(super) async fn render(
    client: &Client,
    id: &str,
    args: &FlamegraphArgs,
    format: Format,
) -> Result<Rendering, CliError> {
    let answer = client.get_alert(id, true).await?;
    let alert = answer.alert.unwrap_or_default();
    let title = title(&alert);
    let Some(evidence) = answer.evidence else {
        return Err(CliError::NoSamples {
            target: title,
            hint: "no evidence is kept of it: it never fired, it is being gathered, or it was dropped for room"
                .to_owned(),
        });
    };
    let stem = format!("alert-{}", alert.id);
    let memory = evidence.memory.clone().unwrap_or_default();
    if args.breach {
        let hint = "nothing was sampled while it began";
        let kept = memory.victim.or(evidence.breach);
        return alone(kept, title, stem, format, hint);
    }
    if memory.grown.is_some() {
        return alone(memory.grown, title, stem, format, "nothing grew");
    }
    if memory.victim.is_some() {
        return alone(memory.victim, title, stem, format, "it did not run");
    }
    difference(evidence, &title, stem, format)
}

fn title(alert: &Alert) -> String {
    format!("alert {} of {}", alert.id, printable(&alert.limit, MAX_NAME_BYTES))
}

/// One profile as it was kept.
fn alone(
    kept: Option<KeptProfile>,
    title: String,
    stem: String,
    format: Format,
    hint: &str,
) -> Result<Rendering, CliError> {
    let kept = kept.unwrap_or_default();
    let profile = convert::profile(kept.profile.unwrap_or_default())?;
    if profile.samples() == 0 {
        let hint = hint.to_owned();
        return Err(CliError::NoSamples { target: title, hint });
    }
    Ok(Rendering {
        bytes: format.render(&profile)?,
        summary: profile.summary(),
        stem,
    })
}

fn difference(evidence: Evidence, title: &str, stem: String, format: Format) -> Result<Rendering, CliError> {
    let comparison: Comparison = convert::comparison::comparison(evidence.comparison.unwrap_or_default())?;
    let bytes = match format {
        Format::Svg => diff::svg(title, &comparison)?,
        Format::Folded => diff::folded(title, &comparison)?,
        Format::Json => diff::json(title, &comparison)?,
        other => {
            return Err(CliError::Usage {
                message: format!(
                    "a difference has no form as {}: svg, folded or json, or with --breach only what ran then",
                    other.name()
                ),
            });
        }
    };
    Ok(Rendering {
        bytes,
        summary: diff::endings(&comparison).join("\n"),
        stem,
    })
}
