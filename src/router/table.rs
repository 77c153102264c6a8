//! The routes at one moment: found by name, host or label, and changed one service at a time.
//!
//! A table is never edited: a change makes another one that shares all but a few entries with the one before, so that
//! ten thousand services come and go without a copy of all routes for each.

use super::{GraphRoute, Route, Scope, Target};
use crate::inference::InferenceError;
use rpds::{HashTrieMapSync, RedBlackTreeMapSync};
use std::collections::BTreeSet;
use std::sync::Arc;

/// By namespace, then by a name within it.
type Named<K, V> = HashTrieMapSync<String, HashTrieMapSync<K, V>>;

/// All routes at one moment. Immutable; swapped whole.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    default_namespace: String,
    services: Named<String, Arc<Route>>,
    /// By model name, within the default namespace; where several share it, sorted by service: the first one answers.
    default_models: HashTrieMapSync<Arc<str>, Arc<[Arc<Route>]>>,
    /// Every service's route, sorted by namespace and name.
    all: RedBlackTreeMapSync<(String, String), Arc<Route>>,
    /// Routes to single revisions, by label.
    tagged: Named<Arc<str>, Arc<Route>>,
    /// The headers that decide the side of a request somewhere, in lower case.
    sticky_headers: Vec<Arc<str>>,
    graphs: Named<Arc<str>, Arc<GraphRoute>>,
}

/// What leads to one service.
#[derive(Debug, Clone, Default)]
pub struct Roads {
    /// Its route, by its name.
    pub route: Option<Arc<Route>>,
    /// Routes to single revisions, each under a label in front of its host, e.g. `latest-iris`.
    pub labels: Vec<(Arc<str>, Arc<Route>)>,
}

impl Roads {
    /// Whether both lead to the very same routes.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let same_route = match (&self.route, &other.route) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        let labels = |roads: &Self| roads.labels.iter().map(|(label, route)| (Arc::clone(label), Arc::as_ptr(route))).collect::<Vec<_>>();
        same_route && labels(self) == labels(other)
    }

    fn decides_by_header(&self) -> bool {
        self.route.as_ref().is_some_and(|route| sticky_header(route).is_some())
    }
}

impl RouteTable {
    /// A table of services alone; where two of the default namespace share a model name, the one that comes first by
    /// service name answers to it.
    #[must_use]
    pub fn new(default_namespace: impl Into<String>, routes: impl IntoIterator<Item = impl Into<Arc<Route>>>) -> Self {
        let empty = Self { default_namespace: default_namespace.into(), ..Self::default() };
        routes.into_iter().fold(empty, |table, route| {
            let now = Roads { route: Some(route.into()), labels: Vec::new() };
            table.with(&Roads::default(), &now)
        })
    }

    /// The same with what leads to one service now in place of what led to it before.
    #[must_use]
    pub fn with(&self, before: &Roads, now: &Roads) -> Self {
        let mut table = self.clone();
        for (label, route) in &before.labels {
            take(&mut table.tagged, &route.namespace, label);
        }
        match (&before.route, &now.route) {
            // One that keeps its model's name takes its own place.
            (Some(before), Some(now)) if before.service == now.service && before.model_name == now.model_name => {}
            (Some(before), _) => table.take_service(before),
            (None, _) => {}
        }
        if let Some(route) = &now.route {
            table.put_service(route);
        }
        for (label, route) in &now.labels {
            put(&mut table.tagged, &route.namespace, Arc::clone(label), Arc::clone(route));
        }
        if before.decides_by_header() || now.decides_by_header() {
            let headers: BTreeSet<Arc<str>> = table.all.values().filter_map(|route| sticky_header(route)).collect();
            table.sticky_headers = headers.into_iter().collect();
        }
        table
    }

    /// The same table with these graphs.
    #[must_use]
    pub fn with_graphs(mut self, graphs: impl IntoIterator<Item = Arc<GraphRoute>>) -> Self {
        for graph in graphs {
            put(&mut self.graphs, &graph.namespace.clone(), Arc::clone(&graph.name), graph);
        }
        self
    }

