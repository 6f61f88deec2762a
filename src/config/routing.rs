//! Routes and the monoliths that they lead to.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, btree_map::Entry},
};

use super::{
    build::Builder,
    diagnostic::{Diagnostic, Place},
    model::{HostPattern, Monolith, Pool, Route, Server},
    pools::{DEFAULT_POOL, is_pool_name},
    suggest::nearest,
    table::Setting,
    value::{choice::Or, list::OneOrMany},
};

impl Builder<'_> {
    pub(super) fn routes(&mut self, pools: &[Pool]) -> (Vec<Monolith>, Vec<Route>) {
        let file = self.file;
        let mut monoliths = vec![match &file.monolith.0 {
            Some(monolith) => self.monolith(monolith),
            None => Monolith {
                servers: Vec::new(),
            },
        }];
        let mut routes: Vec<Route> = Vec::new();
        let mut places: BTreeMap<(String, String), &Place> = BTreeMap::new();
        let mut named = vec![false; pools.len()];
        for route in &file.route {
            let host = route.host.value.clone();
            let path = route.path.value.0.clone();
            if !route.host.stand_in && !route.path.stand_in {
                match places.entry((format!("{host:?}"), path.clone())) {
                    Entry::Vacant(free) => {
                        free.insert(&route.place);
                    }
                    Entry::Occupied(first) => {
                        self.faults.push(
                            Diagnostic::error(
                                &route.place,
                                "two routes for the same host and path",
                            )
                            .label("never reached")
                            .related(first.get(), "this one comes first"),
                        );
                        continue;
                    }
                }
            }
            let monolith = match &route.monolith {
                None => 0,
                Some(setting) => {
                    let monolith = self.monolith(setting);
                    let known = monoliths.iter().position(|known| *known == monolith);
                    known.unwrap_or_else(|| {
                        monoliths.push(monolith);
                        monoliths.len() - 1
                    })
                }
            };
            let pool = match &route.pool.value {
                Or::Word(_) => None,
                Or::Value(name) => {
                    let found = pools.iter().position(|pool| pool.name.as_str() == name.0);
                    if found.is_none() {
                        self.unknown_pool(&name.0, &route.pool, pools);
                    }
                    found
                }
            };
            if let Some(pool) = pool {
                named[pool] = true;
            }
            routes.push(Route {
                host,
                path,
                monolith,
                pool,
            });
        }
        for (pool, named) in pools.iter().zip(named).skip(1) {
            let place = file.pools.get(pool.name.as_str()).map(|pool| &pool.place);
            if let (Some(place), false, true) = (place, named, is_pool_name(pool.name.as_str())) {
                self.faults.push(
                    Diagnostic::warning(place, format!("no route names the pool `{}`", pool.name))
                        .label("nobody is sent there")
                        .help(format!("add a [[route]] with pool = \"{}\"", pool.name)),
                );
            }
        }
        if !routes
            .iter()
            .any(|route| route.host == HostPattern::Any && route.path == "/")
        {
            routes.push(Route {
                host: HostPattern::Any,
                path: "/".to_owned(),
                monolith: 0,
                pool: Some(0),
            });
        }
        routes.sort_by_key(|route| {
            let host = match &route.host {
                HostPattern::Exact(host) => (0, Reverse(host.len()), host.clone()),
                HostPattern::Suffix(host) => (1, Reverse(host.len()), host.clone()),
                HostPattern::Any => (2, Reverse(0), String::new()),
            };
            (host, Reverse(route.path.len()), route.path.clone())
        });
        (monoliths, routes)
    }

    fn unknown_pool<T>(&mut self, name: &str, setting: &Setting<T>, pools: &[Pool]) {
        let fault = Diagnostic::error(&setting.place, format!("there is no pool `{name}`"))
            .label("unknown pool");
        let names = || {
            let further = pools[1..].iter().map(|pool| pool.name.as_str());
            std::iter::once(DEFAULT_POOL).chain(further.filter(|name| is_pool_name(name)))
        };
        self.faults.push(match nearest(name, names()) {
            Some(meant) => fault.help(format!("did you mean \"{meant}\"?")),
            None => {
                let names: Vec<&str> = names().collect();
                fault.help(format!(
                    "the pools are {}; [pools.{name}] would make one",
                    names.join(", ")
                ))
            }
        });
    }

    fn monolith(&mut self, setting: &Setting<OneOrMany<Server>>) -> Monolith {
        let servers = &setting.value.0.all;
        if setting.value.0.is_empty() {
            self.faults.push(
                Diagnostic::error(&setting.place, format!("`{}` is empty", setting.path))
                    .label("nobody would answer")
                    .absence(),
            );
        }
        for (at, server) in servers.iter().enumerate() {
            let twin = servers[..at]
                .iter()
                .find(|other| other.value == server.value);
            if let Some(twin) = twin {
                self.faults.push(
                    Diagnostic::error(&server.place, "a server stands here twice")
                        .label("the second time")
                        .related(&twin.place, "the first time"),
                );
            }
        }
        Monolith {
            servers: servers.iter().map(|server| server.value.clone()).collect(),
        }
    }
}
