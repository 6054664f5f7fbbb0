//! What a sink is told of an alert.
//!
//! In: an alert that fires or no longer does, and the code that ran meanwhile. Out: the texts that every kind of sink takes
//! its own from. What others chose (names of services, files, functions) is escaped and cut here, once for all sinks.

use std::{borrow::Cow, collections::BTreeMap, time::SystemTime};

use profiler_alerts::{Alert, AlertKind, Comparison, Phase, in_words, span_in_words};
use profiler_profile::visible;
use profiler_readings::{Scope, Subject};
use profiler_store::Owner;
use serde::{Deserialize, Serialize};

/// Longest value of a label.
const MAX_LABEL_BYTES: usize = 512;
/// Longest sentence.
const MAX_TEXT_BYTES: usize = 1024;
/// Most stacks, and the longest of them.
const MAX_STACKS: usize = 10;
const MAX_STACK_BYTES: usize = 1024;
/// The label with the name of the host: an alert of two hosts is two alerts.
const INSTANCE: &str = "instance";

/// Whether an alert holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It does.
    Firing,
    /// It did.
    Resolved,
}

impl Status {
    /// Its name in JSON, as Alertmanager has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

/// How much an alert matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Worth a look soon.
    Warning,
    /// Worth waking somebody.
    Critical,
}

impl From<profiler_alerts::Severity> for Severity {
    fn from(severity: profiler_alerts::Severity) -> Self {
        match severity {
            profiler_alerts::Severity::Info => Self::Info,
            profiler_alerts::Severity::Warning => Self::Warning,
            profiler_alerts::Severity::Critical => Self::Critical,
        }
    }
}

/// What is said beside the alert itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings<'a> {
    /// The name of this host.
    pub host: &'a str,
    /// Where people reach what this daemon shows; empty for nowhere.
    pub external_url: &'a str,
    /// What is known of the process that it is about.
    pub owner: Option<&'a Owner>,
    /// What used most of what crossed the limit, one stack a line, the first the most.
    pub stacks: &'a [String],
}

/// One thing that sinks are told. As JSON it is what commands read, and what is kept until it is delivered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// The alert from its beginning to its end, sixteen hexadecimal digits.
    pub id: String,
    /// What the alert is about, the same each time that it fires, as Prometheus and Alertmanager compute it of the labels.
    pub fingerprint: String,
    /// Whether it holds.
    pub status: Status,
    /// How much it matters.
    pub severity: Severity,
    /// The limit's name.
    pub limit: String,
    /// The metric's name.
    pub metric: String,
    /// The kind of subject, such as `service`.
    pub scope: String,
    /// Whose readings; empty for the host, and of a process its id.
    pub subject: String,
    /// The name of the process, where it is about one that is known.
    #[serde(default)]
    pub process: String,
    /// The service that it is about, or that its process belongs to.
    #[serde(default)]
    pub service: String,
    /// The newest value in the unit of the metric.
    pub value: Option<f64>,
    /// The value farthest beyond the limit.
    pub worst: Option<f64>,
    /// What identifies it to others.
    pub labels: BTreeMap<String, String>,
    /// What else is said, each in a sentence or a few lines.
    pub annotations: BTreeMap<String, String>,
    /// What used most of what crossed the limit.
    pub stacks: Vec<String>,
    /// Where to see it; empty for nowhere.
    pub link: String,
    /// Since when it fires.
    #[serde(with = "as_text")]
    pub starts_at: SystemTime,
    /// Until when it fired.
    #[serde(with = "as_text_if_any")]
    pub ends_at: Option<SystemTime>,
}

impl Notification {
    /// What is to be told of an alert; nothing of one that is pending, or was and never fired.
    pub fn of(alert: &Alert, around: &Surroundings<'_>) -> Option<Self> {
        let (status, starts_at, ends_at) = match alert.phase {
            Phase::Firing { since } => (Status::Firing, since, None),
            Phase::Resolved { since, at, .. } => (Status::Resolved, since, Some(at)),
            Phase::Pending | Phase::Dropped { .. } => return None,
        };
        let id = alert.id.to_string();
        let mut labels = alert.labels();
        labels
            .entry(INSTANCE.to_owned())
            .or_insert_with(|| around.host.to_owned());
        labels.retain(|_, value| !value.is_empty());
        for value in labels.values_mut() {
            *value = label_value(value, alert);
        }
        let link = match around.external_url {
            "" => String::new(),
            url => format!("{}/alerts/{id}", url.trim_end_matches('/')),
        };
        let stacks: Vec<String> = around
            .stacks
            .iter()
            .take(MAX_STACKS)
            .map(|stack| visible(stack, MAX_STACK_BYTES).into_owned())
            .collect();
        let owned = |name: &str| match name {
            "" => String::new(),
            name => visible(name, MAX_LABEL_BYTES).into_owned(),
        };
        let process = around.owner.map_or_else(String::new, |owner| owned(&owner.name));
        let service = match (&alert.subject, around.owner) {
            (Subject::Service(name), _) => owned(name),
            (_, Some(owner)) => owned(&owner.service),
            _ => String::new(),
        };
        Some(Self {
            fingerprint: format!("{:016x}", label_fingerprint(&labels)),
            status,
            severity: alert.limit.severity.into(),
            limit: alert.limit.name.clone(),
            metric: alert.limit.metric.name().to_owned(),
            scope: alert.subject.scope().name().to_owned(),
            subject: shown_subject(alert).into_owned(),
            value: alert.latest,
            worst: alert.worst,
            annotations: annotations(alert, around.owner, &link, &stacks),
            process,
            service,
            labels,
            stacks,
            link,
            starts_at,
            ends_at,
            id,
        })
    }

