//! The one way to other machines: which hosts and addresses may be asked, redirects, certificates, time limits.
//!
//! Every hop is checked: its scheme and host before it is asked, its address when the connection is made, so that a name
//! that leads elsewhere the second time does not get through.

use super::address::{self, Reach};
use super::{Refusal, may_pass, retry_after};
use crate::causes;
use crate::storage::{Config, StorageError};
use futures::TryStreamExt;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{Certificate, Client, Identity, Method, Response, StatusCode, redirect};
use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use url::Url;

/// Redirects that are followed, each to an allowed host.
const REDIRECTS_MAX: usize = 5;
/// Bytes of an answer that is read whole: a listing, a manifest, a token.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// Asks other machines, within the rules. Clients start with the first model that needs them.
#[derive(Debug)]
pub(in super::super) struct Net {
    rules: Arc<Rules>,
    connect_timeout: Duration,
    stall_timeout: Duration,
    clients: Mutex<BTreeMap<ClientKey, Client>>,
}

/// Who may be asked.
#[derive(Debug)]
struct Rules {
    /// Hosts that models may come from; empty allows any.
    allowed_hosts: Vec<String>,
    /// Hosts that may have any address; nothing: local names as a user wrote them.
    private_hosts: Option<Vec<String>>,
    /// Proxies of the environment, which are this network's own.
    proxies: HashSet<String>,
}

/// How certificates are handled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Tls {
    /// Whether the server's is not checked.
    pub(super) skip_verify: bool,
    /// Certificates that are trusted beside the system's, PEM.
    pub(super) ca_pem: Option<String>,
    /// The client's own, with its key, PEM.
    pub(super) identity_pem: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ClientKey {
    tls: Tls,
    private: bool,
}

/// One question to a machine.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    /// Sent along every redirect.
    pub(super) headers: HeaderMap,
    /// Sent to the machine that was asked first, and to no other.
    pub(super) secrets: HeaderMap,
    pub(super) tls: Tls,
    /// Hosts that are allowed for this kind of source; empty allows any.
    pub(super) hosts: Arc<[String]>,
    /// Whether redirects are followed.
    pub(super) follow: bool,
}

/// An address that may not be asked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct RefusedAddress(String);

impl RefusedAddress {
    pub(super) const fn new(message: String) -> Self {
        Self(message)
    }
}

impl Request {
    pub(super) fn get(url: Url) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            secrets: HeaderMap::new(),
            tls: Tls::default(),
            hosts: Arc::from([]),
            follow: true,
        }
    }
}

impl Net {
    /// `proxies` are the hosts of the environment's proxies.
    pub(in super::super) fn new(config: &Config, proxies: HashSet<String>) -> Self {
        let rules = Rules { allowed_hosts: config.allowed_hosts.clone(), private_hosts: config.private_hosts.clone(), proxies };
        Self {
            rules: Arc::new(rules),
            connect_timeout: Duration::from_secs(config.http.connect_timeout_s),
            stall_timeout: Duration::from_secs(config.download.stall_timeout_s),
            clients: Mutex::default(),
        }
    }

    /// Asks, and follows redirects; the answer has any status but that of a redirect that was followed.
    ///
    /// # Errors
    /// `Wrong`: somebody on the way may not be asked. `MayPass`: nobody answered.
    pub(super) async fn send(&self, mut request: Request) -> Result<Response, Refusal> {
        let mut private = self.may_be_private(&request.url);
        for _ in 0..=REDIRECTS_MAX {
            self.check(&request.url, &request.hosts, private)?;
            let shown = without_secrets(request.url.as_str());
            let response = self.ask(&request, private).await?;
            let Some(target) = redirect_of(&response).filter(|_| request.follow) else { return Ok(response) };
            let target = request.url.join(&target).map_err(|_| Refusal::Wrong(format!("{shown}: redirected to no URL")))?;
            if request.url.scheme() == "https" && target.scheme() != "https" {
                return Err(Refusal::Wrong(format!("{shown}: redirected away from https to `{}`", without_secrets(target.as_str()))));
            }
            if request.url.origin() != target.origin() {
                request.secrets.clear();
            }
            // A server of this network may lead further into it, one of the internet may not.
            private = private || self.rules.is_listed(target.host_str().unwrap_or_default());
            request.url = target;
        }
        Err(Refusal::Wrong(format!("{}: more than {REDIRECTS_MAX} redirects", without_secrets(request.url.as_str()))))
    }

