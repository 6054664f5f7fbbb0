//! Programs of made-up memory, followed for simulated hours.

use std::f64::consts::PI;

use super::*;
use crate::fake_tree::at;

const MB: f64 = 1e6;
const SEEDS: u64 = 200;
const HOUR: u64 = 3600;

/// Numbers that look random and are the same each time (splitmix64).
#[derive(Clone, Copy)]
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn between(&mut self, least: f64, most: f64) -> f64 {
        least + (most - least) * self.next()
    }
}

/// Rises for a while and falls back, again and again, each time for another while.
fn saw(numbers: &mut Numbers, height: f64, least_period: f64, most_period: f64) -> impl FnMut() -> f64 + use<> {
    let mut numbers = Numbers(numbers.0 ^ 0x5a5a);
    let usual = numbers.between(least_period, most_period);
    let (mut period, mut since) = (usual, usual * numbers.next());
    move || {
        since += 1.0;
        if since >= period {
            since = 0.0;
            period = usual * numbers.between(0.7, 1.3);
        }
        height * since / period
    }
}

/// Wanders between two bounds, and has forgotten where it was after so many seconds.
fn wander(numbers: &mut Numbers, height: f64, memory: f64) -> impl FnMut() -> f64 + use<> {
    let mut numbers = Numbers(numbers.0 ^ 0xa5a5);
    let kept = (-1.0 / memory).exp();
    let mut place = numbers.between(-1.0, 1.0);
    move || {
        let kick = (0..6).map(|_| numbers.between(-0.7, 0.7)).sum::<f64>();
        place = (kept * place + (1.0 - kept * kept).sqrt() * kick * 0.5).clamp(-1.0, 1.0);
        height * (place + 1.0) / 2.0
    }
}

/// The verdict at the end of each minute, the first after one.
fn verdicts(seconds: u64, mut program: impl FnMut(u64) -> f64) -> Vec<Verdict> {
    let (mut minima, mut found) = (Minima::default(), Vec::new());
    for second in 0..seconds {
        let at = Duration::from_secs(second);
        minima.note(at, program(second).max(0.0) as u64);
        if second % 60 == 59 {
            let minute = minute_of(at) + 1;
            minima.close(minute);
            found.push(verdict(&minima.until(minute)));
        }
    }
    found
}

/// Of how many seeds a program is found to grow at some minute of so long.
#[track_caller]
fn never_grows<P: FnMut(u64) -> f64>(name: &str, seconds: u64, program: impl Fn(Numbers) -> P) {
    let grows = |seed: &u64| {
        let found = verdicts(seconds, program(Numbers(*seed)));
        let bad = found.iter().position(|verdict| verdict.trend == Trend::Growing);
        if let Some(minute) = bad {
            println!("{name}, seed {seed}: minute {}: {:?}", minute + 1, found[minute]);
        }
        bad.is_some()
    };
    let wrong: Vec<u64> = (0..SEEDS).filter(grows).collect();
    assert!(wrong.is_empty(), "{name}: {} of {SEEDS} seeds: {wrong:?}", wrong.len());
}

#[test]
fn churn_is_never_growth() {
    never_grows("white churn", HOUR, |mut numbers| {
        let base = numbers.between(60.0, 1000.0);
        move |_| (base + numbers.between(-50.0, 50.0)) * MB
    });
    never_grows("wandering churn", HOUR, |mut numbers| {
        let base = numbers.between(60.0, 1000.0);
        let memory = numbers.between(5.0, 60.0);
        let mut churn = wander(&mut numbers, 100.0, memory);
        move |_| (base + churn()) * MB
    });
}

#[test]
fn what_comes_round_is_never_growth() {
    never_grows("saw", HOUR, |mut numbers| {
        let base = numbers.between(60.0, 1000.0);
        let height = numbers.between(5.0, 200.0);
        let mut saw = saw(&mut numbers, height, 5.0, 900.0);
        move |_| (base + saw()) * MB
    });
    never_grows("generations of a collector", HOUR, |mut numbers| {
        let base = numbers.between(60.0, 1000.0);
        let heights = (numbers.between(1.0, 20.0), numbers.between(10.0, 200.0));
        let mut young = saw(&mut numbers, heights.0, 1.0, 20.0);
        numbers.next();
        let mut old = saw(&mut numbers, heights.1, 120.0, 900.0);
        move |_| (base + young() + old() + numbers.between(0.0, 2.0)) * MB
    });
    never_grows("a day", HOUR, |mut numbers| {
        let base = numbers.between(60.0, 2000.0);
        let (share, phase) = (numbers.between(0.0, 0.1), numbers.between(0.0, 24.0));
        let mut churn = saw(&mut numbers, 20.0, 5.0, 90.0);
        move |second| {
            let hour = second as f64 / HOUR as f64 + phase;
            (base * (1.0 + share * (hour * PI / 12.0).sin()) + churn()) * MB
        }
    });
}

#[test]
fn what_levels_off_is_never_growth() {
    never_grows("a start", HOUR, |mut numbers| {
        let base = numbers.between(20.0, 500.0);
        let (more, slowness) = (numbers.between(10.0, 1000.0), numbers.between(30.0, 720.0));
        let mut churn = saw(&mut numbers, 10.0, 5.0, 90.0);
        move |second| (base + more * (1.0 - (-(second as f64) / slowness).exp()) + churn()) * MB
    });
    never_grows("filling up", HOUR, |mut numbers| {
        let base = numbers.between(20.0, 500.0);
        let (more, until) = (numbers.between(10.0, 1000.0), numbers.between(30.0, 900.0));
        let mut churn = saw(&mut numbers, 10.0, 5.0, 90.0);
        move |second| (base + more * (second as f64 / until).min(1.0) + churn()) * MB
    });
    never_grows("a leap", HOUR, |mut numbers| {
        let base = numbers.between(60.0, 1000.0);
        let (more, when) = (numbers.between(5.0, 1000.0), numbers.between(0.0, 3600.0));
        let mut churn = saw(&mut numbers, 100.0, 5.0, 90.0);
        move |second| (base + if second as f64 >= when { more } else { 0.0 } + churn()) * MB
    });
}

