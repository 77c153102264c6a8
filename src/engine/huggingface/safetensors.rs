//! Weights in safetensors files: one, or several that an index names. Nothing of a header is believed before it is checked.
//!
//! Tensors are read at their places with positioned reads, straight into the memory that keeps them. A file that shrinks
//! meanwhile is an error and not a signal, and no `unsafe` is needed; see docs/decisions/0036.

mod header;

pub use header::{Entry, Header};

use super::folder::Folder;
use crate::engine::LoadError;
use candle_core::{DType, Device, Shape, Tensor};
use half::{bf16, f16};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The one file's name, and its index's where there are several.
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The weights of a model, by name, still in their files.
#[derive(Debug)]
pub struct Weights {
    files: Vec<(String, File)>,
    entries: BTreeMap<String, (usize, Entry)>,
    dtype: DType,
    device: Device,
}

impl Weights {
    /// Opens a folder's files and checks their headers. `dtype` is what tensors are converted to when they are read.
    ///
    /// # Errors
    /// `InvalidModel` with the file, the tensor and what is wrong with it.
    pub fn open(folder: &Folder, dtype: DType, device: &Device) -> Result<Self, LoadError> {
        let mut weights = Self { files: Vec::new(), entries: BTreeMap::new(), dtype, device: device.clone() };
        for name in file_names(folder)? {
            weights.add(folder, &name)?;
        }
        Ok(weights)
    }

    fn add(&mut self, folder: &Folder, name: &str) -> Result<(), LoadError> {
        let wrong = |what: String| LoadError::InvalidModel(format!("{name}: {what}"));
        let file = File::open(folder.path(name)).map_err(|error| wrong(error.to_string()))?;
        let length = file.metadata().map_err(|error| wrong(error.to_string()))?.len();
        let header = Header::read(&file, length).map_err(wrong)?;
        let at = self.files.len();
        self.files.push((name.to_owned(), file));
        for (tensor, entry) in header.entries {
            if self.entries.insert(tensor.clone(), (at, entry)).is_some() {
                return Err(wrong(format!("tensor `{tensor}` is in another file as well")));
            }
        }
        Ok(())
    }

    /// Whether a tensor is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The first of these names that is there.
    #[must_use]
    pub fn first_of<'n>(&self, names: &[&'n str]) -> Option<&'n str> {
        names.iter().copied().find(|name| self.has(name))
    }

    /// Reads a tensor of a known shape.
    ///
    /// # Errors
    /// `InvalidModel`: not there, of another shape, of a type that is no float, or not readable.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        let Some((at, entry)) = self.entries.get(name) else {
            let files: Vec<&str> = self.files.iter().map(|(name, _)| name.as_str()).collect();
            return Err(LoadError::InvalidModel(format!("{}: no tensor `{name}`, which the architecture has", files.join(", "))));
        };
        let (file_name, file) = &self.files[*at];
        let wrong = |what: String| LoadError::InvalidModel(format!("{file_name}: tensor `{name}`: {what}"));
        if entry.shape != shape {
            return Err(wrong(format!("its shape is {:?}, by config.json it must be {shape:?}", entry.shape)));
        }
        let tensor = read(file, entry, &self.device).map_err(&wrong)?;
        tensor.to_dtype(self.dtype).map_err(|error| wrong(error.to_string()))
    }
}

/// The files that hold the weights.
fn file_names(folder: &Folder) -> Result<BTreeSet<String>, LoadError> {
    if folder.has(SINGLE) {
        return Ok([SINGLE.to_owned()].into());
    }
    let Some(index) = folder.json(INDEX)? else {
        return Err(LoadError::InvalidModel(format!(
            "no weights here: neither `{SINGLE}` nor `{INDEX}`; found: {}\n\n\
             hint: convert other files with `save_pretrained(.., safe_serialization=True)`",
            folder.listed()
        )));
    };
    let map = index["weight_map"].as_object().ok_or_else(|| LoadError::InvalidModel(format!("{INDEX}: it has no `weight_map`")))?;
    let names: BTreeSet<String> = map.values().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    // A name with a slash would lead out of the folder.
    match names.iter().find(|name| name.contains(['/', '\\']) || name.starts_with('.')) {
        Some(name) => Err(LoadError::InvalidModel(format!("{INDEX}: `{name}` is no name of a file in this folder"))),
        None if names.is_empty() => Err(LoadError::InvalidModel(format!("{INDEX}: its `weight_map` is empty"))),
        None => Ok(names),
    }
}

fn read(file: &File, entry: &Entry, device: &Device) -> Result<Tensor, String> {
    match entry.dtype.as_str() {
        "F32" => values::<f32>(file, entry, device),
        "F16" => values::<f16>(file, entry, device),
        "BF16" => values::<bf16>(file, entry, device),
        "F64" => values::<f64>(file, entry, device),
        other => Err(format!("its type is {other}; supported are F32, F16, BF16, F64")),
    }
}

