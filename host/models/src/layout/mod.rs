//! Which tensors a network must have, by its config, under their diffusers names.

pub(crate) mod clip;
pub(crate) mod unet;
pub(crate) mod vae;

use crate::{
    error::{ModelError, Result},
    header::{Header, TensorInfo},
};

/// One tensor that must be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) name: String,
    pub(crate) shape: Vec<u64>,
}

/// Collects expected tensors under a prefix.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    tensors: Vec<Expected>,
}

impl Layout {
    /// Every tensor, for the comparison with diffusers.
    #[cfg(test)]
    pub(crate) fn tensors(&self) -> &[Expected] {
        &self.tensors
    }

    /// Numbers in all tensors.
    pub(crate) fn parameters(&self) -> u64 {
        let count = |shape: &[u64]| shape.iter().fold(1_u64, |all, &dim| all.saturating_mul(dim));
        self.tensors.iter().fold(0, |all, tensor| all.saturating_add(count(&tensor.shape)))
    }

    fn put(&mut self, name: String, shape: &[u64]) {
        self.tensors.push(Expected { name, shape: shape.to_vec() });
    }

    fn linear(&mut self, name: &str, input: u64, output: u64) {
        self.put(format!("{name}.weight"), &[output, input]);
        self.put(format!("{name}.bias"), &[output]);
    }

    fn linear_without_bias(&mut self, name: &str, input: u64, output: u64) {
        self.put(format!("{name}.weight"), &[output, input]);
    }

    fn conv(&mut self, name: &str, input: u64, output: u64, kernel: u64) {
        self.put(format!("{name}.weight"), &[output, input, kernel, kernel]);
        self.put(format!("{name}.bias"), &[output]);
    }

    fn norm(&mut self, name: &str, channels: u64) {
        self.put(format!("{name}.weight"), &[channels]);
        self.put(format!("{name}.bias"), &[channels]);
    }

    /// norm → conv → (+ time) → norm → conv, with a 1 × 1 shortcut where the channels change.
    fn resnet(&mut self, name: &str, input: u64, output: u64, time_dim: Option<u64>) {
        self.norm(&format!("{name}.norm1"), input);
        self.conv(&format!("{name}.conv1"), input, output, 3);
        if let Some(time_dim) = time_dim {
            self.linear(&format!("{name}.time_emb_proj"), time_dim, output);
        }
        self.norm(&format!("{name}.norm2"), output);
        self.conv(&format!("{name}.conv2"), output, output, 3);
        if input != output {
            self.conv(&format!("{name}.conv_shortcut"), input, output, 1);
        }
    }

    /// Finds every expected tensor in one of the headers, with its shape and a usable number type.
    ///
    /// `spellings` gives further names under which published files keep a tensor.
    pub(crate) fn verify(&self, headers: &[Header], spellings: impl Fn(&str) -> Option<String>) -> Result<()> {
        let find =
            |name: &str| headers.iter().find_map(|header| header.tensors.get(name).map(|tensor| (header, tensor)));
        for expected in &self.tensors {
            let found = find(&expected.name).or_else(|| find(&spellings(&expected.name)?));
            let Some((header, tensor)) = found else {
                let file = headers.first().map(|header| header.file.clone()).unwrap_or_default();
                return Err(ModelError::MissingTensor { file, tensor: expected.name.clone() });
            };
            check_tensor(&header.file, expected, tensor)?;
        }
        Ok(())
    }
}

fn check_tensor(file: &str, expected: &Expected, tensor: &TensorInfo) -> Result<()> {
    if !tensor.dtype.is_weight() {
        return Err(ModelError::UnsupportedDtype {
            file: file.into(),
            tensor: expected.name.clone(),
            dtype: tensor.dtype.name().into(),
        });
    }
    // Old VAE files keep attention matrices as 1 × 1 convolutions; diffusers squeezes them too.
    let squeezed = match tensor.shape.as_slice() {
        [output, input, 1, 1] if expected.shape.len() == 2 => vec![*output, *input],
        shape => shape.to_vec(),
    };
    if squeezed != expected.shape {
        return Err(ModelError::WrongShape {
            file: file.into(),
            tensor: expected.name.clone(),
            expected: expected.shape.clone(),
            found: tensor.shape.clone(),
        });
    }
    Ok(())
}
