//! Which part of the gateway answers a request: by host, then by the longest path prefix.

use crate::{
    config::model::{Config, HostPattern, Route},
    sockjs::path::Path,
};

/// The routes of one configuration, the most specific first.
#[derive(Debug)]
pub struct RouteTable {
    /// Never empty; the last one matches every request.
    routes: Vec<Route>,
}

/// Where a request goes. Numbers are indices into the configuration's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination<'a> {
    /// An origin: plain requests are forwarded, requests to change the protocol are tunnelled.
    Monolith { monolith: usize },
    /// The raw WebSocket endpoint, `<path>/websocket`.
    WebSocket { pool: usize, route: &'a str },
    /// `<path>/sockjs` and below. `None`: no such SockJS URL.
    SockJs {
        pool: usize,
        route: &'a str,
        path: Option<Path<'a>>,
    },
}

impl RouteTable {
    pub fn new(config: &Config) -> Self {
        Self {
            routes: config.routes.clone(),
        }
    }

    /// Finds the destination of a normalised path.
    pub fn find<'a>(&'a self, host: Option<&str>, path: &'a str) -> Destination<'a> {
        let host = host.unwrap_or_default();
        let found = self.routes.iter().find_map(|route| {
            if matches_host(&route.host, host) {
                below(path, &route.path).map(|rest| (route, rest))
            } else {
                None
            }
        });
        let Some((route, rest)) = found else {
            // The table's last route matches everything; without one the first monolith is asked.
            return Destination::Monolith { monolith: 0 };
        };
        let Some(pool) = route.pool else {
            return Destination::Monolith {
                monolith: route.monolith,
            };
        };
        if rest == "/websocket" || rest == "/websocket/" {
            return Destination::WebSocket {
                pool,
                route: &route.path,
            };
        }
        match below(rest, "/sockjs") {
            Some(rest) => Destination::SockJs {
                pool,
                route: &route.path,
                path: Path::parse(rest),
            },
            None => Destination::Monolith {
                monolith: route.monolith,
            },
        }
    }

    /// What [`Target::read`](super::target::Target::read) compares: two paths of the same kind, pool
    /// and monolith go to the same place.
    pub fn place(&self, host: Option<&str>, path: &str) -> (u8, usize) {
        match self.find(host, path) {
            Destination::Monolith { monolith } => (0, monolith),
            Destination::WebSocket { pool, .. } => (1, pool),
            Destination::SockJs { pool, .. } => (2, pool),
        }
    }
}

impl Destination<'_> {
    /// Label of metrics and of the access log.
    pub fn kind(&self) -> RouteKind {
        match self {
            Self::Monolith { .. } => RouteKind::Monolith,
            Self::WebSocket { .. } => RouteKind::WebSocket,
            Self::SockJs { .. } => RouteKind::SockJs,
        }
    }
}

/// The kinds of answer that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Refused or redirected before a route was looked for.
    None,
    Monolith,
    Tunnel,
    WebSocket,
    SockJs,
}

impl RouteKind {
    pub const ALL: [Self; 5] = [
        Self::None,
        Self::Monolith,
        Self::Tunnel,
        Self::WebSocket,
        Self::SockJs,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Monolith => "monolith",
            Self::Tunnel => "tunnel",
            Self::WebSocket => "websocket",
            Self::SockJs => "sockjs",
        }
    }
}

/// What follows `prefix`, when it covers whole segments of `path`; `/` covers everything.
fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let rest = path.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

fn matches_host(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Any => true,
        HostPattern::Exact(name) => name == host,
        HostPattern::Suffix(suffix) => host
            .strip_suffix(suffix.as_str())
            .is_some_and(|labels| labels.len() > 1 && labels.ends_with('.')),
    }
}

#[cfg(test)]
mod tests {
    use super::{Destination, RouteTable};
    use crate::{
        config::model::{HostPattern, Route},
        sockjs::path::Path,
    };

    fn table() -> RouteTable {
        let route = |host, path: &str, monolith, pool| Route {
            host,
            path: path.to_owned(),
            monolith,
            pool,
        };
        RouteTable {
            routes: vec![
                route(HostPattern::Exact("wiki.example".into()), "/", 1, None),
                route(HostPattern::Suffix("chat.example".into()), "/", 2, Some(1)),
                route(HostPattern::Any, "/team/a", 3, Some(2)),
                route(HostPattern::Any, "/team", 4, None),
                route(HostPattern::Any, "/", 0, Some(0)),
            ],
        }
    }

    fn monolith(host: Option<&str>, path: &str) -> Option<usize> {
        match table().find(host, path) {
            Destination::Monolith { monolith } => Some(monolith),
            _ => None,
        }
    }

    #[test]
    fn hosts_come_before_paths() {
        assert_eq!(monolith(Some("wiki.example"), "/team/a"), Some(1));
        assert_eq!(monolith(Some("wiki.example"), "/websocket"), Some(1));
        assert_eq!(monolith(Some("a.chat.example"), "/x"), Some(2));
        assert_eq!(monolith(Some("a.b.chat.example"), "/x"), Some(2));
        assert_eq!(monolith(Some("chat.example"), "/x"), Some(0));
        assert_eq!(monolith(Some("xchat.example"), "/x"), Some(0));
        assert_eq!(monolith(Some(".chat.example"), "/x"), Some(0));
        assert_eq!(monolith(None, "/x"), Some(0));
    }

    #[test]
    fn prefixes_match_whole_segments() {
        assert_eq!(monolith(None, "/team/a"), Some(3));
        assert_eq!(monolith(None, "/team/a/b"), Some(3));
        assert_eq!(monolith(None, "/team/ab"), Some(4));
        assert_eq!(monolith(None, "/team/websocket"), Some(4));
        assert_eq!(monolith(None, "/teams"), Some(0));
        assert_eq!(monolith(None, "/websockets"), Some(0));
        assert_eq!(monolith(None, "/websocket/x"), Some(0));
        assert_eq!(monolith(None, "/sockjsx"), Some(0));
    }

    #[test]
    fn streamers_have_two_places_below_their_route() {
        let table = table();
        for path in ["/websocket", "/websocket/"] {
            assert_eq!(
                table.find(None, path),
                Destination::WebSocket {
                    pool: 0,
                    route: "/"
                }
            );
        }
        assert_eq!(
            table.find(None, "/team/a/websocket"),
            Destination::WebSocket {
                pool: 2,
                route: "/team/a"
            }
        );
        for (path, expected) in [
            ("/sockjs", Some(Path::Greeting)),
            ("/sockjs/info", Some(Path::Info)),
            ("/sockjs/websocket", Some(Path::RawWebSocket)),
            ("/sockjs/nothing", None),
        ] {
            assert_eq!(
                table.find(Some("x"), path),
                Destination::SockJs {
                    pool: 0,
                    route: "/",
                    path: expected
                }
            );
        }
    }
}
