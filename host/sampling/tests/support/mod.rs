//! What the tests of this crate share: reading golden files.

use std::path::PathBuf;

/// A file of tensors from `tests/fixtures/goldens`.
pub(crate) struct Goldens {
    name: String,
    bytes: Vec<u8>,
}

impl Goldens {
    /// Reads `tests/fixtures/goldens/{name}.safetensors`.
    pub(crate) fn open(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/fixtures/goldens")
            .join(format!("{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { name: name.to_owned(), bytes }
    }

    /// A float32 tensor's values.
    pub(crate) fn f32(&self, tensor: &str) -> Vec<f32> {
        let file = safetensors::SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(tensor).unwrap_or_else(|error| panic!("{} has no {tensor}: {error}", self.name));
        assert_eq!(view.dtype(), safetensors::Dtype::F32, "{tensor}");
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}
