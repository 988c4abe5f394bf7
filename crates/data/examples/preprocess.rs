//! What a processor makes of images, for `scripts/reference_images.py` to compare.
//!
//! `preprocess CONFIG OUT IMAGE...`: CONFIG is transformers' `preprocessor_config.json`, or timm's `config.json` with a
//! `pretrained_cfg`. OUT is a safetensors file: image `n` as f32 `n` `[3, height, width]`, and before scaling as u8 `n.fitted`
//! `[height, width, 3]`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use safetensors::tensor::{Dtype, TensorView};
use taper_data::images::{Image, Processor};

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [config, out, images @ ..] = arguments.as_slice() else { bail!("usage: preprocess CONFIG OUT IMAGE...") };
    let processor = processor(config)?;
    let mut made = Vec::new();
    for (place, path) in images.iter().enumerate() {
        let image = Image::read(path)?;
        let fitted = processor.fitted(&image)?;
        let bytes: Vec<u8> = processor.pixels(&image)?.iter().flat_map(|number| number.to_le_bytes()).collect();
        let (height, width) = (fitted.height(), fitted.width());
        made.push((place.to_string(), Dtype::F32, vec![3, height, width], bytes));
        made.push((format!("{place}.fitted"), Dtype::U8, vec![height, width, 3], fitted.pixels().to_vec()));
    }
    let views = made
        .iter()
        .map(|(name, dtype, shape, bytes)| Ok((name.clone(), TensorView::new(*dtype, shape.clone(), bytes)?)));
    let bytes = safetensors::serialize(views.collect::<Result<Vec<_>>>()?, None)?;
    taper_base::files::write(out, &bytes).context("writing")
}

fn processor(config: &Path) -> Result<Processor> {
    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(config)?)?;
    Ok(match value.get("pretrained_cfg") {
        Some(timm) => Processor::from_timm(&config.display().to_string(), timm)?,
        None => Processor::read(config, None)?,
    })
}
