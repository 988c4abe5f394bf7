//! Adapters in the layout of Hugging Face's `peft`: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Names are `base_model.model.` and the module's own, then `lora_A.weight` `[rank, d_in]`, `lora_B.weight` `[d_out, rank]`
//! and, with DoRA, `lora_magnitude_vector` `[d_out]`.

use std::path::Path;

use candle_core::Tensor as Host;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;
use taper_base::files;

use super::{Trained, candle};
use crate::error::{HealError, Result, file};

/// Writes the adapters of `trained` into the existing folder `dir`, on top of the model `base`; whether there are any.
pub fn write_adapters(trained: &Trained, dir: &Path, base: &str) -> Result<bool> {
    let Some(adapters) = trained.adapters() else { return Ok(false) };
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut targets = Vec::new();
    for adapter in &adapters.all {
        let module = adapter.name.strip_suffix(".weight").unwrap_or(&adapter.name);
        targets.push(module.to_owned());
        let side = |offset: usize| &trained.weights()[adapter.at + offset].values;
        let transposed = adapter.place.parameter.transposed();
        let stored =
            |tensor: &Host| if transposed { tensor.t().and_then(|t| t.contiguous()) } else { Ok(tensor.clone()) };
        // in memory transposed: left is Aᵀ, right is Bᵀ
        let (a, b) = if transposed { (side(0), side(1)) } else { (side(1), side(0)) };
        let mut put = |name: &str, tensor: &Host| -> Result<()> {
            let values: Vec<f32> = tensor.flatten_all().and_then(|flat| flat.to_vec1()).map_err(candle("adapter"))?;
            let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
            tensors.push((format!("base_model.model.{module}.{name}"), tensor.dims().to_vec(), bytes));
            Ok(())
        };
        put("lora_A.weight", &stored(a).map_err(candle("adapter"))?)?;
        put("lora_B.weight", &stored(b).map_err(candle("adapter"))?)?;
        if adapters.settings.dora {
            put("lora_magnitude_vector", side(2))?;
        }
    }
    let path = dir.join("adapter_model.safetensors");
    let bad =
        |cause: safetensors::SafeTensorError| HealError::Damaged { path: path.clone(), reason: cause.to_string() };
    let mut views = Vec::new();
    for (name, shape, bytes) in &tensors {
        views.push((name, TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(bad)?));
    }
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let bytes = safetensors::serialize(views, metadata).map_err(bad)?;
    files::write(&path, &bytes).map_err(file(&path))?;
    let settings = &adapters.settings;
    let images = trained.model().spec().image.is_some();
    let task = if images { None } else { Some("CAUSAL_LM") };
    let config = json!({
        "peft_type": "LORA", "task_type": task, "inference_mode": true,
        "base_model_name_or_path": base,
        "r": settings.rank, "lora_alpha": settings.alpha, "lora_dropout": 0.0, "use_dora": settings.dora,
        "bias": "none", "fan_in_fan_out": false, "init_lora_weights": true, "modules_to_save": null,
        "target_modules": targets,
    });
    let path = dir.join("adapter_config.json");
    files::write_json(&path, &config).map_err(file(&path))?;
    Ok(true)
}
