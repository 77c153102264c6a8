//! From the layers of an image, or the packed folders of an artifact, to the model: what lies below `models/` in them,
//! later layers over earlier ones, as KServe takes it.

use super::archive::{self, Bounds, Packing};
use super::download::Fetched;
use super::source::Then;
use super::{StorageError, disk_error};
use flate2::read::MultiGzDecoder;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

/// The folder of an image that is the model.
const MODELS: &str = "models";
/// What a name in a later layer begins with that takes an earlier one away ...
const GONE: &str = ".wh.";
/// ... and the name that takes all of its folder away.
const ALL_GONE: &str = ".wh..wh..opq";

/// Makes the model of the files in `folder`, in their place; whether there was something to be made. Blocks; files that are
/// the model already stay as they are.
///
/// # Errors
/// `Wrong`: no `models/` in the image, a path that leaves it, links, or more than the bounds.
pub(super) fn unpack(then: Then, folder: &Path, files: &[Fetched], bounds: &Bounds) -> Result<bool, StorageError> {
    match then {
        Then::Keep | Then::UnpackOne => Ok(false),
        Then::UnpackFolders => unpack_folders(folder, files, bounds).map(|()| files.iter().any(|file| file.packing.is_some())),
        Then::TakeModelsOfLayers => take_models(folder, files, bounds).map(|()| true),
    }
}

fn unpack_folders(folder: &Path, files: &[Fetched], bounds: &Bounds) -> Result<(), StorageError> {
    for file in files {
        let (Some(packing), packed) = (file.packing, folder.join(&file.path)) else { continue };
        let aside = folder.join(format!("{}.packed", file.path));
        fs::rename(&packed, &aside).map_err(|error| disk_error(&error, &packed))?;
        archive::unpack(&aside, packing, folder, &file.path, bounds)?;
        fs::remove_file(&aside).map_err(|error| disk_error(&error, &aside))?;
    }
    Ok(())
}

fn take_models(folder: &Path, files: &[Fetched], bounds: &Bounds) -> Result<(), StorageError> {
    let mut room = Room { folder, bounds, bytes: 0, entries: 0, taken: 0 };
    for file in files {
        let path = folder.join(&file.path);
        let open = File::open(&path).map_err(|error| disk_error(&error, &path))?;
        let reader = BufReader::new(open);
        match file.packing {
            Some(Packing::TarGz) => room.lay_over(MultiGzDecoder::new(reader))?,
            Some(Packing::TarZstd) => room.lay_over(zstd::Decoder::with_buffer(reader).map_err(|error| disk_error(&error, &path))?)?,
            _ => room.lay_over(reader)?,
        }
        fs::remove_file(&path).map_err(|error| disk_error(&error, &path))?;
    }
    if room.taken == 0 {
        return Err(StorageError::Wrong(format!("Failed to fetch model. The image has no files below `/{MODELS}`.")));
    }
    Ok(())
}

/// The model's folder, and how full it is.
struct Room<'a> {
    folder: &'a Path,
    bounds: &'a Bounds,
    bytes: u64,
    entries: usize,
    taken: usize,
}

impl Room<'_> {
    fn lay_over(&mut self, layer: impl Read) -> Result<(), StorageError> {
        let invalid = |error: io::Error| StorageError::Wrong(format!("a layer is not a tar file: {error}"));
        let mut archive = tar::Archive::new(layer);
        for entry in archive.entries().map_err(invalid)? {
            let mut entry = entry.map_err(invalid)?;
            self.count(&entry)?;
            let path = entry.path().map_err(invalid)?.into_owned();
            let Some(below) = below_models(&path)? else { continue };
            if self.takes_away(&below)? {
                continue;
            }
            match entry.header().entry_type() {
                tar::EntryType::Directory => self.make_folder(&below)?,
                tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => self.put(&below, &mut entry)?,
                _ => return Err(wrong(&path, "is a link or a device, which are not unpacked")),
            }
        }
        Ok(())
    }

    /// Everything that is read counts, also what is passed over.
    fn count(&mut self, entry: &tar::Entry<'_, impl Read>) -> Result<(), StorageError> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(entry.size());
        if self.bytes > self.bounds.bytes_max {
            let message = format!("the layers hold more than `storage.download.model_bytes_max`: {} bytes", self.bounds.bytes_max);
            return Err(StorageError::Wrong(message));
        }
        // An image holds a whole system beside the model.
        if self.entries > self.bounds.entries_max.saturating_mul(100) {
            return Err(StorageError::Wrong(format!("the layers hold more than {} entries", self.bounds.entries_max.saturating_mul(100))));
        }
        Ok(())
    }

    /// Whether it is a mark that takes something of an earlier layer away; done where it is.
    fn takes_away(&self, below: &Path) -> Result<bool, StorageError> {
        let name = below.file_name().unwrap_or_default().to_string_lossy();
        let parent = self.folder.join(below.parent().unwrap_or(Path::new("")));
        let gone = match name.as_ref() {
            ALL_GONE => return clear(&parent).map(|()| true).map_err(|error| disk_error(&error, &parent)),
            _ => name.strip_prefix(GONE).map(|name| parent.join(name)),
        };
        let Some(gone) = gone else { return Ok(false) };
        remove(&gone).map(|()| true).map_err(|error| disk_error(&error, &gone))
    }

    fn make_folder(&self, below: &Path) -> Result<(), StorageError> {
        let target = self.folder.join(below);
        if target.is_file() {
            remove(&target).map_err(|error| disk_error(&error, &target))?;
        }
        fs::create_dir_all(&target).map_err(|error| disk_error(&error, &target))
    }

    fn put(&mut self, below: &Path, content: &mut impl Read) -> Result<(), StorageError> {
        let target = self.folder.join(below);
        let mut write = || {
            fs::create_dir_all(target.parent().unwrap_or(self.folder))?;
            remove(&target)?;
            io::copy(content, &mut File::create_new(&target)?)
        };
        write().map_err(|error| disk_error(&error, &target))?;
        self.taken += 1;
        Ok(())
    }
}

