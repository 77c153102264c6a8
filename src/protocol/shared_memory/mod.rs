//! System shared memory: regions that clients on this machine register, and tensors that lie in them.
//!
//! Off unless `protocol.shared_memory.enabled` says otherwise, and then on loopback and Unix sockets only.
//!
//! Source: Triton's "Shared-Memory Extension".

mod http;
mod region;
mod tensors;

pub(super) use http::{message, routes};
pub(super) use tensors::{fetch, put};

use super::config::SharedMemory;
use super::error::Refusal;
use region::{Region, RegionError};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Where the system keeps shared memory objects.
const FOLDER: &str = "/dev/shm";
/// The answer to GPU memory.
pub(super) const NO_CUDA: &str = "CUDA shared memory is not served: models run on the CPU; hint: register system shared memory";
/// The answer where the extension is off.
pub(super) const OFF: &str = "shared memory is not served here; hint: start kserved with `--set protocol.shared_memory.enabled=true`";

/// The registered regions.
#[derive(Debug)]
pub(crate) struct Regions {
    folder: PathBuf,
    bounds: SharedMemory,
    named: RwLock<BTreeMap<String, Arc<Region>>>,
}

impl Regions {
    /// None yet; nothing at all where the extension is off.
    pub(crate) fn new(bounds: &SharedMemory) -> Option<Self> {
        bounds.enabled.then(|| Self::over(Path::new(FOLDER), bounds))
    }

    fn over(folder: &Path, bounds: &SharedMemory) -> Self {
        Self { folder: folder.to_owned(), bounds: bounds.clone(), named: RwLock::default() }
    }

    /// Registers a region under a name nobody has.
    ///
    /// # Errors
    /// 400: a name in use, an object that cannot be opened or is too short, a region of no bytes or of too many; 413
    /// when there are as many regions as there may be.
    pub(crate) fn register(&self, name: &str, key: &str, offset: u64, byte_size: u64) -> Result<(), Refusal> {
        self.check(name, byte_size)?;
        let region = Region::open(&self.folder, name, key, offset, byte_size).map_err(|error| not_registered(name, &error))?;
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        if named.contains_key(name) {
            return Err(Refusal::bad_request(format!("shared memory region `{name}` already in manager")));
        }
        if named.len() >= self.bounds.regions_max {
            return Err(Refusal::too_large(format!("more than {} shared memory regions", self.bounds.regions_max)));
        }
        named.insert(name.to_owned(), Arc::new(region));
        Ok(())
    }

    /// Forgets a region, or all where the name is empty; one that nobody registered is forgotten already.
    pub(crate) fn unregister(&self, name: &str) {
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        if name.is_empty() {
            named.clear();
        } else {
            named.remove(name);
        }
    }

    /// One region, or all by name where `name` is empty.
    ///
    /// # Errors
    /// 404 for a name nobody registered.
    pub(crate) fn status(&self, name: &str) -> Result<Vec<Arc<Region>>, Refusal> {
        if !name.is_empty() {
            let unknown = || Refusal::not_found(format!("Unable to find system shared memory region: '{}'", shortened(name)));
            return Ok(vec![self.find(name).ok_or_else(unknown)?]);
        }
        Ok(self.named.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect())
    }

    fn find(&self, name: &str) -> Option<Arc<Region>> {
        self.named.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn check(&self, name: &str, byte_size: u64) -> Result<(), Refusal> {
        if name.is_empty() || name.len() > 256 {
            return Err(Refusal::bad_request("a shared memory region needs a name of 1 to 256 bytes"));
        }
        let max = self.bounds.region_bytes_max;
        if byte_size == 0 || byte_size > max {
            return Err(Refusal::bad_request(format!("shared memory region `{name}`: {byte_size} bytes are not between 1 and {max}")));
        }
        Ok(())
    }
}

fn not_registered(name: &str, error: &RegionError) -> Refusal {
    Refusal::bad_request(format!("failed to register shared memory region `{name}`: {}", chain(error)))
}

/// An error and what caused it.
fn chain(error: &RegionError) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions(regions_max: usize) -> (tempfile::TempDir, Regions) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("object"), [0; 64]).unwrap();
        let regions = Regions::over(folder.path(), &SharedMemory { enabled: true, regions_max, region_bytes_max: 64 });
        (folder, regions)
    }

    #[test]
    fn a_region_is_registered_once_listed_and_forgotten() {
        let (_folder, regions) = regions(4);
        regions.register("a", "/object", 0, 32).unwrap();
        regions.register("b", "object", 32, 32).unwrap();
        assert_eq!(regions.register("a", "/object", 0, 1).unwrap_err().message(), "shared memory region `a` already in manager");
        let names: Vec<String> = regions.status("").unwrap().iter().map(|region| region.name.clone()).collect();
        assert_eq!(names, ["a", "b"]);
        regions.unregister("a");
        assert_eq!(regions.status("a").unwrap_err().status(), 404);
        regions.unregister("");
        assert!(regions.status("").unwrap().is_empty());
    }

    #[test]
    fn regions_are_bounded_in_number_and_size() {
        let (_folder, regions) = regions(1);
        for byte_size in [0, 65] {
            assert_eq!(regions.register("a", "object", 0, byte_size).unwrap_err().status(), 400);
        }
        assert!(regions.register("", "object", 0, 1).is_err());
        regions.register("a", "object", 0, 1).unwrap();
        assert_eq!(regions.register("b", "object", 0, 1).unwrap_err().status(), 413);
    }

    #[test]
    fn a_missing_object_is_named_with_what_the_system_says() {
        let (_folder, regions) = regions(1);
        let message = regions.register("a", "/nothing", 0, 1).unwrap_err().message().to_owned();
        assert!(
            message.starts_with(
                "failed to register shared memory region `a`: unable to open the shared memory object `/nothing`: No such file"
            )
        );
    }

    #[test]
    fn nothing_is_there_where_the_extension_is_off() {
        assert!(Regions::new(&SharedMemory::default()).is_none());
    }
}