/// Leaks a megabyte a minute beside some churn of 100 MB from end to end.
fn is_found<C: FnMut() -> f64>(name: &str, churn: impl Fn(&mut Numbers) -> C) {
    let mut late = Vec::new();
    for seed in 0..SEEDS {
        let mut numbers = Numbers(seed);
        let base = numbers.between(40.0, 900.0);
        let mut churn = churn(&mut numbers);
        let found = verdicts(HOUR, |second| (base + second as f64 / 60.0 + churn()) * MB);
        let first = found.iter().position(|verdict| verdict.trend == Trend::Growing);
        if first.is_none_or(|minute| minute + 1 > 30) {
            println!("{name}, seed {seed}: {first:?}: {:?}", found[29]);
            late.push(seed);
            continue;
        }
        let pace = found[59].pace.unwrap();
        assert!(
            pace.low <= 66.0 * MB && pace.high >= 54.0 * MB,
            "{name}, seed {seed}: {pace:?}"
        );
        assert!(found[59].certain <= pace.value, "{name}, seed {seed}: {:?}", found[59]);
    }
    assert!(late.is_empty(), "{name}: {} of {SEEDS} seeds: {late:?}", late.len());
}

#[test]
fn a_megabyte_a_minute_is_found_within_half_an_hour() {
    is_found("no churn", |_| || 0.0);
    is_found("white churn", |numbers| {
        let mut numbers = *numbers;
        move || numbers.between(0.0, 100.0)
    });
}

#[test]
fn a_megabyte_a_minute_is_found_beside_a_collector() {
    is_found("saw", |numbers| saw(numbers, 100.0, 2.0, 90.0));
}

#[test]
fn a_megabyte_a_minute_is_found_beside_wandering_churn() {
    is_found("wandering churn", |numbers| {
        let memory = numbers.between(0.2, 1.5);
        wander(numbers, 100.0, memory)
    });
}

#[test]
fn gigabytes_that_are_let_go_shrink_and_what_is_slow_is_steady() {
    let shrinking = verdicts(HOUR, |second| (4000.0 - second as f64 / 20.0) * MB);
    assert_eq!(shrinking[59].trend, Trend::Shrinking);
    assert_eq!(shrinking[59].certain, 0.0);
    let slow = verdicts(HOUR, |second| (16_000.0 + second as f64 / 60.0) * MB);
    assert_eq!(slow[59].trend, Trend::Steady);
    assert!((slow[59].certain - 60.0 * MB).abs() < MB, "{:?}", slow[59]);
    assert_eq!(slow[26].trend, Trend::NotEnoughData);
    assert_eq!(slow[26].pace, None);
}

#[test]
fn leaks_that_begin_late_and_slow_ones_are_found() {
    // Flat for three hours, then a megabyte a minute.
    let late = verdicts(4 * HOUR, |second| {
        (300.0 + second.saturating_sub(3 * HOUR) as f64 / 60.0) * MB
    });
    assert_eq!(late[179].trend, Trend::Steady);
    let found = late.iter().position(|verdict| verdict.trend == Trend::Growing).unwrap();
    assert!((180..=212).contains(&found), "minute {found}");
    assert_eq!(late[239].trend, Trend::Growing);
    // Ten megabytes an hour under churn of 100 need hours.
    let mut numbers = Numbers(7);
    let mut churn = saw(&mut numbers, 100.0, 5.0, 90.0);
    let slow = verdicts(6 * HOUR, |second| (150.0 + second as f64 / 360.0 + churn()) * MB);
    let last = slow[359];
    assert_eq!(last.trend, Trend::Growing, "{last:?}");
    let pace = last.pace.unwrap();
    assert!(pace.low > 8.0 * MB && pace.high < 12.0 * MB, "{pace:?}");
}

#[test]
fn gaps_are_waited_out_and_subjects_are_bounded() {
    let mut growth = Growth::default();
    let leaking = Subject::Service("leaky".into());
    let mut readings = Vec::new();
    for second in 0..90 * 60 {
        // Suspended for ten minutes.
        if !(1200..1800).contains(&second) {
            growth.note(
                &leaking,
                at(second).since_boot,
                (1e8 + second as f64 * MB / 60.0) as u64,
            );
        }
        growth.judge(at(second), &mut readings);
    }
    let found: Vec<SubjectGrowth> = growth.verdicts().cloned().collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].verdict.trend, Trend::Growing);
    assert!(found[0].held_bytes > 180_000_000);
    assert!(
        readings
            .iter()
            .all(|reading| reading.metric == Metric::ServiceMemoryGrowth)
    );
    assert!(readings.last().unwrap().value > 50.0 * MB);
    for pid in 0..MAX_FOLLOWED as u32 {
        let subject = Subject::Process { pid, start_ticks: 1 };
        let has_room = growth.note(&subject, at(5400).since_boot, 1);
        assert_eq!(has_room, pid + 1 < MAX_FOLLOWED as u32, "{pid}");
    }
    // They end; what was known of them is kept for a while.
    growth.judge(at(5460), &mut readings);
    growth.judge(at(5400 + 11 * 60), &mut readings);
    assert_eq!(growth.followed.len(), 0);
    assert!(growth.note(&leaking, at(6100).since_boot, 1));
}
