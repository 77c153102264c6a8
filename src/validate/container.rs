//! Rules for containers wherever they stand.

use super::Violation;
use crate::api::pod::{Container, EnvVar};

/// A variable that would let a service run code of its own in a server.
const BLOCKED: &str = "PYTHONPATH";

/// Checks the environment at `field`, e.g. `spec.predictor.model`.
pub(super) fn environment(field: &str, env: &[EnvVar], found: &mut Vec<Violation>) {
    for (index, variable) in env.iter().enumerate() {
        let field = format!("{field}.env[{index}].name");
        if variable.name == BLOCKED {
            found.push(Violation::error(field, format!("environment variable `{BLOCKED}` is not allowed")));
        } else if variable.name.is_empty() {
            found.push(Violation::error(field, "every environment variable needs a name"));
        }
    }
}

/// Checks a list of containers at `field`.
pub(super) fn containers(field: &str, containers: &[Container], found: &mut Vec<Violation>) {
    for (index, container) in containers.iter().enumerate() {
        environment(&format!("{field}[{index}]"), &container.env, found);
        if !container.name.is_empty() && containers[..index].iter().any(|other| other.name == container.name) {
            let message = format!("container name `{}` is used twice", container.name);
            found.push(Violation::error(format!("{field}[{index}].name"), message));
        }
    }
}
