//! Censuses as JSON, and back.

use profiler_proto::v1::{Census, CensusDifference, CensusResponse, HolderChain, TypeChange, TypeCount, TypeHolders};
use prost_types::Timestamp;
use serde::{Deserialize, Serialize};

/// A census, and what changed.
#[derive(Serialize)]
pub(super) struct CensusDocument<'a> {
    pid: u32,
    time: Option<String>,
    python_version: &'a str,
    types: Vec<TypeDocument>,
    unlisted_types: u32,
    unlisted_objects: u64,
    unlisted_bytes: u64,
    further_objects: u64,
    further_bytes: u64,
    other_blocks: u64,
    other_bytes: u64,
    pools: u64,
    torn_pools: u64,
    partial: &'a [String],
    cost: CostDocument,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<DifferenceDocument<'a>>,
}

#[derive(Deserialize, Serialize)]
struct TypeDocument {
    name: String,
    objects: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct CostDocument {
    memory_bytes_read: u64,
    pagemap_bytes_read: u64,
    seconds: f64,
    busy_seconds: f64,
}

#[derive(Serialize)]
struct DifferenceDocument<'a> {
    earlier_time: Option<String>,
    changes: Vec<ChangeDocument<'a>>,
    unlisted_changes: u32,
    other_blocks_before: u64,
    other_blocks_after: u64,
    other_bytes_before: u64,
    other_bytes_after: u64,
    holders: Vec<HoldersDocument<'a>>,
}

#[derive(Serialize)]
struct ChangeDocument<'a> {
    name: &'a str,
    objects_before: u64,
    objects_after: u64,
    bytes_before: u64,
    bytes_after: u64,
}

#[derive(Serialize)]
struct HoldersDocument<'a> {
    name: &'a str,
    searched: u32,
    without_holder: u32,
    chains: Vec<ChainDocument<'a>>,
}

#[derive(Serialize)]
struct ChainDocument<'a> {
    steps: &'a [String],
    objects: u32,
    rooted: bool,
}

/// A census as a file has it. What is not needed of it may be missing.
#[derive(Deserialize)]
pub(super) struct KeptCensus {
    pid: u32,
    types: Vec<TypeDocument>,
    #[serde(default)]
    time: Option<String>,
    #[serde(default)]
    python_version: String,
    #[serde(default)]
    unlisted_types: u32,
    #[serde(default)]
    further_objects: u64,
    #[serde(default)]
    other_blocks: u64,
    #[serde(default)]
    other_bytes: u64,
    #[serde(default)]
    pools: u64,
    #[serde(default)]
    partial: Vec<String>,
}

/// What is printed of an answer.
pub(super) fn document(response: &CensusResponse) -> CensusDocument<'_> {
    CensusDocument::from(response)
}

fn text(time: Option<&Timestamp>) -> Option<String> {
    time.map(ToString::to_string)
}

fn seconds(duration: Option<&prost_types::Duration>) -> f64 {
    duration.map_or(0.0, |duration| {
        duration.seconds as f64 + f64::from(duration.nanos) / 1e9
    })
}

impl<'a> From<&'a CensusResponse> for CensusDocument<'a> {
    fn from(response: &'a CensusResponse) -> Self {
        static NONE: Census = Census {
            pid: 0,
            time: None,
            python_version: String::new(),
            types: Vec::new(),
            unlisted_types: 0,
            unlisted_objects: 0,
            unlisted_bytes: 0,
            further_objects: 0,
            further_bytes: 0,
            other_blocks: 0,
            other_bytes: 0,
            pools: 0,
            torn_pools: 0,
            partial: Vec::new(),
            memory_bytes_read: 0,
            pagemap_bytes_read: 0,
            duration: None,
            busy: None,
        };
        let census = response.census.as_ref().unwrap_or(&NONE);
        Self {
            pid: census.pid,
            time: text(census.time.as_ref()),
            python_version: &census.python_version,
            types: census.types.iter().map(TypeDocument::from).collect(),
            unlisted_types: census.unlisted_types,
            unlisted_objects: census.unlisted_objects,
            unlisted_bytes: census.unlisted_bytes,
            further_objects: census.further_objects,
            further_bytes: census.further_bytes,
            other_blocks: census.other_blocks,
            other_bytes: census.other_bytes,
            pools: census.pools,
            torn_pools: census.torn_pools,
            partial: &census.partial,
            cost: CostDocument {
                memory_bytes_read: census.memory_bytes_read,
                pagemap_bytes_read: census.pagemap_bytes_read,
                seconds: seconds(census.duration.as_ref()),
                busy_seconds: seconds(census.busy.as_ref()),
            },
            difference: response.difference.as_ref().map(DifferenceDocument::from),
        }
    }
}

impl From<&TypeCount> for TypeDocument {
    fn from(count: &TypeCount) -> Self {
        Self {
            name: count.name.clone(),
            objects: count.objects,
            bytes: count.bytes,
        }
    }
}

impl<'a> From<&'a CensusDifference> for DifferenceDocument<'a> {
    fn from(difference: &'a CensusDifference) -> Self {
        Self {
            earlier_time: text(difference.earlier_time.as_ref()),
            changes: difference.changes.iter().map(ChangeDocument::from).collect(),
            unlisted_changes: difference.unlisted_changes,
            other_blocks_before: difference.other_blocks_before,
            other_blocks_after: difference.other_blocks_after,
            other_bytes_before: difference.other_bytes_before,
            other_bytes_after: difference.other_bytes_after,
            holders: difference.holders.iter().map(HoldersDocument::from).collect(),
        }
    }
}

impl<'a> From<&'a TypeChange> for ChangeDocument<'a> {
    fn from(change: &'a TypeChange) -> Self {
        Self {
            name: &change.name,
            objects_before: change.objects_before,
            objects_after: change.objects_after,
            bytes_before: change.bytes_before,
            bytes_after: change.bytes_after,
        }
    }
}

impl<'a> From<&'a TypeHolders> for HoldersDocument<'a> {
    fn from(holders: &'a TypeHolders) -> Self {
        let chain = |chain: &'a HolderChain| ChainDocument {
            steps: &chain.steps,
            objects: chain.objects,
            rooted: chain.rooted,
        };
        Self {
            name: &holders.name,
            searched: holders.searched,
            without_holder: holders.without_holder,
            chains: holders.chains.iter().map(chain).collect(),
        }
    }
}

impl From<KeptCensus> for Census {
    fn from(kept: KeptCensus) -> Self {
        let count = |count: TypeDocument| TypeCount {
            name: count.name,
            objects: count.objects,
            bytes: count.bytes,
        };
        Self {
            pid: kept.pid,
            time: kept.time.and_then(|time| time.parse().ok()),
            python_version: kept.python_version,
            types: kept.types.into_iter().map(count).collect(),
            unlisted_types: kept.unlisted_types,
            further_objects: kept.further_objects,
            other_blocks: kept.other_blocks,
            other_bytes: kept.other_bytes,
            pools: kept.pools,
            partial: kept.partial,
            ..Self::default()
        }
    }
}