/// The numbers of a tensor, whose size was held against the file's when its header was read.
fn values<T: candle_core::WithDType + bytemuck::Pod>(file: &File, entry: &Entry, device: &Device) -> Result<Tensor, String> {
    let mut numbers = vec![T::zeroed(); entry.len / size_of::<T>()];
    file.read_exact_at(bytemuck::cast_slice_mut(&mut numbers), entry.offset).map_err(|error| error.to_string())?;
    Tensor::from_vec(numbers, Shape::from(entry.shape.clone()), device).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::huggingface::HuggingFaceConfig;
    use std::fs;

    /// A file with one header and these bytes behind it.
    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    fn folder(files: &[(&str, Vec<u8>)]) -> (tempfile::TempDir, Folder) {
        let place = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(place.path().join(name), bytes).unwrap();
        }
        let folder = Folder::open(place.path(), &HuggingFaceConfig::default()).unwrap();
        (place, folder)
    }

    fn open(files: &[(&str, Vec<u8>)]) -> Result<Weights, String> {
        let (_place, folder) = folder(files);
        Weights::open(&folder, DType::F32, &Device::Cpu).map_err(|error| error.to_string())
    }

    fn one(name: &str) -> String {
        format!(r#"{{"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#)
    }

    #[test]
    fn a_half_tensor_is_read_as_the_type_that_is_asked_for() {
        let header = r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[4,6]}}"#;
        let data = [f16::from_f32(1.5).to_le_bytes(), f16::from_f32(-2.0).to_le_bytes(), bf16::from_f32(3.0).to_le_bytes()].concat();
        let weights = open(&[(SINGLE, file(header, &data))]).unwrap();
        assert_eq!(weights.get("a", &[2]).unwrap().to_vec1::<f32>().unwrap(), [1.5, -2.0]);
        assert_eq!(weights.get("b", &[1]).unwrap().to_vec1::<f32>().unwrap(), [3.0]);
    }

    #[test]
    fn tensors_of_several_files_are_found_by_the_index() {
        let index = br#"{"weight_map":{"a":"x-1.safetensors","b":"x-2.safetensors"}}"#.to_vec();
        let part = |name: &str, value: f32| file(&one(name), &[value.to_le_bytes(), value.to_le_bytes()].concat());
        let files = [(INDEX, index.clone()), ("x-1.safetensors", part("a", 1.0)), ("x-2.safetensors", part("b", 2.0))];
        assert_eq!(open(&files).unwrap().get("b", &[2]).unwrap().to_vec1::<f32>().unwrap(), [2.0, 2.0]);
        let twice = [(INDEX, index), ("x-1.safetensors", part("a", 1.0)), ("x-2.safetensors", part("a", 2.0))];
        assert_eq!(open(&twice).unwrap_err(), "x-2.safetensors: tensor `a` is in another file as well");
    }

    #[test]
    fn an_index_cannot_lead_out_of_its_folder() {
        let index = br#"{"weight_map":{"a":"../secret.safetensors"}}"#.to_vec();
        assert!(open(&[(INDEX, index)]).unwrap_err().contains("`../secret.safetensors` is no name of a file in this folder"));
    }

    #[test]
    fn a_tensor_that_is_missing_or_of_another_shape_is_named_with_its_file() {
        let weights = open(&[(SINGLE, file(&one("a"), &[0; 8]))]).unwrap();
        assert_eq!(weights.get("b", &[2]).unwrap_err().to_string(), "model.safetensors: no tensor `b`, which the architecture has");
        assert_eq!(
            weights.get("a", &[3]).unwrap_err().to_string(),
            "model.safetensors: tensor `a`: its shape is [2], by config.json it must be [3]"
        );
    }

    #[test]
    fn a_tensor_of_whole_numbers_is_refused_only_when_it_is_asked_for() {
        let header = r#"{"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
        let weights = open(&[(SINGLE, file(header, &[0; 8]))]).unwrap();
        assert!(weights.get("ids", &[1]).unwrap_err().to_string().contains("its type is I64; supported are F32"));
    }

    #[test]
    fn a_folder_without_weights_says_what_it_holds() {
        assert!(open(&[("pytorch_model.bin", Vec::new())]).unwrap_err().contains("found: `pytorch_model.bin`"));
    }

    #[test]
    fn a_file_that_shrank_after_its_header_was_read_is_an_error() {
        let (place, folder) = folder(&[(SINGLE, file(&one("a"), &[0; 8]))]);
        let weights = Weights::open(&folder, DType::F32, &Device::Cpu).unwrap();
        File::options().write(true).open(place.path().join(SINGLE)).unwrap().set_len(64).unwrap();
        assert!(weights.get("a", &[2]).unwrap_err().to_string().starts_with("model.safetensors: tensor `a`: "));
    }
}
