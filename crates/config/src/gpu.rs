//! Whether and through which library GPUs are read.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::IntoDeserializer};

use crate::values::AbsolutePath;

/// How GPUs are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Whether they are.
    pub enabled: bool,
    /// The library of the driver; without it the one that the host's loader finds.
    pub library: Option<PathBuf>,
}

impl Default for Gpu {
    fn default() -> Self {
        Self {
            enabled: true,
            library: None,
        }
    }
}

/// An absolute path; empty for none.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LibraryPath(Option<PathBuf>);

impl<'de> Deserialize<'de> for LibraryPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self(None));
        }
        let path: Result<AbsolutePath, D::Error> = AbsolutePath::deserialize(text.into_deserializer());
        path.map(|path| Self(Some(path.0)))
    }
}

impl Serialize for LibraryPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(path) => path.serialize(serializer),
            None => serializer.serialize_str(""),
        }
    }
}

/// The section as it is written.
#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WrittenGpu {
    enabled: Option<bool>,
    library: Option<LibraryPath>,
}

impl WrittenGpu {
    /// Overrides what this source says and leaves the rest.
    pub(crate) fn apply(self, gpu: &mut Gpu) {
        gpu.enabled = self.enabled.unwrap_or(gpu.enabled);
        if let Some(library) = self.library {
            gpu.library = library.0;
        }
    }
}

impl From<&Gpu> for WrittenGpu {
    fn from(gpu: &Gpu) -> Self {
        Self {
            enabled: Some(gpu.enabled),
            library: Some(LibraryPath(gpu.library.clone())),
        }
    }
}
