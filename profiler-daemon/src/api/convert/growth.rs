//! Verdicts on memory.

use profiler_proto::v1;
use profiler_readings::{Subject, Trend};

use super::{duration, readings};
use crate::readings::{GrowthReport, Room, RoomLimit};

/// The verdicts that a request means, those on services first.
pub(in crate::api) fn growth(request: &v1::ListGrowthRequest, reports: &[GrowthReport]) -> Vec<v1::MemoryGrowth> {
    let of_service = |report: &GrowthReport| match &report.growth.subject {
        Subject::Service(name) => **name == *request.service,
        _ => report
            .owner
            .as_ref()
            .is_some_and(|owner| *owner.service == *request.service),
    };
    let of_process =
        |report: &GrowthReport| matches!(report.growth.subject, Subject::Process { pid, .. } if pid == request.pid);
    let is_wanted = |report: &&GrowthReport| {
        (request.service.is_empty() || of_service(report)) && (request.pid == 0 || of_process(report))
    };
    let mut wanted: Vec<&GrowthReport> = reports.iter().filter(is_wanted).collect();
    wanted.sort_by_key(|report| matches!(report.growth.subject, Subject::Process { .. }));
    wanted.into_iter().map(message).collect()
}

/// A verdict.
pub(super) fn message(report: &GrowthReport) -> v1::MemoryGrowth {
    let (growth, verdict) = (&report.growth, &report.growth.verdict);
    v1::MemoryGrowth {
        subject: Some(readings::subject(&growth.subject, report.owner.as_ref())),
        trend: match verdict.trend {
            Trend::NotEnoughData => v1::MemoryTrend::NotEnoughData,
            Trend::Steady => v1::MemoryTrend::Steady,
            Trend::Growing => v1::MemoryTrend::Growing,
            Trend::Shrinking => v1::MemoryTrend::Shrinking,
        }
        .into(),
        held_bytes: growth.held_bytes,
        pace: verdict.pace.map(|pace| v1::GrowthPace {
            bytes_per_hour: pace.value,
            low: pace.low,
            high: pace.high,
            span: Some(duration(pace.span)),
        }),
        certain_bytes_per_hour: verdict.certain,
        followed: Some(duration(verdict.followed)),
        room: report.room.map(room),
    }
}

fn room(room: Room) -> v1::MemoryRoom {
    v1::MemoryRoom {
        limit: match room.limit {
            RoomLimit::ControlGroup => v1::RoomLimit::ControlGroup,
            RoomLimit::Host => v1::RoomLimit::Host,
        }
        .into(),
        bytes: room.bytes,
        lasts: room.lasts.map(|[lasts, _]| duration(lasts)),
        lasts_at_least: room.lasts.map(|[_, at_least]| duration(at_least)),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use profiler_readings::{SubjectGrowth, Verdict};
    use profiler_store::Owner;

    use super::*;

    fn report(subject: Subject, service: &str) -> GrowthReport {
        GrowthReport {
            growth: SubjectGrowth {
                subject,
                held_bytes: 1,
                verdict: Verdict {
                    trend: Trend::NotEnoughData,
                    pace: None,
                    certain: 0.0,
                    followed: Duration::from_secs(60),
                },
            },
            owner: Some(Owner {
                name: Arc::from("python3"),
                service: Arc::from(service),
            }),
            room: None,
        }
    }

    #[test]
    fn a_service_is_shown_with_its_processes() {
        let process = |pid| Subject::Process { pid, start_ticks: 1 };
        let reports = [
            report(process(7), "web"),
            report(process(8), "batch"),
            report(Subject::Service("web".into()), ""),
        ];
        let names = |service: &str, pid| -> Vec<(String, u32)> {
            let request = v1::ListGrowthRequest {
                service: service.to_owned(),
                pid,
            };
            let found = growth(&request, &reports).into_iter();
            found
                .filter_map(|growth| growth.subject)
                .map(|subject| (subject.name, subject.pid))
                .collect()
        };
        let (web, of_web) = (("web".to_owned(), 0), ("python3".to_owned(), 7));
        assert_eq!(names("web", 0), [web.clone(), of_web.clone()]);
        assert_eq!(names("", 7), std::slice::from_ref(&of_web));
        assert_eq!(names("", 0), [web, of_web, ("python3".to_owned(), 8)]);
        assert_eq!(names("other", 0), []);
    }
}
