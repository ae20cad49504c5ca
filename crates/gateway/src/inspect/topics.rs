//! Topics, and the routes that want them.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use axum::http::Uri;
use protocol::{Catalogue, Source, Topic, time::rfc3339};
use serde_json::{Value, json};

use super::{Answer, Inspector, json};
use crate::{
    hub::{Hub, RouteLook, Survey, Surveyed, TopicLook},
    query::Query,
};

/// Topics and routes in an answer.
const SHOWN: usize = 500;

/// `GET /inspect/api/topics`
pub async fn serve(inspector: Inspector, uri: Uri) -> Answer {
    Query::of(&uri, &[])?;
    let question = |_| {
        let mut survey = Survey::default();
        move |hub: &Hub| (!hub.survey(&mut survey)).then(|| std::mem::take(&mut survey.found))
    };
    let surveyed = inspector.0.shards.ask(question).await?;
    let catalogues = inspector.0.readiness.catalogues();
    json(move || together(&catalogues, surveyed)).await
}

/// What the listeners carry, and what the shards have seen of it.
fn together(catalogues: &[(Source, Arc<Catalogue>)], surveyed: Vec<Surveyed>) -> Value {
    let infos = catalogues.iter().flat_map(|(source, catalogue)| catalogue.topics.iter().map(|info| (*source, info)));
    let carried: HashSet<(Option<Source>, Topic)> =
        infos.map(|(source, info)| (Some(source), info.topic.clone())).collect();
    let mut topics: HashMap<(Option<Source>, Topic), TopicLook> =
        carried.iter().map(|of| (of.clone(), TopicLook::default())).collect();
    let (mut routes, mut route_count) = (HashMap::new(), 0);
    for of_shard in surveyed {
        for (of, look) in of_shard.topics {
            let it = topics.entry(of).or_default();
            it.subscriptions += look.subscriptions;
            it.last = it.last.max(look.last);
        }
        route_count += of_shard.route_count;
        of_shard.routes.into_iter().for_each(|route| add(&mut routes, route));
    }
    let mut routes: Vec<RouteLook> = routes.into_values().collect();
    routes.sort_by(|a, b| b.matches_per_s.total_cmp(&a.matches_per_s).then(b.subscriptions.cmp(&a.subscriptions)));
    routes.truncate(SHOWN);
    let topic_count = topics.len();
    let mut topics: Vec<((Option<Source>, Topic), TopicLook)> = topics.into_iter().collect();
    topics.sort_by(|((_, a), x), ((_, b), y)| y.subscriptions.cmp(&x.subscriptions).then(a.cmp(b)));
    topics.truncate(SHOWN);
    let shown: Vec<Value> =
        topics.iter().map(|(of, look)| of_topic(of, *look, carried.contains(of), &routes)).collect();
    json!({ "topics": shown, "topic_count": topic_count, "routes": routes, "routes_on_shards": route_count })
}

fn of_topic((source, topic): &(Option<Source>, Topic), look: TopicLook, carried: bool, routes: &[RouteLook]) -> Value {
    // Each route that has it alone sees the same of it.
    let alone = routes.iter().filter(|route| route.topics.len() == 1 && route.topics[0] == *topic);
    let per_s = alone.filter(|route| route.source.is_none() || route.source == *source).map(|it| it.matches_per_s);
    json!({
        "topic": topic,
        "source": source,
        "carried": carried,
        "subscriptions": look.subscriptions,
        "changes_per_s": per_s.reduce(f32::max).filter(|_| carried),
        "last_offset": look.last.map(|(offset, _)| offset),
        "last_at": look.last.map(|(_, at)| rfc3339(at)),
    })
}

/// What makes routes of several shards the same one.
type Same = (Vec<Topic>, Option<Source>, &'static str, Option<u64>);

fn add(routes: &mut HashMap<Same, RouteLook>, route: RouteLook) {
    match routes.entry((route.topics.clone(), route.source, route.form, route.conflate_ms)) {
        Entry::Vacant(place) => drop(place.insert(route)),
        Entry::Occupied(mut place) => {
            let it = place.get_mut();
            it.subscriptions += route.subscriptions;
            // Each shard sees every change, from when it has the route.
            it.matches = it.matches.max(route.matches);
            it.matches_per_s = it.matches_per_s.max(route.matches_per_s);
        }
    }
}
