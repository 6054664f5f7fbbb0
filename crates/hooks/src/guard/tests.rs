use std::time::Duration;

use super::*;
use crate::{Favor, Identity};

fn process() -> Process {
    Process {
        identity: Identity {
            pid: 4711,
            start_ticks: 99,
        },
        uids: [1000; 4],
        executable: b"/srv/web/bin/python3.14".to_vec(),
        name: "uvicorn".into(),
        unit: Some("web-3.service".into()),
        is_kernel_thread: false,
        caught_signals: 1 << (10 - 1),
    }
}

fn hook(kind: Kind) -> Hook {
    Hook {
        name: "hook".into(),
        kind,
        enforce: true,
        allow: AllowList {
            units: vec!["web-*".to_owned()],
            executables: vec!["/srv/**".to_owned(), "gunicorn".to_owned()],
            uids: vec![1000, 1001],
        },
        allow_disruptive: false,
        timeout: Duration::from_secs(10),
        settle: Duration::from_secs(15),
        measure: Duration::from_secs(60),
        cooldown: Duration::from_secs(600),
        lasts: Duration::from_secs(300),
    }
}

fn every_kind() -> Vec<Kind> {
    let mut kinds = Kind::PLAIN.to_vec();
    kinds.push(Kind::Signal(10));
    kinds.extend(Favor::ALL.map(Kind::Request));
    kinds
}

fn group(members: Vec<Process>) -> Group {
    Group {
        id: 5,
        path: "/system.slice/web-3.service".into(),
        members,
        is_whole: true,
    }
}

fn ourselves() -> BTreeSet<u32> {
    [300, 20].into()
}

/// The target of a hook of this kind: the process, or the group that it is in beside another.
fn target_of(kind: Kind, process: Process) -> Target {
    match kind.reach() {
        Reach::Anything | Reach::Process => Target::Process(process),
        Reach::Group => Target::Group(group(vec![self::process(), process])),
    }
}

#[track_caller]
fn refused(hook: &Hook, change: impl FnOnce(&mut Process), expected: &Refusal) {
    let mut changed = process();
    change(&mut changed);
    let target = target_of(hook.kind, changed);
    assert_eq!(
        check(hook, &target, &ourselves()).as_ref(),
        Err(expected),
        "{}",
        hook.kind
    );
}

#[test]
fn a_target_on_the_list_may_be_acted_on() {
    for kind in every_kind() {
        assert_eq!(
            check(&hook(kind), &target_of(kind, process()), &ourselves()),
            Ok(()),
            "{kind}"
        );
    }
}

#[test]
fn whatever_a_hook_allows_some_are_never_touched() {
    for kind in every_kind() {
        let mut hook = hook(kind);
        hook.allow = AllowList {
            units: vec!["*".to_owned()],
            executables: vec!["**".to_owned()],
            uids: vec![0, 1000],
        };
        hook.allow_disruptive = true;
        refused(&hook, |process| process.identity.pid = 1, &Refusal::FirstProcess);
        refused(&hook, |process| process.identity.pid = 0, &Refusal::FirstProcess);
        refused(&hook, |process| process.is_kernel_thread = true, &Refusal::KernelThread);
        refused(&hook, |process| process.identity.pid = 300, &Refusal::Ourselves);
        refused(&hook, |process| process.identity.pid = 20, &Refusal::Ourselves);
        refused(&hook, |process| process.executable.clear(), &Refusal::UnknownProgram);
        for executable in [
            "/usr/sbin/sshd",
            "/usr/lib/openssh/sshd-session",
            "/usr/lib/systemd/systemd",
            "/lib/systemd/systemd-journald",
            "/usr/lib/systemd/portable/anything",
            "/opt/systemd-resolved",
        ] {
            let change = |process: &mut Process| process.executable = executable.as_bytes().to_vec();
            refused(&hook, change, &Refusal::Protected);
        }
        for name in ["sshd", "sshd: ops [priv]", "systemd-udevd", "(sd-pam)", "(sd-executor)"] {
            refused(&hook, |process| process.name = name.into(), &Refusal::Protected);
        }
        for unit in ["ssh.service", "sshd@7.service", "systemd-logind.service", "init.scope"] {
            refused(&hook, |process| process.unit = Some(unit.into()), &Refusal::Protected);
        }
    }
}