    /// Asks for a text and reads it whole. `says` explains a status that is no success.
    pub(super) async fn text(&self, request: Request, says: impl Fn(StatusCode, &str) -> String) -> Result<(HeaderMap, Vec<u8>), Refusal> {
        let shown = without_secrets(request.url.as_str());
        let response = self.send(request).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = whole(response, &shown).await?;
        if status.is_success() {
            return Ok((headers, body));
        }
        let message = says(status, &String::from_utf8_lossy(&body));
        Err(if may_pass(status) { Refusal::MayPass(message, retry_after(&headers)) } else { Refusal::Wrong(message) })
    }

    /// The client to ask an address with, after it was checked; for those who send on their own and follow no redirects.
    pub(super) fn client_for(&self, url: &Url, tls: &Tls) -> Result<Client, Refusal> {
        let private = self.may_be_private(url);
        self.check(url, &[], private)?;
        self.client(tls, private).map_err(Refusal::from)
    }

    /// The addresses at which that host may be asked, none for one that is an address itself; for programs that ask on
    /// their own and must ask there.
    pub(super) async fn addresses(&self, url: &Url) -> Result<Vec<IpAddr>, Refusal> {
        let private = self.may_be_private(url);
        self.check(url, &[], private)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        if address::literal(&host).is_some() {
            return Ok(Vec::new());
        }
        let shown = without_secrets(url.as_str());
        match look_up(&self.rules, &host, private).await {
            Ok(found) => Ok(found.into_iter().map(|address| address.ip()).collect()),
            Err(error) if error.downcast_ref::<RefusedAddress>().is_some() => Err(Refusal::Wrong(format!("{shown}: {error}"))),
            Err(error) => Err(Refusal::MayPass(format!("{shown}: cannot look up `{host}`: {error}"), None)),
        }
    }

    async fn ask(&self, request: &Request, private: bool) -> Result<Response, Refusal> {
        let client = self.client(&request.tls, private).map_err(Refusal::from)?;
        let mut headers = request.headers.clone();
        headers.extend(request.secrets.clone());
        let asked = client.request(request.method.clone(), request.url.clone()).headers(headers).send().await;
        asked.map_err(|error| broken(&without_secrets(request.url.as_str()), error))
    }

    fn may_be_private(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        match &self.rules.private_hosts {
            None => address::is_local_name(host),
            Some(_) => self.rules.is_listed(host),
        }
    }

