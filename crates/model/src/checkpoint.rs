//! A checkpoint's files: opened, mapped and checked against the configuration, no weight read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::TensorInfo;
use serde_json::Value;
use taper_arch::ModelSpec;
use taper_base::Fingerprint;

use crate::names;
use crate::parameter::parameters;
use crate::{ModelError, Parameter, Place, Result, StoredType, config, header};

/// Configurations and indices larger than this are not read.
const MOST_JSON: u64 = 64 << 20;

/// A checkpoint whose every tensor has been found, with the right shape and type, but not read.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: Value,
    spec: ModelSpec,
    stored: StoredType,
    shards: Vec<Shard>,
    tensors: BTreeMap<Place, (usize, TensorInfo)>, // shard, entry
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Mmap,
    data: usize, // where the tensors' bytes start
}

/// A tensor's bytes.
pub(crate) struct Stored<'a> {
    pub(crate) path: &'a Path,
    pub(crate) stored: StoredType,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
}

impl Checkpoint {
    /// Opens the folder `dir`: `config.json`, and `model.safetensors` or the shards of `model.safetensors.index.json`.
    ///
    /// # Errors
    /// Names the file, and the tensor or key, of whatever is missing, unexpected, damaged or of another shape or type.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let config = read_json(&path)?;
        let config = config::translated(&path, &config)?.unwrap_or(config);
        let mut spec = config::read(&path, &config)?;
        let (index, files) = weight_files(dir)?;
        let open = |path| Shard::open(path).map(|(shard, entries)| (shard, names::classic(&spec, entries)));
        let shards = files.into_iter().map(open).collect::<Result<Vec<_>>>()?;
        let tensors = collect(&spec, &index, &shards)?;
        let stored = common_type(&spec, &tensors, &shards);
        spec.dtype_bytes = stored.bytes();
        let shards = shards.into_iter().map(|(shard, _)| shard).collect();
        Ok(Self { dir: dir.to_owned(), config, spec, stored, shards, tensors })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The content of `config.json`, in the form of transformers.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The model in numbers.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The type that holds all weights exactly: theirs, or f32 if they are of several.
    pub fn stored_type(&self) -> StoredType {
        self.stored
    }

    /// Size of the weight files.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.map.len() as u64).sum()
    }

    /// The digest of the configuration and of all weight files' content, in order of their names.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        let path = self.dir.join("config.json");
        let mut all = of_file(&path)?.to_string();
        for shard in &self.shards {
            all.push_str(of_file(&shard.path)?.as_str());
        }
        Ok(Fingerprint::of_bytes(all.as_bytes()))
    }

    pub(crate) fn tensor(&self, place: Place) -> Option<Stored<'_>> {
        let (shard, info) = self.tensors.get(&place)?;
        let shard = &self.shards[*shard];
        let (from, to) = info.data_offsets;
        Some(Stored {
            path: &shard.path,
            stored: StoredType::of(info.dtype)?,
            shape: &info.shape,
            bytes: shard.map.get(shard.data + from..shard.data + to)?,
        })
    }
}

fn of_file(path: &Path) -> Result<Fingerprint> {
    Fingerprint::of_file(path).map_err(|cause| ModelError::Read { path: path.to_owned(), cause })
}

impl Shard {
    fn open(path: PathBuf) -> Result<(Self, Vec<(String, TensorInfo)>)> {
        let wrap = |cause| ModelError::Read { path: path.clone(), cause };
        let file = File::open(&path).map_err(wrap)?;
        #[expect(unsafe_code, reason = "mapping a file")]
        // SAFETY: the map is only read. Another process that shortens the file meanwhile ends this one with SIGBUS, as in
        // every loader that maps; nothing is written and results appear whole or not at all.
        let map = unsafe { Mmap::map(&file) }.map_err(wrap)?;
        let (metadata, data) = header::read(&path, &map)?;
        let mut entries: Vec<_> = metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        Ok((Self { path, map, data }, entries))
    }
}

fn read_json(path: &Path) -> Result<Value> {
    let wrap = |cause| ModelError::Read { path: path.to_owned(), cause };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MOST_JSON + 1).read_to_end(&mut bytes)).map_err(wrap)?;
    let refuse = |reason: String| ModelError::Config { path: path.to_owned(), reason };
    if bytes.len() as u64 > MOST_JSON {
        return Err(refuse(format!("is larger than {MOST_JSON} bytes")));
    }
    serde_json::from_slice(&bytes).map_err(|cause| refuse(format!("not JSON: {cause}")))
}

/// The file that stands for all weights in messages, and the files themselves, sorted.
fn weight_files(dir: &Path) -> Result<(PathBuf, Vec<PathBuf>)> {
    let (single, index) = (dir.join("model.safetensors"), dir.join("model.safetensors.index.json"));
    if single.exists() {
        return Ok((single.clone(), vec![single]));
    }
    if !index.exists() {
        return Err(ModelError::NoWeights { dir: dir.to_owned(), pickles: pickles(dir)? });
    }
    let refuse = |reason: String| ModelError::Header { path: index.clone(), reason };
    let content = read_json(&index)?;
    let map = content.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| refuse("no object `weight_map` in it".to_owned()))?;
    let mut names = Vec::new();
    for (tensor, file) in map {
        let name = file.as_str().filter(|name| is_plain(name));
        names.push(
            name.ok_or_else(|| refuse(format!("tensor `{tensor}` is said to be in {file}, wanted a file name")))?,
        );
    }
    names.sort_unstable();
    names.dedup();
    let files = names.into_iter().map(|name| dir.join(name)).collect();
    Ok((index, files))
}

