//! A set of images, decoded when asked for.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::data_type::ByteArray;
use rayon::iter::{IntoParallelIterator, IntoParallelRefIterator, ParallelIterator};
use taper_base::Fingerprint;

use super::{Image, ImageSource, Processor, folder, list, parquet as rows, tensors};
use crate::{DataError, Shares, Split};

/// The largest label: a list of so many classes is still small.
const LABELS: u32 = 1 << 20;

/// Images in the order of their files, each with a label if there are any.
///
/// Those of a folder stay on the disk until they are decoded; those of parquet and safetensors files are held in memory as the
/// file has them.
#[derive(Debug, Clone)]
pub struct Images {
    name: String,
    classes: Vec<String>,
    items: Vec<Item>,
}

/// One image, not decoded.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// Its file, or the file and its place in it.
    pub(super) name: String,
    pub(super) label: Option<u32>,
    pub(super) content: Content,
}

#[derive(Debug, Clone)]
pub(super) enum Content {
    /// A file of its own.
    File(PathBuf),
    /// The content of such a file.
    Encoded(ByteArray),
    /// Pixels, `[height, width, channels]`, in a file that is in memory.
    Pixels { file: Arc<Vec<u8>>, start: usize, shape: [usize; 3] },
}

/// What one path gives.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) items: Vec<Item>,
    /// The names of the classes, if it says them.
    pub(super) classes: Option<Vec<String>>,
}

impl Images {
    /// Finds the images of `source`. Files of a folder are not opened yet.
    ///
    /// # Errors
    /// [`DataError`] naming file and row: unreadable, no image at all, labels that are none, or paths whose classes differ.
    pub fn read(source: &ImageSource) -> Result<Self, DataError> {
        let name = source.to_string();
        let set = |reason: String| DataError::ImageSet { at: name.clone(), reason };
        let (mut items, mut classes) = (Vec::new(), None);
        for path in &source.paths {
            let part = part(path, source)?;
            match (&classes, part.classes) {
                (Some(known), Some(more)) if *known != more => {
                    return Err(set(format!("{}: its classes are not those of the paths before it", path.display())));
                }
                (None, Some(more)) => classes = Some(more),
                _ => {}
            }
            items.extend(part.items);
        }
        if items.is_empty() {
            return Err(set("no image in it".to_owned()));
        }
        let most = items.iter().filter_map(|item| Some((item.label?, &item.name))).max();
        let count = classes.as_ref().map_or(u64::from(LABELS), |classes| classes.len() as u64);
        if let Some((label, item)) = most.filter(|(label, _)| u64::from(*label) >= count) {
            return Err(set(format!("{item}: label {label}, wanted one below {count}")));
        }
        let numbers = || most.map_or_else(Vec::new, |(label, _)| (0..=label).map(|label| label.to_string()).collect());
        let classes = classes.unwrap_or_else(numbers);
        Ok(Self { name, classes, items })
    }

