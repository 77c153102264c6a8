//! KServe's ways of deploying a service, and the settings in annotations that depend on them.

use std::fmt;
use std::str::FromStr;

use super::metadata::ObjectMeta;

/// Names of the annotations that change how a service is served.
pub mod annotation {
    /// `Knative` or `Standard`.
    pub const DEPLOYMENT_MODE: &str = "serving.kserve.io/deploymentMode";
    /// `hpa`, `keda`, `external` or `none`, in Standard mode.
    pub const AUTOSCALER_CLASS: &str = "serving.kserve.io/autoscalerClass";
    /// Knative's autoscaler: `kpa.autoscaling.knative.dev` or `hpa.autoscaling.knative.dev`.
    pub const KNATIVE_AUTOSCALER_CLASS: &str = "autoscaling.knative.dev/class";
    /// `"true"` stops the service.
    pub const STOP: &str = "serving.kserve.io/stop";
    /// Its presence keeps a service from models that were fetched beforehand.
    pub const DISABLE_LOCAL_MODEL: &str = "serving.kserve.io/disable-localmodel";
    /// The group of nodes whose local models a service takes.
    pub const NODE_GROUP: &str = "serving.kserve.io/nodegroup";
    /// The model's format, for the placeholder `{{.Annotations.modelFormat}}`.
    pub const MODEL_FORMAT: &str = "modelFormat";
}

/// How a service is deployed; decides defaults of scaling and the form of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DeploymentMode {
    /// With Knative: revisions, scaling by requests, scaling to zero.
    #[default]
    Knative,
    /// With Kubernetes alone.
    Standard,
    /// With ModelMesh: many models in one server.
    ModelMesh,
}

impl DeploymentMode {
    /// Every word that may be written, the older ones too.
    pub const WORDS: [&'static str; 5] = ["Knative", "Standard", "ModelMesh", "Serverless", "RawDeployment"];

    /// The word in annotations and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Knative => "Knative",
            Self::Standard => "Standard",
            Self::ModelMesh => "ModelMesh",
        }
    }

    /// The mode of a service: its annotation where that names one, otherwise the default.
    #[must_use]
    pub fn of(metadata: &ObjectMeta, default: Self) -> Self {
        metadata.annotation(annotation::DEPLOYMENT_MODE).and_then(|word| word.parse().ok()).unwrap_or(default)
    }
}

impl fmt::Display for DeploymentMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DeploymentMode {
    type Err = ();

    /// Reads a word of [`Self::WORDS`].
    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "Knative" | "Serverless" => Ok(Self::Knative),
            "Standard" | "RawDeployment" => Ok(Self::Standard),
            "ModelMesh" => Ok(Self::ModelMesh),
            _ => Err(()),
        }
    }
}
