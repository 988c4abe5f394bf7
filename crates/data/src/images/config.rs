//! transformers' `preprocessor_config.json`.
//!
//! The classes that resize, crop, scale and shift, and nothing else, with the defaults that transformers 5.23 gives them.
//! `do_convert_rgb` finds RGB images, yet is not without effect: transformers' `load_image` drops transparency, but remembers a
//! single transparent colour of a PNG file, which this key then makes white.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use super::processor::{Crop, Processor, Rounding, Target};
use super::resample::Filter;
use crate::DataError;
use crate::error::json_reason;

/// The longest side that an image is resized or cropped to.
const SIDES: std::ops::RangeInclusive<u64> = 1..=16_384;

/// Whose defaults hold for keys that a file lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessorClass {
    /// `ViTImageProcessor`.
    Vit,
    /// `DeiTImageProcessor`.
    Deit,
    /// `BitImageProcessor`, which DINOv2 uses.
    Bit,
}

impl ProcessorClass {
    const ALL: [(&str, Self); 3] = [("ViT", Self::Vit), ("DeiT", Self::Deit), ("Bit", Self::Bit)];

    /// The class of this name: `ViTImageProcessor`, `ViTFeatureExtractor`, `ViTImageProcessorFast` and so on.
    fn named(name: &str) -> Option<Self> {
        let kind = |(prefix, class)| {
            let rest = name.strip_prefix(prefix)?;
            let endings = ["ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor"];
            endings.contains(&rest).then_some(class)
        };
        Self::ALL.into_iter().find_map(kind)
    }

    fn defaults(self) -> Defaults {
        let half = [0.5; 3];
        match self {
            Self::Vit => {
                Defaults { size: Target::Exact([224; 2]), filter: Filter::Bilinear, crop: None, mean: half, std: half }
            }
            Self::Deit => Defaults {
                size: Target::Exact([256; 2]),
                filter: Filter::Bicubic,
                crop: Some([224; 2]),
                mean: half,
                std: half,
            },
            Self::Bit => Defaults {
                size: Target::Shortest(224),
                filter: Filter::Bicubic,
                crop: Some([224; 2]),
                mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
                std: [0.268_629_54, 0.261_302_58, 0.275_777_11],
            },
        }
    }
}

struct Defaults {
    size: Target,
    filter: Filter,
    crop: Option<[usize; 2]>,
    mean: [f64; 3],
    std: [f64; 3],
}

pub(super) fn read(path: &Path, class: Option<ProcessorClass>) -> Result<Processor, DataError> {
    let bytes = fs::read(path).map_err(DataError::read(path))?;
    let at = path.display().to_string();
    let value: Value = serde_json::from_slice(&bytes).map_err(|cause| DataError::Json {
        at: format!("{at}:{}:{}", cause.line(), cause.column()),
        reason: json_reason(&cause),
    })?;
    let Value::Object(map) = &value else {
        return Err(DataError::Json { at, reason: "wanted an object".to_owned() });
    };
    processor(&Keys { at: &at, map }, class)
}

fn processor(keys: &Keys<'_>, class: Option<ProcessorClass>) -> Result<Processor, DataError> {
    let class = keys.class(class)?;
    let defaults = class.defaults();
    let whiten = keys.flag("do_convert_rgb", class == ProcessorClass::Bit)?;
    if keys.flag("do_pad", false)? {
        return Err(keys.bad("do_pad", &Value::Bool(true), "false: images are not padded here"));
    }
    let resize = if keys.flag("do_resize", true)? {
        Some((keys.size(class)?.unwrap_or(defaults.size), keys.filter()?.unwrap_or(defaults.filter)))
    } else {
        None
    };
    let crop = if keys.flag("do_center_crop", defaults.crop.is_some())? {
        let size = keys.crop()?.or(defaults.crop);
        let size = size.ok_or_else(|| keys.bad("crop_size", &Value::Null, "the size, as do_center_crop is true"))?;
        Some(Crop { size, rounding: Rounding::Down })
    } else {
        None
    };
    let factor = keys.number("rescale_factor", 1.0 / 255.0)?;
    let factor = keys.flag("do_rescale", true)?.then_some(factor);
    let mean = keys.channels("image_mean", defaults.mean)?;
    let std = keys.spread("image_std", defaults.std)?;
    let shift = keys.flag("do_normalize", true)?.then_some((mean, std));
    Ok(Processor { whiten, resize, crop, table: table(factor, shift) })
}

/// The number of each byte: scaled in f64, shifted in f32, as numpy does it for transformers.
fn table(factor: Option<f64>, shift: Option<([f64; 3], [f64; 3])>) -> Box<[[f32; 256]; 3]> {
    let mut table = Box::new([[0.0; 256]; 3]);
    for (channel, numbers) in table.iter_mut().enumerate() {
        for (byte, number) in (0_u8..=255).zip(numbers) {
            let scaled = factor.map_or(f32::from(byte), |factor| (f64::from(byte) * factor) as f32);
            *number = shift.map_or(scaled, |(mean, std)| (scaled - mean[channel] as f32) / std[channel] as f32);
        }
    }
    table
}

