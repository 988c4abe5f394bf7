//! Which sources there are, and with which constants they are compiled.

use std::fmt;

use taper_base::Fingerprint;

use crate::{NvrtcError, Result};

/// Every file of `kernels/`, by name: sources (`.cu`) and what they include (`.cuh`).
pub const FILES: &[(&str, &str)] = &[
    ("add.cu", include_str!("../../../kernels/add.cu")),
    ("attention.cu", include_str!("../../../kernels/attention.cu")),
    ("attention.cuh", include_str!("../../../kernels/attention.cuh")),
    ("attention_backward_mma.cu", include_str!("../../../kernels/attention_backward_mma.cu")),
    ("attention_mma.cu", include_str!("../../../kernels/attention_mma.cu")),
    ("attention_mma.cuh", include_str!("../../../kernels/attention_mma.cuh")),
    ("common.cuh", include_str!("../../../kernels/common.cuh")),
    ("device.cuh", include_str!("../../../kernels/device.cuh")),
    ("embedding.cu", include_str!("../../../kernels/embedding.cu")),
    ("gate.cu", include_str!("../../../kernels/gate.cu")),
    ("loss.cu", include_str!("../../../kernels/loss.cu")),
    ("norm.cu", include_str!("../../../kernels/norm.cu")),
    ("rope.cu", include_str!("../../../kernels/rope.cu")),
    ("scale.cu", include_str!("../../../kernels/scale.cu")),
    ("stats.cu", include_str!("../../../kernels/stats.cu")),
];

/// How values lie in device memory; sums are in f32 or f64 with either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Storage {
    /// 4 bytes.
    F32,
    /// 2 bytes: the upper half of an f32.
    Bf16,
}

impl Storage {
    /// What holds values that take so many bytes elsewhere: f32, or bf16 if they take less.
    pub fn of_bytes(bytes: usize) -> Self {
        if bytes < Self::F32.bytes() { Self::Bf16 } else { Self::F32 }
    }

    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

/// One source with its constants: what NVRTC compiles at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Module {
    /// Name of the source, as `norm.cu`.
    pub file: &'static str,
    /// Type of the values.
    pub storage: Storage,
    /// Width of a head, where the source needs it as a constant.
    pub d_head: Option<usize>,
}

impl Module {
    /// What the preprocessor is told.
    pub fn defines(&self) -> Vec<String> {
        let storage = matches!(self.storage, Storage::Bf16).then(|| "STORAGE_BF16=1".to_owned());
        storage.into_iter().chain(self.d_head.map(|d| format!("D_HEAD={d}"))).collect()
    }

    /// Hash of all that decides the PTX but NVRTC's release and the architecture.
    ///
    /// # Errors
    /// If there is no such source.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        let mut all = self.defines().join(" ");
        let used = FILES.iter().filter(|(name, _)| name.ends_with(".cuh")).map(|(_, text)| *text);
        for text in used.chain([source_of(self.file)?]) {
            all.push('\0');
            all.push_str(text);
        }
        Ok(Fingerprint::of_bytes(all.as_bytes()))
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.file.trim_end_matches(".cu"), self.storage)?;
        self.d_head.map_or(Ok(()), |d| write!(f, "-d{d}"))
    }
}

/// Every module there is, for heads of these widths.
pub fn modules(d_heads: &[usize]) -> Vec<Module> {
    let files = FILES.iter().map(|(file, _)| *file).filter(|file| file.ends_with(".cu"));
    let typed =
        files.flat_map(|file| [Storage::F32, Storage::Bf16].map(|storage| Module { file, storage, d_head: None }));
    // Tensor cores take bf16 alone, in whole tiles.
    let is_mma = |module: &Module| module.file.ends_with("_mma.cu");
    let typed = typed.filter(|module| !is_mma(module) || module.storage == Storage::Bf16);
    let sized = typed.flat_map(|module| {
        let fitting = d_heads.iter().filter(|d| !is_mma(&module) || d.is_multiple_of(16));
        let sizes: Vec<_> = fitting.map(|d| Module { d_head: Some(*d), ..module }).collect();
        if module.file.starts_with("attention") { sizes } else { vec![module] }
    });
    sized.collect()
}

/// The text of a source.
///
/// # Errors
/// If there is none of that name.
pub fn source_of(file: &str) -> Result<&'static str> {
    let found = FILES.iter().find(|(name, _)| *name == file).map(|(_, text)| *text);
    found.ok_or_else(|| NvrtcError::Unknown {
        file: file.to_owned(),
        known: FILES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_folder() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels");
        let mut found: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        found.sort();
        assert_eq!(FILES.iter().map(|(name, _)| *name).collect::<Vec<_>>(), found);
    }

    #[test]
    fn every_source_is_in_some_module_and_heads_only_where_they_matter() {
        let all = modules(&[5, 64]);
        let sources = FILES.iter().filter(|(file, _)| file.ends_with(".cu"));
        assert!(sources.into_iter().all(|(file, _)| all.iter().any(|module| module.file == *file)));
        let of = |file: &str| all.iter().filter(|m| m.file == file).map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(of("norm.cu"), ["norm-f32", "norm-bf16"]);
        assert_eq!(of("attention_mma.cu"), ["attention_mma-bf16-d64"]);
        assert_eq!(of("attention.cu").len(), 4);
    }

    #[test]
    fn what_changes_the_ptx_changes_the_fingerprint() {
        let module = Module { file: "norm.cu", storage: Storage::F32, d_head: None };
        let all = [module, Module { storage: Storage::Bf16, ..module }, Module { d_head: Some(64), ..module }];
        let mut hashes: Vec<String> = all.iter().map(|m| m.fingerprint().unwrap().as_str().to_owned()).collect();
        hashes.dedup();
        assert_eq!(hashes.len(), 3);
        assert_eq!(all[1].to_string(), "norm-bf16");
        let unknown = Module { file: "none.cu", ..module }.fingerprint().unwrap_err().to_string();
        assert!(unknown.starts_with("no kernel source none.cu; known: "), "{unknown}");
    }
}
