//! What a refused change of a map says of the walker's tables.

use std::{error::Error, io};

use super::load::chain;
use crate::processes::walker_tables::TableError;

/// Why a table does not take one more entry. The kernel says `E2BIG` of a map that is full; whatever else it says is no
/// want of room in the table, and freeing some would not help.
pub(super) fn table_error(table: &'static str, capacity: u64, error: &(dyn Error + 'static)) -> TableError {
    if errno(error) == Some(libc::E2BIG) {
        return TableError::Full {
            table,
            wanted: 1,
            capacity,
        };
    }
    TableError::Refused {
        table,
        reason: chain(error),
    }
}

/// The number of the first system error among the causes.
fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use aya::{maps::MapError, sys::SyscallError};

    use super::*;
    use crate::kernel::LoadError;

    fn refused(code: i32) -> MapError {
        MapError::SyscallError(SyscallError {
            call: "bpf_map_update_elem",
            io_error: io::Error::from_raw_os_error(code),
        })
    }

    #[test]
    fn only_a_full_map_is_called_full() {
        let full = TableError::Full {
            table: "processes",
            wanted: 1,
            capacity: 7,
        };
        assert_eq!(table_error("processes", 7, &refused(libc::E2BIG)), full);
        for (code, said) in [
            (libc::EPERM, "Operation not permitted"),
            (libc::ENOMEM, "Cannot allocate memory"),
        ] {
            let told = table_error("processes", 7, &refused(code)).to_string();
            assert!(told.contains("table of processes") && told.contains(said), "{told}");
            assert!(told.contains("bpf_map_update_elem") && !told.contains("full"), "{told}");
        }
    }

    #[test]
    fn a_map_that_cannot_be_made_or_shared_is_told_as_it_is() {
        let made = LoadError::from(MapError::CreateError {
            name: "SHARD".to_owned(),
            io_error: io::Error::from_raw_os_error(libc::EPERM),
        });
        let shared = LoadError::ShareMap {
            map: "SHARD",
            source: io::Error::from_raw_os_error(libc::ENOMEM),
        };
        for (error, said) in [(made, "Operation not permitted"), (shared, "Cannot allocate memory")] {
            let told = table_error("rows", 7, &error).to_string();
            assert!(
                told.contains("SHARD") && told.contains(said) && !told.contains("full"),
                "{told}"
            );
        }
    }
}
