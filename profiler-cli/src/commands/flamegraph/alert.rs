//! What was kept with an alert, as a flame graph.

use profiler_profile::compare::Comparison;
use profiler_proto::v1::{Alert, Evidence};

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

/// Renders the difference between an alert's beginning and the time before, or the beginning alone.
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
    if args.breach {
        return breach(evidence, title, stem, format);
    }
    difference(evidence, &title, stem, format)
}

fn title(alert: &Alert) -> String {
    format!("alert {} of {}", alert.id, printable(&alert.limit, MAX_NAME_BYTES))
}

fn breach(evidence: Evidence, title: String, stem: String, format: Format) -> Result<Rendering, CliError> {
    let kept = evidence.breach.unwrap_or_default();
    let profile = convert::profile(kept.profile.unwrap_or_default())?;
    if profile.samples() == 0 {
        let hint = "nothing was sampled while it began".to_owned();
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
