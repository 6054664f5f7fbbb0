//! Whether GPUs are read, and through which library.

use std::path::Path;

use profiler_readings::{GpuSampler, Source};

use crate::{
    children::check_library,
    health::{Health, Part, PartState},
};

/// What reads them; nothing where that is switched off, or where the library is not to be trusted: it gets every right that
/// the daemon has.
pub(super) fn sampler(config: &profiler_config::Gpu, root: &Path, health: &Health) -> Option<GpuSampler> {
    let state = match (config.enabled, &config.library) {
        (false, _) => PartState::Disabled {
            reason: "gpu.enabled is false".to_owned(),
        },
        (true, Some(library)) => match check_library(library) {
            Ok(()) => return Some(GpuSampler::new(root, Some(library))),
            Err(error) => PartState::Failed {
                reason: format!("gpu.library: {error}"),
                remedy: "Name a library that root alone can change, in folders that root alone can change.".to_owned(),
            },
        },
        (true, None) => return Some(GpuSampler::new(root, None)),
    };
    health.report(Part::ReadingsOf(Source::Gpu), state);
    None
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_library_that_others_could_change_is_not_loaded() {
        let health = Health::new();
        let open = |enabled, library: Option<PathBuf>| {
            let config = profiler_config::Gpu { enabled, library };
            sampler(&config, Path::new("/"), &health).is_some()
        };
        let state = || health.state(Part::ReadingsOf(Source::Gpu));
        assert!(open(true, None) && state().is_none());
        // What it is told by is what it finds out itself.
        assert!(open(true, Some("/etc/passwd".into())) && state().is_none());
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let library = folder.path().join("libnvidia-ml.so.1");
        std::fs::copy("/etc/passwd", &library).unwrap();
        assert!(!open(true, Some(library)));
        assert!(matches!(state(), Some(PartState::Failed { reason, .. }) if reason.starts_with("gpu.library: /tmp")));
        assert!(!open(false, None));
        assert!(matches!(state(), Some(PartState::Disabled { .. })));
    }
}
