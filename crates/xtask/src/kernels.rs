//! The CUDA sources, compiled for every architecture they are meant for.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use taper_nvrtc::{ARCHITECTURES, Cache, Nvrtc, NvrtcError, modules};

/// What to compile.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Widths of heads that attention is compiled for
    #[arg(long, value_delimiter = ',', default_values_t = [64, 128])]
    d_head: Vec<usize>,
    /// Folder to keep the PTX in, as TAPER_PTX_CACHE on a machine without NVRTC
    #[arg(long)]
    ptx: Option<PathBuf>,
}

/// Prints a line a kernel source with time and size; what is returned are the messages of those refused.
///
/// # Errors
/// If there is no NVRTC in the folder `nvrtc`, or the PTX cannot be written.
pub(crate) fn compile(options: &Options, nvrtc: &Path, out: &mut dyn Write) -> anyhow::Result<Vec<String>> {
    let cache = options.ptx.as_ref().map(|ptx| Cache::new(ptx.clone(), Some(nvrtc.to_owned())));
    let nvrtc = Nvrtc::open(Some(nvrtc)).context("run scripts/cuda_toolkit.sh first")?;
    let mut refused = Vec::new();
    for module in modules(&options.d_head) {
        for architecture in ARCHITECTURES {
            let start = Instant::now();
            match nvrtc.compile(&module, architecture) {
                Ok(compiled) => {
                    let (ms, ptx, binary) = (start.elapsed().as_millis(), compiled.ptx.len(), compiled.binary);
                    let name = module.to_string();
                    writeln!(out, "{name:<24} sm_{architecture} {ms:>5} ms, PTX {ptx:>7} B, binary {binary:>7} B")?;
                    if let Some(cache) = &cache {
                        cache.ptx(&module, architecture)?;
                    }
                }
                Err(refusal @ NvrtcError::Compile { .. }) => {
                    refused.push(format!("{module} sm_{architecture}: {refusal}"))
                }
                Err(cause) => return Err(cause.into()),
            }
        }
    }
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NVRTC where this workspace keeps it; CI has unpacked it before the tests run.
    fn nvrtc() -> Nvrtc {
        let metadata = cargo_metadata::MetadataCommand::new().no_deps().exec().unwrap();
        let folder = Path::new(metadata.target_directory.as_str()).join("cuda-toolkit/lib");
        Nvrtc::open(Some(&folder)).expect("scripts/cuda_toolkit.sh unpacks NVRTC")
    }

    #[test]
    fn without_nvrtc_the_script_is_named() {
        let empty = tempfile::tempdir().unwrap();
        let options = Options { d_head: vec![64], ptx: None };
        let refusal = compile(&options, empty.path(), &mut Vec::new()).unwrap_err();
        assert!(format!("{refusal:#}").starts_with("run scripts/cuda_toolkit.sh first: NVRTC was not found as "));
    }

    #[test]
    #[ignore = "needs NVRTC: scripts/cuda_toolkit.sh"]
    fn a_broken_kernel_is_refused_with_its_file_and_line() {
        let text = "#include \"common.cuh\"\nKERNEL broken(T* y) {\n    store(y, undefined_name);\n}\n";
        let refusal = nvrtc().compile_text("broken.cu", text, &[], 90).unwrap_err().to_string();
        assert!(refusal.contains("broken.cu(3): error") && refusal.contains("undefined_name"), "{refusal}");
    }

    #[test]
    #[ignore = "needs NVRTC: scripts/cuda_toolkit.sh"]
    fn what_only_the_assembler_refuses_is_refused_too() {
        let text = "extern \"C\" __global__ void broken() { asm volatile(\"no_such_instruction;\"); }\n";
        assert!(nvrtc().compile_text("broken.cu", text, &[], 90).is_err());
    }
}
