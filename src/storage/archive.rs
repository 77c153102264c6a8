//! Unpacks what was fetched: tar, tar.gz, zip and gz, into one folder, within bounds, and nothing outside of it.

use super::{StorageError, disk_error};
use flate2::read::MultiGzDecoder;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::{Component, Path, PathBuf};
use zip::ZipArchive;

/// Bytes copied at once.
const COPY_BYTES: usize = 64 << 10;

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// `.tar`
    Tar,
    /// `.tar.gz`, `.tgz`
    TarGz,
    /// A layer of an image that is packed with zstd; no name means it.
    TarZstd,
    /// `.zip`
    Zip,
    /// `.gz`: one file
    Gz,
}

/// How much may come out of an archive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes of all files together.
    pub(super) bytes_max: u64,
    /// Files and folders.
    pub(super) entries_max: usize,
}

impl Packing {
    /// By the end of a name.
    pub(super) fn of(name: &str) -> Option<Self> {
        const ENDS: [(&str, Packing); 5] =
            [(".tar.gz", Packing::TarGz), (".tgz", Packing::TarGz), (".tar", Packing::Tar), (".zip", Packing::Zip), (".gz", Packing::Gz)];
        let name = name.to_ascii_lowercase();
        ENDS.into_iter().find(|(end, _)| name.ends_with(end)).map(|(_, packing)| packing)
    }
}

/// Unpacks `archive` into the empty folder `target`; the top folder of the archive stays.
///
/// `name` is the archive's own name, for messages and for the one file of a `.gz`.
///
/// # Errors
/// `Wrong`: not an archive, a path that leaves the folder, a link or a device, or more than the bounds.
pub(super) fn unpack(archive: &Path, packing: Packing, target: &Path, name: &str, bounds: &Bounds) -> Result<(), StorageError> {
    let file = File::open(archive).map_err(|error| disk_error(&error, archive))?;
    let mut room = Room { target, name, bounds, bytes: 0, entries: 0 };
    let reader = BufReader::with_capacity(COPY_BYTES, file);
    match packing {
        Packing::Tar => room.unpack_tar(reader),
        Packing::TarGz => room.unpack_tar(MultiGzDecoder::new(reader)),
        Packing::TarZstd => room.unpack_tar(zstd::Decoder::with_buffer(reader).map_err(|error| disk_error(&error, archive))?),
        Packing::Zip => room.unpack_zip(reader),
        Packing::Gz => room.unpack_gz(reader),
    }
}

/// The folder that is filled, and how full it is.
struct Room<'a> {
    target: &'a Path,
    name: &'a str,
    bounds: &'a Bounds,
    bytes: u64,
    entries: usize,
}

