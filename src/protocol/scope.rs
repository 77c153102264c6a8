//! Who a request is for: a service named by its KServe host or by the path template, or any model by its name.
//!
//! Source: reference 1.11. `iris.default.example.com` is Knative's host, `iris-default.example.com` the one of
//! Standard mode; inside a cluster it is `iris.default` and `iris.default.svc.cluster.local`. The component's
//! host, `iris-predictor...`, reaches the same models. `latest-iris-predictor...` and `prev-iris...` reach one revision
//! of a service whose requests are split, `iris-v2-predictor...` the canary `v2`.

use crate::router::{GraphRoute, Ingress, Route, RouteTable, Scope};
use http::Uri;
use http::uri::PathAndQuery;
use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What a request may reach.
#[derive(Debug, Clone)]
pub(crate) enum Reach {
    /// Every model of the default namespace, by name.
    All,
    /// The models of one service.
    Service(Arc<Route>),
    /// One revision of a service, under its label: `latest-iris`.
    Revision {
        /// What stands in front of the namespace, without the component.
        label: Arc<str>,
        /// Where it leads.
        route: Arc<Route>,
    },
    /// One graph.
    Graph(Arc<GraphRoute>),
}

impl Reach {
    /// The same, as the route table asks for it.
    pub(crate) fn scope(&self) -> Scope<'_> {
        match self {
            Self::All => Scope::Default,
            Self::Service(route) => Scope::Service { namespace: &route.namespace, name: &route.service },
            Self::Revision { label, route } => Scope::Tagged { namespace: &route.namespace, label },
            // A service of that name would have been reached in its place, so no model is found here.
            Self::Graph(graph) => Scope::Service { namespace: &graph.namespace, name: &graph.name },
        }
    }

    /// What a name in a path reaches: a service, one revision of it by its label, or a graph.
    pub(crate) fn named(name: &str, namespace: &str, table: &RouteTable) -> Option<Self> {
        by_component(name, namespace, table)
    }
}

/// What a host name says.
#[derive(Debug, Clone)]
pub(crate) enum Host {
    /// Nothing about a service: `localhost`, an address, any other machine's name.
    Bare,
    /// It is a service's.
    Service(Arc<Route>),
    /// It is that of one revision of a service.
    Revision {
        /// What stands in front of the namespace, without the component.
        label: Arc<str>,
        /// Where it leads.
        route: Arc<Route>,
    },
    /// It is a graph's.
    Graph(Arc<GraphRoute>),
    /// It has the form of a service's host, and there is no such service.
    Unknown,
}

/// How hosts and paths are read.
#[derive(Debug)]
pub(crate) struct Addressing {
    /// `.example.com`
    domains: Vec<String>,
    template: Vec<Segment>,
    /// Namespace and name of services by a host that only a template gives them.
    hosts: HashMap<String, (String, String)>,
}

/// One part of a path template between two slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Namespace,
    Name,
}

/// A path below the template, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Prefixed<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// What follows the prefix, with its slash; `/` when nothing does.
    pub(crate) rest: &'a str,
}

impl Addressing {
    /// Reads the domain and the template; a template without both placeholders is as none.
    pub(crate) fn new(domain: &str, template: &str) -> Self {
        let template: Vec<Segment> = template.split('/').filter(|part| !part.is_empty()).map(Segment::read).collect();
        let complete = template.contains(&Segment::Namespace) && template.contains(&Segment::Name);
        Self { domains: vec![suffix(domain)], template: if complete { template } else { Vec::new() }, hosts: HashMap::new() }
    }

    /// The same where KServe's ConfigMap says otherwise.
    pub(crate) fn following(&self, ingress: &Ingress) -> Self {
        let domains =
            if ingress.domains.is_empty() { self.domains.clone() } else { ingress.domains.iter().map(|domain| suffix(domain)).collect() };
        let template = Self::new("", &ingress.path_template).template;
        Self { domains, template: if template.is_empty() { self.template.clone() } else { template }, hosts: ingress.hosts.clone() }
    }

