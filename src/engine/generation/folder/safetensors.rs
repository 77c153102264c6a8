//! Weights in safetensors files, mapped: one file, or several that hold parts.

use crate::engine::generation::weights::{Dtype, Source, StoredTensor};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype as Stored;
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Where a tensor lies.
#[derive(Debug)]
struct Place {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// Mapped files and their tensors by name.
#[derive(Debug)]
pub(super) struct SafetensorsFiles {
    maps: Vec<Mmap>,
    tensors: HashMap<String, Place>,
}

impl SafetensorsFiles {
    /// Maps files and reads their headers; lengths and offsets are checked against the files.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self, String> {
        if paths.is_empty() {
            return Err("no `.safetensors` file here\n\nhint: weights as `pytorch_model.bin` are not read; save them with `safe_serialization=True`".to_owned());
        }
        let mut found = Self { maps: Vec::new(), tensors: HashMap::new() };
        for path in paths {
            found.add(path).map_err(|sentence| format!("{}: {sentence}", path.file_name().unwrap_or_default().to_string_lossy()))?;
        }
        Ok(found)
    }

    fn add(&mut self, path: &Path) -> Result<(), String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        #[expect(unsafe_code, reason = "a mapped file is the only way to have weights in memory once")]
        // SAFETY: the map is read only, and models are files that nobody writes to once they are there: the cache renames
        // whole folders into place. Who truncates a served file ends the process, as with every program that maps files.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| error.to_string())?;
        self.index(&map, self.maps.len())?;
        self.maps.push(map);
        Ok(())
    }

    fn index(&mut self, bytes: &[u8], file: usize) -> Result<(), String> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| format!("damaged: {error}"))?;
        for (name, view) in tensors.iter() {
            let Some(dtype) = dtype_of(view.dtype()) else { continue };
            let data = view.data();
            let start = data.as_ptr().addr() - bytes.as_ptr().addr();
            let place = Place { file, dtype, shape: view.shape().to_vec(), range: start..start + data.len() };
            if self.tensors.insert(plain(name), place).is_some() {
                return Err(format!("tensor `{name}` stands in two files"));
            }
        }
        Ok(())
    }
}

/// Models that read pictures too keep what writes text below a name of its own.
fn plain(name: &str) -> String {
    let of_text = name.strip_prefix("language_model.").map(str::to_owned);
    of_text.or_else(|| Some(format!("model.{}", name.strip_prefix("model.language_model.")?))).unwrap_or_else(|| name.to_owned())
}

/// Tensors of other types are as if they were not there: decoders have none of them among their weights.
const fn dtype_of(stored: Stored) -> Option<Dtype> {
    match stored {
        Stored::F32 => Some(Dtype::F32),
        Stored::F16 => Some(Dtype::F16),
        Stored::BF16 => Some(Dtype::Bf16),
        _ => None,
    }
}

impl Source for SafetensorsFiles {
    fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let place = self.tensors.get(name)?;
        Some(StoredTensor { dtype: place.dtype, shape: place.shape.clone(), bytes: &self.maps[place.file][place.range.clone()] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    fn open(files: &[Vec<u8>]) -> Result<SafetensorsFiles, String> {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..files.len()).map(|at| folder.path().join(format!("{at}.safetensors"))).collect();
        paths.iter().zip(files).for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
        SafetensorsFiles::open(&paths)
    }

    #[test]
    fn tensors_are_found_in_all_files() {
        let one = file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, &[1; 8]);
        let other = file(r#"{"b":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}}"#, &[2; 4]);
        let files = open(&[one.clone(), other]).unwrap();
        let tensor = files.tensor("b").unwrap();
        assert_eq!((tensor.dtype, tensor.shape.as_slice(), tensor.bytes), (Dtype::Bf16, &[1, 2][..], &[2; 4][..]));
        assert!(files.tensor("c").is_none());
        assert_eq!(open(&[one.clone(), one]).unwrap_err(), "1.safetensors: tensor `a` stands in two files");
    }

    #[test]
    fn the_text_part_of_a_model_with_pictures_has_the_usual_names() {
        let header = r#"{"language_model.model.norm.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                         "model.language_model.layers.0.x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
        let files = open(&[file(header, &[0; 8])]).unwrap();
        assert!(files.tensor("model.norm.weight").is_some() && files.tensor("model.layers.0.x").is_some());
    }

    #[test]
    fn damaged_files_are_refused_by_name() {
        let cases = [
            u64::MAX.to_le_bytes().to_vec(),
            file(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, &[1; 8]),
            file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, &[1; 7]),
            file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#, &[1; 12]),
            file("not json", &[]),
            Vec::new(),
        ];
        for bytes in cases {
            let error = open(&[bytes]).unwrap_err();
            assert!(error.starts_with("0.safetensors: "), "{error}");
        }
        assert!(open(&[]).unwrap_err().starts_with("no `.safetensors` file here"));
    }
}