/// No folder, no parent, no absolute path.
fn is_plain(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|file| file == name)
}

fn pickles(dir: &Path) -> Result<String> {
    let wrap = |cause| ModelError::Read { path: dir.to_owned(), cause };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(wrap)? {
        let name = entry.map_err(wrap)?.file_name().to_string_lossy().into_owned();
        if [".bin", ".pt", ".pth", ".ckpt"].iter().any(|end| name.ends_with(end)) {
            names.push(name);
        }
    }
    names.sort();
    Ok(match names.first() {
        None => String::new(),
        Some(first) => {
            format!("; {first} is a pickle, which can run code when it is read: convert it to safetensors first")
        }
    })
}

/// The type of all tensors, or f32 if they differ.
fn common_type(
    spec: &ModelSpec,
    tensors: &BTreeMap<Place, (usize, TensorInfo)>,
    shards: &[(Shard, Vec<(String, TensorInfo)>)],
) -> StoredType {
    let mut all = tensors.iter();
    let Some((_, (_, first))) = all.next() else { return StoredType::F32 };
    let Some((place, (shard, other))) = all.find(|(_, (_, info))| info.dtype != first.dtype) else {
        return StoredType::of(first.dtype).unwrap_or(StoredType::F32);
    };
    let path = shards[*shard].0.path.display();
    let place = place.name(spec);
    tracing::warn!("{path}: tensor `{place}` is {:?}, others {:?}: all count as F32", other.dtype, first.dtype);
    StoredType::F32
}

/// A head beside an embedding that is said to be the head too: the same bytes, or another model than the configuration says.
fn check_tied(
    spec: &ModelSpec,
    tensors: &BTreeMap<Place, (usize, TensorInfo)>,
    shards: &[(Shard, Vec<(String, TensorInfo)>)],
    (number, head): (usize, &TensorInfo),
) -> Result<()> {
    let bytes = |number: usize, info: &TensorInfo| {
        let (shard, (from, to)) = (&shards[number].0, info.data_offsets);
        shard.map.get(shard.data + from..shard.data + to)
    };
    let Some((of, embedding)) = tensors.get(&Place::global(Parameter::Embedding)) else { return Ok(()) };
    let same = embedding.dtype == head.dtype && embedding.shape == head.shape;
    if same && bytes(*of, embedding) == bytes(number, head) {
        return Ok(());
    }
    Err(ModelError::Tensor {
        path: shards[number].0.path.clone(),
        tensor: Place::global(Parameter::Head).name(spec),
        got: "another than the embedding".to_owned(),
        want: "the same, for `tie_word_embeddings` is set (set it to false if the head is its own)".to_owned(),
    })
}

/// Finds every parameter of `spec`; anything else must be known to be superfluous.
fn collect(
    spec: &ModelSpec,
    index: &Path,
    shards: &[(Shard, Vec<(String, TensorInfo)>)],
) -> Result<BTreeMap<Place, (usize, TensorInfo)>> {
    let mut found: BTreeMap<&str, (usize, &TensorInfo)> = BTreeMap::new();
    for (number, (shard, entries)) in shards.iter().enumerate() {
        for (name, info) in entries {
            if let Some((other, _)) = found.insert(name, (number, info)) {
                let reason = format!("tensor `{name}` is in {} too", shards[other].0.path.display());
                return Err(ModelError::Header { path: shard.path.clone(), reason });
            }
        }
    }
    let mut tensors = BTreeMap::new();
    for (place, shape) in parameters(spec) {
        let tensor = place.name(spec);
        let Some((number, info)) = found.remove(tensor.as_str()) else {
            return Err(ModelError::MissingTensor { path: index.to_owned(), tensor });
        };
        let path = || shards[number].0.path.clone();
        if StoredType::of(info.dtype).is_none() {
            let (got, want) = (format!("{:?}", info.dtype), "F32, F16 or BF16".to_owned());
            return Err(ModelError::Tensor { path: path(), tensor, got, want });
        }
        if info.shape != shape {
            let (got, want) = (format!("{:?}", info.shape), format!("{shape:?}"));
            return Err(ModelError::Tensor { path: path(), tensor, got, want });
        }
        tensors.insert(place, (number, info.clone()));
    }
    let head = Place::global(Parameter::Head).name(spec);
    if let Some(head) = found.remove(head.as_str()) {
        check_tied(spec, &tensors, shards, head)?; // an untied one has been taken
    }
    let superfluous = |name: &str| name.ends_with("rotary_emb.inv_freq") || name.ends_with("embeddings.mask_token");
    match found.into_iter().find(|(name, _)| !superfluous(name)) {
        Some((name, (number, _))) => {
            Err(ModelError::UnexpectedTensor { path: shards[number].0.path.clone(), tensor: name.to_owned() })
        }
        None => Ok(tensors),
    }
}
