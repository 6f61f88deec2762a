//! What has to be true at the end: everything is answered, and every event came as often as it had to.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use ddp_gateway::session::Disconnect;

use super::{
    bus::{Publication, What},
    client::Instance,
    leg::Leg,
    world::World,
};

impl World {
    pub(crate) fn check_end(&mut self) {
        let refused = self.closed == Some(Disconnect::LoggedOut);
        self.tally.login_refused += u64::from(refused);
        assert!(!refused || self.login_refused, "a good login is refused");
        assert!(
            self.closed.is_some() || !self.login_refused,
            "a bad login goes on"
        );
        self.check_events();
        if self.broken || self.closed.is_some() {
            return;
        }
        assert!(self.wire.later.is_empty() && self.wire.up.is_empty());
        assert_eq!(self.client.in_flight(), 0, "methods are unanswered");
        assert!(!self.client.waits_for_pongs(), "pings are unanswered");
        let leg = &self.legs[self.leg()];
        for (id, open) in &self.client.open {
            assert!(open.ready, "{id} is neither ready nor refused");
            let there = leg.holds(id) || (open.unsub && self.plan.overtakes);
            assert!(there, "{id} delivers nothing");
        }
        let ids: BTreeSet<&str> = leg
            .subs
            .iter()
            .map(|sub| sub.id.as_str())
            .chain(leg.watch.iter().map(|watch| watch.id.as_str()))
            .collect();
        for id in ids {
            assert!(self.client.open.contains_key(id), "{id} is nobody's");
        }
        self.check_documents(leg.number, &leg.documents);
        if leg.user.is_some() {
            assert_eq!(leg.away, self.client.away == Some(true), "presence");
        }
        self.tally.settled += 1;
    }

    /// Every event as often as it has to come and no more often than it may.
    fn check_events(&self) {
        let mut groups: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for publication in &self.bus.publications {
            let (least, most) = groups.entry(publication.key()).or_default();
            let range = (self.least(publication), self.most(publication));
            let at = publication.at - self.start;
            let there = publication.there.map(|there| there - self.start);
            self.says(&format!(
                "{} at {at:?}, there {there:?}: {range:?}",
                publication.key()
            ));
            *most += range.1;
            if !self.broken {
                *least += range.0;
            }
        }
        for (key, got) in &self.client.got {
            if let Some(event) = key.strip_prefix("added ") {
                assert!(*got <= self.client.collecting(event), "{got} of {key}");
                continue;
            }
            let (_, most) = groups.get(key).copied().unwrap_or_default();
            assert!(*got <= most, "{key} came {got} times, not {most}");
        }
        for (key, (least, _)) in &groups {
            let got = self.client.got.get(key).copied().unwrap_or_default();
            assert!(got >= *least, "{key} came {got} times, not {least}");
        }
    }

    fn in_charge_at(&self, at: Instant) -> usize {
        let before = self.charge.iter().rev().find(|(from, _)| *from <= at);
        before.map_or(0, |(_, leg)| *leg)
    }

    fn of<'a>(&'a self, publication: &'a Publication) -> impl Iterator<Item = &'a Instance> {
        let is = |instance: &&Instance| {
            instance.stream == publication.stream && instance.event == publication.event
        };
        self.client.instances.iter().filter(is)
    }

    /// How often it may come: not to who wrote it, and not by what had ended on the leg in charge.
    fn most(&self, publication: &Publication) -> usize {
        if publication.author.is_some() {
            return 0;
        }
        let (at, there) = (publication.at, publication.everywhere());
        if let What::Status { uid } = &publication.what {
            let seen = |leg: &Leg| leg.watched(uid, publication.there[leg.streamer]);
            return usize::from(self.legs.iter().any(seen));
        }
        let leg = self.in_charge_at(at);
        let may = |instance: &&Instance| {
            let over = instance.legs.get(&leg).and_then(|(_, until)| *until);
            let refused = instance.over.filter(|_| instance.refused);
            let over = over.into_iter().chain(refused).min();
            let mut active = instance.legs.values();
            over.is_none_or(|over| over > at) && active.any(|(from, _)| *from <= there)
        };
        self.of(publication).filter(may).count()
    }

    /// How often it must come: by what was ready and not ended.
    fn least(&self, publication: &Publication) -> usize {
        if publication.author.is_some() {
            return 0;
        }
        let (at, there) = (publication.at, publication.everywhere());
        let leg = self.in_charge_at(at);
        if let What::Status { uid } = &publication.what {
            let leg = &self.legs[leg];
            let Some(since) = leg.watches_since(uid, at) else {
                return 0;
            };
            if leg.watches_since(uid, publication.there[leg.streamer]) != Some(since) {
                return 0;
            }
            // The new leg does not serve it: it is over with the switch, whatever was on its way.
            let refused =
                |instance: &Instance| instance.refused && instance.stream == "stream-user-presence";
            if self.client.instances.iter().any(refused) {
                return 0;
            }
            let ends = self.client.unwatched.iter().any(|(who, asked)| {
                let them = who.as_ref().is_none_or(|who| who == uid);
                them && *asked >= since && *asked <= there
            });
            return usize::from(!ends);
        }
        let must = |instance: &&Instance| {
            let active = instance.legs.get(&leg).is_some_and(|(from, _)| *from <= at);
            active && !instance.refused && instance.unsub.is_none_or(|unsub| unsub > there)
        };
        self.of(publication).filter(must).count()
    }
}
