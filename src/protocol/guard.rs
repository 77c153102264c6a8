//! Who may knock: the API key, the host names answered on loopback, and the web pages that may call.
//!
//! A page in a browser can reach loopback. It cannot choose its `Origin`, and after DNS rebinding it shows
//! its own name as `Host`; so both are checked before anything else.

use super::config::{ApiKey, Config};
use super::error::Refusal;
use super::scope::{Addressing, Host, without_port};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION,
    HOST, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Version, request};
use std::net::IpAddr;

/// Paths that answer without a key: they tell that something lives, and nothing else.
const OPEN_PATHS: [&str; 9] = [
    "/",
    "/livez",
    "/readyz",
    "/v2/health/live",
    "/v2/health/ready",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
];

/// The checks every request passes first.
#[derive(Debug)]
pub(crate) struct Guard {
    api_key: Option<ApiKey>,
    /// The address listened on when it is loopback; then hosts are checked.
    loopback: Option<IpAddr>,
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl Guard {
    /// The guard of a door that listens on `local`; on a Unix socket when there is none.
    pub(crate) fn new(config: &Config, local: Option<IpAddr>) -> Self {
        let lower = |names: &[String]| names.iter().map(|name| name.trim_end_matches('/').to_ascii_lowercase()).collect();
        Self {
            api_key: config.api_key.clone(),
            loopback: local.filter(|local| local.to_canonical().is_loopback()),
            hosts: lower(&config.allowed_hosts),
            origins: lower(&config.allowed_origins),
        }
    }

    /// Checks host, origin and key, in this order; `meaning` is what the host says about a service.
    pub(crate) fn check(&self, request: &request::Parts, host: &str, meaning: &Host, addressing: &Addressing) -> Result<(), Refusal> {
        let known = matches!(meaning, Host::Service(_) | Host::Revision { .. } | Host::Graph(_));
        if self.loopback.is_some() && !known && !self.knows_host(host, addressing) {
            return Err(strange_host(host));
        }
        self.check_origin(&request.headers, request.uri.authority().map(http::uri::Authority::as_str))?;
        self.check_key(request, matches!(meaning, Host::Graph(_)))
    }

    /// The answer to a browser that asks whether it may call; `None` when it does not ask that.
    pub(crate) fn preflight(&self, method: &Method, headers: &HeaderMap) -> bool {
        method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) && self.allowed_origin(headers).is_some()
    }

    /// Tells the browser that the page may read the answer.
    pub(crate) fn mark(origin: &HeaderValue, headers: &mut HeaderMap) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.append(VARY, HeaderValue::from_static("origin"));
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        let names = "authorization, content-type, inference-header-content-length, x-api-key, x-request-id, x-request-timeout-ms";
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(names));
    }

    /// The request's origin, when the config allows it.
    pub(crate) fn allowed_origin<'a>(&self, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let origin = headers.get(ORIGIN).filter(|_| !self.origins.is_empty())?;
        let name = origin.to_str().ok()?.to_ascii_lowercase();
        self.origins.contains(&name).then_some(origin)
    }

    fn knows_host(&self, host: &str, addressing: &Addressing) -> bool {
        let address = host.parse::<IpAddr>().ok();
        // No host at all: HTTP/1.0 tools, never a browser.
        host.is_empty()
            || host.eq_ignore_ascii_case("localhost")
            || address.is_some_and(|address| address.to_canonical().is_loopback() || Some(address) == self.loopback)
            || addressing.covers(host)
            || self.hosts.iter().any(|pattern| matches_pattern(pattern, host))
    }

    fn check_origin(&self, headers: &HeaderMap, authority: Option<&str>) -> Result<(), Refusal> {
        let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
        let own = authority.or_else(|| headers.get(HOST)?.to_str().ok());
        let origin_text = origin.to_str().unwrap_or_default();
        let same = own.is_some_and(|own| origin_text.split_once("://").is_some_and(|(_, there)| there.eq_ignore_ascii_case(own)));
        if same || self.allowed_origin(headers).is_some() {
            return Ok(());
        }
        let origin: String = origin_text.chars().take(128).collect();
        Err(Refusal::forbidden(format!(
            "requests from web pages of origin `{origin}` are not allowed; hint: add it to `protocol.allowed_origins`"
        )))
    }

    /// At a graph's host every path but `/readyz` runs the graph.
    fn check_key(&self, request: &request::Parts, runs_graph: bool) -> Result<(), Refusal> {
        let Some(key) = &self.api_key else { return Ok(()) };
        let path = request.uri.path();
        let is_open = if runs_graph { path == "/readyz" } else { OPEN_PATHS.contains(&path) };
        if is_open || shown_key(&request.headers).is_some_and(|shown| key.matches(shown)) {
            return Ok(());
        }
        Err(Refusal::unauthorized("an API key is needed: send `Authorization: Bearer KEY` or `x-api-key: KEY`"))
    }
}

/// Why the doors do not open on an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "listening on {address} would let anyone on the network use this server, and no API key is set\n\nhint: one of these:\n  \
     listen on this machine only: `--host 127.0.0.1`\n  \
     ask for a key: set `protocol.api_key` or `api_key_file` in the config, or the environment's `KSERVED_API_KEY`\n  \
     put a proxy that checks callers in front, and listen on 127.0.0.1 behind it\n  \
     let anyone in, on purpose: set `protocol.allow_unauthenticated: true`"
)]
pub struct OpenBind {
    /// The address.
    pub address: IpAddr,
}