#[test]
fn of_each_kind_on_the_list_one_must_fit() {
    for kind in every_kind() {
        let hook = hook(kind);
        refused(
            &hook,
            |process| process.unit = Some("db.service".into()),
            &Refusal::UnitNotAllowed,
        );
        refused(&hook, |process| process.unit = None, &Refusal::UnitNotAllowed);
        refused(
            &hook,
            |process| process.executable = b"/usr/bin/python3".to_vec(),
            &Refusal::ExecutableNotAllowed,
        );
        for place in 0..4 {
            let change = |process: &mut Process| process.uids[place] = 0;
            refused(&hook, change, &Refusal::UserNotAllowed { uid: 0 });
        }
    }
    let mut process = process();
    process.executable = b"/usr/local/bin/gunicorn".to_vec();
    process.uids = [1000, 1001, 1001, 1000];
    assert_eq!(
        check(&hook(Kind::Nice), &Target::Process(process), &ourselves()),
        Ok(())
    );
}

#[test]
fn root_is_named_or_left_alone() {
    let mut any_user = hook(Kind::Nice);
    any_user.allow.uids.clear();
    assert_eq!(check(&any_user, &Target::Process(process()), &ourselves()), Ok(()));
    refused(
        &any_user,
        |process| process.uids = [1000, 0, 0, 0],
        &Refusal::UserNotAllowed { uid: 0 },
    );
    // A name of a unit that is asked for must be there, also where anything fits.
    any_user.allow.units = vec!["*".to_owned()];
    refused(&any_user, |process| process.unit = None, &Refusal::UnitNotAllowed);
}

#[test]
fn whoever_touches_somebody_says_whom() {
    for kind in every_kind() {
        let mut hook = hook(kind);
        hook.allow = AllowList::default();
        let expected = match kind.reach() {
            Reach::Anything => Ok(()),
            Reach::Process | Reach::Group => Err(Refusal::NoAllowList),
        };
        assert_eq!(
            check(&hook, &target_of(kind, process()), &ourselves()),
            expected,
            "{kind}"
        );
        // The rules that nothing switches off hold without a list too.
        refused(&hook, |process| process.identity.pid = 1, &Refusal::FirstProcess);
    }
}

#[test]
fn signals_only_ask() {
    let uncaught = Refusal::SignalNotCaught;
    refused(&hook(Kind::Signal(1)), |_| {}, &uncaught);
    refused(&hook(Kind::Signal(12)), |_| {}, &uncaught);
    refused(
        &hook(Kind::Signal(10)),
        |process| process.caught_signals = !(1 << 9),
        &uncaught,
    );
    for number in [0, 9, 15, 64, 255] {
        refused(
            &hook(Kind::Signal(number)),
            |process| process.caught_signals = u64::MAX,
            &Refusal::SignalNotAllowed,
        );
    }
    let mut disruptive = hook(Kind::Signal(15));
    disruptive.allow_disruptive = true;
    assert_eq!(check(&disruptive, &Target::Process(process()), &ourselves()), Ok(()));
}

#[test]
fn groups_are_no_wider_than_a_service_and_known_whole() {
    let hook = hook(Kind::MemoryHigh);
    let check = |group: Group| check(&hook, &Target::Group(group), &ourselves());
    for path in ["", "/", "/system.slice", "/web.service/..", "/web.service/"] {
        let mut wide = group(vec![process()]);
        wide.path = path.into();
        assert_eq!(check(wide), Err(Refusal::GroupTooWide), "{path}");
    }
    let mut partial = group(vec![process()]);
    partial.is_whole = false;
    assert_eq!(check(partial), Err(Refusal::GroupNotWhole));
    assert_eq!(check(group(Vec::new())), Err(Refusal::Nobody));
    let mut foreign = process();
    foreign.uids[1] = 33;
    assert_eq!(
        check(group(vec![process(), foreign])),
        Err(Refusal::UserNotAllowed { uid: 33 })
    );
}

#[test]
fn kinds_of_targets_do_not_mix() {
    let a_process = Target::Process(process());
    let a_group = Target::Group(group(vec![process()]));
    for (kind, target, expected) in [
        (Kind::Command, &Target::Host, Ok(())),
        (Kind::Command, &a_process, Ok(())),
        (Kind::Command, &a_group, Ok(())),
        (Kind::Nice, &Target::Host, Err(Refusal::WrongKind)),
        (Kind::Nice, &a_group, Err(Refusal::WrongKind)),
        (Kind::CpuMax, &Target::Host, Err(Refusal::WrongKind)),
        (Kind::CpuMax, &a_process, Err(Refusal::WrongKind)),
    ] {
        assert_eq!(check(&hook(kind), target, &ourselves()), expected, "{kind}");
    }
}

