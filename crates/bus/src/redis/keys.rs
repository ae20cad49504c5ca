use protocol::{FeedId, Source, Topic};

/// The names of a source's keys. What stands between the braces is the hash tag: on a cluster all
/// keys of a source lie on one node, as a script needs them.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(namespace: &str, source: Source) -> Self {
        Self { prefix: format!("{namespace}:{{{source}}}:") }
    }

    /// Hash: feed, epoch, base, last, at, catalogue, and for each topic `t:<topic>` (its last
    /// offset) and `b:<topic>` (bytes of its history). Never expires.
    pub(super) fn head(&self) -> String {
        format!("{}head", self.prefix)
    }

    /// What the names of all histories begin with; `<feed>:<topic>` follows.
    pub(super) fn histories(&self) -> String {
        format!("{}h:", self.prefix)
    }

    /// Stream: one entry a slice, its id `<last offset>-0`, its fields `p` (the topic's previous
    /// offset), `a` (the publisher's clock in ms) and `s` (the slice).
    pub(super) fn history(&self, feed: &FeedId, topic: &Topic) -> String {
        format!("{}h:{feed}:{topic}", self.prefix)
    }

    /// The channel that batches are published on.
    pub(super) fn channel(&self) -> String {
        format!("{}feed", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_of_a_source_share_its_hash_tag() {
        let keys = Keys::new("rowcast", Source::Notify);
        let (feed, topic) = ("k3f9".parse().unwrap(), Topic::new("public.orders").unwrap());
        assert_eq!(keys.head(), "rowcast:{notify}:head");
        assert_eq!(keys.channel(), "rowcast:{notify}:feed");
        assert_eq!(keys.history(&feed, &topic), "rowcast:{notify}:h:k3f9:public.orders");
        assert!(keys.history(&feed, &topic).starts_with(&keys.histories()));
    }
}
