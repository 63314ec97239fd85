//! Borrowed tensors: a type, a shape and bytes, valid during one call.

use crate::{AbiError, DType};
use abi_stable::{
    StableAbi,
    std_types::{RSlice, RSliceMut, RStr},
};

/// A tensor to read. Contiguous, row-major, little-endian.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub struct TensorRef<'a> {
    /// What it is, where a call takes several (see [`crate::extra`]); else empty.
    pub name: RStr<'a>,
    /// The elements' type.
    pub dtype: DType,
    /// The extents, outermost first.
    pub shape: RSlice<'a, u64>,
    /// The elements' bytes: exactly product(shape) × size of `dtype`.
    pub bytes: RSlice<'a, u8>,
}

/// A tensor to fill. Contiguous, row-major, little-endian; the memory is the caller's.
#[repr(C)]
#[derive(StableAbi, Debug)]
pub struct TensorMut<'a> {
    /// The elements' type.
    pub dtype: DType,
    /// The extents, outermost first.
    pub shape: RSlice<'a, u64>,
    /// Room for exactly product(shape) × size of `dtype` bytes.
    pub bytes: RSliceMut<'a, u8>,
}

/// The bytes that a shape and a type need, with every overflow caught.
fn byte_len(dtype: DType, shape: &[u64]) -> Option<usize> {
    let elements = shape.iter().try_fold(1u64, |product, extent| product.checked_mul(*extent))?;
    usize::try_from(elements.checked_mul(dtype.size()? as u64)?).ok()
}

fn check(dtype: DType, shape: &[u64], bytes: usize) -> Result<(), AbiError> {
    match byte_len(dtype, shape) {
        Some(wanted) if wanted == bytes => Ok(()),
        Some(wanted) => {
            Err(AbiError::invalid(format!("a tensor of shape {shape:?} needs {wanted} bytes, got {bytes}")))
        }
        None => {
            Err(AbiError::invalid(format!("a tensor has an unknown element type or an impossible shape {shape:?}")))
        }
    }
}

impl<'a> TensorRef<'a> {
    /// A view of `f32` values. Fails when the shape and the number of values differ.
    pub fn f32(name: &'a str, shape: &'a [u64], values: &'a [f32]) -> Result<Self, AbiError> {
        // SAFETY: any initialised f32 is four initialised bytes, and u8 has no alignment of its own.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
        Self::new(name, DType::F32, shape, bytes)
    }

    /// A view of bytes. Fails when the shape and the number of bytes differ.
    pub fn new(name: &'a str, dtype: DType, shape: &'a [u64], bytes: &'a [u8]) -> Result<Self, AbiError> {
        check(dtype, shape, bytes.len())?;
        Ok(TensorRef { name: name.into(), dtype, shape: shape.into(), bytes: bytes.into() })
    }

    /// Checks shape against bytes: the first thing a receiver does.
    pub fn validate(&self) -> Result<(), AbiError> {
        check(self.dtype, &self.shape, self.bytes.len())
    }