#[test]
fn an_id_that_was_used_again_is_another_target() {
    let hook = hook(Kind::PythonCollect);
    let chosen = Target::Process(process()).id();
    let again = |change: fn(&mut Process)| {
        let mut seen = process();
        change(&mut seen);
        check_again(&hook, chosen, &Target::Process(seen), &ourselves())
    };
    assert_eq!(again(|_| {}), Ok(()));
    assert_eq!(
        again(|process| process.identity.start_ticks = 100),
        Err(Refusal::Reused)
    );
    assert_eq!(again(|process| process.identity.pid = 4712), Err(Refusal::Reused));
    // It has become somebody else's in the meantime, by an exec.
    assert_eq!(
        again(|process| process.uids = [0; 4]),
        Err(Refusal::UserNotAllowed { uid: 0 })
    );
}

fn candidate(pid: u32, share: f64) -> Candidate {
    let mut process = process();
    process.identity.pid = pid;
    Candidate {
        target: Target::Process(process),
        share,
    }
}

fn chosen(hook: &Hook, about: &Subject, candidates: Vec<Candidate>) -> Result<Option<u32>, Refusal> {
    choose(hook, about, candidates, &ourselves(), 0.05).map(|target| match target {
        Target::Process(process) => Some(process.identity.pid),
        Target::Host | Target::Group(_) => None,
    })
}

#[test]
fn the_largest_that_is_allowed_is_chosen_or_nobody() {
    let hook = hook(Kind::Nice);
    let mut root = candidate(90, 0.8);
    if let Target::Process(process) = &mut root.target {
        process.uids = [0; 4];
    }
    let host = Subject::Host;
    let all = vec![
        candidate(102, 0.1),
        root.clone(),
        candidate(101, 0.1),
        candidate(100, 0.06),
    ];
    assert_eq!(chosen(&hook, &host, all), Ok(Some(101)));
    assert_eq!(
        chosen(&hook, &host, vec![candidate(100, 0.04), root.clone()]),
        Err(Refusal::TooSmall)
    );
    assert_eq!(
        chosen(&hook, &host, vec![candidate(100, f64::NAN)]),
        Err(Refusal::TooSmall)
    );
    assert_eq!(
        chosen(&hook, &host, vec![root, candidate(300, 0.1)]),
        Err(Refusal::UserNotAllowed { uid: 0 })
    );
    assert_eq!(chosen(&hook, &host, Vec::new()), Err(Refusal::Nobody));
    // Of a service, its processes are meant however little they have.
    let service = Subject::Service("web".into());
    assert_eq!(chosen(&hook, &service, vec![candidate(100, 0.0)]), Ok(Some(100)));
}

#[test]
fn a_process_that_is_meant_is_no_other() {
    let hook = hook(Kind::Nice);
    let about = |start_ticks| Subject::Process { pid: 100, start_ticks };
    let candidates = || vec![candidate(101, 0.9), candidate(100, 0.1)];
    assert_eq!(chosen(&hook, &about(99), candidates()), Ok(Some(100)));
    assert_eq!(
        chosen(&hook, &about(98), vec![candidate(100, 0.1)]),
        Err(Refusal::Reused)
    );
    assert_eq!(
        chosen(&hook, &about(99), vec![candidate(101, 0.9)]),
        Err(Refusal::Nobody)
    );
}

#[test]
fn what_needs_nobody_is_about_the_host() {
    let mut told = hook(Kind::Webhook);
    assert_eq!(chosen(&told, &Subject::Host, vec![candidate(100, 0.9)]), Ok(Some(100)));
    told.allow = AllowList::default();
    assert_eq!(chosen(&told, &Subject::Host, vec![candidate(100, 0.9)]), Ok(None));
    let service = Subject::Service("web".into());
    assert_eq!(chosen(&told, &service, vec![candidate(100, 0.9)]), Ok(Some(100)));
    assert_eq!(chosen(&told, &service, Vec::new()), Err(Refusal::Nobody));
}
