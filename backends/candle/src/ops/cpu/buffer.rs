//! Reading activations as slices, and results that are written before they are read.

use crate::{Error, Result, ops::Activation};
use candle_core::{CpuStorage, Device, Storage};
use std::ops::Deref;

/// The values of an activation, borrowed; `G` is the lock of the tensor library.
pub(crate) struct Values<G> {
    storage: G,
    start: usize,
    len: usize,
}

/// The values of an activation.
pub(crate) fn values_of(x: &Activation) -> Result<Values<impl Deref<Target = Storage> + Sync + '_>> {
    let (storage, layout) = x.tensor().storage_and_layout();
    let (start, len) = (layout.start_offset(), layout.shape().elem_count());
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) if layout.is_contiguous() && start + len <= values.len() => {}
        _ => return Err(Error::Operation("an activation is not contiguous f32 in memory".to_owned())),
    }
    Ok(Values { storage, start, len })
}

impl<G: Deref<Target = Storage>> Deref for Values<G> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.start..self.start + self.len],
            // `values_of` let nothing else in.
            _ => &[],
        }
    }
}

/// Memory for a result. Nothing of it is read before it is written.
pub(crate) struct Buffer(Vec<f32>);

impl Buffer {
    pub(crate) fn new(len: usize) -> Self {
        Buffer(Vec::with_capacity(len))
    }

    pub(crate) fn pointer(&mut self) -> Out {
        Out(self.0.as_mut_ptr())
    }

    /// The result, once all of it is written.
    ///
    /// # Safety
    /// Every one of the values of `shape` has been written, and there are no more than were asked for.
    pub(crate) unsafe fn finish(mut self, shape: [usize; 4]) -> Result<Activation> {
        let len = shape.iter().product();
        debug_assert!(len <= self.0.capacity());
        // SAFETY: the caller's promise.
        unsafe { self.0.set_len(len) };
        Activation::from_vec(self.0, shape, &Device::Cpu)
    }
}

/// A place that several threads write to, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct Out(*mut f32);

// SAFETY: whoever uses the pointer on several threads writes disjoint parts; each use says why they are.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    pub(crate) fn at(self, offset: usize) -> *mut f32 {
        // Wrapping: no promise about the place is made here; the user makes it when writing.
        self.0.wrapping_add(offset)
    }
}

/// Pointers to rows that several threads read.
pub(crate) struct Rows(pub(crate) Vec<*const f32>);

// SAFETY: the pointers are only read through, and what they point at is borrowed for as long.
unsafe impl Send for Rows {}
// SAFETY: as above.
unsafe impl Sync for Rows {}