    /// What a host name, without its port, says about a service.
    pub(crate) fn read_host(&self, host: &str, table: &RouteTable) -> Host {
        let host = lower_case(host.trim_end_matches('.'));
        if let Some(route) = self.hosts.get(&*host).and_then(|(namespace, name)| table.service(namespace, name)) {
            return Host::Service(Arc::clone(route));
        }
        if !host.contains('.') || host.parse::<IpAddr>().is_ok() {
            return Host::Bare;
        }
        let (service, certain) = match self.below_domain(&host).or_else(|| in_cluster(&host)) {
            Some(service) => (service, true),
            None => (&*host, false),
        };
        match find(service, certain, table) {
            Some(Reach::Service(route)) => Host::Service(route),
            Some(Reach::Revision { label, route }) => Host::Revision { label, route },
            Some(Reach::Graph(graph)) => Host::Graph(graph),
            None if certain => Host::Unknown,
            Some(Reach::All) | None => Host::Bare,
        }
    }

    /// Takes a path below the template apart.
    pub(crate) fn read_path<'a>(&self, path: &'a str) -> Option<Prefixed<'a>> {
        if self.template.is_empty() {
            return None;
        }
        let mut found = Prefixed { namespace: "", name: "", rest: path };
        for segment in &self.template {
            let tail = found.rest.strip_prefix('/')?;
            let part = tail.split('/').next().filter(|part| !part.is_empty())?;
            match segment {
                Segment::Literal(literal) if literal != part => return None,
                Segment::Literal(_) => {}
                Segment::Namespace => found.namespace = part,
                Segment::Name => found.name = part,
            }
            found.rest = &tail[part.len()..];
        }
        found.rest = if found.rest.is_empty() { "/" } else { found.rest };
        Some(found)
    }

    /// Whether a host lies where services have theirs.
    pub(crate) fn covers(&self, host: &str) -> bool {
        let host = lower_case(host.trim_end_matches('.'));
        self.domains.iter().any(|domain| host == domain[1..]) || self.below_domain(&host).is_some() || in_cluster(&host).is_some()
    }

    fn below_domain<'a>(&self, host: &'a str) -> Option<&'a str> {
        self.domains.iter().find_map(|domain| host.strip_suffix(domain.as_str()))
    }
}

impl Segment {
    fn read(part: &str) -> Self {
        match part.trim_matches(['{', '}', ' ', '.']) {
            "namespace" | "Namespace" if part.starts_with('{') => Self::Namespace,
            "name" | "Name" if part.starts_with('{') => Self::Name,
            _ => Self::Literal(part.to_owned()),
        }
    }
}

/// The host name of a `Host` header or an authority, without user and port, brackets kept off.
pub(crate) fn without_port(authority: &str) -> &str {
    let host = authority.rsplit('@').next().unwrap_or(authority);
    match host.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or(address),
        None => host.split(':').next().unwrap_or(host),
    }
}

/// The same URI with another path.
///
/// `None` when the path makes no URI.
pub(crate) fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let path_and_query: PathAndQuery = match uri.query() {
        Some(query) => format!("{path}?{query}").parse().ok()?,
        None => path.parse().ok()?,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path_and_query);
    Uri::from_parts(parts).ok()
}

/// `.example.com`, which the hosts below a domain end with.
fn suffix(domain: &str) -> String {
    format!(".{}", domain.trim_matches('.').to_ascii_lowercase())
}

fn in_cluster(host: &str) -> Option<&str> {
    host.strip_suffix(".svc.cluster.local").or_else(|| host.strip_suffix(".svc"))
}

/// `iris.default`, or below the domain also `iris-default`; each also as `iris-predictor`.
fn find(host: &str, joined: bool, table: &RouteTable) -> Option<Reach> {
    if let Some((name, namespace)) = host.split_once('.') {
        return by_component(name, namespace, table);
    }
    // The dash that parts name and namespace is any of them; the shortest name that exists wins.
    let mut dashes = host.match_indices('-').filter(|_| joined);
    dashes.find_map(|(at, _)| by_component(&host[..at], &host[at + 1..], table))
}

