//! Makes a plugin of an engine in C: `c/sd_backend.h` is what the engine fills, this shim what the worker opens.
//!
//! Nothing here is yours to change but the crate's name; `docs/WRITING_A_BACKEND.md` leads through it.

mod session;
mod table;

use backend_api::{
    AbiError, Ctl, DiffusionDesc, EncoderDesc, HostRef, HwDevice, MemReport, ModelPlan, ModelSource, Offer, Param,
    PluginInfo, Task, abi_stable::std_types::RVec, author,
};
use std::{ffi::c_void, ptr, sync::Arc};
use table::{Control, Description, Device as CDevice, Error, Memory, Need, Source, Strings, Table, table, text};

/// The library as a whole.
struct Shim;

/// A handle of the engine, and the function that ends it.
struct Handle {
    pointer: *mut c_void,
    end: Option<unsafe extern "C" fn(*mut c_void)>,
}

// SAFETY: the header asks engines for handles that any thread may use; the shim hands a session to one thread at a time.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(end) = self.end {
            // SAFETY: the engine made the pointer and gets it back once.
            unsafe { end(self.pointer) };
        }
    }
}

impl author::Plugin for Shim {
    fn info() -> PluginInfo {
        let table = table();
        let params =
            if table.as_ref().is_some_and(|t| t.test_only != 0) { vec![Param::new("test_only", 1)] } else { vec![] };
        let of =
            |field: fn(&Table) -> *const std::ffi::c_char| table.as_ref().map(|t| text(field(t))).unwrap_or_default();
        PluginInfo {
            id: of(|t| t.id).into(),
            vendor: of(|t| t.vendor).into(),
            version: of(|t| t.engine_version).into(),
            params: params.into(),
        }
    }

    fn probe(hardware: &[HwDevice]) -> Vec<Offer> {
        let Some(score) = table().and_then(|t| t.score) else { return Vec::new() };
        let offer = |(i, device): (usize, &HwDevice)| {
            let (device, mut why) = (CDevice::new(device), ptr::null());
            // SAFETY: the device outlives the call; `why` stays valid for ever, says the header.
            let score = unsafe { score(device.raw(), &raw mut why) };
            let why = text(why);
            (!why.is_empty()).then(|| Offer { hw_index: i as u32, score, why: why.into(), params: RVec::new() })
        };
        hardware.iter().enumerate().filter_map(offer).collect()
    }

    fn open(hardware: &HwDevice, options: &[Param], _: HostRef) -> Result<Box<dyn author::Backend>, AbiError> {
        let table = table().ok_or_else(|| AbiError::unsupported("this version of the table in C"))?;
        let open = table.open.ok_or_else(|| AbiError::unsupported("opening a device"))?;
        let (device, options, mut error, mut opened) =
            (CDevice::new(hardware), Strings::new(options), Error::default(), ptr::null_mut());
        // SAFETY: every pointer outlives the call and has the length that is told.
        let code = unsafe { open(device.raw(), options.as_ptr(), options.len(), &raw mut opened, &raw mut error) };
        error.check(code)?;
        Ok(Box::new(Device { table, handle: Handle { pointer: opened, end: table.close } }))
    }
}

struct Device {
    table: Table,
    handle: Handle,
}

fn report(pointer: *mut c_void, ask: Option<unsafe extern "C" fn(*mut c_void, *mut Memory)>) -> MemReport {
    let mut memory = Memory::default();
    if let Some(ask) = ask {
        // SAFETY: the handle is alive and `memory` outlives the call.
        unsafe { ask(pointer, &raw mut memory) };
    }
    let Memory { device_total, device_free, weights, scratch, .. } = memory;
    MemReport { device_total, device_free, weights, scratch }
}

impl author::Backend for Device {
    fn memory(&self) -> MemReport {
        report(self.handle.pointer, self.table.memory)
    }

    fn inspect(&self, source: &ModelSource) -> Result<ModelPlan, AbiError> {
        let inspect = self.table.inspect.ok_or_else(|| AbiError::unsupported("inspecting a model"))?;
        let (source, mut need, mut error) = (Source::new(source), Need::default(), Error::default());
        // SAFETY: the handle is alive and every pointer outlives the call.
        let code = unsafe { inspect(self.handle.pointer, source.raw(), &raw mut need, &raw mut error) };
        error.check(code)?;
        let Need { weight_bytes, peak_bytes, .. } = need;
        Ok(ModelPlan { task: Task::DIFFUSION, weight_bytes, peak_bytes, params: RVec::new() })
    }

    fn load(&self, source: &ModelSource, ctl: &Ctl) -> Result<Box<dyn author::Model>, AbiError> {
        let load = self.table.load.ok_or_else(|| AbiError::unsupported("loading a model"))?;
        let (source, mut error, mut loaded) = (Source::new(source), Error::default(), ptr::null_mut());
        let control = Control::new(ctl, backend_api::Stage::LOAD);
        // SAFETY: the handle is alive and every pointer outlives the call.
        let code = unsafe { load(self.handle.pointer, source.raw(), control.raw(), &raw mut loaded, &raw mut error) };
        error.check(code)?;
        let handle = Handle { pointer: loaded, end: self.table.unload };
        Ok(Box::new(Loaded { table: self.table, handle: Arc::new(handle) }))
    }
}

struct Loaded {
    table: Table,
    /// Sessions keep the model alive.
    handle: Arc<Handle>,
}

impl author::Model for Loaded {
    fn memory(&self) -> MemReport {
        MemReport::default()
    }

    fn diffusion(&self, _: &[Param]) -> Result<(DiffusionDesc, Box<dyn author::Diffusion>), AbiError> {
        let (Some(describe), Some(begin)) = (self.table.describe, self.table.begin) else {
            return Err(AbiError::unsupported("diffusion"));
        };
        let (mut d, mut error, mut opened) = (Description::default(), Error::default(), ptr::null_mut());
        // SAFETY: the handle is alive and every pointer outlives the call.
        let code = unsafe {
            describe(self.handle.pointer, &raw mut d);
            begin(self.handle.pointer, &raw mut opened, &raw mut error)
        };
        error.check(code)?;
        let handle = Handle { pointer: opened, end: self.table.end };
        let encoder = EncoderDesc {
            name: "text_encoder".into(),
            max_length: d.max_tokens,
            hidden_size: d.hidden_size,
            vocab_size: d.vocab_size,
            params: RVec::new(),
        };
        let desc = DiffusionDesc {
            latent_channels: d.latent_channels,
            vae_factor: d.vae_factor,
            sample_size: d.sample_size,
            max_batch: d.max_batch,
            encoders: vec![encoder].into(),
            inputs: RVec::new(),
            params: vec![
                Param::new("mixed_batch", u8::from(d.mixed_batch != 0)),
                Param::new("encode", u8::from(self.table.encode.is_some())),
            ]
            .into(),
        };
        Ok((desc, Box::new(session::Session::new(self.table, handle, Arc::clone(&self.handle)))))
    }
}

backend_api::export_backend!(Shim);
