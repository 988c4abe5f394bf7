//! What a recipe's models see: text, or images. Stages ask for a batch of a split and need not know which it is.

use std::path::Path;

use serde_json::Value;
use taper_arch::{ImageSpec, ModelSpec};
use taper_base::Fingerprint;
use taper_base::rng::{self, seq::SliceRandom};
use taper_data::images::{ImageFeed, ImageSource, Images, Processor};
use taper_data::{DataError, Documents, Pack, Shares, Split, Tokens};
use taper_eval::{likeliest, logits_of};
use taper_heal::{Material, Plan};
use taper_hub::LocalModel;
use taper_model::{Batch, Model};

use crate::context::{documents, fetched};
use crate::recipe::HealPart;
use crate::stages::read_json;
use crate::{Console, PipelineError, Recipe};

/// The data of a recipe.
pub(crate) struct Data {
    /// Of all of it.
    pub(crate) fingerprint: Fingerprint,
    pub(crate) content: Content,
}

pub(crate) enum Content {
    Text(Documents),
    Images(ImageData),
}

impl Data {
    /// The data of `recipe` for the model in `local`.
    pub(crate) fn open(
        recipe: &Recipe,
        (local, spec): (&LocalModel, &ModelSpec),
        console: &dyn Console,
    ) -> Result<Self, PipelineError> {
        let data = &recipe.data;
        Ok(match (&data.text, &data.images, spec.image) {
            (_, Some(source), Some(image)) => {
                let images = ImageData::open(source, (&local.dir, image), console)?;
                Self { fingerprint: images.images.fingerprint()?, content: Content::Images(images) }
            }
            (Some(source), _, None) => {
                let documents = documents(source, console)?;
                Self { fingerprint: documents.fingerprint(), content: Content::Text(documents) }
            }
            (_, _, Some(_)) => return Err(PipelineError::OtherData { reads: "images", given: "data.text" }),
            (_, _, None) => return Err(PipelineError::OtherData { reads: "text", given: "data.images" }),
        })
    }

    /// What it is.
    pub(crate) fn kind(&self) -> &'static str {
        match self.content {
            Content::Text(_) => "text",
            Content::Images(_) => "images",
        }
    }

    /// What losses are of.
    pub(crate) fn unit(&self) -> &'static str {
        match self.content {
            Content::Text(_) => "token",
            Content::Images(_) => "image",
        }
    }
}

/// A batch's content.
pub(crate) enum Samples {
    Tokens(Tokens),
    Images { pixels: Vec<f32>, labels: Vec<u32>, image: ImageSpec },
}

impl Samples {
    pub(crate) fn batch(&self) -> Result<Batch<'_>, PipelineError> {
        Ok(match self {
            Self::Tokens(tokens) => Batch::new(tokens.ids(), tokens.length())?,
            Self::Images { pixels, labels, image } => Batch::images(pixels, labels, *image)?,
        })
    }
}

/// Images with what makes pixels of them, and the model's class of each.
pub(crate) struct ImageData {
    pub(crate) images: Images,
    pub(crate) processor: Processor,
    image: ImageSpec,
    /// The model's class of each class of the images.
    class_of: Vec<u32>,
}

impl ImageData {
    /// The images of `source` for the model in the folder `dir`; files of a Hub dataset are fetched first.
    pub(crate) fn open(
        source: &ImageSource,
        (dir, image): (&Path, ImageSpec),
        console: &dyn Console,
    ) -> Result<Self, PipelineError> {
        let images = match &source.dataset {
            None => Images::read(source)?,
            Some(dataset) => {
                let paths = fetched(dataset, &source.paths, console)?;
                Images::read(&ImageSource { paths, dataset: None, ..source.clone() })?
            }
        };
        let path = dir.join("config.json");
        let config: Value = read_json(&path)?;
        let processor = processor(dir, &config)?;
        if let Some(size) = processor.size().filter(|size| *size != image.size) {
            let reason = format!("makes images of {size:?} pixels, the model reads {:?}", image.size);
            return Err(PipelineError::Content { path: dir.join(PREPROCESSOR), reason });
        }
        let class_of = class_of(images.classes(), &config);
        Ok(Self { images, processor, image, class_of })
    }

    /// The model's class of image `place`.
    pub(crate) fn label(&self, place: usize) -> Option<u32> {
        let label = self.images.label(place)?;
        Some(self.class_of.get(label as usize).copied().unwrap_or(label))
    }

    /// The labelled images among `places`, with the model's class of each.
    pub(crate) fn labelled(&self, places: Vec<usize>) -> (Vec<usize>, Vec<u32>) {
        places.into_iter().filter_map(|place| Some((place, self.label(place)?))).unzip()
    }

