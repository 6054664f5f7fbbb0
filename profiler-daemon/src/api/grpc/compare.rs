//! Compares two spans of time.

use std::time::SystemTime;

use profiler_profile::{
    View,
    compare::{Comparer, Comparison, Settings, Side},
};
use profiler_proto::v1::{CompareProfilesRequest, CompareProfilesResponse};
use profiler_store::{Found, Selection};
use prost::Message;

use super::profiles::{Profiles, blocking, check_size};
use crate::{
    api::{
        convert::{
            self,
            comparison::{Compared, LEVEL},
        },
        status::ApiError,
    },
    processes::uptime,
};

impl Profiles {
    /// Compares the windows of two spans.
    pub(super) async fn compare(&self, request: CompareProfilesRequest) -> Result<CompareProfilesResponse, ApiError> {
        let Compared {
            before,
            after,
            scope,
            measure,
        } = convert::comparison::compared(&request, SystemTime::now())?;
        let view = convert::view(request.view);
        let not_sampling = self.up_to_now(before.recent || after.recent).await?;
        let permit = self.permit().await?;
        let (first, second) = {
            let mut store = self.context.store();
            store.expire(uptime());
            let first = store.select(before.target.clone(), before.span);
            (first, store.select(after.target.clone(), after.span))
        };
        let known = [&first, &second].map(Selection::is_known);
        let settings = Settings {
            measure,
            scope,
            level: LEVEL,
        };
        // The permit goes with the work: a client that leaves does not end it.
        let response = blocking(move || {
            let comparison = compare_windows(settings, view, &first, &second);
            drop((first, second));
            let is_empty = comparison.before.quality.samples + comparison.after.quality.samples == 0;
            let response = convert::comparison::comparison(&comparison);
            drop(permit);
            Ok((response, is_empty))
        });
        let (comparison, is_empty) = response.await?;
        if is_empty {
            if let Some(error) = not_sampling {
                return Err(error.into());
            }
            for (target, known) in [&after.target, &before.target].into_iter().zip([known[1], known[0]]) {
                let found = if known { Found::Empty } else { Found::NotFound };
                self.explain_nothing(target, found).await?;
            }
        }
        let response = CompareProfilesResponse {
            comparison: Some(comparison),
        };
        check_size(response.encoded_len())?;
        Ok(response)
    }
}

fn compare_windows(settings: Settings, view: View, before: &Selection, after: &Selection) -> Comparison {
    let mut comparer = Comparer::new(settings);
    for window in before.windows() {
        comparer.add(Side::Before, &window.view(view));
    }
    for window in after.windows() {
        comparer.add(Side::After, &window.view(view));
    }
    comparer.finish()
}
