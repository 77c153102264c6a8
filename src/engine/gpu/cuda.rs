//! NVIDIA GPUs through Candle: found when a model first asks, each opened once.
//!
//! NVIDIA's libraries are not linked, they are opened here (scripts/cuda.py makes the functions that jump to them), so that a
//! machine without them starts the same program and is told what it lacks.

use super::words;
use candle_core::{Device, Tensor};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The driver's library; it comes with the driver and cannot be had otherwise.
const DRIVER: &str = "libcuda.so.1";
/// Those of the toolkit, each before those that need it.
const TOOLKIT: [&str; 3] = ["libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10"];

/// The GPUs that were opened, by their numbers, and the number of the next one to be given.
#[derive(Debug, Default)]
struct Opened {
    devices: BTreeMap<usize, (Device, String)>,
    next: usize,
}

static OPENED: Mutex<Option<Opened>> = Mutex::new(None);

/// The next GPU, in turn.
pub(super) fn open() -> Result<(Device, String), String> {
    // One thread at a time: the first finds the libraries, and a failure is not kept.
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if opened.is_none() {
        libraries()?;
        *opened = Some(Opened::default());
    }
    let Some(opened) = opened.as_mut() else { return Err("no GPU".to_owned()) };
    let at = opened.next % count()?;
    opened.next = at + 1;
    if let Some(found) = opened.devices.get(&at) {
        return Ok(found.clone());
    }
    let device = Device::new_cuda(at).map_err(|error| format!("GPU {at} does not open: {}", words(&error)))?;
    let name = name(&device).unwrap_or_else(|| format!("GPU {at}"));
    try_out(&device).map_err(|error| {
        format!(
            "the kernels of this build do not run on {name}: {}\n\nhint: build them for it: `CUDA_COMPUTE_CAP=NN make cuda`, with NN as \
             `nvidia-smi --query-gpu=compute_cap --format=csv` says it, without the dot",
            words(&error)
        )
    })?;
    tracing::info!("models may compute on GPU {at}: {name}");
    opened.devices.insert(at, (device.clone(), name.clone()));
    Ok((device, name))
}

/// How many GPUs there are, one at least.
fn count() -> Result<usize, String> {
    let hint = "\n\nhint: `nvidia-smi` shows the GPUs that there are; `CUDA_VISIBLE_DEVICES` may hide them";
    match candle_core::cuda_backend::cudarc::driver::CudaContext::device_count() {
        Ok(count) if count > 0 => Ok(usize::try_from(count).unwrap_or(1)),
        Ok(_) => Err(format!("the driver knows no GPU{hint}")),
        Err(error) => Err(format!("the driver gives no GPU: {error:?}{hint}")),
    }
}

fn name(device: &Device) -> Option<String> {
    device.as_cuda_device().ok()?.cuda_stream().context().name().ok()
}

/// One product and one kernel of its own.
fn try_out(device: &Device) -> candle_core::Result<()> {
    let ones = Tensor::ones((16, 16), candle_core::DType::F32, device)?;
    ones.matmul(&ones)?.silu()?.to_vec2::<f32>().map(drop)
}

/// Opens NVIDIA's libraries for the whole process.
fn libraries() -> Result<(), String> {
    load(DRIVER, &[])
        .map_err(|why| format!("no NVIDIA driver: {why}\n\nhint: install NVIDIA's driver; `nvidia-smi` then shows the GPU"))?;
    let folders = folders();
    for library in TOOLKIT {
        load(library, &folders).map_err(|why| {
            format!(
                "{why}\n\nhint: install cuBLAS and cuRAND of CUDA 13, or get the wheels `nvidia-cublas` and `nvidia-curand` with pip and name \
                 their folders in `LD_LIBRARY_PATH`, or put the libraries into `lib/` beside the program"
            )
        })?;
    }
    Ok(())
}

/// Where a toolkit may lie that the system's loader does not know.
fn folders() -> Vec<PathBuf> {
    let homes =
        ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from).chain([PathBuf::from("/usr/local/cuda")]);
    let of_homes = homes.flat_map(|home| [home.join("lib64"), home.join("lib")]);
    let program = std::env::current_exe().ok();
    let beside = program.as_deref().and_then(Path::parent).map(Path::to_owned).into_iter();
    beside.flat_map(|folder| [folder.join("lib"), folder.join("../lib"), folder.join("../../lib")]).chain(of_homes).collect()
}

/// Opens a library by its name, else in one of the folders, for good.
fn load(name: &str, folders: &[PathBuf]) -> Result<(), String> {
    let places = [PathBuf::from(name)].into_iter().chain(folders.iter().map(|folder| folder.join(name)));
    let mut first = None;
    for place in places {
        #[expect(unsafe_code, reason = "opening a library runs its own start")]
        // SAFETY: these names are NVIDIA's own libraries, which may be opened from any thread.
        match unsafe { Library::open(Some(&place), RTLD_NOW | RTLD_GLOBAL) } {
            Ok(library) => {
                // The functions that jump to it look for it as long as the process lives.
                std::mem::forget(library);
                return Ok(());
            }
            Err(error) => first = first.or_else(|| Some(reason(&error))),
        }
    }
    Err(first.unwrap_or_else(|| format!("{name} is not there")))
}

fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_nowhere_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let why = load("libnvidia-of-nobody.so.1", &[folder.path().to_owned()]).unwrap_err();
        assert!(why.contains("libnvidia-of-nobody.so.1"), "{why}");
    }

    #[test]
    fn a_library_that_the_system_knows_opens() {
        load("libc.so.6", &[]).unwrap();
    }
}
