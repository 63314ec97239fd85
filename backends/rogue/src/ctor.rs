//! A library constructor: code that runs inside `dlopen`, before any check of the interface.

use crate::script::Script;

extern "C" fn constructor() {
    // An error has nowhere to go here.
    let _ = Script::environment().at("ctor");
}

#[cfg(target_os = "linux")]
#[used]
// SAFETY: the loader calls each entry of this section once, as a C function; the standard library needs no start-up.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

#[cfg(target_os = "macos")]
#[used]
// SAFETY: as on Linux.
#[unsafe(link_section = "__DATA,__mod_init_func")]
static CONSTRUCTOR: extern "C" fn() = constructor;
