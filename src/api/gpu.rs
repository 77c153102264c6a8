//! GPUs among the limits of a container, by the names that their vendors' plugins give them on a cluster.

use super::pod::ResourceRequirements;

/// Whose GPU a resource is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gpu {
    /// A GPU of NVIDIA's.
    Nvidia,
    /// A part of one: `nvidia.com/mig-1g.5gb`, or one shared by time, `nvidia.com/gpu.shared`.
    NvidiaPart,
    /// Another vendor's.
    Other,
}

impl Gpu {
    /// What a resource stands for; nothing where it is no GPU.
    ///
    /// Source: KServe, `pkg/constants`, `DefaultGPUResourceTypeList` and `NvidiaMigGPUResourceTypePrefix`; NVIDIA's device plugin for
    /// those shared by time.
    #[must_use]
    pub fn of(resource: &str) -> Option<Self> {
        match resource {
            "nvidia.com/gpu" => Some(Self::Nvidia),
            "nvidia.com/gpu.shared" => Some(Self::NvidiaPart),
            part if part.starts_with("nvidia.com/mig-") => Some(Self::NvidiaPart),
            "habana.ai/gaudi" => Some(Self::Other),
            other if other.ends_with("/gpu") => Some(Self::Other),
            _ => None,
        }
    }
}

/// The GPUs that a container asks for, each with its resource's name and how many; a limit of 0 asks for none.
pub fn asked(resources: &ResourceRequirements) -> impl Iterator<Item = (&str, Gpu, u64)> {
    let found = resources.limits.iter().filter_map(|(name, amount)| Some((name.as_str(), Gpu::of(name)?, amount.bytes())));
    found.filter(|(_, _, count)| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_known_by_the_names_of_their_vendors_plugins() {
        for (resource, gpu) in [
            ("nvidia.com/gpu", Some(Gpu::Nvidia)),
            ("nvidia.com/mig-1g.5gb", Some(Gpu::NvidiaPart)),
            ("nvidia.com/gpu.shared", Some(Gpu::NvidiaPart)),
            ("amd.com/gpu", Some(Gpu::Other)),
            ("intel.com/gpu", Some(Gpu::Other)),
            ("habana.ai/gaudi", Some(Gpu::Other)),
            ("nvidia.com/gpumem", None),
            ("cpu", None),
        ] {
            assert_eq!(Gpu::of(resource), gpu, "{resource}");
        }
    }
}
