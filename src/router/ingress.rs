//! Where services are reached, as KServe's ConfigMap says it at this moment.

/// Domains and the path below which services answer; an empty one leaves what the doors were started with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ingress {
    /// The domain of services' hosts, and then more that they answer to.
    pub domains: Vec<String>,
    /// The path, e.g. `/serving/{{ .Namespace }}/{{ .Name }}`.
    pub path_template: String,
}
