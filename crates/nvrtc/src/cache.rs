//! PTX kept on disk, so that a source is compiled once a machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use taper_base::files;

use crate::{ARCHITECTURES, Module, Nvrtc, NvrtcError, Result};

/// A folder of PTX, and the compiler that fills it.
///
/// A file is named by module, architecture, hash of the sources and NVRTC's release: `norm-bf16-sm_90-<hash>-nvrtc13.0.ptx`.
/// Without NVRTC, the file of any release will do: that is how a machine without a toolkit is served.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    library: Option<PathBuf>,
    nvrtc: OnceLock<Option<Nvrtc>>,
}

impl Cache {
    /// PTX in `folder`; NVRTC from the folder `library`, or from where the loader looks.
    pub fn new(folder: PathBuf, library: Option<PathBuf>) -> Self {
        Self { folder, library, nvrtc: OnceLock::new() }
    }

    /// As the environment says: `TAPER_PTX_CACHE`, else `taper/ptx` in the user's cache; NVRTC from `TAPER_NVRTC`.
    pub fn from_environment() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let user = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        let folder = set("TAPER_PTX_CACHE").or_else(|| user.map(|user| user.join("taper/ptx")));
        Self::new(folder.unwrap_or_else(|| std::env::temp_dir().join("taper-ptx")), set("TAPER_NVRTC"))
    }

    /// PTX of `module` for a device of compute capability `capability`, as 89: from the folder, else compiled and kept.
    ///
    /// # Errors
    /// If it is neither kept nor can be compiled, or the folder cannot be written.
    pub fn ptx(&self, module: &Module, capability: u32) -> Result<String> {
        let architecture = architecture_for(capability);
        let stem = format!("{module}-sm_{architecture}-{}-nvrtc", module.fingerprint()?.short());
        let Some(nvrtc) = self.nvrtc.get_or_init(|| Nvrtc::open(self.library.as_deref()).ok()) else {
            // Opened again for its error, unless somebody has left the PTX.
            return self.kept(&stem)?.map_or_else(|| Err(self.missing()), Ok);
        };
        let (major, minor) = nvrtc.version();
        let path = self.folder.join(format!("{stem}{major}.{minor}.ptx"));
        if path.is_file() {
            return fs::read_to_string(&path).map_err(|cause| NvrtcError::Cache { path, cause });
        }
        let compiled = nvrtc.compile(module, architecture)?;
        let written = fs::create_dir_all(&self.folder).and_then(|()| files::write(&path, compiled.ptx.as_bytes()));
        written.map_err(|cause| NvrtcError::Cache { path, cause })?;
        Ok(compiled.ptx)
    }

    fn missing(&self) -> NvrtcError {
        Nvrtc::open(self.library.as_deref()).err().unwrap_or_else(|| NvrtcError::Missing { tried: "NVRTC".into() })
    }

    /// The file whose name begins with `stem`, of the newest release by name.
    fn kept(&self, stem: &str) -> Result<Option<String>> {
        let failed = |path: &Path, cause| NvrtcError::Cache { path: path.to_owned(), cause };
        if !self.folder.is_dir() {
            return Ok(None);
        }
        let entries = fs::read_dir(&self.folder).map_err(|cause| failed(&self.folder, cause))?;
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(|cause| failed(&self.folder, cause))?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(stem)) {
                found.push(path);
            }
        }
        let Some(path) = found.into_iter().max() else { return Ok(None) };
        fs::read_to_string(&path).map(Some).map_err(|cause| failed(&path, cause))
    }
}

/// The newest architecture compiled for that a device of `capability` can run; the oldest if there is none, which the
/// driver then refuses.
fn architecture_for(capability: u32) -> u32 {
    ARCHITECTURES.into_iter().rev().find(|known| *known <= capability).unwrap_or(ARCHITECTURES[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Storage;

    const MODULE: Module = Module { file: "norm.cu", storage: Storage::Bf16, d_head: None };

    #[test]
    fn a_machine_without_nvrtc_is_served_from_the_folder_or_told_what_to_set() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("ptx"), Some(folder.path().to_owned()));
        let refusal = cache.ptx(&MODULE, 90).unwrap_err().to_string();
        assert!(refusal.contains("libnvrtc.so") && refusal.contains("TAPER_NVRTC"), "{refusal}");
        let hash = MODULE.fingerprint().unwrap();
        let name = format!("norm-bf16-sm_90-{}-nvrtc13.0.ptx", hash.short());
        fs::create_dir(folder.path().join("ptx")).unwrap();
        files::write(&folder.path().join("ptx").join(name), b"// kept").unwrap();
        assert_eq!(cache.ptx(&MODULE, 90).unwrap(), "// kept");
        assert!(cache.ptx(&MODULE, 80).is_err(), "another architecture");
        assert!(cache.ptx(&Module { storage: Storage::F32, ..MODULE }, 90).is_err(), "another module");
    }

    #[test]
    fn devices_take_the_newest_architecture_they_can_run() {
        assert_eq!([75, 80, 86, 90, 120].map(architecture_for), [80, 80, 80, 90, 90]);
    }
}
