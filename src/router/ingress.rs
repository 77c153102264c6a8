//! Where services are reached, as KServe's ConfigMap says it at this moment.

use std::collections::HashMap;

/// Domains and the path below which services answer; an empty one leaves what the doors were started with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ingress {
    /// The domain of services' hosts, and then more that they answer to.
    pub domains: Vec<String>,
    /// The path, e.g. `/serving/{{ .Namespace }}/{{ .Name }}`.
    pub path_template: String,
    /// Namespace and name of services by a host that only a template gives them, in lower case.
    pub hosts: HashMap<String, (String, String)>,
}