    /// A batch of images of `wanted.split`, shuffled. An image without a label has the class that the whole model gives it: the
    /// divergence from that model's own logits has no gradient at the model itself, so nothing could be compared with it.
    pub(crate) fn samples(
        &self,
        wanted: &Pack,
        model: impl FnOnce() -> Result<Model, PipelineError>,
    ) -> Result<Samples, PipelineError> {
        let mut places = self.images.of_split(&wanted.shares, wanted.split)?;
        places.shuffle(&mut rng::stream(wanted.seed, "pack", wanted.split as u64, 0));
        if places.len() < wanted.sequences {
            let (found, split) = (places.len(), wanted.split);
            let reason =
                format!("{found} of its {} are in the {split} split, wanted {}", self.images.len(), wanted.sequences);
            return Err(DataError::ImageSet { at: self.images.source().to_owned(), reason }.into());
        }
        places.truncate(wanted.sequences);
        let pixels = self.images.batch(&places, &self.processor)?;
        let mut labels: Vec<Option<u32>> = places.iter().map(|place| self.label(*place)).collect();
        if labels.iter().any(Option::is_none) {
            let model = model()?;
            let classes = model.spec().vocab;
            let sample = (&self.images, &places[..], &self.processor);
            logits_of(&model, sample, &taper_base::progress::Silent, |first, logits| {
                for (row, label) in logits.chunks(classes).zip(&mut labels[first..]) {
                    label.get_or_insert(likeliest(row));
                }
            })?;
        }
        let labels = labels.into_iter().flatten().collect();
        Ok(Samples::Images { pixels, labels, image: self.image })
    }

    /// What a pruned model is trained on: the calibration split, and a part of the validation split, or of a set of its own, to look
    /// at.
    pub(crate) fn material<'m>(
        &'m self,
        (shares, looked): (&Shares, Option<&Self>),
        (part, plan): (&HealPart, &Plan),
    ) -> Result<Material<'m>, PipelineError> {
        let with_labels = |data: &Self, places: Vec<usize>| {
            let labelled = data.labelled(places.clone());
            if labelled.0.is_empty() && !plan.aims.iter().any(|aim| aim.name == "cross-entropy") {
                let labels = vec![0; places.len()]; // nothing looks at them but the losses told
                return (places, labels);
            }
            labelled
        };
        let (train, from, looked) = match looked {
            Some(data) => ((0..self.images.len()).collect(), data, (0..data.images.len()).collect()),
            None => {
                let of_split = |split| self.images.of_split(shares, split);
                (of_split(Split::Calibration)?, self, of_split(Split::Validation)?)
            }
        };
        let (mut places, mut labels) = with_labels(from, looked);
        let mut order: Vec<usize> = (0..places.len()).collect();
        order.shuffle(&mut rng::stream(plan.seed, "validation", 0, 0));
        order.truncate(part.validation.sequences);
        (places, labels) = order.into_iter().map(|at| (places[at], labels[at])).unzip();
        let pixels = from.images.batch(&places, &from.processor)?;
        let train = with_labels(self, train);
        let feed = ImageFeed::new((&self.images, &self.processor), train, part.augment, plan.seed)?;
        Ok(Material::Images { feed, validation: (pixels, labels), image: self.image })
    }

    /// The images that the result is judged on: labelled ones of the test split, or all of them if it is a set of its own.
    pub(crate) fn judged(&self, shares: Option<&Shares>) -> Result<(Vec<usize>, Vec<u32>), PipelineError> {
        let places = match shares {
            Some(shares) => self.images.of_split(shares, Split::Test)?,
            None => (0..self.images.len()).collect(),
        };
        Ok(self.labelled(places))
    }
}

const PREPROCESSOR: &str = "preprocessor_config.json";

/// What the model in `dir` wants to be done to images.
pub(crate) fn processor(dir: &Path, config: &Value) -> Result<Processor, PipelineError> {
    use taper_data::images::ProcessorClass as Class;
    let path = dir.join(PREPROCESSOR);
    let at = dir.join("config.json");
    // before transformers' file, which stands beside it for transformers and may be a pixel away
    if let Some(timm) = config.get("pretrained_cfg").filter(|cfg| cfg.is_object()) {
        return Ok(Processor::from_timm(&format!("{}: pretrained_cfg", at.display()), timm)?);
    }
    if path.is_file() {
        let class = match config["model_type"].as_str() {
            Some("vit") => Some(Class::Vit),
            Some("deit") => Some(Class::Deit),
            Some("dinov2") => Some(Class::Bit),
            _ => None,
        };
        return Ok(Processor::read(&path, class)?);
    }
    let reason = "is missing, and says what the model wants images to be".to_owned();
    Err(PipelineError::Content { path, reason })
}

/// The model's class of each class of the images: by name if the model knows all of the names, else by number.
fn class_of(classes: &[String], config: &Value) -> Vec<u32> {
    let named = config["id2label"].as_object();
    let listed = config["label_names"].as_array();
    let id = |name: &String| -> Option<u32> {
        let of_map = named.and_then(|map| map.iter().find(|(_, label)| label.as_str() == Some(name)));
        let of_list = || listed.and_then(|all| all.iter().position(|label| label.as_str() == Some(name)));
        of_map.and_then(|(id, _)| id.parse().ok()).or_else(|| of_list().map(|id| id as u32))
    };
    let by_name: Option<Vec<u32>> = classes.iter().map(id).collect();
    by_name.unwrap_or_else(|| (0..classes.len() as u32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes_are_matched_by_name_where_all_are_known() {
        let config = json!({"id2label": {"0": "cat", "1": "dog", "2": "ant"}});
        let names = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
        assert_eq!(class_of(&names(&["ant", "cat", "dog"]), &config), [2, 0, 1]);
        assert_eq!(class_of(&names(&["ant", "eel"]), &config), [0, 1]);
        assert_eq!(class_of(&names(&["b", "a"]), &json!({"label_names": ["a", "b"]})), [1, 0]);
    }
}
