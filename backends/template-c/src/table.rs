//! The structs of `c/sd_backend.h`, and what makes them from those of the interface.

use backend_api::{AbiError, Code, Ctl, HwDevice, ModelSource, Param, Stage, find};
use std::{
    ffi::{CStr, CString, c_char, c_void},
    ptr,
};

/// The version of the table that this shim knows.
const VERSION: u32 = 1;

fn size_of_u32<T>() -> u32 {
    size_of::<T>() as u32
}

#[repr(C)]
pub(crate) struct Error {
    struct_size: u32,
    message: [c_char; 256],
    detail: [c_char; 1024],
}

impl Default for Error {
    fn default() -> Self {
        Error { struct_size: size_of_u32::<Self>(), message: [0; 256], detail: [0; 1024] }
    }
}

impl Error {
    /// An error for a code other than 0, with the engine's own words.
    pub(crate) fn check(&self, code: i32) -> Result<(), AbiError> {
        // An engine that filled a field to the brim is cut, not read beyond.
        let words = |field: &[c_char]| -> String {
            let bytes: Vec<u8> = field.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        match u32::try_from(code) {
            Ok(0) => Ok(()),
            Ok(code) => {
                let message = words(&self.message);
                let message =
                    if message.is_empty() { "the engine failed without a reason".to_owned() } else { message };
                Err(AbiError::new(Code(code), message).with_detail(words(&self.detail)))
            }
            Err(_) => Err(AbiError::internal(format!("the engine answered {code}"))),
        }
    }
}

#[repr(C)]
pub(crate) struct Pair {
    key: *const c_char,
    value: *const c_char,
}

/// Texts with a NUL at their end, and pointers to them.
pub(crate) struct Strings {
    pairs: Vec<Pair>,
    /// Holds what the pairs point to.
    _texts: Vec<CString>,
}

fn terminated(text: &str) -> CString {
    // A NUL inside a text ends it, as it would in C.
    CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default()
}

impl Strings {
    pub(crate) fn new(params: &[Param]) -> Self {
        let mut texts = Vec::with_capacity(2 * params.len());
        let mut keep = |text: &str| {
            let text = terminated(text);
            let pointer = text.as_ptr();
            texts.push(text);
            pointer
        };
        let pairs = params.iter().map(|p| Pair { key: keep(&p.key), value: keep(&p.value) }).collect();
        Strings { pairs, _texts: texts }
    }

    pub(crate) fn as_ptr(&self) -> *const Pair {
        self.pairs.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.pairs.len()
    }
}

#[repr(C)]
pub(crate) struct RawDevice {
    struct_size: u32,
    kind: u32,
    index: u32,
    vendor_id: u32,
    device_id: u32,
    memory: u64,
    name: *const c_char,
    features: *const c_char,
}

pub(crate) struct Device {
    raw: RawDevice,
    _texts: [CString; 2],
}

impl Device {
    pub(crate) fn new(device: &HwDevice) -> Self {
        let features: Vec<&str> = device.features.iter().map(|f| f.as_str()).collect();
        let texts = [terminated(&device.name), terminated(&features.join(" "))];
        let raw = RawDevice {
            struct_size: size_of_u32::<RawDevice>(),
            kind: device.kind.0,
            index: find(&device.params, "index").and_then(|i| i.parse().ok()).unwrap_or(0),
            vendor_id: device.vendor_id,
            device_id: device.device_id,
            memory: device.mem_total,
            name: texts[0].as_ptr(),
            features: texts[1].as_ptr(),
        };
        Device { raw, _texts: texts }
    }

    pub(crate) fn raw(&self) -> *const RawDevice {
        &raw const self.raw
    }
}

#[repr(C)]
pub(crate) struct Memory {
    struct_size: u32,
    pub(crate) device_total: u64,
    pub(crate) device_free: u64,
    pub(crate) weights: u64,
    pub(crate) scratch: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Memory { struct_size: size_of_u32::<Self>(), device_total: 0, device_free: 0, weights: 0, scratch: 0 }
    }
}

