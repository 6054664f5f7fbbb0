//! NVIDIA's management library: nothing outside of this module names it.
//!
//! In: the path of the library. Out: the cards that it knows, and rounds of questions to one of them. Each call may wait
//! for the driver as long as it likes: only threads that nobody waits for may come here.

mod card;

use std::{ffi::OsStr, path::Path, sync::Arc};

use nvml_wrapper::{Nvml, error::NvmlError};

use self::card::Card;
use super::{Trouble, round::Round};
use crate::source::Moment;

/// The name that every driver installs. The one without a number comes with headers only.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// Most cards that are read: each has a thread.
const MAX_CARDS: u32 = 16;

/// The library, opened.
#[derive(Debug)]
pub(super) struct Library {
    nvml: Arc<Nvml>,
    /// The cards that can be asked.
    pub(super) cards: Vec<CardId>,
    /// Those that cannot, with the reason.
    pub(super) lost: Vec<(Arc<str>, Trouble)>,
    /// Cards beyond the bound.
    pub(super) left_out: u64,
}

/// One card.
#[derive(Clone, Debug)]
pub(super) struct CardId {
    index: u32,
    pub(super) uuid: Arc<str>,
}

impl Library {
    /// Opens it and lists its cards. On a host that keeps no driver state this wakes every card, which takes seconds.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Trouble> {
        let path = path.map_or(OsStr::new(LIBRARY), Path::as_os_str);
        let nvml = Nvml::builder()
            .lib_path(path)
            .init()
            .map_err(|error| open_trouble(&error))?;
        let count = nvml.device_count().map_err(|error| open_trouble(&error))?;
        let (mut cards, mut lost) = (Vec::new(), Vec::new());
        for index in 0..count.min(MAX_CARDS) {
            match nvml.device_by_index(index).and_then(|device| device.uuid()) {
                Ok(uuid) => cards.push(CardId {
                    index,
                    uuid: uuid.into(),
                }),
                Err(error) => lost.push((format!("number {index}").into(), card_trouble(&error))),
            }
        }
        Ok(Self {
            nvml: Arc::new(nvml),
            cards,
            lost,
            left_out: u64::from(count.saturating_sub(MAX_CARDS)),
        })
    }

    /// What the thread of one card holds: the library stays open as long as one does.
    pub(super) fn handle(&self) -> Handle {
        Handle {
            nvml: Arc::clone(&self.nvml),
        }
    }
}

/// The library, as the thread of a card holds it.
#[derive(Debug)]
pub(super) struct Handle {
    nvml: Arc<Nvml>,
}

impl Handle {
    /// Asks a card whenever one is waiting for it, until nobody is or the card is lost.
    pub(super) fn serve(
        &self,
        card: &CardId,
        asked: impl Iterator<Item = Moment>,
        mut answer: impl FnMut(Result<Round, Trouble>) -> bool,
    ) {
        let mut card = match Card::new(&self.nvml, card) {
            Ok(card) => card,
            Err(error) => {
                answer(Err(card_trouble(&error)));
                return;
            }
        };
        for now in asked {
            let result = card.ask(now);
            let is_lost = result.is_err();
            if !answer(result) || is_lost {
                return;
            }
        }
    }
}

/// Whether a card that says so is not there any more, or the library is of no use any more.
fn is_fatal(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::GpuLost
            | NvmlError::ResetRequired
            | NvmlError::Uninitialized
            | NvmlError::DriverNotLoaded
            | NvmlError::LibRmVersionMismatch
    )
}

/// Why the library is of no use, and what can be done.
fn open_trouble(error: &NvmlError) -> Trouble {
    let (is_missing, remedy) = match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => (
            true,
            "Install the library of the NVIDIA driver (libnvidia-ml.so.1), or name it by gpu.library.",
        ),
        NvmlError::DriverNotLoaded => (
            true,
            "Load the NVIDIA driver, and let the service see /dev/nvidia*: see docs/gpu.md.",
        ),
        NvmlError::LibRmVersionMismatch => (
            false,
            "The driver was updated while it was in use: load its modules anew, or restart the host.",
        ),
        NvmlError::NoPermission | NvmlError::OperatingSystem => {
            (false, "Let the service see and open /dev/nvidia*: see docs/gpu.md.")
        }
        _ => (false, "See whether nvidia-smi works as the daemon's user."),
    };
    Trouble {
        reason: error.to_string(),
        remedy,
        is_missing,
    }
}

/// Why a card cannot be asked, and what can be done.
fn card_trouble(error: &NvmlError) -> Trouble {
    Trouble {
        reason: error.to_string(),
        remedy: match error {
            NvmlError::GpuLost | NvmlError::ResetRequired => {
                "Look for Xid in the kernel's log; the card must be reset, or the host restarted."
            }
            NvmlError::LibRmVersionMismatch | NvmlError::DriverNotLoaded | NvmlError::Uninitialized => {
                "The driver was taken away or updated: load its modules anew, or restart the host."
            }
            _ => "See whether nvidia-smi works as the daemon's user.",
        },
        is_missing: false,
    }
}