/// The path below `models/`, without it; nothing for everything else.
fn below_models(path: &Path) -> Result<Option<PathBuf>, StorageError> {
    let mut parts = path.components().filter(|part| !matches!(part, Component::CurDir | Component::RootDir));
    if parts.next() != Some(Component::Normal(MODELS.as_ref())) {
        return Ok(None);
    }
    let below: PathBuf = parts.collect();
    let leaves = below.components().any(|part| !matches!(part, Component::Normal(_)));
    if leaves || below.to_string_lossy().contains(['\\', '\0']) {
        return Err(wrong(path, "leads out of the model's folder"));
    }
    Ok((!below.as_os_str().is_empty()).then_some(below))
}

fn wrong(path: &Path, message: &str) -> StorageError {
    StorageError::Wrong(format!("cannot unpack a layer: `{}` {message}", path.display()))
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Takes away what earlier layers put into a folder; layers that are still to come lie beside the model as plain files.
fn clear(folder: &Path) -> io::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    let is_layer = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("layer-"));
    fs::read_dir(folder)?.try_for_each(|entry| {
        let path = entry?.path();
        if is_layer(&path) { Ok(()) } else { remove(&path) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    const BOUNDS: Bounds = Bounds { bytes_max: 1 << 20, entries_max: 10 };

    fn layer(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            let raw = std::ffi::OsStr::new(name).as_bytes();
            header.as_old_mut().name[..raw.len()].copy_from_slice(raw);
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn model_of(layers: &[&[(&str, tar::EntryType, &str)]]) -> Result<Vec<(String, String)>, String> {
        let folder = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        for (number, entries) in layers.iter().enumerate() {
            let name = format!("layer-{number:04}");
            fs::write(folder.path().join(&name), layer(entries)).unwrap();
            let place = folder.path().join(&name);
            files.push(Fetched { path: name, packing: Some(Packing::Tar), place, bytes: 0, sha256: [0; 32], validator: None });
        }
        unpack(Then::TakeModelsOfLayers, folder.path(), &files, &BOUNDS).map_err(|error| error.to_string())?;
        let mut found = Vec::new();
        let mut folders = vec![folder.path().to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(folder.path()).unwrap().display().to_string();
                if path.is_dir() { folders.push(path) } else { found.push((name, fs::read_to_string(&path).unwrap())) }
            }
        }
        found.sort();
        Ok(found)
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;

    #[test]
    fn later_layers_lie_over_earlier_ones_and_only_models_are_taken() {
        let found = model_of(&[
            &[("etc/passwd", FILE, "x"), ("bin/sh", tar::EntryType::Symlink, ""), ("models/a", FILE, "1"), ("./models/d/b", FILE, "1")],
            &[("models/a", FILE, "2"), ("/models/c", FILE, "3"), ("models/d/.wh.b", FILE, "")],
        ]);
        assert_eq!(found.unwrap(), [("a".to_owned(), "2".to_owned()), ("c".to_owned(), "3".to_owned())]);
        let emptied = model_of(&[&[("models/a", FILE, "1")], &[("models/.wh..wh..opq", FILE, ""), ("models/z", FILE, "2")]]);
        assert_eq!(emptied.unwrap(), [("z".to_owned(), "2".to_owned())]);
    }

    #[test]
    fn what_leaves_the_model_or_is_a_link_is_refused() {
        assert!(model_of(&[&[("models/../../x", FILE, "1")]]).unwrap_err().contains("leads out"));
        assert!(model_of(&[&[("models/x", tar::EntryType::Symlink, "")]]).unwrap_err().contains("link or a device"));
        assert!(model_of(&[&[("models/x", tar::EntryType::Link, "")]]).unwrap_err().contains("link or a device"));
        assert!(model_of(&[&[("etc/x", FILE, "1")]]).unwrap_err().contains("no files below `/models`"));
    }
}
