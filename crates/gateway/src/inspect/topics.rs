//! Topics, and the routes that want them.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};

use axum::http::Uri;
use protocol::{Source, Topic, time::rfc3339};
use serde_json::{Value, json};

use super::{Answer, Inspector, json};
use crate::{
    hub::{RouteLook, TopicLook},
    query::Query,
};

/// Topics and routes in an answer.
const SHOWN: usize = 500;

/// `GET /inspect/api/topics`
pub async fn serve(inspector: Inspector, uri: Uri) -> Answer {
    Query::of(&uri, &[])?;
    let looks = inspector.0.shards.ask(|_| |hub| Some((hub.look_at_topics(), hub.look_at_routes())));
    let mut topics: BTreeMap<(Topic, Source), TopicLook> = BTreeMap::new();
    for (source, catalogue) in inspector.0.readiness.catalogues() {
        for info in &catalogue.topics {
            topics.entry((info.topic.clone(), source)).or_default();
        }
    }
    let carried: Vec<(Topic, Source)> = topics.keys().cloned().collect();
    let (mut routes, mut count) = (HashMap::new(), 0);
    for (of_shard, (route_looks, route_count)) in looks.await? {
        for ((source, topic), look) in of_shard {
            let it = topics.entry((topic, source)).or_default();
            it.subscriptions += look.subscriptions;
            it.last = it.last.max(look.last);
        }
        count += route_count;
        route_looks.into_iter().for_each(|route| add(&mut routes, route));
    }
    let mut routes: Vec<RouteLook> = routes.into_values().collect();
    routes.sort_by(|a, b| b.matches_per_s.total_cmp(&a.matches_per_s).then(b.subscriptions.cmp(&a.subscriptions)));
    routes.truncate(SHOWN);
    let all = topics.len();
    let mut topics: Vec<((Topic, Source), TopicLook)> = topics.into_iter().collect();
    topics.sort_by(|((a, _), x), ((b, _), y)| y.subscriptions.cmp(&x.subscriptions).then(a.cmp(b)));
    topics.truncate(SHOWN);
    let shown: Vec<Value> =
        topics.iter().map(|(of, look)| of_topic(of, *look, carried.contains(of), &routes)).collect();
    json(json!({ "topics": shown, "topic_count": all, "routes": routes, "routes_on_shards": count }))
}

fn of_topic((topic, source): &(Topic, Source), look: TopicLook, carried: bool, routes: &[RouteLook]) -> Value {
    // Each route that has it alone sees the same of it.
    let alone = routes.iter().filter(|route| route.topics.len() == 1 && route.topics[0] == *topic);
    let per_s = alone.filter(|route| route.source.is_none_or(|own| own == *source)).map(|route| route.matches_per_s);
    json!({
        "topic": topic,
        "source": source,
        "carried": carried,
        "subscriptions": look.subscriptions,
        "changes_per_s": per_s.reduce(f32::max),
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