/// Whether the doors may open on `address`: beyond loopback only with a key, or when the config says so.
///
/// # Errors
/// [`OpenBind`] names the ways out.
pub fn check_bind(address: IpAddr, config: &Config) -> Result<(), OpenBind> {
    let guarded = config.api_key.as_ref().is_some_and(|key| !key.is_empty());
    if address.to_canonical().is_loopback() || guarded || config.allow_unauthenticated { Ok(()) } else { Err(OpenBind { address }) }
}

/// The host a request names, without its port; empty when it names none.
///
/// # Errors
/// Two hosts, a host that is no text, or none in HTTP/1.1.
pub(crate) fn host_of(request: &request::Parts) -> Result<&str, Refusal> {
    if let Some(authority) = request.uri.authority() {
        return Ok(without_port(authority.as_str()));
    }
    let mut hosts = request.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().map(without_port).map_err(|_| Refusal::bad_request("the `Host` header is not ASCII")),
        (Some(_), Some(_)) => Err(Refusal::bad_request("more than one `Host` header")),
        (None, _) if request.version == Version::HTTP_11 => Err(Refusal::bad_request("the `Host` header is missing")),
        (None, _) => Ok(""),
    }
}

fn shown_key(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(key) = headers.get("x-api-key") {
        return Some(key.as_bytes());
    }
    let (scheme, key) = headers.get(AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(key.trim_ascii())
}

fn matches_pattern(pattern: &str, host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    match pattern.strip_prefix('*') {
        Some(suffix) => suffix.is_empty() || (host.len() > suffix.len() && host.ends_with(suffix)),
        None => host == pattern,
    }
}

fn strange_host(host: &str) -> Refusal {
    let host: String = host.chars().take(128).collect();
    Refusal::forbidden(format!("host `{host}` is not answered on loopback; hint: add it to `protocol.allowed_hosts`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn knock(config: &Config, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let addressing = Addressing::new(&config.default_domain, "");
        let checked = host_of(&parts).and_then(|host| {
            let meaning = addressing.read_host(host, &crate::router::RouteTable::default());
            Guard::new(config, Some(Ipv4Addr::LOCALHOST.into())).check(&parts, host, &meaning, &addressing)
        });
        checked.map_or_else(|refusal| refusal.status().as_u16(), |()| 200)
    }

    #[test]
    fn a_rebound_host_name_is_refused_on_loopback() {
        let config = Config { allowed_hosts: vec!["box".to_owned(), "*.lan".to_owned()], ..Config::default() };
        for host in ["localhost:8080", "127.0.0.1", "[::1]:1", "iris.default.example.com", "x.y.svc.cluster.local", "BOX", "a.lan"] {
            assert_eq!(knock(&config, "GET", "/v2", &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.com", "evil.default.com", "10.0.0.1", "localhost.evil.com", "evilexample.com", "lan", "xbox"] {
            assert_eq!(knock(&config, "GET", "/v2", &[("host", host)]), 403, "{host}");
        }
    }

    #[test]
    fn a_web_page_of_another_origin_is_refused() {
        let config = Config { allowed_origins: vec!["http://localhost:3000".to_owned()], ..Config::default() };
        let from = |origin| knock(&config, "POST", "/v2/models/m/infer", &[("host", "localhost:8080"), ("origin", origin)]);
        assert_eq!([from("http://localhost:8080"), from("http://localhost:3000")], [200, 200]);
        assert_eq!([from("https://evil.com"), from("null"), from("http://localhost:9090")], [403, 403, 403]);
    }

    #[test]
    fn a_key_is_asked_for_on_every_path_but_the_ones_that_tell_life() {
        let config = Config { api_key: Some(ApiKey::new("k1")), ..Config::default() };
        let with = |path, headers: &[(&str, &str)]| knock(&config, "GET", path, &[&[("host", "localhost")], headers].concat());
        for path in OPEN_PATHS {
            assert_eq!(with(path, &[]), 200, "{path}");
        }
        for path in ["/v2", "/v1/models", "/metrics", "/v2/repository/index", "/apis", "//", "/livez/", "/v2/health/ready/../../models"] {
            assert_eq!(with(path, &[]), 401, "{path}");
        }
        assert_eq!(with("/v2", &[("authorization", "Bearer k1")]), 200);
        assert_eq!(with("/v2", &[("authorization", "bearer k1")]), 200);
        assert_eq!(with("/v2", &[("x-api-key", "k1")]), 200);
        for (name, value) in [("authorization", "Bearer k2"), ("authorization", "Basic k1"), ("authorization", "k1"), ("x-api-key", "")] {
            assert_eq!(with("/v2", &[(name, value)]), 401, "{name}: {value}");
        }
    }

    #[test]
    fn two_hosts_or_none_are_a_bad_request() {
        assert_eq!(knock(&Config::default(), "GET", "/v2", &[("host", "localhost"), ("host", "evil.com")]), 400);
        assert_eq!(knock(&Config::default(), "GET", "/v2", &[]), 400);
    }

    #[test]
    fn listening_beyond_loopback_without_a_key_is_refused_with_the_ways_out() {
        let open: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        let message = check_bind(open, &Config::default()).unwrap_err().to_string();
        for way in ["--host 127.0.0.1", "api_key", "proxy", "allow_unauthenticated"] {
            assert!(message.contains(way), "{message}");
        }
        assert_eq!(check_bind(open, &Config { api_key: Some(ApiKey::new("k")), ..Config::default() }), Ok(()));
        assert_eq!(check_bind(open, &Config { allow_unauthenticated: true, ..Config::default() }), Ok(()));
        assert!(check_bind(open, &Config { api_key: Some(ApiKey::new("")), ..Config::default() }).is_err());
        assert_eq!(check_bind("::ffff:127.0.0.1".parse().unwrap(), &Config::default()), Ok(()));
    }
}
