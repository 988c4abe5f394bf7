//! Where a graph's weights go: into its file, or one after the other into a file beside it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::proto::{DataLocation, DataType, StringStringEntryProto, TensorProto};
use crate::ExportError;

/// From where on a weight may begin in a file of its own: a page, so that it can be mapped.
const ALIGNED: u64 = 4096;

pub(super) struct Weights {
    beside: Option<Beside>,
}

struct Beside {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Weights {
    pub(super) fn inside() -> Self {
        Self { beside: None }
    }

    /// In a file named after the graph's, in the same folder.
    pub(super) fn beside(graph: &Path) -> Result<Self, ExportError> {
        let mut path = graph.as_os_str().to_owned();
        path.push(".data");
        let path = PathBuf::from(path);
        let create = File::options().write(true).create_new(true).open(&path); // it appears with the folder
        let file = create.map_err(ExportError::file(&path))?;
        Ok(Self { beside: Some(Beside { path, file, length: 0 }) })
    }

    /// One weight, little-endian.
    pub(super) fn put(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Result<TensorProto, ExportError> {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let dims = shape.iter().map(|size| *size as i64).collect();
        let mut tensor =
            TensorProto { dims, data_type: DataType::Float as i32, name: name.to_owned(), ..TensorProto::default() };
        let Some(Beside { path, file, length }) = &mut self.beside else {
            return Ok(TensorProto { raw_data: bytes, ..tensor });
        };
        let offset = length.next_multiple_of(ALIGNED);
        let gap = vec![0; (offset - *length) as usize];
        file.write_all(&gap).and_then(|()| file.write_all(&bytes)).map_err(ExportError::file(path))?;
        *length = offset + bytes.len() as u64;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
        tensor.data_location = DataLocation::External as i32;
        tensor.external_data = vec![
            entry("location", name),
            entry("offset", offset.to_string()),
            entry("length", bytes.len().to_string()),
        ];
        Ok(tensor)
    }

    /// All are on the disk.
    pub(super) fn finish(self) -> Result<(), ExportError> {
        match self.beside {
            Some(Beside { path, file, .. }) => file.sync_all().map_err(ExportError::file(&path)),
            None => Ok(()),
        }
    }
}