    /// The same without one graph.
    #[must_use]
    pub fn without_graph(mut self, namespace: &str, name: &str) -> Self {
        take(&mut self.graphs, namespace, name);
        self
    }

    fn put_service(&mut self, route: &Arc<Route>) {
        put(&mut self.services, &route.namespace, route.service.clone(), Arc::clone(route));
        self.all.insert_mut((route.namespace.clone(), route.service.clone()), Arc::clone(route));
        if route.namespace == self.default_namespace {
            let mut named = self.others_named(route);
            let at = named.partition_point(|other| other.service < route.service);
            named.insert(at, Arc::clone(route));
            self.default_models.insert_mut(Arc::clone(&route.model_name), named.into());
        }
    }

    fn take_service(&mut self, route: &Arc<Route>) {
        take(&mut self.services, &route.namespace, &route.service);
        self.all.remove_mut(&(route.namespace.clone(), route.service.clone()));
        if route.namespace == self.default_namespace {
            match self.others_named(route) {
                named if named.is_empty() => {
                    self.default_models.remove_mut(&route.model_name);
                }
                named => self.default_models.insert_mut(Arc::clone(&route.model_name), named.into()),
            }
        }
    }

    /// The routes of other services of the default namespace that have this one's model name.
    fn others_named(&self, route: &Route) -> Vec<Arc<Route>> {
        self.default_named(&route.model_name).iter().filter(|other| other.service != route.service).cloned().collect()
    }

    /// The routes of the default namespace with that model name, sorted by service; the first one answers to it.
    #[must_use]
    pub fn default_named(&self, model: &str) -> &[Arc<Route>] {
        self.default_models.get(model).map_or(&[], |named| named)
    }

    /// The namespace of models that a bare host names.
    #[must_use]
    pub fn default_namespace(&self) -> &str {
        &self.default_namespace
    }

    /// A graph by namespace and name.
    #[must_use]
    pub fn graph(&self, namespace: &str, name: &str) -> Option<&Arc<GraphRoute>> {
        self.graphs.get(namespace)?.get(name)
    }

    /// A graph of the default namespace.
    #[must_use]
    pub fn default_graph(&self, name: &str) -> Option<&Arc<GraphRoute>> {
        self.graph(&self.default_namespace, name)
    }

    /// The route a request is for.
    ///
    /// # Errors
    /// `ModelNotFound` when no service of that scope has the model.
    pub fn find(&self, scope: Scope<'_>, model: &str) -> Result<&Arc<Route>, InferenceError> {
        let found = match scope {
            Scope::Default => self.default_named(model).first(),
            Scope::Service { namespace, name } => self.service(namespace, name).filter(|route| &*route.model_name == model),
            Scope::Tagged { namespace, label } => {
                self.tagged(namespace, label).map(|(_, route)| route).filter(|route| &*route.model_name == model)
            }
        };
        found.ok_or_else(|| InferenceError::ModelNotFound(model.chars().take(256).collect()))
    }

    /// The route of a service by namespace and name.
    #[must_use]
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Arc<Route>> {
        self.services.get(namespace)?.get(name)
    }

    /// The routes of a scope, sorted by namespace and name: the default namespace's, or the one service's.
    #[must_use]
    pub fn routes(&self, scope: Scope<'_>) -> Vec<Arc<Route>> {
        match scope {
            Scope::Default => self.all().filter(|route| route.namespace == self.default_namespace).cloned().collect(),
            Scope::Service { namespace, name } => self.service(namespace, name).cloned().into_iter().collect(),
            Scope::Tagged { namespace, label } => self.tagged(namespace, label).map(|(_, route)| Arc::clone(route)).into_iter().collect(),
        }
    }

    /// The route to one revision by namespace and label.
    #[must_use]
    pub fn tagged(&self, namespace: &str, label: &str) -> Option<(&Arc<str>, &Arc<Route>)> {
        self.tagged.get(namespace)?.get_key_value(label)
    }

