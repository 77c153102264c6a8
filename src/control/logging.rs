//! The logger of a service: opened when its spec asks for one, kept as long as it stays the same.
//!
//! It is no part of the revision: a change of `logger` alone loads no model anew.

use super::mind::Mind;
use crate::api::deployment_mode::annotation;
use crate::api::inference_service_config::LoggerSettings;
use crate::api::{Kind, Resource, ResourceKey};
use crate::resolve::logging::{LoggerDefaults, StorageDefaults, Tls, logging_of};
use crate::router::Logger;
use crate::store::{Snapshot, Stored};

/// Brings a service's logger to what its spec asks for.
pub(super) fn settle(mind: &Mind, snapshot: &Snapshot, key: &ResourceKey, stored: &Stored) {
    let Resource::InferenceService(service) = &stored.defaulted else { return };
    let stopped = service.metadata.annotation(annotation::STOP).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let asked = if stopped { Ok(None) } else { logging_of(service, &defaults(snapshot, &key.namespace), snapshot) };
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
        mind.services.set_logger(key, logger);
    }
}

/// What loggers get that do not say: the key `logger` of KServe's ConfigMap.
fn defaults(snapshot: &Snapshot, namespace: &str) -> LoggerDefaults {
    let Some(logger) = snapshot.settings().and_then(|settings| settings.logger.as_ref()) else { return LoggerDefaults::default() };
    let storage = logger.storage.as_ref().map(|storage| StorageDefaults {
        path: storage.path.clone(),
        format: storage.parameters.as_ref().and_then(|parameters| parameters.get("format").cloned()),
        service_account: storage.service_account_name.clone(),
    });
    LoggerDefaults {
        url: logger.default_url.clone(),
        tls: Tls {
            skip_verify: logger.tls_skip_verify,
            certificate_name: logger.ca_cert_file.clone(),
            certificates_pem: certificates(snapshot, namespace, logger),
        },
        storage,
        batch_size: logger.batch_size,
        batch_interval: logger.batch_interval.clone(),
        marshaller_url: logger.marshaller_url.clone(),
    }
}

/// The certificates to trust, from the ConfigMap of the service's namespace. One that is missing is no mistake, as in KServe.
fn certificates(snapshot: &Snapshot, namespace: &str, logger: &LoggerSettings) -> Option<String> {
    let key = ResourceKey { kind: Kind::ConfigMap, namespace: namespace.to_owned(), name: logger.ca_bundle.clone() };
    match &snapshot.get(&key)?.defaulted {
        Resource::ConfigMap(map) => map.data.get(&logger.ca_cert_file).map(|text| text.0.clone()),
        _ => None,
    }
}