    fn check(&self, url: &Url, hosts: &[String], private: bool) -> Result<(), Refusal> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refusal::Wrong(format!("not an address of the web: `{}`", without_secrets(url.as_str()))));
        }
        let host = url.host_str().unwrap_or_default();
        for (allowed, key) in [(&*self.rules.allowed_hosts, "storage.allowed_hosts"), (hosts, "storage.http.allowed_hosts")] {
            if !allowed.is_empty() && !is_among(allowed, host) {
                return Err(Refusal::Wrong(format!("models may not come from host `{host}`: `{key}` is `{}`", allowed.join("`, `"))));
            }
        }
        match address::literal(host) {
            Some(ip) if !self.rules.admits(host, ip, private) => Err(Refusal::Wrong(refused(host, ip).0)),
            _ => Ok(()),
        }
    }

    fn client(&self, tls: &Tls, private: bool) -> Result<Client, StorageError> {
        let key = ClientKey { tls: tls.clone(), private };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = self.build(tls, private)?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    fn build(&self, tls: &Tls, private: bool) -> Result<Client, StorageError> {
        let wrong = |what: &str, error: &dyn Error| StorageError::Wrong(format!("{what}: {}", causes::in_one_line(error)));
        let mut builder = Client::builder()
            .user_agent(concat!("kserved/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.connect_timeout)
            // Later than a download looks for it, which has better words.
            .read_timeout(self.stall_timeout + Duration::from_secs(1))
            .redirect(redirect::Policy::none())
            .dns_resolver(Arc::new(Checked { rules: Arc::clone(&self.rules), private }))
            // Parts that are fetched side by side want connections of their own.
            .http1_only();
        if tls.skip_verify {
            tracing::warn!("certificates of a model store are not checked: anybody on the way may read its keys and replace models");
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        if let Some(pem) = &tls.ca_pem {
            let certificates = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| wrong("the CA bundle is not PEM", &error))?;
            builder = builder.tls_certs_merge(certificates);
        }
        if let Some(pem) = &tls.identity_pem {
            let identity = Identity::from_pem(pem.as_bytes()).map_err(|error| wrong("the client's certificate is not PEM", &error))?;
            builder = builder.identity(identity);
        }
        builder.build().map_err(|error| wrong("cannot start the web client", &error))
    }
}

impl Rules {
    fn is_listed(&self, host: &str) -> bool {
        self.private_hosts.as_ref().is_some_and(|hosts| is_among(hosts, host))
    }

    fn admits(&self, host: &str, ip: IpAddr, private: bool) -> bool {
        match address::reach(ip) {
            Reach::Public => true,
            Reach::Private => private || self.is_listed(host),
            // Only by its own name: `*` is meant for one's network.
            Reach::Forbidden => self.private_hosts.iter().flatten().any(|listed| listed.eq_ignore_ascii_case(host)),
        }
    }
}

/// Looks names up, and keeps back the addresses that may not be asked.
#[derive(Debug)]
struct Checked {
    rules: Arc<Rules>,
    private: bool,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let (rules, private) = (Arc::clone(&self.rules), self.private);
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = look_up(&rules, &host, private).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

async fn look_up(rules: &Rules, host: &str, private: bool) -> Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
    let is_proxy = rules.proxies.contains(host);
    let admitted: Vec<SocketAddr> = found.iter().copied().filter(|address| is_proxy || rules.admits(host, address.ip(), private)).collect();
    match (admitted.is_empty(), found.first()) {
        (true, Some(first)) => Err(Box::new(refused(host, first.ip()))),
        _ => Ok(admitted),
    }
}

fn refused(host: &str, ip: IpAddr) -> RefusedAddress {
    let what = match address::reach(ip) {
        Reach::Forbidden => "a link-local address or a cloud's metadata service",
        _ => "an address of this machine or its network",
    };
    let leads = if address::literal(host).is_some() { format!("`{host}` is") } else { format!("`{host}` leads to `{ip}`,") };
    RefusedAddress(format!(
        "{leads} {what}, which models may not come from\nhint: if it is your own server, add `{host}` to `storage.private_hosts`"
    ))
}

/// An answer's body, within bounds.
pub(super) async fn whole(response: Response, shown: &str) -> Result<Vec<u8>, Refusal> {
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.try_next().await.map_err(|error| broken(shown, error))? {
        body.extend_from_slice(&chunk);
        if body.len() > TEXT_BYTES_MAX {
            return Err(Refusal::Wrong(format!("{shown}: the answer has more than {TEXT_BYTES_MAX} bytes")));
        }
    }
    Ok(body)
}

/// Whether a host is one of a list: by name, by `*.end`, or by `*`.
pub(super) fn is_among(hosts: &[String], host: &str) -> bool {
    let is = |listed: &String| match listed.strip_prefix('*') {
        Some(end) => end.is_empty() || host.to_ascii_lowercase().ends_with(&end.to_ascii_lowercase()),
        None => listed.eq_ignore_ascii_case(host),
    };
    hosts.iter().any(is)
}

fn redirect_of(response: &Response) -> Option<String> {
    let followed = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let target = response.headers().get(LOCATION)?.to_str().ok()?;
    followed.then(|| target.to_owned())
}

/// What a connection that broke means.
pub(super) fn broken(shown: &str, error: reqwest::Error) -> Refusal {
    let builder = error.is_builder();
    let error = error.without_url();
    broken_by(shown, &error, builder)
}

/// The same for errors of any kind.
pub(super) fn broken_by(shown: &str, error: &(dyn Error + 'static), is_wrong: bool) -> Refusal {
    let mut cause = Some(error);
    while let Some(inner) = cause {
        if let Some(refused) = inner.downcast_ref::<RefusedAddress>() {
            return Refusal::Wrong(format!("{shown}: {refused}"));
        }
        cause = inner.source();
    }
    let message = format!("{shown}: {}", causes::in_one_line(error));
    if message.contains("invalid peer certificate") || message.contains("certificate verify failed") {
        let hint = "name the certificate to trust (docs/storage.md#certificates)";
        return Refusal::Wrong(format!("{message}\nhint: {hint}"));
    }
    if is_wrong { Refusal::Wrong(message) } else { Refusal::MayPass(message, None) }
}

/// An address without what may be secret in it: user, password, the query of a signed address.
#[must_use]
pub fn without_secrets(uri: &str) -> String {
    let Ok(mut url) = Url::parse(uri) else { return uri.split(['?', '#']).next().unwrap_or_default().to_owned() };
    // Addresses without a host have no user to take away.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.set_fragment(None);
    if url.query().is_some() {
        url.set_query(Some("…"));
        return url.as_str().replace("?%E2%80%A6", "?…");
    }
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(config: &Config) -> Net {
        Net::new(config, HashSet::new())
    }

    fn check(net: &Net, uri: &str) -> Result<(), String> {
        let url = Url::parse(uri).unwrap();
        let private = net.may_be_private(&url);
        net.check(&url, &[], private).map_err(|refusal| StorageError::from(refusal).to_string())
    }

    #[test]
    fn secrets_of_an_address_are_not_printed() {
        assert_eq!(without_secrets("https://me:pw@h/a/m.onnx?sig=x#y"), "https://h/a/m.onnx?…");
        assert_eq!(without_secrets("s3://bucket/m"), "s3://bucket/m");
        assert_eq!(without_secrets("not a url?sig=x"), "not a url");
    }

    #[test]
    fn metadata_services_are_asked_only_by_their_own_name_in_the_list() {
        for uri in ["http://169.254.169.254/latest", "http://[fd00:ec2::254]/", "http://0.0.0.0/", "http://[::ffff:169.254.169.254]/"] {
            assert!(check(&net(&Config::default()), uri).unwrap_err().contains("metadata service"), "{uri}");
            let any = Config { private_hosts: Some(vec!["*".to_owned()]), ..Config::default() };
            assert!(check(&net(&any), uri).is_err(), "{uri}");
        }
        let listed = Config { private_hosts: Some(vec!["169.254.169.254".to_owned()]), ..Config::default() };
        assert_eq!(check(&net(&listed), "http://169.254.169.254/latest"), Ok(()));
    }

    #[test]
    fn private_addresses_are_asked_as_written_by_default_and_never_with_an_empty_list() {
        for uri in ["http://127.0.0.1:9000/m", "http://[::1]/m", "http://192.168.1.5/m"] {
            assert_eq!(check(&net(&Config::default()), uri), Ok(()));
            let none = Config { private_hosts: Some(Vec::new()), ..Config::default() };
            assert!(check(&net(&none), uri).unwrap_err().contains("`storage.private_hosts`"), "{uri}");
        }
    }

    #[test]
    fn a_server_of_the_internet_leads_nowhere_into_this_network() {
        let net = net(&Config::default());
        for uri in ["http://127.0.0.1/m", "http://192.168.1.5/m", "http://[fd12::1]/m"] {
            let target = Url::parse(uri).unwrap();
            let asked_outside = net.may_be_private(&Url::parse("https://models.example.com/m").unwrap());
            assert!(net.check(&target, &[], asked_outside).is_err(), "{uri}");
        }
    }

    #[test]
    fn hosts_are_allowed_by_name_or_by_their_end() {
        let config = Config { allowed_hosts: vec!["a.example".to_owned(), "*.b.example".to_owned()], ..Config::default() };
        let net = net(&config);
        assert!(check(&net, "https://A.example/m").is_ok() && check(&net, "https://x.b.example/m").is_ok());
        let message = check(&net, "https://b.example/m").unwrap_err();
        assert!(message.contains("`b.example`") && message.contains("`storage.allowed_hosts` is `a.example`"), "{message}");
    }

    #[tokio::test]
    async fn a_name_that_leads_into_this_network_is_refused_when_it_is_looked_up() {
        let rules = |private_hosts| Rules { allowed_hosts: Vec::new(), private_hosts, proxies: HashSet::new() };
        let error = look_up(&rules(None), "localhost", false).await.unwrap_err();
        assert!(error.to_string().contains("`localhost` leads to") && error.downcast_ref::<RefusedAddress>().is_some(), "{error}");
        assert!(look_up(&rules(None), "localhost", true).await.is_ok());
        assert!(look_up(&rules(Some(vec!["localhost".to_owned()])), "localhost", false).await.is_ok());
    }
}
