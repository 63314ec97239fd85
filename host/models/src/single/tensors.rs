//! A view of the tensors below one prefix of a single file.

use crate::{
    error::{ModelError, Result},
    header::Header,
    layout::Layout,
};

/// Tensors whose names start with a prefix.
#[derive(Clone, Copy)]
pub(crate) struct Tensors<'a> {
    header: &'a Header,
    prefix: &'a str,
}

impl<'a> Tensors<'a> {
    pub(crate) fn new(header: &'a Header, prefix: &'a str) -> Self {
        Self { header, prefix }
    }

    /// Whether any tensor has the prefix.
    pub(crate) fn any(&self) -> bool {
        let from = self.header.tensors.range(self.prefix.to_owned()..).next();
        from.is_some_and(|(name, _)| name.starts_with(self.prefix))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    pub(crate) fn shape(&self, name: &str) -> Option<&'a [u64]> {
        self.header.tensors.get(&format!("{}{name}", self.prefix)).map(|tensor| tensor.shape.as_slice())
    }

    /// The dimensions of a tensor that must be there with this rank.
    pub(crate) fn need<const N: usize>(&self, name: &str) -> Result<[u64; N]> {
        let tensor = format!("{}{name}", self.prefix);
        let Some(shape) = self.shape(name) else {
            return Err(ModelError::MissingTensor { file: self.header.file.clone(), tensor });
        };
        shape.try_into().map_err(|_| ModelError::BadHeader {
            file: self.header.file.clone(),
            reason: format!("`{tensor}` has {} dimensions where {N} are needed", shape.len()),
        })
    }

    /// How many consecutive numbers `name(0)`, `name(1)` … are there.
    pub(crate) fn count(&self, name: impl Fn(u64) -> String) -> u64 {
        (0..1_024).take_while(|&n| self.has(&name(n))).count() as u64
    }

    /// All weights are of a type that backends read, and there are at least as many numbers as the layout calls for.
    pub(crate) fn check(&self, part: &str, layout: &Layout) -> Result<()> {
        let mut found = 0_u64;
        for (name, tensor) in self.header.tensors.range(self.prefix.to_owned()..) {
            let Some(inner) = name.strip_prefix(self.prefix) else { break };
            if tensor.dtype.is_weight() {
                found = found.saturating_add(tensor.count());
            } else if !inner.ends_with("position_ids") && !inner.ends_with("num_batches_tracked") {
                return Err(ModelError::UnsupportedDtype {
                    file: self.header.file.clone(),
                    tensor: name.clone(),
                    dtype: tensor.dtype.name().into(),
                });
            }
        }
        let expected = layout.parameters();
        if found < expected {
            return Err(ModelError::WrongFamily {
                reason: format!(
                    "the {part} holds {found} numbers, and its shapes call for {expected}; some tensors are missing"
                ),
            });
        }
        Ok(())
    }
}
