//! Evidence, as it is kept and as it is sent: the same message.

use profiler_proto::v1;
use prost::Message as _;

use super::{comparison::comparison, duration, growth, profile, readings};
use crate::evidence::{Evidence, KeptProfile, MemoryEvidence, Track};

/// What is kept of a breach, as the bytes of a message of the contract.
pub(in crate::api) fn encode(evidence: &Evidence) -> Vec<u8> {
    message(evidence).encode_to_vec()
}

/// What was kept. None if a newer or damaged daemon wrote it.
pub(in crate::api) fn decode(bytes: &[u8]) -> Option<v1::Evidence> {
    let decoded = v1::Evidence::decode(bytes);
    if let Err(error) = &decoded {
        tracing::warn!(%error, "evidence cannot be read");
    }
    decoded.ok()
}

fn message(evidence: &Evidence) -> v1::Evidence {
    v1::Evidence {
        breach_start: Some(evidence.breach.start.into()),
        breach_end: Some(evidence.breach.end.into()),
        breach: evidence.during.as_ref().map(kept),
        before: evidence.quiet.as_ref().map(kept),
        comparison: Some(comparison(&evidence.comparison)),
        readings: evidence.readings.iter().map(track).collect(),
        readings_start: Some(evidence.readings_from.into()),
        readings_step: Some(duration(evidence.step)),
        memory: evidence.memory.as_ref().map(memory),
    }
}

fn kept(kept: &KeptProfile) -> v1::KeptProfile {
    v1::KeptProfile {
        profile: Some(profile(&kept.profile)),
        left_out_samples: kept.left_out,
    }
}

fn memory(memory: &MemoryEvidence) -> v1::MemoryEvidence {
    let victim = memory.victim.as_ref().and_then(|victim| victim.ran.as_ref());
    v1::MemoryEvidence {
        growth: memory.growth.iter().map(growth::message).collect(),
        victim: victim.map(kept),
        grown: memory.grown.as_ref().map(kept),
        missing: memory.missing.clone(),
    }
}

fn track(track: &Track) -> v1::Series {
    readings::series_of(track.metric, &track.subject, track.owner.as_ref(), &track.range)
}