    /// Something to try a sink with: it is marked as a test, and over as soon as it is told.
    pub fn test(host: &str, sink: &str, now: SystemTime) -> Self {
        let labels = BTreeMap::from(
            [
                ("alertname", "profiler_test"),
                (INSTANCE, host),
                ("severity", "info"),
                ("test", "true"),
            ]
            .map(|(name, value)| (name.to_owned(), visible(value, MAX_LABEL_BYTES).into_owned())),
        );
        let summary = format!("A test of the sink {sink}: nothing is wrong, and nothing need be done");
        let nanoseconds = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        Self {
            // A test is never taken for the one before it.
            id: format!("{:016x}", (nanoseconds & u128::from(u64::MAX)) as u64),
            fingerprint: format!("{:016x}", label_fingerprint(&labels)),
            status: Status::Firing,
            severity: Severity::Info,
            limit: "profiler_test".to_owned(),
            metric: String::new(),
            scope: "host".to_owned(),
            subject: String::new(),
            process: String::new(),
            service: String::new(),
            value: None,
            worst: None,
            labels,
            annotations: BTreeMap::from([("summary".to_owned(), summary)]),
            stacks: Vec::new(),
            link: String::new(),
            starts_at: now,
            ends_at: None,
        }
    }

    /// In one sentence, what it says.
    pub fn summary(&self) -> &str {
        self.annotations.get("summary").map_or("", String::as_str)
    }

    /// The same for each attempt to tell this, another for anything else.
    pub fn idempotency_key(&self) -> String {
        format!("{}-{}", self.id, self.status.name())
    }
}

/// Names that were cut could be those of two subjects: they are told apart by what the alert is about.
fn label_value(value: &str, alert: &Alert) -> String {
    let shown = visible(value, MAX_LABEL_BYTES);
    if value.len() > MAX_LABEL_BYTES {
        format!("{shown}#{}", alert.fingerprint)
    } else {
        shown.into_owned()
    }
}

fn shown_subject(alert: &Alert) -> Cow<'static, str> {
    match alert.subject.to_string() {
        name if name.is_empty() => Cow::Borrowed(""),
        name => Cow::Owned(visible(&name, MAX_LABEL_BYTES).into_owned()),
    }
}

fn annotations(alert: &Alert, owner: Option<&Owner>, link: &str, stacks: &[String]) -> BTreeMap<String, String> {
    let metric = alert.limit.metric;
    let mut annotations = BTreeMap::from([
        ("summary", visible(&summary(alert, owner), MAX_TEXT_BYTES).into_owned()),
        ("since", as_text::rfc3339(alert.began)),
    ]);
    if let Some(value) = alert.latest {
        annotations.insert("value", in_words(metric, value));
    }
    if let Some(worst) = alert.worst {
        annotations.insert("worst", in_words(metric, worst));
    }
    if let Phase::Resolved { reason, .. } = alert.phase {
        annotations.insert("end", reason.name().to_owned());
    }
    if !stacks.is_empty() {
        annotations.insert("stacks", stacks.join("\n"));
    }
    annotations.insert(
        "show",
        match link {
            "" => format!("profiler-cli alerts show {}", alert.id),
            link => link.to_owned(),
        },
    );
    let owned = |(name, text): (&str, String)| (name.to_owned(), text);
    annotations.into_iter().map(owned).collect()
}