#[repr(C)]
pub(crate) struct RawSource {
    struct_size: u32,
    name: *const c_char,
    files: *const Pair,
    n_files: usize,
    configs: *const Pair,
    n_configs: usize,
    options: *const Pair,
    n_options: usize,
}

pub(crate) struct Source {
    raw: RawSource,
    _name: CString,
    _lists: [Strings; 3],
}

impl Source {
    pub(crate) fn new(source: &ModelSource) -> Self {
        let name = terminated(&source.name);
        let lists = [Strings::new(&source.files), Strings::new(&source.configs), Strings::new(&source.options)];
        let raw = RawSource {
            struct_size: size_of_u32::<RawSource>(),
            name: name.as_ptr(),
            files: lists[0].as_ptr(),
            n_files: lists[0].len(),
            configs: lists[1].as_ptr(),
            n_configs: lists[1].len(),
            options: lists[2].as_ptr(),
            n_options: lists[2].len(),
        };
        Source { raw, _name: name, _lists: lists }
    }

    pub(crate) fn raw(&self) -> *const RawSource {
        &raw const self.raw
    }
}

#[repr(C)]
pub(crate) struct Need {
    struct_size: u32,
    pub(crate) weight_bytes: u64,
    pub(crate) peak_bytes: u64,
}

impl Default for Need {
    fn default() -> Self {
        Need { struct_size: size_of_u32::<Self>(), weight_bytes: 0, peak_bytes: 0 }
    }
}

#[repr(C)]
pub(crate) struct Description {
    struct_size: u32,
    pub(crate) latent_channels: u32,
    pub(crate) vae_factor: u32,
    pub(crate) sample_size: u32,
    pub(crate) max_batch: u32,
    pub(crate) max_tokens: u32,
    pub(crate) hidden_size: u32,
    pub(crate) vocab_size: u32,
    pub(crate) mixed_batch: u32,
}

impl Default for Description {
    fn default() -> Self {
        Description {
            struct_size: size_of_u32::<Self>(),
            latent_channels: 0,
            vae_factor: 0,
            sample_size: 0,
            max_batch: 1,
            max_tokens: 0,
            hidden_size: 0,
            vocab_size: 0,
            mixed_batch: 0,
        }
    }
}

#[repr(C)]
pub(crate) struct Control<'a> {
    struct_size: u32,
    hand: *const c_void,
    cancelled: extern "C" fn(*const c_void) -> i32,
    progress: extern "C" fn(*const c_void, u64, u64),
    _hand: Box<Hand<'a>>,
}

struct Hand<'a> {
    ctl: &'a Ctl,
    stage: Stage,
}

