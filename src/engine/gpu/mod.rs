//! GPUs: which models compute on one, and what becomes of those that ask for one where there is none.
//!
//! A model asks by `resources.limits["nvidia.com/gpu"]`, as on a cluster; the settings may let all models ask, or none. Where it
//! then computes stands in the status of its service.

#[cfg(feature = "cuda")]
mod cuda;

use super::LoadError;
use candle_core::Device;
use serde::{Deserialize, Serialize};

/// The `gpu` part of the daemon's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields, default)]
pub struct GpuConfig {
    /// Which models compute on a GPU.
    pub models: GpuModels,
    /// What a model gets that asks for a GPU where there is none.
    pub absent: GpuAbsent,
}

/// Which models compute on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuModels {
    /// Those whose resources ask for one.
    #[default]
    Asked,
    /// All that can.
    All,
    /// None.
    None,
}

/// What a model gets that asks for a GPU where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuAbsent {
    /// The CPU, and its status says why.
    #[default]
    Cpu,
    /// Nothing: it does not load.
    Fail,
}

/// What one model asks of GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum GpuWish {
    /// None.
    #[default]
    No,
    /// It asks for one, and the settings give none to any model.
    Refused,
    /// One where there is one; nobody is told where there is none.
    Quietly,
    /// One, else the CPU.
    IfThere,
    /// One, else nothing.
    Must,
}

impl GpuConfig {
    /// What a model asks that names so many GPUs among its resources.
    #[must_use]
    pub const fn wish(self, gpus: u64) -> GpuWish {
        match (self.models, gpus > 0, self.absent) {
            (GpuModels::None, true, _) => GpuWish::Refused,
            (GpuModels::None | GpuModels::Asked, false, _) => GpuWish::No,
            (GpuModels::All, false, _) => GpuWish::Quietly,
            (_, true, GpuAbsent::Cpu) => GpuWish::IfThere,
            (_, true, GpuAbsent::Fail) => GpuWish::Must,
        }
    }
}

/// Where a loaded model computes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Placement {
    /// On the CPU, as it was meant.
    #[default]
    Cpu,
    /// On the GPU of this name.
    Gpu(String),
    /// On the CPU, though it asks for a GPU, and why.
    CpuInstead(String),
}

/// Tries to put a model on a GPU, if it asks for one. `open` gives what was put there and the GPU's name, or why that cannot be.
///
/// Nothing where the model shall compute on the CPU.
///
/// # Errors
/// `EngineUnavailable` where it must have a GPU and cannot.
pub fn choose<T>(wish: GpuWish, open: impl FnOnce() -> Result<(T, String), String>) -> Result<(Option<T>, Placement), LoadError> {
    match wish {
        GpuWish::No => return Ok((None, Placement::Cpu)),
        GpuWish::Refused => {
            let why = "`gpu.models` is `none` in the daemon's settings".to_owned();
            return Ok((None, Placement::CpuInstead(why)));
        }
        GpuWish::Quietly | GpuWish::IfThere | GpuWish::Must => {}
    }
    match (open(), wish) {
        (Ok((opened, name)), _) => Ok((Some(opened), Placement::Gpu(name))),
        (Err(why), GpuWish::Must) => Err(LoadError::EngineUnavailable(format!("no GPU for it: {why}"))),
        (Err(why), GpuWish::Quietly) => {
            tracing::debug!("a model computes on the CPU: {why}");
            Ok((None, Placement::Cpu))
        }
        (Err(why), _) => Ok((None, Placement::CpuInstead(why))),
    }
}

/// The next GPU for a model of Candle's, and its name.
///
/// # Errors
/// Why there is none, with the next step.
#[cfg(feature = "cuda")]
pub fn open() -> Result<(Device, String), String> {
    cuda::open()
}

/// The next GPU for a model of Candle's, and its name.
///
/// # Errors
/// Always: this build has no code for GPUs.
#[cfg(not(feature = "cuda"))]
pub fn open() -> Result<(Device, String), String> {
    Err("this build of kserved computes on CPUs only\n\nhint: `make cuda` builds one that uses NVIDIA GPUs".to_owned())
}

/// Candle's words without where in its code they come from.
#[must_use]
pub fn words(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(models: GpuModels, absent: GpuAbsent, gpus: u64) -> GpuWish {
        GpuConfig { models, absent }.wish(gpus)
    }

    #[test]
    fn a_model_gets_a_gpu_where_it_asks_and_the_settings_let_it() {
        assert_eq!(GpuConfig::default().wish(0), GpuWish::No);
        assert_eq!(GpuConfig::default().wish(1), GpuWish::IfThere);
        assert_eq!(wish(GpuModels::Asked, GpuAbsent::Fail, 2), GpuWish::Must);
        assert_eq!(wish(GpuModels::All, GpuAbsent::Fail, 0), GpuWish::Quietly, "who does not ask does not fail either");
        assert_eq!(wish(GpuModels::None, GpuAbsent::Fail, 1), GpuWish::Refused);
        assert_eq!(wish(GpuModels::None, GpuAbsent::Cpu, 0), GpuWish::No);
    }

    #[test]
    fn what_cannot_be_put_on_a_gpu_computes_on_the_cpu_and_says_why_or_fails() {
        let absent = || Err::<((), String), _>("there is none".to_owned());
        assert_eq!(choose(GpuWish::IfThere, absent).unwrap(), (None, Placement::CpuInstead("there is none".to_owned())));
        assert_eq!(choose(GpuWish::Quietly, absent).unwrap(), (None, Placement::Cpu));
        assert_eq!(choose(GpuWish::Must, absent).unwrap_err().to_string(), "no GPU for it: there is none");
        let there = || Ok(((), "H200".to_owned()));
        assert_eq!(choose(GpuWish::Must, there).unwrap(), (Some(()), Placement::Gpu("H200".to_owned())));
        let never = || -> Result<((), String), String> { panic!("nobody may look for one") };
        assert_eq!(choose(GpuWish::No, never).unwrap(), (None, Placement::Cpu));
        assert!(matches!(choose(GpuWish::Refused, never).unwrap(), (None, Placement::CpuInstead(why)) if why.contains("`gpu.models`")));
    }

    #[test]
    fn a_machine_without_gpus_or_a_build_without_their_code_says_what_to_do() {
        // On a machine with a GPU there is nothing to say.
        if let Err(why) = open() {
            assert!(why.contains("\n\nhint: "), "{why}");
        }
    }
}
