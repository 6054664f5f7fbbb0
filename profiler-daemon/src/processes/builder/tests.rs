//! Objects and processes of this host, built.

use std::time::{Duration, Instant};

use super::*;
use crate::{
    kernel::records::Pid,
    processes::{files::MappedPlace, jobs::LARGE_CODE_BYTES, objects::MappedObject, process::ImageId},
};

fn wait(builder: &mut Builder) -> Outcome {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(outcome) = builder.poll() {
            return outcome;
        }
        assert!(Instant::now() < deadline, "the builder is silent");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn builder() -> Builder {
    let rows = RowCache::new("".as_ref(), 0, Arc::default());
    Builder::start(&ProcFs::new("/proc"), Arc::new(rows), None).unwrap()
}

#[test]
fn the_vdso_has_rows() {
    let mut builder = builder();
    let vdso = super::super::objects::Objects::new().vdso;
    builder
        .submit(Job::BuildVdso {
            object: Arc::clone(&vdso),
        })
        .unwrap();
    let Outcome::Built { result, .. } = wait(&mut builder) else {
        panic!("another outcome")
    };
    let (built, table) = result.unwrap();
    assert!(built.unwind.is_ok() && !table.unwrap().table.rows.is_empty());
    vdso.fill(built);
    builder.submit(Job::Compile { object: vdso }).unwrap();
    let Outcome::Compiled { result, .. } = wait(&mut builder) else {
        panic!("another outcome")
    };
    assert!(result.is_ok());
    assert_eq!(builder.open(), 0);
}

#[test]
fn this_process_is_rust_and_its_files_are_built_once() {
    let mut builder = builder();
    let pid = Pid(std::process::id());
    builder
        .submit(Job::Identify {
            image: ImageId(1),
            pid,
            services: Arc::default(),
        })
        .unwrap();
    let Outcome::Identified { result, .. } = wait(&mut builder) else {
        panic!("another outcome")
    };
    let identity = result.unwrap();
    assert!(identity.marks.rust && !identity.executable.is_empty() && !identity.service.is_empty());

    let scan = ProcFs::new("/proc").maps(pid).unwrap();
    let record = scan
        .executable
        .iter()
        .find(|record| record.path == identity.executable)
        .unwrap();
    let place = MappedPlace {
        pid,
        start: record.start,
        end: record.start + record.length,
        device_inode: record.device_inode,
        path: record.path.clone(),
    };
    let mut tables = Vec::new();
    let objects: Vec<_> = (0..2)
        .map(|_| Arc::new(MappedObject::file(&record.path, None)))
        .collect();
    let mut kept = Vec::new();
    for object in &objects {
        builder
            .submit(Job::Build {
                object: Arc::clone(object),
                place: place.clone(),
            })
            .unwrap();
        let Outcome::Built { result, .. } = wait(&mut builder) else {
            panic!("another outcome")
        };
        let (built, table) = result.unwrap();
        assert!(built.segments.bias(record.start, record.file_offset).is_some());
        tables.push(table.is_some());
        kept.push(built);
    }
    assert_eq!(tables, [true, false]);
    assert!(Arc::ptr_eq(&kept[0], &kept[1]));
}

#[test]
fn large_objects_have_their_own_thread_and_rows_that_wait_hold_it_back() {
    let mut builder = builder();
    let place = |end| MappedPlace {
        pid: Pid(u32::MAX),
        start: 0,
        end,
        device_inode: None,
        path: b"/none".to_vec(),
    };
    let object = || Arc::new(MappedObject::file(b"/none", None));
    // Nothing is taken from the lane of large objects while its gate is shut.
    builder.gate.waiting_bytes.store(u64::MAX / 2, Ordering::Relaxed);
    let shut = Job::Build {
        object: object(),
        place: place(LARGE_CODE_BYTES),
    };
    assert!(shut.is_large());
    builder.submit(shut).unwrap();
    let small = Job::Build {
        object: object(),
        place: place(LARGE_CODE_BYTES - 1),
    };
    assert!(!small.is_large());
    std::thread::sleep(Duration::from_millis(20));
    assert!(builder.poll().is_none());
    builder.gate.waiting_bytes.store(0, Ordering::Relaxed);
    builder.submit(small).unwrap();
    wait(&mut builder);
    wait(&mut builder);
    assert_eq!(builder.open(), 0);
}

#[test]
fn a_file_system_that_does_not_answer_keeps_one_thread_and_no_more() {
    let (release, blocked) = sync_channel::<()>(0);
    let blocked = Arc::new(Mutex::new(blocked));
    let make_work: MakeWork = Arc::new(move || {
        let blocked = Arc::clone(&blocked);
        Box::new(move |job| match job {
            Job::Build { object, place } => {
                if place.path == b"/hung/a" {
                    blocked.lock().unwrap().recv().unwrap();
                }
                let result = Err(Failure::from("read".to_owned()));
                Outcome::Built {
                    object,
                    pid: place.pid,
                    result,
                }
            }
            _ => panic!("another job"),
        })
    });
    let mut builder = Builder::start_with(make_work, None).unwrap();
    let submit = |builder: &mut Builder, path: &[u8], device| {
        let place = MappedPlace {
            pid: Pid(7),
            start: 0,
            end: 1,
            device_inode: Some((device, 1)),
            path: path.to_vec(),
        };
        let object = Arc::new(MappedObject::file(path, place.device_inode));
        builder.submit(Job::Build { object, place }).unwrap();
    };
    submit(&mut builder, b"/hung/a", 1);
    submit(&mut builder, b"/hung/b", 1);
    submit(&mut builder, b"/other", 2);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(builder.relieve(Instant::now()), (Vec::new(), 0));
    assert!(builder.poll().is_none(), "the thread waits");
    let later = Instant::now() + STUCK_AFTER;
    assert_eq!(builder.relieve(later), (vec!["/hung/a of process 7".to_owned()], 0));
    let mut reasons = Vec::new();
    for _ in 0..2 {
        let Outcome::Built {
            result: Err(failure), ..
        } = wait(&mut builder)
        else {
            panic!("another outcome")
        };
        reasons.push((failure.reason, failure.passes));
    }
    // The thread that took the place may have been faster than word of the device.
    assert!(reasons.contains(&("read".to_owned(), false)), "{reasons:?}");
    submit(&mut builder, b"/hung/c", 1);
    let Outcome::Built {
        result: Err(failure), ..
    } = wait(&mut builder)
    else {
        panic!("another outcome")
    };
    assert!(failure.passes, "{failure:?}");
    // When it answers at last, its outcome counts, and its files are read again.
    release.send(()).unwrap();
    wait(&mut builder);
    assert_eq!(builder.open(), 0);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !builder.relieve(Instant::now()).0.is_empty() {
        assert!(Instant::now() < deadline);
    }
    submit(&mut builder, b"/hung/d", 1);
    let Outcome::Built {
        result: Err(failure), ..
    } = wait(&mut builder)
    else {
        panic!("another outcome")
    };
    assert!(!failure.passes);
}

#[test]
fn slow_work_is_no_silent_file_system() {
    let (done, end) = sync_channel::<()>(1);
    let end = Arc::new(Mutex::new(end));
    // Computes until it is told to stop.
    let make_work: MakeWork = Arc::new(move || {
        let end = Arc::clone(&end);
        Box::new(move |job| match job {
            Job::Compile { object } => {
                while end.lock().unwrap().try_recv().is_err() {
                    std::hint::black_box((0..10_000_u64).fold(0_u64, u64::wrapping_add));
                }
                let result = Err("computed".to_owned());
                Outcome::Compiled { object, result }
            }
            _ => panic!("another job"),
        })
    });
    let mut builder = Builder::start_with(make_work, None).unwrap();
    let object = Arc::new(MappedObject::file(b"/large", Some((1, 1))));
    builder.submit(Job::Compile { object }).unwrap();
    // Each look is as late as if the host had been busy with other things since.
    let mut later = Instant::now();
    for _ in 0..5 {
        let worker = Arc::clone(builder.ordinary.worker.as_ref().unwrap());
        let gets_on = || {
            let used = cpu_time(*worker.thread.get()?)?;
            Some(used >= worker.with_task(|task| task.used)? + LEAST_PROGRESS)
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while gets_on() != Some(true) {
            assert!(Instant::now() < deadline, "it does not compute");
            std::thread::sleep(Duration::from_millis(1));
        }
        later += STUCK_AFTER;
        assert_eq!(builder.relieve(later), (Vec::new(), 0));
    }
    done.send(()).unwrap();
    assert!(matches!(wait(&mut builder), Outcome::Compiled { .. }));
    assert_eq!(builder.open(), 0);
}

#[test]
fn failures_are_answers() {
    let mut builder = builder();
    let object = Arc::new(MappedObject::file(b"/none", None));
    let place = MappedPlace {
        pid: Pid(u32::MAX),
        start: 0,
        end: 1,
        device_inode: None,
        path: b"/none".to_vec(),
    };
    builder
        .submit(Job::Build {
            object: Arc::clone(&object),
            place,
        })
        .unwrap();
    assert!(matches!(wait(&mut builder), Outcome::Built { result: Err(_), .. }));
    builder.submit(Job::Compile { object }).unwrap();
    assert!(matches!(wait(&mut builder), Outcome::Compiled { result: Err(_), .. }));
    builder
        .submit(Job::Identify {
            image: ImageId(1),
            pid: Pid(u32::MAX),
            services: Arc::default(),
        })
        .unwrap();
    assert!(matches!(wait(&mut builder), Outcome::Identified { result: Err(_), .. }));
}
