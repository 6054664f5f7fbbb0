//! What is found of memory that grows, with what is left for it.

use std::{collections::BTreeMap, time::Duration};

use profiler_readings::{Metric, Subject, SubjectGrowth, Trend};
use profiler_store::{Owner, SeriesStore};

/// What runs out first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomLimit {
    /// The limit of a control group of the service.
    ControlGroup,
    /// The memory that is available on the host.
    Host,
}

/// What is left for memory to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// What runs out.
    pub limit: RoomLimit,
    /// What is left of it.
    pub bytes: u64,
    /// For how long that lasts at the pace, and at the fastest that its interval allows; none unless the verdict is that it grows.
    pub lasts: Option<[Duration; 2]>,
}

/// A verdict on memory and what is known around it.
#[derive(Clone, Debug, PartialEq)]
pub struct GrowthReport {
    /// The verdict, and on whom.
    pub growth: SubjectGrowth,
    /// What is known of the process.
    pub owner: Option<Owner>,
    /// What is left; none where that is not known.
    pub room: Option<Room>,
}

/// Verdicts with what is left for each by the newest readings.
pub(super) fn reports(growths: &[SubjectGrowth], series: &SeriesStore, now: Duration) -> Vec<GrowthReport> {
    let mut owners: BTreeMap<&Subject, &Owner> = BTreeMap::new();
    for series in series.series() {
        owners.extend(series.owner.map(|owner| (series.subject, owner)));
    }
    let wanted = [Metric::HostMemoryAvailable, Metric::ServiceMemoryRoom];
    let rooms: BTreeMap<Subject, f64> = series
        .latest(now, |series| wanted.contains(&series.metric))
        .into_iter()
        .map(|latest| (latest.subject, latest.value))
        .collect();
    let report = |growth: &SubjectGrowth| {
        let owner = owners.get(&growth.subject).copied();
        let service = match &growth.subject {
            Subject::Process { .. } => owner.map(|owner| Subject::Service(owner.service.clone())),
            subject => Some(subject.clone()),
        };
        let of_group = service.and_then(|service| rooms.get(&service));
        let left = [
            (RoomLimit::ControlGroup, of_group),
            (RoomLimit::Host, rooms.get(&Subject::Host)),
        ];
        let known = left.into_iter().filter_map(|(limit, bytes)| Some((limit, *bytes?)));
        let least = known.min_by(|(_, one), (_, other)| one.total_cmp(other));
        GrowthReport {
            growth: growth.clone(),
            owner: owner.cloned(),
            room: least.map(|(limit, bytes)| Room {
                limit,
                bytes: bytes as u64,
                lasts: lasts(growth, bytes),
            }),
        }
    };
    growths.iter().map(report).collect()
}

fn lasts(growth: &SubjectGrowth, bytes: f64) -> Option<[Duration; 2]> {
    // Of any other verdict the pace may be of another time than that in which it grew for certain.
    let pace = growth.verdict.pace.filter(|_| growth.verdict.trend == Trend::Growing)?;
    let at = |bytes_per_hour: f64| Duration::try_from_secs_f64((bytes / bytes_per_hour * 3600.0).floor()).ok();
    Some([at(pace.value)?, at(pace.high)?])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use profiler_readings::{Pace, Verdict};
    use profiler_store::SeriesLimits;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn growth(subject: Subject, trend: Trend) -> SubjectGrowth {
        SubjectGrowth {
            subject,
            held_bytes: 1 << 30,
            verdict: Verdict {
                trend,
                pace: Some(Pace {
                    value: 100.0,
                    low: 50.0,
                    high: 200.0,
                    span: HOUR,
                }),
                certain: 50.0,
                followed: HOUR,
            },
        }
    }

    #[test]
    fn what_is_left_is_what_runs_out_first() {
        let mut series = SeriesStore::new(SeriesLimits {
            retention: HOUR,
            max_bytes: 1 << 20,
        });
        let process = Subject::Process { pid: 7, start_ticks: 1 };
        let (web, batch) = (Subject::Service("web".into()), Subject::Service("batch".into()));
        let at = Duration::from_secs(100);
        for (metric, subject, value) in [
            (Metric::HostMemoryAvailable, &Subject::Host, 1000.0),
            (Metric::ServiceMemoryRoom, &web, 400.0),
            (Metric::ServiceMemoryRoom, &batch, 4000.0),
            (Metric::ProcessMemory, &process, 1.0),
        ] {
            series.record(metric, subject, value, at, Duration::from_secs(5));
        }
        let owner = Owner {
            name: Arc::from("uvicorn"),
            service: Arc::from("web"),
        };
        series.set_owner(&process, &owner);
        let growing = |subject| growth(subject, Trend::Growing);
        let growths = [growing(batch), growth(web, Trend::Steady), growing(process)];
        let found = reports(&growths, &series, at);
        let room = |index: usize| found[index].room.unwrap();
        assert_eq!((room(0).limit, room(0).bytes), (RoomLimit::Host, 1000));
        assert_eq!(room(0).lasts, Some([HOUR * 10, HOUR * 5]));
        assert_eq!((room(1).limit, room(1).bytes), (RoomLimit::ControlGroup, 400));
        assert_eq!(
            room(1).lasts,
            None,
            "what grew for certain in another time than that of the pace"
        );
        assert_eq!(room(2).lasts, Some([HOUR * 4, HOUR * 2]));
        assert_eq!(found[2].owner.as_ref(), Some(&owner));
        // Readings that are old are none.
        assert_eq!(reports(&growths, &series, HOUR)[0].room, None);
    }
}
