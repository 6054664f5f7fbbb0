//! Files that cannot be used: what is set aside, and what is begun anew.

use super::*;

#[track_caller]
fn check_renewed(directory: &Path, suffix: &str) {
    let path = directory.join(NAME);
    let old = fs::read(&path).unwrap();
    let mut state = State::open(directory, BOUNDS).unwrap();
    let Condition::Renewed { set_aside, reason } = state.condition() else {
        panic!("{:?}", state.condition());
    };
    assert_eq!(set_aside, PathBuf::from(format!("{}{suffix}", path.display())));
    assert!(!reason.is_empty());
    assert_eq!(fs::read(&set_aside).unwrap(), old);
    assert!(state.live().unwrap().is_empty());
    state.record(&[firing(1)], at(1)).unwrap();
    drop(state);
    let mut state = State::open(directory, BOUNDS).unwrap();
    assert_eq!(state.condition(), Condition::Kept);
    assert_eq!(state.live().unwrap(), [firing(1)]);
}

#[test]
fn what_is_no_database_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(NAME);
    fs::write(
        &path,
        b"this is no database, but long enough to be looked at as if it were one......................",
    )
    .unwrap();
    check_renewed(directory.path(), ".damaged");
    // Again: the damaged file before is overwritten.
    fs::write(&path, vec![0x5a; 8192]).unwrap();
    check_renewed(directory.path(), ".damaged");
}

#[test]
fn a_damaged_or_truncated_file_is_set_aside() {
    for damage in 0..2 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        let mut state = open(&directory);
        let many: Vec<Stored> = (0..200).map(firing).collect();
        state.record(&many, at(0)).unwrap();
        drop(state);
        let mut bytes = fs::read(&path).unwrap();
        assert!(bytes.len() > 64 << 10);
        if damage == 0 {
            bytes.truncate(20 << 10);
        } else {
            let pages = 2 << 12..;
            bytes[pages].fill(0xa5);
        }
        fs::write(&path, &bytes).unwrap();
        check_renewed(directory.path(), ".damaged");
    }
}

#[test]
fn a_file_of_a_later_version_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let state = open(&directory);
    state
        .database
        .connection()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    drop(state);
    check_renewed(directory.path(), ".newer");
}

#[test]
fn a_file_damaged_while_in_use_is_renewed() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = open(&directory);
    state.record(&[firing(1)], at(0)).unwrap();
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA shrink_memory;";
    state.database.connection().execute_batch(checkpoint).unwrap();
    let path = directory.path().join(NAME);
    let length = fs::metadata(&path).unwrap().len();
    fs::write(&path, vec![0xa5; usize::try_from(length).unwrap()]).unwrap();
    state.record(&[firing(2)], at(1)).unwrap();
    assert!(
        matches!(state.condition(), Condition::Renewed { .. }),
        "{:?}",
        state.condition()
    );
    assert_eq!(state.live().unwrap(), [firing(2)]);
}

#[test]
fn a_directory_that_is_missing_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("not/there");
    let mut state = State::open(&missing, BOUNDS).unwrap();
    assert_eq!(state.condition(), Condition::Kept);
    state.record(&[firing(1)], at(0)).unwrap();
    drop(state);
    assert_eq!(State::open(&missing, BOUNDS).unwrap().live().unwrap(), [firing(1)]);
    let mode = fs::metadata(&missing).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn without_a_directory_all_is_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    fs::create_dir(directory.path().join(NAME)).unwrap();
    for place in [file.as_path(), &file.join("below"), directory.path()] {
        let mut state = State::open(place, BOUNDS).unwrap();
        let condition = state.condition();
        assert!(
            matches!(&condition, Condition::InMemory { reason } if !reason.is_empty()),
            "{condition:?}"
        );
        state.record(&[firing(1)], at(0)).unwrap();
        assert_eq!(state.live().unwrap(), [firing(1)]);
        assert_eq!(state.add_silence(silence(100)).unwrap().id, SilenceId(1));
    }
}

/// Of two connections one sees the damage first. The other takes the new file, and sets nothing aside.
#[test]
fn a_renewed_file_is_taken_by_all() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = open(&directory);
    let mut outbox = Outbox::open(directory.path()).unwrap();
    let path = directory.path().join(NAME);
    fs::remove_file(&path).unwrap();
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(format!("{}{suffix}", path.display())).unwrap();
    }
    fs::write(&path, vec![0xa5; 8192]).unwrap();
    state.record(&[firing(1)], at(1)).unwrap();
    assert!(matches!(
        state.condition(),
        Condition::InMemory { .. } | Condition::Renewed { .. }
    ));
    outbox
        .put(&KeptNotification {
            id: 1,
            sink: "ops".to_owned(),
            payload: Vec::new(),
        })
        .unwrap();
    assert_eq!(outbox.condition(), Condition::Kept);
    drop((state, outbox));
    assert_eq!(open(&directory).live().unwrap(), [firing(1)]);
    assert_eq!(Outbox::open(directory.path()).unwrap().all().unwrap().len(), 1);
}