    /// Where they come from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.name
    }

    /// How many there are, never none.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// The class of image `place`, by its number; `None` if it has no label.
    ///
    /// # Panics
    /// If there is no such image; so do all functions that take a place.
    #[must_use]
    pub fn label(&self, place: usize) -> Option<u32> {
        self.items[place].label
    }

    /// The names of the classes in order of their labels: the numbers themselves where nothing names them.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The file of image `place`, or the file and its place in it.
    #[must_use]
    pub fn name(&self, place: usize) -> &str {
        &self.items[place].name
    }

    /// Image `place`.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub fn decode(&self, place: usize) -> Result<Image, DataError> {
        let Item { name, content, .. } = &self.items[place];
        match content {
            Content::File(path) => Image::read(path),
            Content::Encoded(bytes) => Image::decode(bytes.data(), name),
            Content::Pixels { shape: [height, width, channels], .. } => {
                let bytes = self.bytes(place)?;
                let pixels =
                    if *channels == 1 { bytes.iter().flat_map(|x| [*x; 3]).collect() } else { bytes.into_owned() };
                let (height, width) = (*height, *width);
                let limit = super::PIXEL_LIMIT;
                Image::new(height, width, pixels).ok_or(DataError::ImageSize {
                    image: name.clone(),
                    height,
                    width,
                    limit,
                })
            }
        }
    }

    /// What `processor` makes of the images at `places`, `[places, 3, height, width]`, on all threads.
    ///
    /// # Errors
    /// As [`Image::read`] and [`Processor::pixels`]; [`DataError::UnequalImages`] if what it makes differs in size.
    pub fn batch(&self, places: &[usize], processor: &Processor) -> Result<Vec<f32>, DataError> {
        let one = |&place: &usize| {
            let fitted = processor.fitted(&self.decode(place)?)?;
            Ok(([fitted.height(), fitted.width()], processor.scaled(&fitted)))
        };
        let made: Vec<_> = places.par_iter().map(one).collect::<Result<_, DataError>>()?;
        let odd = made.iter().zip(places).find(|((size, _), _)| *size != made[0].0);
        if let Some(((found, _), place)) = odd {
            let image = self.items[*place].name.clone();
            return Err(DataError::UnequalImages { image, found: *found, wanted: made[0].0 });
        }
        Ok(made.into_iter().flat_map(|(_, numbers)| numbers).collect())
    }

    /// The places of the images that `shares` put into `split`, in order. The bytes as stored decide, so copies of a file are
    /// always together.
    ///
    /// # Errors
    /// [`DataError::Read`] of a file.
    pub fn of_split(&self, shares: &Shares, split: Split) -> Result<Vec<usize>, DataError> {
        let belongs = |place| Ok((place, shares.split_of_bytes(&self.bytes(place)?) == split));
        let all: Vec<_> = (0..self.len()).into_par_iter().map(belongs).collect::<Result<_, DataError>>()?;
        Ok(all.into_iter().filter_map(|(place, belongs)| belongs.then_some(place)).collect())
    }

    /// The digest of all images as stored, their labels and classes: what a stage's key depends on.
    ///
    /// # Errors
    /// [`DataError::Read`] of a file.
    pub fn fingerprint(&self) -> Result<Fingerprint, DataError> {
        let one = |place| {
            let label = self.label(place).map_or_else(|| "-".to_owned(), |label| label.to_string());
            Ok(format!("{} {label}\n", Fingerprint::of_bytes(&self.bytes(place)?).as_str()))
        };
        let mut all: Vec<String> = (0..self.len()).into_par_iter().map(one).collect::<Result<_, DataError>>()?;
        all.extend(self.classes.iter().map(|class| Fingerprint::of_bytes(class.as_bytes()).as_str().to_owned()));
        Ok(Fingerprint::of_bytes(all.concat().as_bytes()))
    }

    /// Image `place` as stored.
    fn bytes(&self, place: usize) -> Result<Cow<'_, [u8]>, DataError> {
        Ok(match &self.items[place].content {
            Content::File(path) => fs::read(path).map_err(DataError::read(path))?.into(),
            Content::Encoded(bytes) => bytes.data().into(),
            Content::Pixels { file, start, shape } => file[*start..*start + shape.iter().product::<usize>()].into(),
        })
    }
}

fn part(path: &Path, source: &ImageSource) -> Result<Part, DataError> {
    if fs::metadata(path).map_err(DataError::read(path))?.is_dir() {
        return folder::read(path, source);
    }
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    match extension.to_str() {
        Some("parquet") => rows::read(path, source),
        Some("safetensors") => tensors::read(path),
        Some("csv") => list::read(path),
        _ if folder::is_image(path) => Ok(Part { items: vec![Item::file(path.to_owned(), None)], classes: None }),
        _ => Err(DataError::ImageSet {
            at: path.display().to_string(),
            reason: "wanted a folder, or a .parquet, .safetensors, .csv, .jpg, .png or .webp file".to_owned(),
        }),
    }
}

impl Item {
    pub(super) fn file(path: PathBuf, label: Option<u32>) -> Self {
        Self { name: path.display().to_string(), label, content: Content::File(path) }
    }
}
