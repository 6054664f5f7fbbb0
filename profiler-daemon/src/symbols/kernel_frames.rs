//! Kernel addresses as frames of a profile.

use std::{collections::HashMap, sync::Arc};

use profiler_profile::{Frame, FrameKind, ProfileBuilder};
use profiler_symbolizer::KernelSymbol;

use super::kernel_names::KernelNames;

/// Module of the kernel's own code.
const KERNEL: &str = "[kernel]";

/// Kernel addresses as frames of the profile that is being built.
pub(super) struct KernelFrames<'a> {
    names: &'a mut KernelNames,
    numbers: HashMap<u64, u32>,
}

impl<'a> KernelFrames<'a> {
    pub(super) fn new(names: &'a mut KernelNames) -> Self {
        Self {
            names,
            numbers: HashMap::new(),
        }
    }

    /// The number of the frame at an address.
    pub(super) fn number(&mut self, runtime_address: u64, builder: &mut ProfileBuilder) -> u32 {
        if let Some(number) = self.numbers.get(&runtime_address) {
            return *number;
        }
        // An address without a name is not shown: it would tell where the kernel lies, which only root may know.
        let symbol = self.names.resolve(runtime_address).unwrap_or(KernelSymbol {
            name: KERNEL,
            module: None,
        });
        let number = builder.number(Frame {
            kind: FrameKind::Kernel,
            function: symbol.name.into(),
            module: symbol.module.unwrap_or(KERNEL).into(),
            file: Arc::default(),
            line: 0,
        });
        self.numbers.insert(runtime_address, number);
        number
    }
}
