//! What a graph takes and gives, as far as its steps agree on it.
//!
//! KServe's router says nothing of itself. Clients of the Open Inference Protocol ask before they send, so here a graph says
//! what surely holds: the inputs that every step takes which may get the request, the outputs that every end of it gives. Where
//! steps differ, or lie elsewhere, nothing is said.

use super::{GraphRoute, Graphs, Router};
use crate::api::inference_graph::RouterType;
use crate::inference::{InferenceError, ModelMetadata, TensorSpec};
use crate::resolve::graph::{GraphPlan, Node, Step, Target};
use std::sync::Arc;

/// What the metadata of graphs names as their platform.
const PLATFORM: &str = "kserve_inference_graph";

/// Tensors that are known for sure; nothing where they are not.
type Known = Option<Vec<TensorSpec>>;

impl Graphs {
    /// What a graph says of itself; lists are empty where its steps do not agree.
    ///
    /// # Errors
    /// `ModelNotReady` with the reason.
    pub fn metadata(&self, route: &GraphRoute) -> Result<ModelMetadata, InferenceError> {
        let plan = route.plan()?;
        let view = View { router: &self.shared.router, plan, depth: self.shared.config.depth_max };
        let (inputs, outputs) = (view.inputs(&plan.nodes[0]), view.outputs(&plan.nodes[0]));
        Ok(ModelMetadata {
            platform: PLATFORM.to_owned(),
            inputs: inputs.unwrap_or_default(),
            outputs: outputs.unwrap_or_default(),
            ..ModelMetadata::default()
        })
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
enum Side {
    Inputs,
    Outputs,
}

/// One plan, and how many graphs may still call one another.
struct View<'v> {
    router: &'v Router,
    plan: &'v GraphPlan,
    depth: usize,
}

impl View<'_> {
    fn inputs(&self, node: &Node) -> Known {
        let asked = node.steps.iter().enumerate().filter(|(index, step)| gets_input(node, *index, step));
        agreed(asked.map(|(_, step)| self.inputs_of(step)))
    }

    fn inputs_of(&self, step: &Step) -> Known {
        if step.maps_predictions {
            return None;
        }
        self.of(step, Side::Inputs)
    }

    fn outputs(&self, node: &Node) -> Known {
        match node.router {
            RouterType::Ensemble => {
                let mut all = Vec::new();
                for step in &node.steps {
                    all.extend(self.outputs_of(step)?.into_iter().map(|output| under(&step.key, output)));
                }
                Some(all)
            }
            RouterType::Sequence => {
                let ends = node.steps.iter().enumerate().filter(|(index, _)| may_end(node, *index));
                agreed(ends.map(|(_, step)| self.outputs_of(step)))
            }
            RouterType::Switch | RouterType::Splitter => agreed(node.steps.iter().map(|step| self.outputs_of(step))),
        }
    }

    fn outputs_of(&self, step: &Step) -> Known {
        self.of(step, Side::Outputs)
    }

    fn of(&self, step: &Step, side: Side) -> Known {
        match &step.target {
            Target::Node(place) => self.of_node(self.plan.nodes.get(*place)?, side),
            Target::Service { namespace, name, .. } => {
                let table = self.router.load();
                let metadata = table.service(namespace, name)?.metadata().ok()?;
                Some(match side {
                    Side::Inputs => metadata.inputs.clone(),
                    Side::Outputs => metadata.outputs.clone(),
                })
            }
            Target::Graph { namespace, name } => {
                let called = self.router.load().graph(namespace, name).cloned()?;
                let plan = called.plan().ok()?;
                let view = View { router: self.router, plan, depth: self.depth.checked_sub(1)? };
                view.of_node(plan.nodes.first()?, side)
            }
            Target::Url(_) => None,
        }
    }

    fn of_node(&self, node: &Node, side: Side) -> Known {
        match side {
            Side::Inputs => self.inputs(node),
            Side::Outputs => self.outputs(node),
        }
    }
}

/// Whether a step may be sent what its node was sent.
fn gets_input(node: &Node, index: usize, step: &Step) -> bool {
    node.router != RouterType::Sequence || index == 0 || !step.takes_response
}

/// Whether a sequence may end with the answer of this step. A hard one that failed ends it with an error, which has no outputs.
fn may_end(node: &Node, index: usize) -> bool {
    node.steps.get(index + 1).is_none_or(|next| next.condition.is_some())
}

fn agreed(mut all: impl Iterator<Item = Known>) -> Known {
    let first = all.next()??;
    all.all(|other| other.as_ref() == Some(&first)).then_some(first)
}

/// An Ensemble's output under the key of its step.
fn under(key: &str, output: TensorSpec) -> TensorSpec {
    TensorSpec { name: Arc::from(format!("{key}.{}", output.name)), ..output }
}