    /// The values as `f32`, copied (the bytes need not be aligned). Fails for another type or a wrong length.
    pub fn to_f32(&self) -> Result<Vec<f32>, AbiError> {
        self.validate()?;
        if self.dtype != DType::F32 {
            return Err(AbiError::invalid(format!("tensor `{}` is not f32", self.name)));
        }
        Ok(self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// The values of pictures as `f32` 0–1, copied: bytes are 255ths, numbers stay. Fails as [`TensorRef::to_f32`] does.
    pub fn to_picture(&self) -> Result<Vec<f32>, AbiError> {
        if self.dtype == DType::U8 {
            self.validate()?;
            return Ok(self.bytes.iter().map(|byte| f32::from(*byte) / 255.0).collect());
        }
        self.to_f32()
    }

    /// The extents as an array of `N`, or an error that says what was expected.
    pub fn dims<const N: usize>(&self) -> Result<[usize; N], AbiError> {
        dims(&self.shape, &self.name)
    }
}

impl<'a> TensorMut<'a> {
    /// Room for `f32` values. Fails when the shape and the number of values differ.
    pub fn f32(shape: &'a [u64], values: &'a mut [f32]) -> Result<Self, AbiError> {
        let len = size_of_val(values);
        check(DType::F32, shape, len)?;
        // SAFETY: every bit pattern is a valid f32, so bytes may be written freely; the borrow is exclusive.
        let bytes = unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), len) };
        Ok(TensorMut { dtype: DType::F32, shape: shape.into(), bytes: RSliceMut::from_mut_slice(bytes) })
    }

    /// Room for bytes. Fails when the shape and the number of bytes differ.
    pub fn new(dtype: DType, shape: &'a [u64], bytes: &'a mut [u8]) -> Result<Self, AbiError> {
        check(dtype, shape, bytes.len())?;
        Ok(TensorMut { dtype, shape: shape.into(), bytes: RSliceMut::from_mut_slice(bytes) })
    }

    /// Checks shape against bytes: the first thing a receiver does.
    pub fn validate(&self) -> Result<(), AbiError> {
        check(self.dtype, &self.shape, self.bytes.len())
    }

    /// Writes `f32` values. Fails for another type or another number of values.
    pub fn write_f32(&mut self, values: &[f32]) -> Result<(), AbiError> {
        if self.dtype != DType::F32 || self.bytes.len() != size_of_val(values) {
            return Err(AbiError::invalid("the output has another type or size than the result"));
        }
        for (out, value) in self.bytes.chunks_exact_mut(4).zip(values) {
            out.copy_from_slice(&value.to_le_bytes());
        }
        Ok(())
    }

    /// Writes pictures given as `f32` 0–1, as `f32` or, clamped and rounded to the nearest (to even, as NumPy does), as `u8`.
    pub fn write_picture(&mut self, values: &[f32]) -> Result<(), AbiError> {
        if self.dtype == DType::F32 {
            return self.write_f32(values);
        }
        if self.dtype != DType::U8 || self.bytes.len() != values.len() {
            return Err(AbiError::invalid("the picture output has another type or size than the result"));
        }
        for (out, value) in self.bytes.iter_mut().zip(values) {
            *out = (value.clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
        }
        Ok(())
    }

    /// The extents as an array of `N`, or an error that says what was expected.
    pub fn dims<const N: usize>(&self) -> Result<[usize; N], AbiError> {
        dims(&self.shape, "output")
    }
}

fn dims<const N: usize>(shape: &[u64], name: &str) -> Result<[usize; N], AbiError> {
    let mut out = [0usize; N];
    if shape.len() != N {
        return Err(AbiError::invalid(format!("tensor `{name}` has {} dimensions, expected {N}", shape.len())));
    }
    for (slot, extent) in out.iter_mut().zip(shape) {
        *slot = usize::try_from(*extent).map_err(|_| AbiError::invalid(format!("tensor `{name}` is too large")))?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_and_bytes_must_agree() {
        assert!(TensorRef::f32("x", &[2, 3], &[0.0; 6]).is_ok());
        assert!(TensorRef::f32("x", &[2, 3], &[0.0; 5]).is_err());
        assert!(TensorRef::new("x", DType::F32, &[u64::MAX, u64::MAX], &[]).is_err());
        assert!(TensorRef::new("x", DType(99), &[1], &[0]).is_err());
    }

    #[test]
    fn pictures_round_and_clamp() {
        let mut bytes = [0u8; 3];
        let mut out = TensorMut::new(DType::U8, &[1, 1, 1, 3], &mut bytes).unwrap();
        out.write_picture(&[-1.0, 0.5, 2.0]).unwrap();
        assert_eq!(bytes, [0, 128, 255]);
        let back = TensorRef::new("", DType::U8, &[1, 1, 1, 3], &bytes).unwrap().to_picture().unwrap();
        assert_eq!(back, [0.0, 128.0 / 255.0, 1.0]);
        assert_eq!(TensorRef::f32("", &[2], &[0.5, 2.0]).unwrap().to_picture().unwrap(), [0.5, 2.0]);
    }
}