/// `host_cpu_busy_ratio of the host is 83 %, above 70 % for 30 s`.
fn summary(alert: &Alert, owner: Option<&Owner>) -> String {
    let limit = &alert.limit;
    let of_whom = match (alert.subject.scope(), shown_subject(alert)) {
        (Scope::Host, _) => "the host".to_owned(),
        (scope, name) => format!("{} {name}{}", scope.name(), owner.map_or_else(String::new, who)),
    };
    let what = format!("{} of {of_whom}", limit.metric.name());
    let is_over = matches!(alert.phase, Phase::Resolved { .. });
    if alert.kind == AlertKind::NoData {
        return match is_over {
            true => format!("{what} is no longer missing, or no longer expected"),
            false => format!("{what} is missing: whether the limit is crossed is not known"),
        };
    }
    let side = match limit.comparison {
        Comparison::Above => "above",
        Comparison::Below => "below",
    };
    let level = in_words(limit.metric, limit.level.get());
    let is = match alert.latest {
        Some(value) => format!(" is {}", in_words(limit.metric, value)),
        None => String::new(),
    };
    if is_over {
        return format!("{what}{is}, and no longer counts as {side} {level}");
    }
    let span = match limit.hold_for {
        span if span.is_zero() => String::new(),
        span => format!(" for {}", span_in_words(span)),
    };
    format!("{what}{is}: {side} {level}{span}")
}

/// Behind the id of a process: ` (uvicorn of service web)`.
fn who(owner: &Owner) -> String {
    let name = visible(&owner.name, MAX_LABEL_BYTES);
    match owner.service.is_empty() {
        true => format!(" ({name})"),
        false => format!(" ({name} of service {})", visible(&owner.service, MAX_LABEL_BYTES)),
    }
}

/// Prometheus's fingerprint of a label set: FNV-1a over names and values in order, a byte 0xff after each
/// (github.com/prometheus/common, model/fingerprinting.go describes it).
fn label_fingerprint(labels: &BTreeMap<String, String>) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let texts = labels.iter().flat_map(|(name, value)| [name, value]);
    let bytes = texts.flat_map(|text| text.bytes().chain([0xff]));
    bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// Times as RFC 3339 has them.
pub(super) mod as_text {
    use std::time::SystemTime;

    use prost_types::Timestamp;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(in crate::sinks) fn rfc3339(time: SystemTime) -> String {
        Timestamp::from(time).to_string()
    }

    pub(super) fn parse(text: &str) -> Option<SystemTime> {
        SystemTime::try_from(text.parse::<Timestamp>().ok()?).ok()
    }

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&rfc3339(*time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| D::Error::custom("no time"))
    }
}

mod as_text_if_any {
    use std::time::SystemTime;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    use super::as_text;