    /// The headers that decide the side of a request somewhere, in lower case.
    #[must_use]
    pub fn sticky_headers(&self) -> &[Arc<str>] {
        &self.sticky_headers
    }

    /// Every route of every namespace, sorted by namespace and name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.all.values()
    }
}

/// The header that decides a request's side, where one does.
fn sticky_header(route: &Route) -> Option<Arc<str>> {
    match &route.target {
        Target::Split(split) => split.sticky().cloned(),
        _ => None,
    }
}

fn put<K: Eq + std::hash::Hash, V>(named: &mut Named<K, V>, namespace: &str, name: K, value: V) {
    let mut inner = named.get(namespace).cloned().unwrap_or_default();
    inner.insert_mut(name, value);
    named.insert_mut(namespace.to_owned(), inner);
}

fn take<K, V, Q>(named: &mut Named<K, V>, namespace: &str, name: &Q)
where
    K: Eq + std::hash::Hash + std::borrow::Borrow<Q>,
    Q: Eq + std::hash::Hash + ?Sized,
{
    let Some(mut inner) = named.get(namespace).cloned() else { return };
    inner.remove_mut(name);
    if inner.is_empty() {
        named.remove_mut(namespace);
    } else {
        named.insert_mut(namespace.to_owned(), inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(namespace: &str, service: &str, model: &str) -> Arc<Route> {
        Arc::new(Route {
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            model_name: model.into(),
            timeout_s: 1,
            batcher_replies: false,
            target: Target::NotReady(String::new()),
        })
    }

    fn roads(route: &Arc<Route>) -> Roads {
        Roads { route: Some(Arc::clone(route)), labels: vec![(format!("prev-{}", route.service).into(), Arc::clone(route))] }
    }

    fn answers(table: &RouteTable, model: &str) -> Option<String> {
        table.find(Scope::Default, model).ok().map(|route| route.service.clone())
    }

    #[test]
    fn a_model_name_that_two_services_share_goes_to_the_first_and_then_to_the_one_that_is_left() {
        let (b, a) = (route("default", "b", "m"), route("default", "a", "m"));
        let table = RouteTable::new("default", [Arc::clone(&b), Arc::clone(&a), route("other", "0", "m")]);
        assert_eq!(answers(&table, "m").as_deref(), Some("a"));
        let left = table.with(&Roads { route: Some(a), labels: Vec::new() }, &Roads::default());
        assert_eq!(answers(&left, "m").as_deref(), Some("b"));
        let none = left.with(&Roads { route: Some(b), labels: Vec::new() }, &Roads::default());
        assert_eq!(answers(&none, "m"), None);
        assert_eq!(answers(&table, "m").as_deref(), Some("a"), "the first table is as it was");
    }

    #[test]
    fn a_service_that_changes_its_models_name_is_found_under_the_new_one_only() {
        let (old, new) = (route("default", "a", "m"), route("default", "a", "n"));
        let table = RouteTable::new("default", [Arc::clone(&old)]).with(&roads(&old), &roads(&new));
        assert_eq!((answers(&table, "m"), answers(&table, "n").as_deref()), (None, Some("a")));
        assert!(Arc::ptr_eq(table.service("default", "a").unwrap(), &new));
        assert!(Arc::ptr_eq(table.tagged("default", "prev-a").unwrap().1, &new));
        assert_eq!(table.all().count(), 1);
    }

    #[test]
    fn a_service_that_goes_takes_its_labels_along_and_leaves_those_of_others() {
        let (a, b) = (route("default", "a", "a"), route("default", "b", "b"));
        let table = RouteTable::new("default", Vec::<Arc<Route>>::new()).with(&Roads::default(), &roads(&a));
        let table = table.with(&Roads::default(), &roads(&b)).with(&roads(&a), &Roads::default());
        assert!(table.tagged("default", "prev-a").is_none() && table.tagged("default", "prev-b").is_some());
        assert_eq!(table.routes(Scope::Default).len(), 1);
        assert!(roads(&b).is_same(&roads(&b)) && !roads(&a).is_same(&Roads::default()));
    }
}
