//! The programs that run in the kernel.
//!
//! [`cpu`] samples stacks of watched processes, [`memory`] takes those of page faults, [`mapped`] those of calls that ask for
//! memory, all by [`stack`] and [`python`];
//! [`process`] keeps the set of watched processes true across fork and exec until the daemon catches up. Everything else is decided in user space. Built for the BPF target by
//! `cargo xtask ebpf build`; for any other target this is an empty program.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod cpu;
#[cfg(target_arch = "bpf")]
mod delivery;
#[cfg(target_arch = "bpf")]
mod kernel_target;
#[cfg(target_arch = "bpf")]
mod mapped;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod memory;
#[cfg(target_arch = "bpf")]
mod process;
#[cfg(target_arch = "bpf")]
mod python;
#[cfg(target_arch = "bpf")]
mod stack;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses programs that could come here.
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}
