//! A `.safetensors` file of decoded images: `images` u8 `[n, height, width, channels]`, `labels` i64 `[n]` if there are any.
//!
//! The metadata's `classes`, a JSON list, names them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use safetensors::{Dtype, SafeTensors};

use super::collection::{Content, Item, Part};
use super::image::bounded;
use crate::DataError;

pub(super) fn read(path: &Path) -> Result<Part, DataError> {
    let at = path.display().to_string();
    let bad = |reason: String| DataError::ImageSet { at: at.clone(), reason };
    let file = Arc::new(fs::read(path).map_err(DataError::read(path))?);
    let (header, metadata) = SafeTensors::read_metadata(&file).map_err(|cause| bad(cause.to_string()))?;
    let data = header + 8; // the header's length stands before it
    let images = metadata.info("images").ok_or_else(|| bad("no tensor `images`".to_owned()))?;
    let shape = match images.shape[..] {
        [n, height, width, channels @ (1 | 3)] if bounded(height, width) && images.dtype == Dtype::U8 => {
            (n, [height, width, channels])
        }
        _ => {
            let found = format!("{:?} {:?}", images.dtype, images.shape);
            return Err(bad(format!("`images` is {found}, wanted U8 [n, height, width, 1 or 3]")));
        }
    };
    let (n, shape) = shape;
    let labels = match metadata.info("labels") {
        None => vec![None; n],
        Some(info) if info.dtype == Dtype::I64 && info.shape == [n] => {
            let (start, end) = info.data_offsets;
            let numbers = file[data + start..data + end].as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
            numbers
                .enumerate()
                .map(|(place, number)| label(number, &format!("{at}: image {place}")))
                .collect::<Result<_, _>>()?
        }
        Some(info) => {
            return Err(bad(format!("`labels` is {:?} {:?}, wanted I64 [{n}]", info.dtype, info.shape)));
        }
    };
    let classes = metadata.metadata().as_ref().and_then(|notes| notes.get("classes"));
    let classes = classes
        .map(|text| serde_json::from_str(text).map_err(|cause| bad(format!("`classes` is no list of names: {cause}"))));
    let item = |(place, label)| Item {
        name: format!("{at}: image {place} (counted from 0)"),
        label,
        content: Content::Pixels {
            file: file.clone(),
            start: data + images.data_offsets.0 + place * shape.iter().product::<usize>(),
            shape,
        },
    };
    Ok(Part { items: labels.into_iter().enumerate().map(item).collect(), classes: classes.transpose()? })
}

/// A label as datasets store it: -1 stands for none.
pub(super) fn label(number: i64, at: &str) -> Result<Option<u32>, DataError> {
    if number == -1 {
        return Ok(None);
    }
    let reason = || format!("label {number}, wanted 0 or more, or -1 for none");
    let label = u32::try_from(number).ok();
    label.map(Some).ok_or_else(|| DataError::ImageSet { at: at.to_owned(), reason: reason() })
}
