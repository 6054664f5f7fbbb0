//! Which of the chosen pages of a process are still there.

use std::{collections::HashMap, io};

use profiler_store::{Look, PageLook};
use rustix::{
    io::Errno,
    process::{Resource, getrlimit},
};

use crate::{
    kernel::{PageState, Pagemap, PagemapError, records::Pid},
    processes::scan::ProcFs,
};

/// Pages that lie closer are read at once: reading what lies between costs less than another call.
const NEAR: u64 = 128;
/// Most pages of one read.
const MAX_READ: u64 = 2048;
/// Maps that are kept open, and the part of the descriptors that the daemon may have.
const MAX_OPEN: usize = 1024;
const DESCRIPTOR_SHARE: u64 = 8;

/// What became of the process whose pages were to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// What was found at each page.
    Found(Vec<Look>),
    /// It runs another program.
    Replaced,
    /// It has ended.
    Ended,
    /// The daemon may not look.
    Refused(String),
}

/// Looks at pages.
#[derive(Debug)]
pub(super) struct Presence {
    proc: ProcFs,
    /// By the number of the program.
    maps: HashMap<u64, Pagemap>,
    most: usize,
}

impl Presence {
    pub(super) fn new(proc: ProcFs) -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let share = usize::try_from(descriptors / DESCRIPTOR_SHARE).unwrap_or(usize::MAX);
        Self {
            proc,
            maps: HashMap::new(),
            most: share.min(MAX_OPEN),
        }
    }

    /// Has no more open than so many.
    #[cfg(test)]
    pub(super) fn bound_to(&mut self, most: usize) {
        self.most = most;
    }

    /// How many maps are open.
    #[cfg(test)]
    pub(super) fn open_maps(&self) -> usize {
        self.maps.len()
    }

    /// Whether as many maps are open as may be.
    pub(super) fn is_full(&self) -> bool {
        self.maps.len() >= self.most
    }

    /// Programs with an open map that run no more.
    pub(super) fn gone(&self) -> Vec<u64> {
        let gone = self.maps.iter().filter(|(_, map)| map.is_gone());
        gone.map(|(image, _)| *image).collect()
    }

    /// Closes the map of a program.
    pub(super) fn close(&mut self, image: u64) {
        self.maps.remove(&image);
    }

    /// Looks at pages of a program, which are sorted. `start_ticks` tells the process from another with its id. Only where the
    /// pages are `new` it is asked whether they are huge.
    pub(super) fn look(
        &mut self,
        image: u64,
        pid: Pid,
        start_ticks: Option<u64>,
        pages: &[PageLook],
        new: bool,
    ) -> Looked {
        if pages.is_empty() {
            self.close(image);
            return match self.runs(pid, start_ticks) {
                true => Looked::Found(Vec::new()),
                false => Looked::Ended,
            };
        }
        let map = match self.open(image, pid, start_ticks) {
            Ok(Some(map)) => map,
            Ok(None) => return Looked::Ended,
            Err(error) => return Looked::Refused(error.to_string()),
        };
        match look_at(map, pages, new) {
            Ok(looks) => Looked::Found(looks),
            Err(PagemapError::Read(error)) if !is_over(&error) => {
                self.close(image);
                Looked::Refused(error.to_string())
            }
            Err(PagemapError::Read(_) | PagemapError::Gone) => {
                self.close(image);
                let runs_on = self.runs(pid, start_ticks);
                if runs_on { Looked::Replaced } else { Looked::Ended }
            }
        }
    }

    /// What became of a process whose program is known to run no more.
    pub(super) fn after_end(&self, pid: Pid, start_ticks: Option<u64>) -> Looked {
        match self.runs(pid, start_ticks) {
            true => Looked::Replaced,
            false => Looked::Ended,
        }
    }

    /// The map of a program; `None` if its process has ended.
    fn open(&mut self, image: u64, pid: Pid, start_ticks: Option<u64>) -> io::Result<Option<&mut Pagemap>> {
        if !self.maps.contains_key(&image) {
            if self.is_full() {
                return Err(io::Error::other("too many processes are looked at"));
            }
            let map = match Pagemap::open(&self.proc.path(pid, "pagemap")) {
                Ok(map) => map,
                Err(error) if error.kind() == io::ErrorKind::NotFound || is_over(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            // Asked for after it was opened: what is open is that of this process, or the id was another's by then.
            if !self.runs(pid, start_ticks) {
                return Ok(None);
            }
            self.maps.insert(image, map);
        }
        Ok(self.maps.get_mut(&image))
    }

    /// Whether the process runs that had the id at first.
    fn runs(&self, pid: Pid, start_ticks: Option<u64>) -> bool {
        let Ok(stat) = self.proc.stat(pid) else { return false };
        let is_the_same = start_ticks.is_none_or(|ticks| ticks == stat.start_ticks);
        is_the_same && !(stat.zombie && stat.threads <= 1)
    }
}

/// Whether the kernel says that there is no such process any more.
fn is_over(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// Reads the states of pages that are sorted, those near each other at once.
fn look_at(map: &mut Pagemap, pages: &[PageLook], new: bool) -> Result<Vec<Look>, PagemapError> {
    let mut looks = Vec::with_capacity(pages.len());
    let mut rest = pages;
    while let Some(first) = rest.first() {
        let mut end = first.page + first.pages;
        let mut count = 1;
        for next in &rest[1..] {
            let next_end = next.page + next.pages;
            if next.page > end + NEAR || next_end.max(end) - first.page > MAX_READ {
                break;
            }
            end = end.max(next_end);
            count += 1;
        }
        let states = map.read(first.page, end - first.page)?;
        for look in &rest[..count] {
            let from = (look.page - first.page) as usize;
            let to = (from + look.pages as usize).min(states.len());
            looks.push(look_of(states.get(from..to).unwrap_or_default()));
        }
        rest = &rest[count..];
    }
    for (page, look) in pages.iter().zip(&mut looks).filter(|_| new) {
        if let Look::There {
            is_huge,
            is_file: false,
            ..
        } = look
        {
            *is_huge = map.is_huge(page.page).unwrap_or_default();
        }
    }
    Ok(looks)
}

fn look_of(states: &[PageState]) -> Look {
    let there = || states.iter().filter(|state| state.is_there());
    let pages = there().count() as u64;
    if pages == 0 {
        return Look::Gone;
    }
    Look::There {
        is_file: there().all(|state| state.is_file),
        is_swapped: there().all(|state| state.is_swapped),
        is_huge: false,
        pages,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_page(address: *const u8) -> u64 {
        address.addr() as u64 >> 12
    }

    #[test]
    fn pages_of_this_process_are_found() {
        let mut presence = Presence::new(ProcFs::new("/proc"));
        let own = Pid(std::process::id());
        let memory = vec![1_u8; 300 << 12];
        let first = own_page(memory.as_ptr()) + 1;
        let code = own_page(pages_of_this_process_are_found as *const u8);
        let mut pages: Vec<PageLook> = [1, first, first + 7, first + 290, code]
            .map(|page| PageLook { page, pages: 1 })
            .into();
        pages.sort_unstable();
        let Looked::Found(looks) = presence.look(1, own, None, &pages, true) else {
            panic!("not found")
        };
        for (page, look) in pages.iter().zip(looks) {
            match look {
                Look::Gone => assert_eq!(page.page, 1),
                Look::There { is_file, .. } => assert_eq!(is_file, page.page == code),
                Look::Unknown => panic!("nobody looked"),
            }
        }
    }

    #[test]
    fn another_process_of_the_id_is_not_looked_at() {
        let mut presence = Presence::new(ProcFs::new("/proc"));
        let own = Pid(std::process::id());
        let pages = [PageLook { page: 1, pages: 1 }];
        assert_eq!(presence.look(1, own, Some(1), &pages, true), Looked::Ended);
        assert_eq!(presence.look(2, Pid(u32::MAX), None, &pages, true), Looked::Ended);
    }

    #[test]
    fn those_that_run_no_more_are_told_and_the_number_of_maps_is_bounded() {
        let mut presence = Presence::new(ProcFs::new("/proc"));
        assert!((1..=MAX_OPEN).contains(&presence.most));
        presence.bound_to(2);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (own, other) = (Pid(std::process::id()), Pid(child.id()));
        let pages = [PageLook { page: 1, pages: 1 }];
        for (image, pid) in [(1, own), (2, other)] {
            assert!(matches!(
                presence.look(image, pid, None, &pages, true),
                Looked::Found(_)
            ));
        }
        assert!(presence.is_full() && presence.gone().is_empty());
        assert!(matches!(presence.look(3, own, None, &pages, true), Looked::Refused(_)));
        child.kill().unwrap();
        assert_eq!(child.wait().map(|_| presence.gone()).unwrap(), [2]);
        presence.close(2);
        assert!(matches!(presence.look(3, own, None, &pages, true), Looked::Found(_)));
        // Of a program without pages nothing is open.
        assert_eq!(presence.look(3, own, None, &[], false), Looked::Found(Vec::new()));
        assert!(!presence.is_full());
    }

    #[test]
    fn that_there_is_no_such_process_is_its_end() {
        let error = |errno: Errno| is_over(&io::Error::from_raw_os_error(errno.raw_os_error()));
        assert!(error(Errno::SRCH) && !error(Errno::ACCESS));
    }

    #[test]
    fn an_exec_is_told_from_an_end() {
        let mut presence = Presence::new(ProcFs::new("/proc"));
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read line; exec sleep 60"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid(child.id());
        let pages = [PageLook { page: 1, pages: 1 }];
        assert!(matches!(presence.look(1, pid, None, &pages, true), Looked::Found(_)));
        drop(child.stdin.take());
        let start = std::time::Instant::now();
        let after = loop {
            match presence.look(1, pid, None, &pages, true) {
                Looked::Found(_) => assert!(start.elapsed().as_secs() < 30, "it does not execute"),
                other => break other,
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        assert_eq!(after, Looked::Replaced);
        assert!(matches!(presence.look(2, pid, None, &pages, true), Looked::Found(_)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(presence.look(2, pid, None, &pages, true), Looked::Ended);
    }
}
