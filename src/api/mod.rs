//! KServe's resources as the user writes them.

pub mod component;
pub mod core;
pub mod deployment_mode;
pub mod gpu;
pub mod inference_graph;
pub mod inference_service;
pub mod inference_service_config;
pub(crate) mod inline;
pub mod local_model;
pub mod metadata;
pub mod pod;
pub mod problem;
pub mod quantity;
pub mod serving_runtime;
pub mod status;
pub mod storage_container;

use std::fmt;
use std::str::FromStr;

use self::core::{ConfigMap, Secret, ServiceAccount};
use inference_graph::InferenceGraph;
use inference_service::InferenceService;
use local_model::{LocalModelCache, LocalModelNode, LocalModelNodeGroup};
use metadata::ObjectMeta;
use serving_runtime::ServingRuntime;
use storage_container::ClusterStorageContainer;

/// The container of a runtime, or of a custom predictor, that answers requests.
pub const SERVER_CONTAINER: &str = "kserve-container";
/// The container beside it that changes requests and answers.
pub const TRANSFORMER_CONTAINER: &str = "transformer-container";
/// The namespace of a resource that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The kinds of resource kserved reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `serving.kserve.io/v1beta1`, namespaced.
    InferenceService,
    /// `serving.kserve.io/v1alpha1`, namespaced.
    InferenceGraph,
    /// `serving.kserve.io/v1alpha1`, namespaced.
    ServingRuntime,
    /// `serving.kserve.io/v1alpha1`, of the whole cluster.
    ClusterServingRuntime,
    /// `serving.kserve.io/v1alpha1`, of the whole cluster.
    ClusterStorageContainer,
    /// `serving.kserve.io/v1alpha1`, of the whole cluster.
    LocalModelCache,
    /// `serving.kserve.io/v1alpha1`, namespaced.
    LocalModelNamespaceCache,
    /// `serving.kserve.io/v1alpha1`, of the whole cluster.
    LocalModelNodeGroup,
    /// `serving.kserve.io/v1alpha1`, of the whole cluster.
    LocalModelNode,
    /// `v1`, namespaced: KServe's own settings, and certificates of loggers.
    ConfigMap,
    /// `v1`, namespaced.
    Secret,
    /// `v1`, namespaced.
    ServiceAccount,
}

impl Kind {
    /// Every kind that is served.
    pub const ALL: [Self; 12] = [
        Self::InferenceService,
        Self::InferenceGraph,
        Self::ServingRuntime,
        Self::ClusterServingRuntime,
        Self::ClusterStorageContainer,
        Self::LocalModelCache,
        Self::LocalModelNamespaceCache,
        Self::LocalModelNodeGroup,
        Self::LocalModelNode,
        Self::ConfigMap,
        Self::Secret,
        Self::ServiceAccount,
    ];

    /// The kind as written in YAML.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InferenceService => "InferenceService",
            Self::InferenceGraph => "InferenceGraph",
            Self::ServingRuntime => "ServingRuntime",
            Self::ClusterServingRuntime => "ClusterServingRuntime",
            Self::ClusterStorageContainer => "ClusterStorageContainer",
            Self::LocalModelCache => "LocalModelCache",
            Self::LocalModelNamespaceCache => "LocalModelNamespaceCache",
            Self::LocalModelNodeGroup => "LocalModelNodeGroup",
            Self::LocalModelNode => "LocalModelNode",
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::ServiceAccount => "ServiceAccount",
        }
    }

    /// The plural of the URL, e.g. `inferenceservices`.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::InferenceService => "inferenceservices",
            Self::InferenceGraph => "inferencegraphs",
            Self::ServingRuntime => "servingruntimes",
            Self::ClusterServingRuntime => "clusterservingruntimes",
            Self::ClusterStorageContainer => "clusterstoragecontainers",
            Self::LocalModelCache => "localmodelcaches",
            Self::LocalModelNamespaceCache => "localmodelnamespacecaches",
            Self::LocalModelNodeGroup => "localmodelnodegroups",
            Self::LocalModelNode => "localmodelnodes",
            Self::ConfigMap => "configmaps",
            Self::Secret => "secrets",
            Self::ServiceAccount => "serviceaccounts",
        }
    }

    /// `serving.kserve.io/v1beta1`, `serving.kserve.io/v1alpha1`, or `v1` for Kubernetes' own kinds.
    #[must_use]
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::InferenceService => "serving.kserve.io/v1beta1",
            Self::ConfigMap | Self::Secret | Self::ServiceAccount => "v1",
            _ => "serving.kserve.io/v1alpha1",
        }
    }

    /// Names one may type for the kind: plural, singular, short names, as kubectl takes them.
    #[must_use]
    pub const fn aliases(self) -> &'static [&'static str] {
        match self {
            Self::InferenceService => &["inferenceservices", "inferenceservice", "isvc"],
            Self::InferenceGraph => &["inferencegraphs", "inferencegraph", "ig"],
            Self::ServingRuntime => &["servingruntimes", "servingruntime", "sr"],
            Self::ClusterServingRuntime => &["clusterservingruntimes", "clusterservingruntime", "csr"],
            Self::ClusterStorageContainer => &["clusterstoragecontainers", "clusterstoragecontainer", "csc"],
            Self::LocalModelCache => &["localmodelcaches", "localmodelcache", "lmc"],
            Self::LocalModelNamespaceCache => &["localmodelnamespacecaches", "localmodelnamespacecache", "lmnc"],
            Self::LocalModelNodeGroup => &["localmodelnodegroups", "localmodelnodegroup", "lmng"],
            Self::LocalModelNode => &["localmodelnodes", "localmodelnode", "lmn"],
            Self::ConfigMap => &["configmaps", "configmap", "cm"],
            Self::Secret => &["secrets", "secret"],
            Self::ServiceAccount => &["serviceaccounts", "serviceaccount", "sa"],
        }
    }

    /// Whether the kind is Kubernetes' own, and not KServe's.
    #[must_use]
    pub const fn is_core(self) -> bool {
        matches!(self, Self::ConfigMap | Self::Secret | Self::ServiceAccount)
    }

    /// Whether resources of this kind live in a namespace.
    #[must_use]
    pub const fn namespaced(self) -> bool {
        !matches!(
            self,
            Self::ClusterServingRuntime
                | Self::ClusterStorageContainer
                | Self::LocalModelCache
                | Self::LocalModelNodeGroup
                | Self::LocalModelNode
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = ();

    /// Reads the YAML name.
    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or(())
    }
}