/// A service first, whatever its name looks like; then one revision of a service, then a graph.
fn by_component(name: &str, namespace: &str, table: &RouteTable) -> Option<Reach> {
    let shorter = name.strip_suffix("-predictor");
    let service = table.service(namespace, name).or_else(|| table.service(namespace, shorter?));
    if let Some(route) = service {
        return Some(Reach::Service(Arc::clone(route)));
    }
    if let Some((label, route)) = table.tagged(namespace, name).or_else(|| table.tagged(namespace, shorter?)) {
        return Some(Reach::Revision { label: Arc::clone(label), route: Arc::clone(route) });
    }
    table.graph(namespace, name).map(|graph| Reach::Graph(Arc::clone(graph)))
}

fn lower_case(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) { Cow::Owned(host.to_ascii_lowercase()) } else { Cow::Borrowed(host) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::{Roads, Target};

    fn route(namespace: &str, service: &str) -> Route {
        Route {
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            model_name: service.into(),
            timeout_s: 1,
            batcher_replies: false,
            target: Target::NotReady(String::new()),
        }
    }

    fn table() -> RouteTable {
        let services = [route("default", "iris"), route("team-a", "iris"), route("team-a", "x-predictor")];
        let revision = |label: &str| (Arc::from(label), Arc::new(route("default", "iris")));
        let graph = |name: &str| Arc::new(GraphRoute { namespace: "default".to_owned(), name: name.into(), target: Err(String::new()) });
        let labels = vec![revision("latest-iris"), revision("prev-iris"), revision("iris-v2")];
        let table = RouteTable::new("default", services).with(&Roads::default(), &Roads { route: None, labels });
        table.with_graphs([graph("all"), graph("iris")])
    }

    fn read(host: &str) -> String {
        match Addressing::new("example.com", "").read_host(host, &table()) {
            Host::Bare => "bare".to_owned(),
            Host::Unknown => "unknown".to_owned(),
            Host::Service(route) => format!("{}/{}", route.namespace, route.service),
            Host::Revision { label, route } => format!("{label} of {}/{}", route.namespace, route.service),
            Host::Graph(graph) => format!("graph {}/{}", graph.namespace, graph.name),
        }
    }

    #[test]
    fn a_service_is_reached_by_every_host_that_kserve_gives_it() {
        for host in [
            "iris.default.example.com",
            "IRIS.default.Example.COM.",
            "iris-default.example.com",
            "iris-predictor.default.example.com",
            "iris-predictor-default.example.com",
            "iris.default",
            "iris.default.svc",
            "iris.default.svc.cluster.local",
            "iris-predictor.default.svc.cluster.local",
        ] {
            assert_eq!(read(host), "default/iris", "{host}");
        }
        assert_eq!(read("iris-team-a.example.com"), "team-a/iris");
        assert_eq!(read("x-predictor.team-a.example.com"), "team-a/x-predictor");
    }

    #[test]
    fn one_revision_is_reached_by_the_hosts_of_its_tag_and_by_its_path() {
        for host in [
            "latest-iris-predictor.default.example.com",
            "latest-iris.default.example.com",
            "latest-iris.default",
            "latest-iris-predictor.default.svc.cluster.local",
        ] {
            assert_eq!(read(host), "latest-iris of default/iris", "{host}");
        }
        assert_eq!(read("prev-iris-predictor.default.example.com"), "prev-iris of default/iris");
        assert_eq!(read("iris-v2-predictor-default.example.com"), "iris-v2 of default/iris");
        assert_eq!(read("prev-iris.team-a.example.com"), "unknown");
        for (name, found) in [("latest-iris", true), ("prev-iris-predictor", true), ("iris", true), ("all", true), ("other-iris", false)] {
            assert_eq!(Reach::named(name, "default", &table()).is_some(), found, "{name}");
        }
    }

    #[test]
    fn a_graph_is_reached_by_its_hosts_unless_a_service_has_its_name() {
        for host in ["all.default.example.com", "all-default.example.com", "all.default", "all.default.svc.cluster.local"] {
            assert_eq!(read(host), "graph default/all", "{host}");
        }
        assert_eq!(read("iris.default.example.com"), "default/iris");
        assert_eq!(read("all-predictor.default.example.com"), "unknown", "a graph has no components");
    }

    #[test]
    fn a_host_of_kserves_form_without_a_service_is_unknown_and_any_other_is_bare() {
        for host in ["nope.default.example.com", "iris.other.svc.cluster.local", "a.b.c.example.com", "iris.example.com"] {
            assert_eq!(read(host), "unknown", "{host}");
        }
        for host in ["localhost", "127.0.0.1", "::1", "kserved", "box.lan", "example.com", "iris-default", "www.example.org"] {
            assert_eq!(read(host), "bare", "{host}");
        }
    }

    #[test]
    fn what_the_config_map_says_takes_the_place_of_domain_and_path() {
        let own = Addressing::new("example.com", "/serving/{namespace}/{name}");
        let ingress = |domains: &[&str], path: &str| Ingress {
            domains: domains.iter().map(|&domain| domain.to_owned()).collect(),
            path_template: path.to_owned(),
            ..Ingress::default()
        };
        let followed = own.following(&ingress(&["a.b", "c.d"], ""));
        for (host, found) in [("iris-default.a.b", true), ("iris.default.c.d", true), ("iris.default.example.com", false)] {
            assert_eq!(matches!(followed.read_host(host, &table()), Host::Service(_)), found, "{host}");
        }
        assert!(followed.covers("x.c.d") && !followed.covers("x.example.com"));
        assert!(followed.read_path("/serving/default/iris").is_some(), "an empty path leaves what is set");
        let followed = own.following(&ingress(&[], "/m/{{ .Namespace }}/{{ .Name }}"));
        assert!(followed.read_path("/m/default/iris").is_some() && followed.read_path("/serving/default/iris").is_none());
        assert!(followed.covers("iris.default.example.com"));
    }

    #[test]
    fn a_host_that_a_template_gave_is_its_services() {
        let host = |name: &str| (format!("live.{name}.a.b"), ("default".to_owned(), name.to_owned()));
        let ingress = Ingress { hosts: [host("iris"), host("gone")].into(), ..Ingress::default() };
        let followed = Addressing::new("a.b", "").following(&ingress);
        assert!(matches!(followed.read_host("LIVE.iris.a.b", &table()), Host::Service(_)));
        assert!(matches!(followed.read_host("live.gone.a.b", &table()), Host::Unknown));
    }

    #[test]
    fn a_path_below_the_template_names_its_service_and_keeps_the_rest() {
        let addressing = Addressing::new("example.com", "/serving/{namespace}/{name}");
        let read = |path| addressing.read_path(path).map(|found| (found.namespace, found.name, found.rest));
        assert_eq!(read("/serving/default/iris/v2/models/iris"), Some(("default", "iris", "/v2/models/iris")));
        assert_eq!(read("/serving/default/iris"), Some(("default", "iris", "/")));
        for path in ["/serving/default", "/serving//iris/v2", "/v2/models/iris", "/Serving/a/b/c", "serving/a/b"] {
            assert_eq!(read(path), None, "{path}");
        }
    }

    #[test]
    fn a_template_may_be_kserves_own_spelling_and_an_empty_one_is_off() {
        for template in ["/m/{{ .Name }}/in/{{ .Namespace }}", "/m/{{.Name}}/in/{{.Namespace}}"] {
            let addressing = Addressing::new("example.com", template);
            assert_eq!(addressing.read_path("/m/iris/in/default/v2").map(|found| (found.namespace, found.name)), Some(("default", "iris")));
        }
        assert_eq!(Addressing::new("example.com", "").read_path("/serving/default/iris"), None);
    }

    #[test]
    fn ports_and_brackets_are_no_part_of_a_host() {
        for (authority, host) in [("localhost:8080", "localhost"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("a.b", "a.b"), ("u@h:1", "h")] {
            assert_eq!(without_port(authority), host);
        }
    }

    #[test]
    fn a_new_path_keeps_the_query() {
        let uri: Uri = "http://h/serving/a/b/v2?x=1".parse().unwrap();
        assert_eq!(with_path(&uri, "/v2").unwrap(), "http://h/v2?x=1");
    }
}
