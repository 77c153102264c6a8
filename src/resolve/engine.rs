//! Which in-process engine stands in for the container that a runtime names.
//!
//! On a cluster a runtime is an image. Here the image is not started: the annotation [`ENGINE_ANNOTATION`] names the
//! engine, and where it is absent the model's format does, if an engine reads that format.

use super::error::{ResolveError, quoted_list};
use crate::api::inference_service::ModelFormat;
use crate::api::problem::did_you_mean;
use crate::api::serving_runtime::ServingRuntime;
use crate::api::status::FailureReason;

/// On a runtime's metadata, or in its `spec.annotations`: the engine that serves it in this process.
pub const ENGINE_ANNOTATION: &str = "kserved.io/engine";

/// The engine of Hugging Face folders and GGUF files.
pub(super) const HUGGING_FACE: &str = "huggingface";

/// Model formats that an engine reads whatever server the runtime would start for them.
const FORMATS: [(&str, &str); 3] = [("onnx", "onnx"), ("huggingface", HUGGING_FACE), ("gguf", HUGGING_FACE)];

const FIELD: &str = "spec.predictor.model.modelFormat";
/// KServe's sentence for a model that nothing can run.
const STATUS_MESSAGE: &str = "No runtime found to support specified framework/version";

/// The engine for a model of this format on this runtime.
///
/// # Errors
/// `NoSupportingRuntime` where neither the annotation nor the format names an engine of `engines`.
pub fn engine_of(runtime: &ServingRuntime, format: &ModelFormat, engines: &[String]) -> Result<String, ResolveError> {
    let annotated =
        runtime.metadata.annotation(ENGINE_ANNOTATION).or_else(|| runtime.spec.annotations.get(ENGINE_ANNOTATION).map(String::as_str));
    match annotated {
        Some(name) if engines.iter().any(|engine| engine == name) => Ok(name.to_owned()),
        Some(name) => Err(unknown_engine(runtime, name, engines)),
        None => by_format(format, engines).ok_or_else(|| no_engine(runtime, format, engines)),
    }
}

fn by_format(format: &ModelFormat, engines: &[String]) -> Option<String> {
    let (_, engine) = FORMATS.iter().find(|(name, _)| *name == format.name)?;
    engines.iter().find(|known| known == engine).cloned()
}

fn unknown_engine(runtime: &ServingRuntime, name: &str, engines: &[String]) -> ResolveError {
    let meant = did_you_mean(name, engines.iter().map(String::as_str)).map(|meant| format!("did you mean `{meant}`? "));
    ResolveError::new(FailureReason::NoSupportingRuntime, FIELD, STATUS_MESSAGE)
        .saying(format!(
            "no engine named `{name}`, which the annotation `{ENGINE_ANNOTATION}` of runtime `{}` asks for",
            runtime.metadata.name
        ))
        .with_hint(format!("{}Engines here: {}", meant.unwrap_or_default(), quoted_list(engines)))
}

fn no_engine(runtime: &ServingRuntime, format: &ModelFormat, engines: &[String]) -> ResolveError {
    ResolveError::new(FailureReason::NoSupportingRuntime, FIELD, STATUS_MESSAGE)
        .saying(format!("no engine serves format `{}` for runtime `{}`", format.name, runtime.metadata.name))
        .with_hint(format!(
            "convert the model to ONNX; or, where an engine reads it as it is, annotate the runtime with `{ENGINE_ANNOTATION}: NAME`. Engines here: {}",
            quoted_list(engines)
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime(name: &str, annotation: Option<&str>) -> ServingRuntime {
        let mut runtime = ServingRuntime::default();
        name.clone_into(&mut runtime.metadata.name);
        if let Some(engine) = annotation {
            runtime.metadata.annotations.insert(ENGINE_ANNOTATION.into(), engine.into());
        }
        runtime
    }

    fn format(name: &str) -> ModelFormat {
        ModelFormat { name: name.into(), version: None }
    }

    fn engines() -> Vec<String> {
        vec!["candle".into(), "onnx".into()]
    }

    #[test]
    fn the_annotation_decides_on_the_metadata_or_in_the_spec() {
        assert_eq!(engine_of(&runtime("mine", Some("candle")), &format("onnx"), &engines()).as_deref(), Ok("candle"));
        let mut other = runtime("mine", None);
        other.spec.annotations.insert(ENGINE_ANNOTATION.into(), "candle".into());
        assert_eq!(engine_of(&other, &format("onnx"), &engines()).as_deref(), Ok("candle"));
    }

    #[test]
    fn kserves_own_runtimes_serve_onnx_unchanged() {
        for name in ["kserve-tritonserver", "kserve-openvino", "kserve-mlserver", "somebodys-own"] {
            assert_eq!(engine_of(&runtime(name, None), &format("onnx"), &engines()).as_deref(), Ok("onnx"), "{name}");
        }
    }

    #[test]
    fn a_format_without_an_engine_is_told_the_engines_and_the_annotation() {
        let error = engine_of(&runtime("kserve-sklearnserver", None), &format("sklearn"), &engines()).expect_err("no engine");
        assert_eq!(error.reason, FailureReason::NoSupportingRuntime);
        let text = error.to_string();
        assert!(text.starts_with("no engine serves format `sklearn` for runtime `kserve-sklearnserver`"), "{text}");
        assert!(text.contains("`kserved.io/engine: NAME`") && text.ends_with("Engines here: `candle`, `onnx`"), "{text}");
        assert!(engine_of(&runtime("kserve-tritonserver", None), &format("onnx"), &[]).is_err());
    }

    #[test]
    fn a_misspelled_engine_is_recognized() {
        let error = engine_of(&runtime("mine", Some("onxx")), &format("onnx"), &engines()).expect_err("no such engine");
        assert!(error.to_string().contains("did you mean `onnx`?"), "{error}");
    }
}