impl Room<'_> {
    fn unpack_tar(&mut self, reader: impl Read) -> Result<(), StorageError> {
        let mut archive = tar::Archive::new(reader);
        let entries = archive.entries().map_err(|error| self.invalid(&error))?;
        for entry in entries {
            let mut entry = entry.map_err(|error| self.invalid(&error))?;
            let path = entry.path().map_err(|error| self.invalid(&error))?.into_owned();
            match entry.header().entry_type() {
                tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => self.put_file(&path, &mut entry)?,
                tar::EntryType::Directory => self.put_folder(&path)?,
                tar::EntryType::XGlobalHeader => {}
                _ => return Err(self.wrong(&format!("`{}` is a link or a device, which are not unpacked", path.display()))),
            }
        }
        self.holds_something()
    }

    fn unpack_zip(&mut self, reader: impl Read + Seek) -> Result<(), StorageError> {
        let mut archive = ZipArchive::new(reader).map_err(|error| self.invalid(&error))?;
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).map_err(|error| self.invalid(&error))?;
            let path = PathBuf::from(&*entry.name().map_err(|error| self.invalid(&error))?);
            if entry.is_symlink() {
                return Err(self.wrong(&format!("`{}` is a link, which is not unpacked", path.display())));
            }
            if entry.is_dir() { self.put_folder(&path)? } else { self.put_file(&path, &mut entry)? }
        }
        self.holds_something()
    }

    fn unpack_gz(&mut self, reader: impl io::BufRead) -> Result<(), StorageError> {
        let inner = self.name.get(..self.name.len().saturating_sub(".gz".len())).unwrap_or_default().to_owned();
        self.put_file(Path::new(&inner), &mut MultiGzDecoder::new(reader))
    }

    fn put_folder(&mut self, path: &Path) -> Result<(), StorageError> {
        let target = self.place(path)?;
        fs::create_dir_all(&target).map_err(|error| disk_error(&error, &target))
    }

    fn put_file(&mut self, path: &Path, content: &mut impl Read) -> Result<(), StorageError> {
        let target = self.place(path)?;
        let create = || {
            fs::create_dir_all(target.parent().unwrap_or(self.target))?;
            File::create_new(&target)
        };
        let mut file = create().map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => self.wrong(&format!("`{}` is in it twice", path.display())),
            _ => disk_error(&error, &target),
        })?;
        self.copy(content, &mut file, &target)
    }

    fn copy(&mut self, content: &mut impl Read, file: &mut File, target: &Path) -> Result<(), StorageError> {
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let read = match content.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.invalid(&error)),
            };
            self.bytes += read as u64;
            if self.bytes > self.bounds.bytes_max {
                return Err(
                    self.wrong(&format!("it unpacks to more than `storage.download.model_bytes_max`: {} bytes", self.bounds.bytes_max))
                );
            }
            file.write_all(&buffer[..read]).map_err(|error| disk_error(&error, target))?;
        }
    }

    /// Where an entry belongs; every entry passes here, so each is counted.
    fn place(&mut self, path: &Path) -> Result<PathBuf, StorageError> {
        self.entries += 1;
        if self.entries > self.bounds.entries_max {
            return Err(self.wrong(&format!("it holds more than `storage.download.entries_max`: {} entries", self.bounds.entries_max)));
        }
        let leaves = path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir));
        // A backslash separates folders elsewhere; a name that means two things is not taken.
        if leaves || path.as_os_str().is_empty() || path.to_string_lossy().contains(['\\', '\0']) {
            return Err(self.wrong(&format!("`{}` leads out of the model's folder", path.display())));
        }
        Ok(self.target.join(path))
    }

    fn holds_something(&self) -> Result<(), StorageError> {
        if self.entries == 0 { Err(self.wrong("it holds no files")) } else { Ok(()) }
    }

    fn invalid(&self, error: &dyn std::error::Error) -> StorageError {
        self.wrong(&format!("the file format is not valid: {error}"))
    }

    fn wrong(&self, message: &str) -> StorageError {
        StorageError::Wrong(format!("cannot unpack `{}`: {message}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::os::unix::ffi::OsStrExt;

    const BOUNDS: Bounds = Bounds { bytes_max: 1 << 20, entries_max: 10 };

    /// A tar file with headers written by hand, since writers refuse the names that attackers choose.
    fn tar_of(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            let raw = std::ffi::OsStr::new(name).as_bytes();
            header.as_old_mut().name[..raw.len()].copy_from_slice(raw);
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.as_old_mut().linkname[..4].copy_from_slice(b"/etc");
            header.set_mode(0o4777);
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        for (name, content) in entries {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn gz_of(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    struct Unpacked {
        folder: tempfile::TempDir,
        outcome: Result<(), String>,
    }

    impl Unpacked {
        fn of(name: &str, content: &[u8]) -> Self {
            Self::packed(name, Packing::of(name).unwrap(), content)
        }

        fn packed(name: &str, packing: Packing, content: &[u8]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (archive, target) = (folder.path().join("body"), folder.path().join("in/files"));
            fs::write(&archive, content).unwrap();
            fs::create_dir_all(&target).unwrap();
            let outcome = unpack(&archive, packing, &target, name, &BOUNDS).map_err(|error| error.to_string());
            Self { folder, outcome }
        }

        fn read(&self, path: &str) -> Vec<u8> {
            assert_eq!(self.outcome, Ok(()));
            fs::read(self.folder.path().join("in/files").join(path)).unwrap()
        }

        fn refused(&self, because: &str) {
            let message = self.outcome.as_ref().unwrap_err();
            assert!(message.contains(because), "{message}");
            assert!(!self.folder.path().join("in/evil").exists() && !self.folder.path().join("evil").exists());
        }
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;

    #[test]
    fn every_packing_is_known_by_its_name() {
        let names = ["m.tar", "m.TAR.GZ", "m.tgz", "m.zip", "m.onnx.gz", "m.onnx"];
        let found = [Some(Packing::Tar), Some(Packing::TarGz), Some(Packing::TarGz), Some(Packing::Zip), Some(Packing::Gz), None];
        assert_eq!(names.map(Packing::of), found);
    }

    #[test]
    fn archives_are_unpacked_with_their_folders() {
        let tar = tar_of(&[("top/", tar::EntryType::Directory, b""), ("./top/m.onnx", FILE, b"model")]);
        assert_eq!(Unpacked::of("a.tar", &tar).read("top/m.onnx"), b"model");
        assert_eq!(Unpacked::of("a.tgz", &gz_of(&tar)).read("top/m.onnx"), b"model");
        assert_eq!(Unpacked::of("a.zip", &zip_of(&[("top/m.onnx", b"model")])).read("top/m.onnx"), b"model");
        assert_eq!(Unpacked::packed("layer", Packing::TarZstd, &zstd::encode_all(&*tar, 0).unwrap()).read("top/m.onnx"), b"model");
        assert_eq!(Unpacked::of("m.onnx.gz", &gz_of(b"model")).read("m.onnx"), b"model");
    }

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        for name in ["../evil", "top/../../evil", "/evil", "..\\evil"] {
            Unpacked::of("a.tar", &tar_of(&[(name, FILE, b"x")])).refused("leads out of the model's folder");
            Unpacked::of("a.zip", &zip_of(&[(name, b"x")])).refused("leads out of the model's folder");
        }
    }

    #[test]
    fn links_and_devices_are_refused() {
        for kind in [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Char, tar::EntryType::Fifo] {
            Unpacked::of("a.tar", &tar_of(&[("evil", kind, b""), ("evil/passwd", FILE, b"x")])).refused("a link or a device");
        }
    }

    #[test]
    fn a_bomb_ends_at_the_bounds() {
        let zeros = vec![0; 2 << 20];
        Unpacked::of("a.tgz", &gz_of(&tar_of(&[("m", FILE, &zeros)]))).refused("model_bytes_max");
        Unpacked::of("a.zip", &zip_of(&[("m", &zeros)])).refused("model_bytes_max");
        Unpacked::of("m.gz", &gz_of(&zeros)).refused("model_bytes_max");
        let names: Vec<String> = (0..11).map(|number| format!("f{number}")).collect();
        let many: Vec<(&str, tar::EntryType, &[u8])> = names.iter().map(|name| (name.as_str(), FILE, &b""[..])).collect();
        Unpacked::of("a.tar", &tar_of(&many)).refused("entries_max");
    }

    #[test]
    fn what_is_no_archive_is_named_so() {
        let page = b"<html>not found</html>".repeat(100);
        for name in ["a.tar", "a.tgz", "a.zip", "a.gz"] {
            Unpacked::of(name, &page).refused("the file format is not valid");
        }
        Unpacked::of("a.tar", &tar_of(&[])).refused("holds no files");
    }

    #[test]
    fn one_name_twice_is_refused() {
        Unpacked::of("a.tar", &tar_of(&[("m", FILE, b"1"), ("m", FILE, b"2")])).refused("is in it twice");
    }

    #[cfg(unix)]
    #[test]
    fn rights_of_the_archive_are_not_taken_over() {
        use std::os::unix::fs::PermissionsExt;
        let unpacked = Unpacked::of("a.tar", &tar_of(&[("m", FILE, b"1")]));
        let mode = fs::metadata(unpacked.folder.path().join("in/files/m")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7111, 0, "{mode:o}");
    }
}
