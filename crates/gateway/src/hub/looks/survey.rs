//! Topics and routes: gone through in pieces, between which the shard does its work.

use std::collections::{BTreeSet, HashMap};

use protocol::{Source, Topic};

use super::{
    super::{Hub, route::Route},
    RouteLook, TopicLook,
    piece::look_at_some,
};

/// Routes that are shown of a shard.
const ROUTES: usize = 500;

/// Goes through the routes of a shard, then through the topics that it has had changes of.
#[derive(Debug, Default)]
pub struct Survey {
    next_route: usize,
    next_topic: usize,
    next_look: usize,
    /// The first of the routes: changes a second, subscriptions, its place, and its number, for another
    /// one may take the place meanwhile.
    first: Vec<(f32, usize, usize, u64)>,
    /// What was found.
    pub found: Surveyed,
}

/// See [`Survey`].
#[derive(Debug, Default)]
pub struct Surveyed {
    /// Topics that somebody wants, or that have had a change on their feed. One that somebody wants and
    /// nobody carries is of no source.
    pub topics: HashMap<(Option<Source>, Topic), TopicLook>,
    /// Routes, those with the most changes.
    pub routes: Vec<RouteLook>,
    /// How many there are.
    pub route_count: usize,
}

/// Goes through the routes of a shard, for topics that somebody wants and nobody carries.
#[derive(Debug, Default)]
pub struct Uncarried {
    next: usize,
    /// Those that were found.
    pub topics: BTreeSet<Topic>,
}

impl Hub {
    /// Looks at some more; whether there is more.
    pub fn survey(&self, survey: &mut Survey) -> bool {
        let Survey { next_route, next_topic, next_look, first, found } = survey;
        if *next_route < self.routes.capacity() {
            let look = |place| {
                let Some(route) = self.routes.get(place) else { return };
                found.route_count += 1;
                first.push((route.rate.per_s, route.subs, place, route.id));
                self.count_subscriptions(route, &mut found.topics);
            };
            let more = look_at_some(self.routes.capacity(), next_route, look);
            if first.len() > 2 * ROUTES || !more {
                keep_the_first(first);
            }
            return true;
        }
        let Self { feeds, register, .. } = self;
        let carried_by = |source| feeds.get(&source).map_or(&[][..], |view| &view.catalogue.topics);
        let (log, notify) = (carried_by(Source::Log), carried_by(Source::Notify));
        let seen = |place: usize| {
            let of_log = log.get(place).map(|info| (Source::Log, &info.topic));
            let (source, topic) =
                of_log.or_else(|| notify.get(place - log.len()).map(|info| (Source::Notify, &info.topic)))?;
            Some((source, topic, register.as_ref()?.seen(source, topic)?))
        };
        if *next_topic < log.len() + notify.len() {
            look_at_some(log.len() + notify.len(), next_topic, |place| {
                if let Some((source, topic, seen)) = seen(place) {
                    found.topics.entry((Some(source), topic.clone())).or_default().last = Some((seen.last, seen.at));
                }
            });
            return true;
        }
        look_at_some(first.len(), next_look, |place| {
            let (_, _, index, id) = first[place];
            found.routes.extend(self.routes.get(index).filter(|route| route.id == id).map(RouteLook::of));
        })
    }

    fn count_subscriptions(&self, route: &Route, topics: &mut HashMap<(Option<Source>, Topic), TopicLook>) {
        for topic in route.key.topics.iter() {
            let source = route.key.source.or_else(|| self.carriers.get(topic).copied());
            topics.entry((source, topic.clone())).or_default().subscriptions += route.subs;
        }
    }

    /// Looks at some more routes for topics that nobody carries; whether there are more.
    pub fn look_for_uncarried(&self, uncarried: &mut Uncarried) -> bool {
        let Uncarried { next, topics } = uncarried;
        look_at_some(self.routes.capacity(), next, |place| {
            let wanted = self.routes.get(place).into_iter().flat_map(|route| route.key.topics.iter());
            topics.extend(wanted.filter(|topic| !self.carriers.contains_key(*topic)).cloned());
        })
    }
}

fn keep_the_first(routes: &mut Vec<(f32, usize, usize, u64)>) {
    if routes.len() > ROUTES {
        routes.select_nth_unstable_by(ROUTES, |a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
        routes.truncate(ROUTES);
    }
}

impl RouteLook {
    fn of(route: &Route) -> Self {
        Self {
            topics: route.key.topics.to_vec(),
            source: route.key.source,
            form: route.key.form.name(),
            conflate_ms: route.key.conflate_ms,
            subscriptions: route.subs,
            matches: route.rate.all,
            matches_per_s: route.rate.per_s,
        }
    }
}
