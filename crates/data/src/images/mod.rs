//! Images, their classes, and what a processor makes of them.
//!
//! [`ImageSource`] (what a recipe says) → [`Images`], decoded when asked for → one split of them → [`Processor`], whose
//! numbers are those of transformers' own image processors (Pillow backend) and of timm's evaluation transform. An image is
//! read as transformers' `load_image` reads it: turned as its EXIF data says, then made RGB; transparency is dropped, not
//! blended.

mod collection;
mod config;
mod exif;
mod feed;
mod folder;
mod image;
mod jpeg;
mod list;
mod parquet;
mod png;
mod processor;
mod resample;
mod source;
mod tensors;
mod timm;
mod webp;

pub use collection::Images;
pub use config::ProcessorClass;
pub use feed::{Augment, ImageExamples, ImageFeed};
pub use image::{Image, PIXEL_LIMIT};
pub use processor::Processor;
pub use resample::Filter;
pub use source::ImageSource;

#[cfg(test)]
mod collection_tests;
#[cfg(test)]
mod config_tests;
#[cfg(test)]
mod image_tests;