/// What tells one resource from all others; prints as `InferenceService/default/iris`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceKey {
    /// The kind.
    pub kind: Kind,
    /// The namespace; empty for kinds of the whole cluster.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind, self.name)
        } else {
            write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// Any resource kserved reads.
#[derive(Debug, Clone, PartialEq)]
pub enum Resource {
    /// A model and how it is to be served.
    InferenceService(Box<InferenceService>),
    /// Several services as one.
    InferenceGraph(Box<InferenceGraph>),
    /// What serves models of some formats, in one namespace.
    ServingRuntime(Box<ServingRuntime>),
    /// What serves models of some formats, everywhere.
    ClusterServingRuntime(Box<ServingRuntime>),
    /// What fetches models from URIs of some form.
    ClusterStorageContainer(Box<ClusterStorageContainer>),
    /// A model that is fetched before anybody asks.
    LocalModelCache(Box<LocalModelCache>),
    /// The same for one namespace.
    LocalModelNamespaceCache(Box<LocalModelCache>),
    /// Nodes that keep models.
    LocalModelNodeGroup(Box<LocalModelNodeGroup>),
    /// What one node keeps.
    LocalModelNode(Box<LocalModelNode>),
    /// Settings by name.
    ConfigMap(Box<ConfigMap>),
    /// Secret values by name.
    Secret(Box<Secret>),
    /// An account whose secrets open stores.
    ServiceAccount(Box<ServiceAccount>),
}

impl Resource {
    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::InferenceService(_) => Kind::InferenceService,
            Self::InferenceGraph(_) => Kind::InferenceGraph,
            Self::ServingRuntime(_) => Kind::ServingRuntime,
            Self::ClusterServingRuntime(_) => Kind::ClusterServingRuntime,
            Self::ClusterStorageContainer(_) => Kind::ClusterStorageContainer,
            Self::LocalModelCache(_) => Kind::LocalModelCache,
            Self::LocalModelNamespaceCache(_) => Kind::LocalModelNamespaceCache,
            Self::LocalModelNodeGroup(_) => Kind::LocalModelNodeGroup,
            Self::LocalModelNode(_) => Kind::LocalModelNode,
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::Secret(_) => Kind::Secret,
            Self::ServiceAccount(_) => Kind::ServiceAccount,
        }
    }

    /// The `metadata` block.
    #[must_use]
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::InferenceService(service) => &service.metadata,
            Self::InferenceGraph(graph) => &graph.metadata,
            Self::ServingRuntime(runtime) | Self::ClusterServingRuntime(runtime) => &runtime.metadata,
            Self::ClusterStorageContainer(container) => &container.metadata,
            Self::LocalModelCache(cache) | Self::LocalModelNamespaceCache(cache) => &cache.metadata,
            Self::LocalModelNodeGroup(group) => &group.metadata,
            Self::LocalModelNode(node) => &node.metadata,
            Self::ConfigMap(map) => &map.metadata,
            Self::Secret(secret) => &secret.metadata,
            Self::ServiceAccount(account) => &account.metadata,
        }
    }

    /// The `metadata` block, to be changed.
    #[must_use]
    pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::InferenceService(service) => &mut service.metadata,
            Self::InferenceGraph(graph) => &mut graph.metadata,
            Self::ServingRuntime(runtime) | Self::ClusterServingRuntime(runtime) => &mut runtime.metadata,
            Self::ClusterStorageContainer(container) => &mut container.metadata,
            Self::LocalModelCache(cache) | Self::LocalModelNamespaceCache(cache) => &mut cache.metadata,
            Self::LocalModelNodeGroup(group) => &mut group.metadata,
            Self::LocalModelNode(node) => &mut node.metadata,
            Self::ConfigMap(map) => &mut map.metadata,
            Self::Secret(secret) => &mut secret.metadata,
            Self::ServiceAccount(account) => &mut account.metadata,
        }
    }

    /// What tells this resource from all others.
    #[must_use]
    pub fn key(&self) -> ResourceKey {
        let metadata = self.metadata();
        ResourceKey { kind: self.kind(), namespace: metadata.namespace.clone(), name: metadata.name.clone() }
    }
}
