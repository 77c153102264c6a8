//! The sections of `config.yaml`: each value, its default, its unit and why it is what it is.

use crate::api;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// Where HTTP is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// The address both doors listen on. Anything but loopback asks for an API key.
    pub host: IpAddr,
    /// The port, 8080 as KServe's own servers; 0 takes a free one.
    pub port: u16,
    /// A Unix socket to answer on beside the port, for callers on this machine.
    pub unix_socket: Option<PathBuf>,
}

impl Default for Http {
    fn default() -> Self {
        Self { host: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 8080, unix_socket: None }
    }
}

/// Where gRPC is answered, on the host of [`Http`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grpc {
    /// The port, 8081 as KServe's own servers; 0 takes a free one.
    pub port: u16,
    /// A Unix socket to answer on beside the port, for callers on this machine.
    pub unix_socket: Option<PathBuf>,
}

impl Default for Grpc {
    fn default() -> Self {
        Self { port: 8081, unix_socket: None }
    }
}

/// The queue and the threads of each revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pool {
    /// Worker threads of one revision at most; 0 is the number of cores.
    pub workers_max: usize,
    /// Threads that run models at once, all models together; 0 is the number of cores. A run that would be one too many
    /// waits its turn, first come, first served.
    pub threads_max: usize,
    /// Requests that may wait for one revision; one more is answered 503.
    pub queue_max: usize,
    /// Seconds a worker waits for work before its thread ends.
    pub worker_idle_s: u64,
    /// A model whose runs lately took fewer microseconds than this runs on the thread that read the request, which spares
    /// the way to a worker and back; 0: never.
    pub inline_run_max_us: u64,
    /// Bytes of all inputs that are joined into one batch, where a service asks for batches.
    pub batch_bytes_max: usize,
}

impl Default for Pool {
    fn default() -> Self {
        Self { workers_max: 0, threads_max: 0, queue_max: 1024, worker_idle_s: 60, inline_run_max_us: 100, batch_bytes_max: 16 << 20 }
    }
}

/// How replicas follow what is asked, and when models sleep; the defaults are Knative's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Autoscaling {
    /// Milliseconds between two looks at what services are asked for.
    pub tick_ms: u64,
    /// Seconds of the stable window, where a service's annotation does not say.
    pub stable_window_s: u64,
    /// The panic window, in percent of the stable one.
    pub panic_window_percent: u32,
    /// How much more than there is must be wanted to panic, in percent.
    pub panic_threshold_percent: u32,
    /// How much of its target a replica is aimed to carry, in percent.
    pub target_utilization_percent: u32,
    /// How many times its replicas a service may grow to in one look.
    pub scale_up_rate_max: u32,
    /// By how much a service's replicas may be divided in one look.
    pub scale_down_rate_max: u32,
    /// Seconds that less must be wanted before replicas go.
    pub scale_down_delay_s: u64,
    /// Seconds that a model stays in memory after nothing was asked of it for a stable window.
    pub scale_to_zero_grace_s: u64,
}

impl Default for Autoscaling {
    fn default() -> Self {
        Self {
            tick_ms: 2000,
            stable_window_s: 60,
            panic_window_percent: 10,
            panic_threshold_percent: 200,
            target_utilization_percent: 70,
            scale_up_rate_max: 1000,
            scale_down_rate_max: 2,
            scale_down_delay_s: 0,
            scale_to_zero_grace_s: 30,
        }
    }
}

/// What the daemon may take with all its models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// Bytes of the process and its models; those nobody used for longest sleep when one more needs room. 0 takes `models_percent`.
    pub models_bytes_max: u64,
    /// That share of the machine's memory, or of what the control group allows, in percent.
    pub models_percent: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self { models_bytes_max: 0, models_percent: 70 }
    }
}

/// How the watched folders are read and how services are brought to what they ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// Milliseconds of silence after a change before the files are read, so that half-written ones are finished.
    pub debounce_ms: u64,
    /// Seconds between full readings of the folders, for file systems that tell nothing.
    pub rescan_s: u64,
    /// Seconds between looks at folders where the system tells of no changes.
    pub poll_s: u64,
    /// Manifest files in all; more are left out, and a warning says so.
    pub manifests_max: usize,
    /// Folders below a watched one; deeper ones are not looked into.
    pub folder_depth_max: usize,
    /// Bytes of one manifest; larger files are named and left out.
    pub manifest_bytes_max: u64,
    /// Services that are fetched and loaded at once; 0 is the number of cores.
    pub loads_max: usize,
    /// Milliseconds before the first new try after an error that may pass.
    pub retry_first_ms: u64,
    /// Seconds between tries at most.
    pub retry_max_s: u64,
    /// Seconds that an old revision has to finish what it admitted.
    pub drain_s: u64,
    /// Copies of requests that wait to be run on a canary that is judged, for each service.
    pub shadow_requests_max: usize,
    /// Bytes of inputs and outputs that these copies hold together; a request that does not fit is not copied.
    pub shadow_bytes_max: usize,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            debounce_ms: 50,
            rescan_s: 30,
            poll_s: 2,
            manifests_max: 50_000,
            folder_depth_max: 16,
            manifest_bytes_max: 4 << 20,
            loads_max: 0,
            retry_first_ms: 500,
            retry_max_s: 60,
            drain_s: 30,
            shadow_requests_max: 8,
            shadow_bytes_max: 16 << 20,
        }
    }
}

/// This machine as a node, for models that are fetched beforehand.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalModels {
    /// The node's name; none is what the kernel calls the machine.
    pub node_name: Option<String>,
    /// What groups of nodes may ask of it beside its name, its system and its processor.
    pub node_labels: BTreeMap<String, String>,
}

/// How the daemon ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// Seconds that requests in flight have to finish, as a Kubernetes pod has 30.
    pub grace_s: u64,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace_s: 30 }
    }
}

/// What is written to stderr.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,kserved::control=debug`.
    pub level: String,
    /// Lines for people or for machines.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// Which of KServe's two ways of deploying is meant where a service does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum DeploymentMode {
    /// Revisions, scale to zero; KServe's default. `Serverless` is its old name.
    #[default]
    #[serde(alias = "Serverless")]
    Knative,
    /// Plain deployments. `RawDeployment` is its old name.
    #[serde(alias = "RawDeployment")]
    Standard,
}

impl From<DeploymentMode> for api::deployment_mode::DeploymentMode {
    fn from(mode: DeploymentMode) -> Self {
        match mode {
            DeploymentMode::Knative => Self::Knative,
            DeploymentMode::Standard => Self::Standard,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_of_the_deployment_modes_are_read() {
        assert_eq!(serde_json::from_str::<DeploymentMode>("\"RawDeployment\"").unwrap(), DeploymentMode::Standard);
        assert_eq!(serde_json::from_str::<DeploymentMode>("\"Serverless\"").unwrap(), DeploymentMode::Knative);
    }
}