/// The keys of one object of a file; null counts as absent, as it does for transformers and timm.
pub(super) struct Keys<'a> {
    pub(super) at: &'a str,
    pub(super) map: &'a Map<String, Value>,
}

impl Keys<'_> {
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn bad(&self, key: &str, found: &Value, wanted: &str) -> DataError {
        let mut found = found.to_string();
        if let Some((end, _)) = found.char_indices().nth(60) {
            found.replace_range(end.., "…");
        }
        DataError::ImageKey { at: self.at.into(), key: key.into(), found: found.into(), wanted: wanted.into() }
    }

    fn class(&self, otherwise: Option<ProcessorClass>) -> Result<ProcessorClass, DataError> {
        let keys = ["image_processor_type", "feature_extractor_type"];
        let Some((key, found)) = keys.iter().find_map(|key| Some((key, self.get(key)?))) else {
            let wanted = "the processor's class: nothing else says whose defaults hold";
            return otherwise.ok_or_else(|| self.bad(keys[0], &Value::Null, wanted));
        };
        let wanted = "a ViT, DeiT or Bit image processor";
        found.as_str().and_then(ProcessorClass::named).ok_or_else(|| self.bad(key, found, wanted))
    }

    fn flag(&self, key: &str, otherwise: bool) -> Result<bool, DataError> {
        let found = self.get(key);
        found.map_or(Ok(otherwise), |found| found.as_bool().ok_or_else(|| self.bad(key, found, "true or false")))
    }

    pub(super) fn number(&self, key: &str, otherwise: f64) -> Result<f64, DataError> {
        let number = |found: &Value| found.as_f64().ok_or_else(|| self.bad(key, found, "a number"));
        self.get(key).map_or(Ok(otherwise), number)
    }

    /// A number a channel, or one for all.
    pub(super) fn channels(&self, key: &str, otherwise: [f64; 3]) -> Result<[f64; 3], DataError> {
        let Some(found) = self.get(key) else { return Ok(otherwise) };
        if let Some(number) = found.as_f64() {
            return Ok([number; 3]);
        }
        let list = found.as_array().map(|list| list.iter().map(Value::as_f64).collect::<Option<Vec<_>>>());
        let three = list.flatten().and_then(|list| <[f64; 3]>::try_from(list).ok());
        three.ok_or_else(|| self.bad(key, found, "three numbers, or one"))
    }

    /// The same, of numbers to divide by.
    pub(super) fn spread(&self, key: &str, otherwise: [f64; 3]) -> Result<[f64; 3], DataError> {
        let numbers = self.channels(key, otherwise)?;
        if numbers.iter().all(|number| *number as f32 > 0.0) {
            return Ok(numbers);
        }
        Err(self.bad(key, self.get(key).unwrap_or(&Value::Null), "numbers above 0"))
    }

    fn filter(&self) -> Result<Option<Filter>, DataError> {
        let filter = |found: &Value| {
            let filter = found.as_u64().and_then(|number| Filter::ALL.get(usize::try_from(number).ok()?).copied());
            filter.ok_or_else(|| self.bad("resample", found, "Pillow's number of a filter, 0 to 5"))
        };
        self.get("resample").map(filter).transpose()
    }

    fn size(&self, class: ProcessorClass) -> Result<Option<Target>, DataError> {
        let Some(found) = self.get("size") else { return Ok(None) };
        let square = self.flag("default_to_square", class != ProcessorClass::Bit)?;
        let target = if let Value::Object(map) = found {
            match (map.len(), map.get("shortest_edge").and_then(side)) {
                (1, Some(side)) => Some(Target::Shortest(side)),
                _ => height_width(map).map(Target::Exact),
            }
        } else if let (Some(side), false) = (side(found), square) {
            Some(Target::Shortest(side))
        } else {
            plain_size(found).map(Target::Exact)
        };
        let wanted = "a whole number from 1 to 16384, {height, width} or {shortest_edge} of such";
        target.map(Some).ok_or_else(|| self.bad("size", found, wanted))
    }

    fn crop(&self) -> Result<Option<[usize; 2]>, DataError> {
        let Some(found) = self.get("crop_size") else { return Ok(None) };
        let size = if let Value::Object(map) = found { height_width(map) } else { plain_size(found) };
        size.map(Some)
            .ok_or_else(|| self.bad("crop_size", found, "a whole number from 1 to 16384, or {height, width} of such"))
    }
}

/// A number of pixels that makes sense.
pub(super) fn side(found: &Value) -> Option<usize> {
    found.as_u64().filter(|side| SIDES.contains(side)).and_then(|side| usize::try_from(side).ok())
}

fn height_width(map: &Map<String, Value>) -> Option<[usize; 2]> {
    (map.len() == 2).then_some(())?;
    Some([side(map.get("height")?)?, side(map.get("width")?)?])
}

/// The side of a square, or `[height, width]`.
fn plain_size(found: &Value) -> Option<[usize; 2]> {
    match found.as_array().map(Vec::as_slice) {
        Some([height, width]) => Some([side(height)?, side(width)?]),
        Some(_) => None,
        None => side(found).map(|side| [side; 2]),
    }
}
