//! The Kubernetes fields that KServe writes into several of its own types, each listed once.
//!
//! KServe inlines a whole `Container` into `model`, and a whole `PodSpec` into each component. Serde's `flatten` would do
//! the same but loses the place of every mistake below it, so these macros write the fields out.

/// Declares a struct with its own fields and all those of a Kubernetes `Container`, and `container()` which gathers them.
macro_rules! with_container_fields {
    ($(#[$about:meta])* pub struct $name:ident { $($own:tt)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $($own)*
            /// The container's name; not allowed where KServe names it.
            #[serde(skip_serializing_if = "String::is_empty")]
            pub name: String,
            /// The container's image.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub image: Option<String>,
            /// The program, in place of the image's own.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub command: Vec<String>,
            /// Its arguments; added to those of the runtime.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub args: Vec<String>,
            /// The folder it starts in.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub working_dir: Option<String>,
            /// The ports it listens on.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub ports: Vec<crate::api::pod::ContainerPort>,
            /// Variables from ConfigMaps and Secrets.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub env_from: Vec<crate::api::pod::EnvFromSource>,
            /// Variables.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub env: Vec<crate::api::pod::EnvVar>,
            /// What it asks for and may use at most.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub resources: Option<crate::api::pod::ResourceRequirements>,
            /// Volumes and where they appear.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub volume_mounts: Vec<crate::api::pod::VolumeMount>,
            /// When to restart it; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub liveness_probe: Option<crate::api::pod::Opaque>,
            /// When it takes requests; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub readiness_probe: Option<crate::api::pod::Opaque>,
            /// When it has started; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub startup_probe: Option<crate::api::pod::Opaque>,
            /// Hooks at its start and end; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub lifecycle: Option<crate::api::pod::Opaque>,
            /// Its rights; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub security_context: Option<crate::api::pod::Opaque>,
            /// When to pull the image; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub image_pull_policy: Option<String>,
            /// What a change of its resources restarts; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub resize_policy: Option<crate::api::pod::Opaque>,
            /// Whether it is restarted; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub restart_policy: Option<String>,
            /// Whether it is restarted, by exit code; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub restart_policy_rules: Option<crate::api::pod::Opaque>,
            /// Block devices; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub volume_devices: Option<crate::api::pod::Opaque>,
            /// Where it leaves its last words; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub termination_message_path: Option<String>,
            /// Where its last words are taken from; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub termination_message_policy: Option<String>,
            /// Whether it gets an input; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub stdin: Option<bool>,
            /// Whether the input closes after the first reader; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub stdin_once: Option<bool>,
            /// Whether it gets a terminal; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub tty: Option<bool>,
        }
    };
}
pub(crate) use with_container_fields;

/// Declares a struct with its own fields and all those of a Kubernetes `PodSpec`.
macro_rules! with_pod_fields {
    ($(#[$about:meta])* pub struct $name:ident { $($own:tt)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $($own)*
            /// The containers: a custom server, or helpers beside the model server.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub containers: Vec<crate::api::pod::Container>,
            /// Containers that run before the others.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub init_containers: Vec<crate::api::pod::Container>,
            /// Folders that containers may mount.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub volumes: Vec<crate::api::pod::Volume>,
            /// The account whose secrets open the model's storage.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub service_account_name: Option<String>,
            /// The old name of `serviceAccountName`.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub service_account: Option<String>,
            /// Secrets of image registries; without meaning here.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub image_pull_secrets: Vec<crate::api::pod::Opaque>,
            /// How long requests in flight may take at the end, in seconds.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub termination_grace_period_seconds: Option<i64>,
            /// Containers for debugging; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub ephemeral_containers: Option<crate::api::pod::Opaque>,
            /// Whether containers are restarted; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub restart_policy: Option<String>,
            /// How long the pod may live, in seconds; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub active_deadline_seconds: Option<i64>,
            /// How names are looked up; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub dns_policy: Option<String>,
            /// Which nodes may run it; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub node_selector: Option<crate::api::pod::Opaque>,
            /// Whether the account's token is mounted; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub automount_service_account_token: Option<bool>,
            /// The node that runs it; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub node_name: Option<String>,
            /// Whether it uses the host's network; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub host_network: Option<bool>,
            /// Whether it sees the host's processes; without meaning here.
            #[serde(rename = "hostPID", skip_serializing_if = "Option::is_none")]
            pub host_pid: Option<bool>,
            /// Whether it shares the host's memory segments; without meaning here.
            #[serde(rename = "hostIPC", skip_serializing_if = "Option::is_none")]
            pub host_ipc: Option<bool>,
            /// Whether it uses the host's user ids; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub host_users: Option<bool>,
            /// Whether its containers see each other's processes; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub share_process_namespace: Option<bool>,
            /// Its rights; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub security_context: Option<crate::api::pod::Opaque>,
            /// Its host name; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub hostname: Option<String>,
            /// Its host name, in place of the one Kubernetes makes up; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub hostname_override: Option<String>,
            /// The domain of its host name; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub subdomain: Option<String>,
            /// Whether the host name is a full one; without meaning here.
            #[serde(rename = "setHostnameAsFQDN", skip_serializing_if = "Option::is_none")]
            pub set_hostname_as_fqdn: Option<bool>,
            /// Which nodes it likes; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub affinity: Option<crate::api::pod::Opaque>,
            /// Which scheduler places it; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub scheduler_name: Option<String>,
            /// Which scheduling group it belongs to; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub workload_ref: Option<crate::api::pod::Opaque>,
            /// Which tainted nodes it puts up with; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub tolerations: Option<crate::api::pod::Opaque>,
            /// Lines for its hosts file; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub host_aliases: Option<crate::api::pod::Opaque>,
            /// How important it is; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub priority_class_name: Option<String>,
            /// How important it is, as a number; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub priority: Option<i32>,
            /// Whether it pushes others aside; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub preemption_policy: Option<String>,
            /// How names are looked up; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub dns_config: Option<crate::api::pod::Opaque>,
            /// More conditions of its readiness; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub readiness_gates: Option<crate::api::pod::Opaque>,
            /// Which container runtime runs it; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub runtime_class_name: Option<String>,
            /// Whether other services appear in its environment; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub enable_service_links: Option<bool>,
            /// What it costs beyond its containers; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub overhead: Option<crate::api::pod::Opaque>,
            /// How pods spread over nodes; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub topology_spread_constraints: Option<crate::api::pod::Opaque>,
            /// Its operating system; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub os: Option<crate::api::pod::Opaque>,
            /// What must happen before it is placed; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub scheduling_gates: Option<crate::api::pod::Opaque>,
            /// Devices it claims; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub resource_claims: Option<crate::api::pod::Opaque>,
            /// What the whole pod asks for; without meaning here.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub resources: Option<crate::api::pod::ResourceRequirements>,
        }
    };
}
pub(crate) use with_pod_fields;
