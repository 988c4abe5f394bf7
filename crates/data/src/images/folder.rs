//! Folders: with a `labels.csv`, of images, of parquet files, or of folders, one a class.

use std::fs;
use std::path::{Path, PathBuf};

use super::collection::{Item, Part};
use super::{ImageSource, list, parquet};
use crate::DataError;

/// How deep folders are searched: a link to a folder above would have no end.
const DEPTH: usize = 16;

/// Whether the name at `path` is that of an image. What the file holds is found out when it is decoded.
pub(super) fn is_image(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    matches!(extension.to_str(), Some("jpg" | "jpeg" | "jpe" | "jfif" | "png" | "webp"))
}

pub(super) fn read(folder: &Path, source: &ImageSource) -> Result<Part, DataError> {
    let labels = folder.join("labels.csv");
    if labels.is_file() {
        return list::read(&labels);
    }
    let set = |reason: String| Err(DataError::ImageSet { at: folder.display().to_string(), reason });
    let entries = entries(folder)?;
    let (folders, files): (Vec<_>, Vec<_>) = entries.into_iter().partition(|path| path.is_dir());
    let images: Vec<_> = files.iter().filter(|path| is_image(path)).collect();
    let shards: Vec<_> = files.iter().filter(|path| path.extension().is_some_and(|end| end == "parquet")).collect();
    let classes: Vec<(&PathBuf, Vec<PathBuf>)> =
        folders.iter().map(|class| Ok((class, below(class, DEPTH)?))).collect::<Result<_, DataError>>()?;
    let classes_hold = classes.iter().any(|(_, images)| !images.is_empty());
    match (!images.is_empty(), !shards.is_empty(), classes_hold) {
        (true, false, false) => {
            let items = images.into_iter().map(|path| Item::file(path.clone(), None)).collect();
            Ok(Part { items, classes: None })
        }
        (false, true, false) => {
            let mut all = Part::default();
            for shard in shards {
                let part = parquet::read(shard, source)?;
                if !all.items.is_empty() && all.classes != part.classes {
                    return set(format!("{}: its classes are not those of the files before it", shard.display()));
                }
                all.classes = part.classes;
                all.items.extend(part.items);
            }
            Ok(all)
        }
        (false, false, true) => by_class(classes),
        (false, false, false) => set("no image, no parquet file and no folder of images in it".to_owned()),
        _ => set("it holds images in more than one way: beside folders of images, or beside parquet files".to_owned()),
    }
}

fn by_class(classes: Vec<(&PathBuf, Vec<PathBuf>)>) -> Result<Part, DataError> {
    let (mut items, mut names) = (Vec::new(), Vec::new());
    for (label, (folder, images)) in (0..).zip(classes) {
        if images.is_empty() {
            let reason = "a class without an image".to_owned();
            return Err(DataError::ImageSet { at: folder.display().to_string(), reason });
        }
        names.push(folder.file_name().unwrap_or_default().to_string_lossy().into_owned());
        items.extend(images.into_iter().map(|path| Item::file(path, Some(label))));
    }
    Ok(Part { items, classes: Some(names) })
}

/// The images in `folder` and the folders in it, sorted.
fn below(folder: &Path, depth: usize) -> Result<Vec<PathBuf>, DataError> {
    if depth == 0 {
        let reason = format!("folders in folders, {DEPTH} deep");
        return Err(DataError::ImageSet { at: folder.display().to_string(), reason });
    }
    let mut images = Vec::new();
    for path in entries(folder)? {
        if path.is_dir() {
            images.extend(below(&path, depth - 1)?);
        } else if is_image(&path) {
            images.push(path);
        }
    }
    Ok(images)
}

/// What is in `folder` and not hidden, sorted by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let entries = fs::read_dir(folder).map_err(DataError::read(folder))?;
    let entries: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut entries = entries.map_err(DataError::read(folder))?;
    entries.retain(|path| !path.file_name().unwrap_or_default().to_string_lossy().starts_with('.'));
    entries.sort();
    Ok(entries)
}
