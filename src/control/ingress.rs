//! The hosts that services have: told by their statuses, answered by the doors, followed as KServe's ConfigMap changes.

use super::mind::Mind;
use crate::api::deployment_mode::DeploymentMode;
use crate::api::inference_service_config::{InferenceServiceConfig, IngressSettings};
use crate::api::metadata::ObjectMeta;
use crate::api::{Resource, ResourceKey};
use crate::router::Ingress;
use crate::store::{Snapshot, Stored};

/// The form of hosts in Standard mode, where no other is set.
const DOMAIN_TEMPLATE: &str = "{{.Name}}-{{.Namespace}}.{{.IngressDomain}}";

/// How hosts are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hosts {
    domain: String,
    additional: Vec<String>,
    scheme: String,
    /// Only where it is another one than KServe's.
    template: Option<String>,
}

impl Hosts {
    /// As the ConfigMap says, and below `domain` where it does not.
    pub(super) fn of(settings: Option<&InferenceServiceConfig>, domain: &str) -> Self {
        let ingress = settings.and_then(|settings| settings.ingress.clone()).unwrap_or_default();
        let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
        let plain: String = ingress.domain_template.split_whitespace().collect();
        Self {
            domain: or(ingress.ingress_domain, domain),
            additional: ingress.additional_ingress_domains,
            scheme: or(ingress.url_scheme, "http"),
            template: (!plain.is_empty() && plain != DOMAIN_TEMPLATE).then_some(ingress.domain_template),
        }
    }

    /// The domain that hosts lie below.
    pub(super) fn domain(&self) -> &str {
        &self.domain
    }

    /// `http` or `https`.
    pub(super) fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The host of a service, or of its component: `iris.default.example.com`, in Standard mode `iris-default.example.com` or
    /// as the template says.
    pub(super) fn host(&self, name: &str, metadata: &ObjectMeta, mode: DeploymentMode) -> String {
        self.below(&self.domain, name, metadata, mode)
    }

    /// The hosts that only the template gives, of a service and of its predictor, below every domain.
    fn by_template(&self, metadata: &ObjectMeta, mode: DeploymentMode) -> Vec<String> {
        if self.template.is_none() || mode != DeploymentMode::Standard {
            return Vec::new();
        }
        let names = [metadata.name.clone(), format!("{}-predictor", metadata.name)];
        let domains = || std::iter::once(&self.domain).chain(&self.additional);
        let hosts = names.iter().flat_map(|name| domains().map(move |domain| self.below(domain, name, metadata, mode)));
        hosts.map(|host| host.to_ascii_lowercase()).collect()
    }

    fn below(&self, domain: &str, name: &str, metadata: &ObjectMeta, mode: DeploymentMode) -> String {
        let namespace = &metadata.namespace;
        if mode == DeploymentMode::Knative {
            return format!("{name}.{namespace}.{domain}");
        }
        let by_template = self.template.as_ref().and_then(|template| filled(template, name, domain, metadata));
        by_template.unwrap_or_else(|| format!("{name}-{namespace}.{domain}"))
    }
}

/// A template with its placeholders filled; nothing where one is unknown, or where the result is no host name.
fn filled(template: &str, name: &str, domain: &str, metadata: &ObjectMeta) -> Option<String> {
    let (mut host, mut rest) = (String::new(), template);
    while let Some((text, after)) = rest.split_once("{{") {
        let (placeholder, after) = after.split_once("}}")?;
        host.push_str(text);
        host.push_str(match placeholder.trim() {
            ".Name" => name,
            ".Namespace" => &metadata.namespace,
            ".IngressDomain" => domain,
            other => match other.strip_prefix(".Labels.") {
                Some(label) => metadata.labels.get(label)?,
                None => metadata.annotations.get(other.strip_prefix(".Annotations.")?)?,
            },
        });
        rest = after;
    }
    host.push_str(rest);
    let good = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.');
    (host.contains('.') && host.split('.').all(|label| !label.is_empty()) && host.chars().all(good)).then_some(host)
}

/// What the doors follow; nothing where the ConfigMap says nothing of it.
pub(super) fn ingress_of(settings: Option<&InferenceServiceConfig>) -> Option<Ingress> {
    let IngressSettings { ingress_domain, additional_ingress_domains, path_template, domain_template, .. } = settings?.ingress.clone()?;
    let domains = [ingress_domain].into_iter().chain(additional_ingress_domains).filter(|domain| !domain.is_empty()).collect();
    let ingress = Ingress { domains, path_template, ..Ingress::default() };
    // With a template of hosts alone, too, there is something to follow: the hosts.
    (ingress != Ingress::default() || !domain_template.is_empty()).then_some(ingress)
}

/// Brings the hosts of a service that only a template gives to what is asked for.
pub(super) fn settle(mind: &Mind, snapshot: &Snapshot, key: &ResourceKey, stored: &Stored) {
    let Resource::InferenceService(service) = &stored.defaulted else { return };
    let mode = DeploymentMode::of(&service.metadata, mind.mode_of(stored));
    let hosts = Hosts::of(snapshot.settings(), &mind.config.domain).by_template(&service.metadata, mode);
    mind.services.set_hosts(key, hosts);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(ingress: &str) -> Hosts {
        let settings = InferenceServiceConfig { ingress: Some(serde_json::from_str(ingress).unwrap()), ..Default::default() };
        Hosts::of(Some(&settings), "example.com")
    }

    fn metadata() -> ObjectMeta {
        serde_json::from_str(r#"{"name":"iris","namespace":"team","labels":{"stage":"live"}}"#).unwrap()
    }

    #[test]
    fn hosts_have_the_form_of_their_mode_below_the_domain_that_is_set() {
        let (hosts, metadata) =
            (hosts(r#"{"ingressDomain":"a.b","domainTemplate":"{{ .Name }}-{{ .Namespace }}.{{ .IngressDomain }}"}"#), metadata());
        assert_eq!(hosts.host("iris", &metadata, DeploymentMode::Knative), "iris.team.a.b");
        assert_eq!(hosts.host("iris", &metadata, DeploymentMode::Standard), "iris-team.a.b");
        assert!(hosts.by_template(&metadata, DeploymentMode::Standard).is_empty(), "the doors know these by themselves");
        assert_eq!(Hosts::of(None, "example.com").host("iris", &metadata, DeploymentMode::Knative), "iris.team.example.com");
    }

    #[test]
    fn a_template_gives_hosts_below_every_domain_and_one_that_gives_none_is_passed_over() {
        let template = r#"{"additionalIngressDomains":["c.d"],"domainTemplate":"{{.Labels.stage}}.{{.Name}}.{{ .IngressDomain }}"}"#;
        assert_eq!(
            hosts(template).by_template(&metadata(), DeploymentMode::Standard),
            ["live.iris.example.com", "live.iris.c.d", "live.iris-predictor.example.com", "live.iris-predictor.c.d",]
        );
        for wrong in ["{{.Labels.none}}.{{.Name}}", "{{.Name}}_x.y", "{{.Name", "{{.Nme}}.x"] {
            let hosts = hosts(&format!(r#"{{"domainTemplate":"{wrong}"}}"#));
            assert_eq!(hosts.host("iris", &metadata(), DeploymentMode::Standard), "iris-team.example.com", "{wrong}");
        }
    }
}