extern "C" fn cancelled(hand: *const c_void) -> i32 {
    // SAFETY: `hand` is the `Hand` of the control that the engine was given, and the call it belongs to still runs.
    let hand = unsafe { &*hand.cast::<Hand<'_>>() };
    i32::from(hand.ctl.cancelled())
}

extern "C" fn progress(hand: *const c_void, done: u64, total: u64) {
    // SAFETY: as above.
    let hand = unsafe { &*hand.cast::<Hand<'_>>() };
    hand.ctl.progress(hand.stage, done, total);
}

impl<'a> Control<'a> {
    pub(crate) fn new(ctl: &'a Ctl, stage: Stage) -> Self {
        let hand = Box::new(Hand { ctl, stage });
        let pointer = (&raw const *hand).cast();
        let struct_size = std::mem::offset_of!(Control<'static>, _hand) as u32;
        Control { struct_size, hand: pointer, cancelled, progress, _hand: hand }
    }

    pub(crate) fn raw(&self) -> *const Control<'a> {
        self
    }
}

#[repr(C)]
pub(crate) struct Text {
    pub(crate) struct_size: u32,
    pub(crate) chunk_length: u32,
    pub(crate) tokens: *const u32,
    pub(crate) weights: *const f32,
    pub(crate) n_tokens: usize,
    pub(crate) params: *const Pair,
    pub(crate) n_params: usize,
}

#[repr(C)]
pub(crate) struct Tensor {
    pub(crate) struct_size: u32,
    pub(crate) dtype: u32,
    pub(crate) shape: [u64; 4],
    pub(crate) data: *mut c_void,
}

#[repr(C)]
pub(crate) struct Item {
    pub(crate) struct_size: u32,
    pub(crate) cond: u64,
    pub(crate) timestep: f32,
    pub(crate) sigma: f32,
}

type Ended = unsafe extern "C" fn(*mut c_void);
type Picture = unsafe extern "C" fn(*mut c_void, *const Tensor, *mut Tensor, *const Control<'_>, *mut Error) -> i32;

/// The engine's functions, in the order of the header.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Table {
    struct_size: u32,
    version: u32,
    pub(crate) id: *const c_char,
    pub(crate) vendor: *const c_char,
    pub(crate) engine_version: *const c_char,
    pub(crate) test_only: u32,
    pub(crate) score: Option<unsafe extern "C" fn(*const RawDevice, *mut *const c_char) -> u32>,
    pub(crate) open:
        Option<unsafe extern "C" fn(*const RawDevice, *const Pair, usize, *mut *mut c_void, *mut Error) -> i32>,
    pub(crate) close: Option<Ended>,
    pub(crate) memory: Option<unsafe extern "C" fn(*mut c_void, *mut Memory)>,
    pub(crate) inspect: Option<unsafe extern "C" fn(*mut c_void, *const RawSource, *mut Need, *mut Error) -> i32>,
    pub(crate) load: Option<
        unsafe extern "C" fn(*mut c_void, *const RawSource, *const Control<'_>, *mut *mut c_void, *mut Error) -> i32,
    >,
    pub(crate) unload: Option<Ended>,
    pub(crate) describe: Option<unsafe extern "C" fn(*mut c_void, *mut Description)>,
    pub(crate) begin: Option<unsafe extern "C" fn(*mut c_void, *mut *mut c_void, *mut Error) -> i32>,
    pub(crate) end: Option<Ended>,
    pub(crate) encode_text:
        Option<unsafe extern "C" fn(*mut c_void, *const Text, *const Control<'_>, *mut u64, *mut Error) -> i32>,
    pub(crate) free_cond: Option<unsafe extern "C" fn(*mut c_void, u64)>,
    pub(crate) predict: Option<
        unsafe extern "C" fn(
            *mut c_void,
            *const Tensor,
            *const Item,
            usize,
            *mut Tensor,
            *const Control<'_>,
            *mut Error,
        ) -> i32,
    >,
    pub(crate) decode: Option<Picture>,
    pub(crate) encode: Option<Picture>,
}

// SAFETY: the table and its texts are constant, says the header.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

unsafe extern "C" {
    fn sd_backend_c() -> *const Table;
}

/// The engine's table; `None` when it is of a version that is not known. Members beyond the size that the engine tells,
/// as in an engine built with an older header, are absent functions.
pub(crate) fn table() -> Option<Table> {
    let mut table = std::mem::MaybeUninit::<Table>::zeroed();
    // SAFETY: the header promises a table that begins with its size and stays valid; no more bytes are read than that, and
    // none beyond our own. Zeros are null pointers, absent functions and the number 0.
    unsafe {
        let theirs = sd_backend_c();
        if theirs.is_null() {
            return None;
        }
        let size = ptr::addr_of!((*theirs).struct_size).read() as usize;
        if size < std::mem::offset_of!(Table, score) {
            return None;
        }
        ptr::copy_nonoverlapping(theirs.cast::<u8>(), table.as_mut_ptr().cast(), size.min(size_of::<Table>()));
        Some(table.assume_init()).filter(|table| table.version == VERSION)
    }
}

/// A text of the engine; empty for a null pointer.
pub(crate) fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: the header promises texts that end with a NUL and stay valid for ever.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}