    pub(super) fn serialize<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
        time.map(as_text::rfc3339).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        let parse = |text: String| as_text::parse(&text).ok_or_else(|| D::Error::custom("no time"));
        text.map(parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, UNIX_EPOCH},
    };

    use profiler_alerts::{AlertId, EndReason, Fingerprint, Level, Limit, Subjects};
    use profiler_readings::{Metric, Subject};

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn alert(metric: Metric, subject: Subject, phase: Phase) -> Alert {
        let limit = Limit {
            name: "busy".to_owned(),
            metric,
            subjects: Subjects::All,
            comparison: Comparison::Above,
            level: Level::new(0.7).unwrap(),
            clear: Level::new(0.63).unwrap(),
            hold_for: Duration::from_secs(30),
            keep_firing_for: Duration::ZERO,
            no_data_after: Duration::from_secs(60),
            severity: profiler_alerts::Severity::Warning,
            labels: BTreeMap::from([("team".to_owned(), "web".to_owned())]),
            sinks: Vec::new(),
        };
        let fingerprint = Fingerprint::of("busy", &subject, AlertKind::Limit);
        Alert {
            id: AlertId::of(fingerprint, at(970)),
            fingerprint,
            kind: AlertKind::Limit,
            limit: Arc::new(limit),
            subject,
            began: at(970),
            phase,
            latest: Some(0.83),
            worst: Some(0.97),
            told: true,
        }
    }

    fn firing() -> Phase {
        Phase::Firing { since: at(1000) }
    }

    #[test]
    fn an_alert_is_told_with_what_ran() {
        let stacks = ["web;handle;burn 812".to_owned(), "web;handle;parse 40".to_owned()];
        let around = Surroundings {
            host: "node1",
            external_url: "https://profiler.example/",
            owner: None,
            stacks: &stacks,
        };
        let holds = alert(Metric::HostCpuBusy, Subject::Host, firing());
        let told = Notification::of(&holds, &around).unwrap();
        assert_eq!(
            told.summary(),
            "host_cpu_busy_ratio of the host is 83 %: above 70 % for 30 s"
        );
        assert_eq!(told.link, format!("https://profiler.example/alerts/{}", holds.id));
        assert_eq!(told.annotations["show"], told.link);
        assert_eq!(told.annotations["stacks"], stacks.join("\n"));
        assert_eq!(told.annotations["since"], "1970-01-01T00:16:10Z");
        assert_eq!(
            (told.labels["instance"].as_str(), told.labels["team"].as_str()),
            ("node1", "web")
        );
        assert!(!told.labels.contains_key("subject"), "an empty label is none");
        assert_eq!((told.starts_at, told.ends_at), (at(1000), None));

        let phase = Phase::Resolved {
            since: at(1000),
            at: at(1100),
            reason: EndReason::Recovered,
        };
        let resolved = alert(Metric::HostCpuBusy, Subject::Host, phase);
        let over = Notification::of(&resolved, &Surroundings::default()).unwrap();
        assert_eq!(over.ends_at, Some(at(1100)));
        assert_eq!(over.annotations["end"], "recovered");
        assert_eq!(
            over.annotations["show"],
            format!("profiler-cli alerts show {}", resolved.id)
        );
        assert_eq!(over.id, told.id);
        assert_ne!(over.idempotency_key(), told.idempotency_key());
    }

    /// Whose id it is changes from day to day, and may not be known any more when it is over: no label tells it.
    #[test]
    fn an_alert_about_a_process_says_whose_it_is() {
        let subject = Subject::Process {
            pid: 4242,
            start_ticks: 7,
        };
        let owner = |service: &str| Owner {
            name: "uvicorn".into(),
            service: service.into(),
        };
        let told = |owner: Option<&Owner>| {
            let alert = alert(Metric::ProcessThreads, subject.clone(), firing());
            let around = Surroundings {
                owner,
                ..Surroundings::default()
            };
            Notification::of(&alert, &around).unwrap()
        };
        let web = told(Some(&owner("web")));
        assert_eq!(
            (web.subject.as_str(), web.process.as_str(), web.service.as_str()),
            ("4242", "uvicorn", "web")
        );
        let begin = "process_threads of process 4242 (uvicorn of service web) is ";
        assert!(web.summary().starts_with(begin), "{}", web.summary());
        let alone = told(Some(&owner("")));
        assert!(
            alone.summary().contains("process 4242 (uvicorn) is "),
            "{}",
            alone.summary()
        );
        let unknown = told(None);
        assert!(unknown.summary().contains("process 4242 is "), "{}", unknown.summary());
        assert_eq!((web.fingerprint, web.labels), (unknown.fingerprint, unknown.labels));
        let hostile = told(Some(&owner("\x1b[2J\n")));
        assert!(!hostile.summary().contains(char::is_control) && !hostile.service.contains(char::is_control));
    }

    #[test]
    fn what_never_fired_is_not_told() {
        let dropped = Phase::Dropped {
            at: at(1000),
            reason: EndReason::Recovered,
        };
        for phase in [Phase::Pending, dropped] {
            let alert = alert(Metric::HostCpuBusy, Subject::Host, phase);
            assert_eq!(Notification::of(&alert, &Surroundings::default()), None);
        }
    }

    #[test]
    fn names_of_others_are_harmless_and_short() {
        let name = format!("x\n\x1b[2J\u{202e}{}", "y".repeat(1 << 20));
        let stacks = vec![name.clone(); 1000];
        let around = Surroundings {
            host: "node1",
            external_url: "",
            owner: None,
            stacks: &stacks,
        };
        let told = |name: &str| {
            let subject = Subject::Service(name.into());
            Notification::of(&alert(Metric::ServiceMemory, subject, firing()), &around).unwrap()
        };
        let one = told(&name);
        let json = serde_json::to_string(&one).unwrap();
        assert!(json.len() < 64 << 10, "{} bytes", json.len());
        assert!(!json.contains("\\u001b") && !json.contains('\u{202e}'));
        assert!(one.labels.values().all(|value| !value.contains(char::is_control)));
        assert!(!one.summary().contains(char::is_control), "{}", one.summary());
        // Two long names are two subjects, also where they are cut.
        let (middle, other) = ("y".repeat(600_000), "y".repeat(600_001));
        assert_ne!(told(&middle).fingerprint, told(&other).fingerprint);
    }

    #[test]
    fn what_is_kept_is_what_is_told_later() {
        let subject = Subject::Service("web".into());
        let alert = alert(Metric::ServiceMemory, subject, firing());
        let told = Notification::of(&alert, &Surroundings::default()).unwrap();
        let json = serde_json::to_vec(&told).unwrap();
        assert_eq!(serde_json::from_slice::<Notification>(&json).unwrap(), told);
        let test = Notification::test("host", "sink", at(5));
        let json = serde_json::to_vec(&test).unwrap();
        assert_eq!(serde_json::from_slice::<Notification>(&json).unwrap(), test);
    }

    #[test]
    fn the_fingerprint_depends_on_every_label() {
        let labels = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            label_fingerprint(&pairs.collect())
        };
        assert_eq!(labels(&[]), 0xcbf2_9ce4_8422_2325);
        assert_ne!(labels(&[("a", "bc")]), labels(&[("ab", "c")]));
        assert_ne!(labels(&[("a", "b"), ("c", "d")]), labels(&[("a", "b"), ("c", "e")]));
    }
}
