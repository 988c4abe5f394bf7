//! timm's `pretrained_cfg`: the transform that timm evaluates with.
//!
//! Resize (the shorter side, or both if squashed) to `floor(size / crop_pct)`, crop to the centre, divide by 255, shift.
//! Source: timm 1.0, `create_transform` of what `resolve_data_config` makes of the configuration.

use serde_json::Value;

use super::config::{Keys, side};
use super::processor::{Crop, Processor, Rounding, Target};
use super::resample::Filter;
use crate::DataError;

pub(super) fn processor(at: &str, pretrained_cfg: &Value) -> Result<Processor, DataError> {
    let Value::Object(map) = pretrained_cfg else {
        return Err(DataError::Json { at: at.to_owned(), reason: "pretrained_cfg: wanted an object".to_owned() });
    };
    let keys = Keys { at, map };
    let size = input_size(&keys)?;
    let share = keys.number("crop_pct", 0.875)?;
    let scaled = size.map(|side| (side as f64 / share).floor());
    if !(share > 0.0 && scaled.iter().all(|side| (1.0..=16_384.0).contains(side))) {
        return Err(keys.bad("crop_pct", keys.get("crop_pct").unwrap_or(&Value::Null), "a share above 0, about 0.9"));
    }
    let scaled = scaled.map(|side| side as usize);
    let target = match keys.get("crop_mode").map_or(Some("center"), Value::as_str) {
        Some("center") if scaled[0] == scaled[1] => Target::Shortest(scaled[0]),
        Some("squash") => Target::Exact(scaled),
        _ => {
            let found = keys.get("crop_mode").unwrap_or(&Value::Null);
            return Err(keys.bad("crop_mode", found, "squash, or center with as many rows as columns"));
        }
    };
    let mean = keys.channels("mean", [0.485, 0.456, 0.406])?;
    let std = keys.spread("std", [0.229, 0.224, 0.225])?;
    let mut table = Box::new([[0.0; 256]; 3]);
    for (channel, numbers) in table.iter_mut().enumerate() {
        for (byte, number) in (0_u8..=255).zip(numbers) {
            *number = (f32::from(byte) / 255.0 - mean[channel] as f32) / std[channel] as f32;
        }
    }
    let crop = Crop { size, rounding: Rounding::Even };
    Ok(Processor { whiten: false, resize: Some((target, filter(&keys)?)), crop: Some(crop), table })
}

fn input_size(keys: &Keys<'_>) -> Result<[usize; 2], DataError> {
    let Some(found) = keys.get("input_size") else { return Ok([224; 2]) };
    let size = match found.as_array().map(Vec::as_slice) {
        Some([channels, height, width]) if channels.as_u64() == Some(3) => side(height).zip(side(width)),
        _ => None,
    };
    let wanted = "[3, height, width], with sides from 1 to 16384";
    size.map(|(height, width)| [height, width]).ok_or_else(|| keys.bad("input_size", found, wanted))
}

fn filter(keys: &Keys<'_>) -> Result<Filter, DataError> {
    let Some(found) = keys.get("interpolation") else { return Ok(Filter::Bicubic) };
    Ok(match found.as_str() {
        Some("nearest") => Filter::Nearest,
        Some("bilinear") => Filter::Bilinear,
        Some("bicubic") => Filter::Bicubic,
        Some("box") => Filter::Box,
        Some("hamming") => Filter::Hamming,
        Some("lanczos") => Filter::Lanczos,
        _ => return Err(keys.bad("interpolation", found, "nearest, bilinear, bicubic, box, hamming or lanczos")),
    })
}
