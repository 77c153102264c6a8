//! The logger of a service: opened when its spec asks for one, kept as long as it stays the same.
//!
//! It is no part of the revision: a change of `logger` alone loads no model anew.

use super::mind::Mind;
use crate::api::deployment_mode::annotation;
use crate::api::{Resource, ResourceKey};
use crate::resolve::logging::{LoggerDefaults, logging_of};
use crate::router::Logger;
use crate::store::{Snapshot, Stored};

/// Brings a service's logger to what its spec asks for.
pub(super) fn settle(mind: &Mind, snapshot: &Snapshot, key: &ResourceKey, stored: &Stored) {
    let Resource::InferenceService(service) = &stored.defaulted else { return };
    let stopped = service.metadata.annotation(annotation::STOP).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let asked = if stopped { Ok(None) } else { logging_of(service, &defaults(snapshot, &key.namespace)) };
    let (wanted, problem) = match asked {
        Ok(wanted) => (wanted, None),
        Err(error) => (None, Some(format!("{}: {}: {error}", stored.locate(error.field), error.field))),
    };
    let (news, changed) = mind.services.with(key, |service| {
        let news = problem.is_some() && service.logger_problem != problem;
        service.logger_problem.clone_from(&problem);
        (news, service.logger.as_ref().map(Logger::spec) != wanted.as_ref())
    });
    if news {
        tracing::warn!(service = %key, problem, "the service is served without a request log");
    }
    if changed {
        let logger = wanted.map(|spec| mind.logbook.open(spec));
        mind.services.with_route(key, |service| service.logger = logger);
    }
}

/// What loggers get that do not say.
fn defaults(_snapshot: &Snapshot, _namespace: &str) -> LoggerDefaults {
    LoggerDefaults::default()
}
