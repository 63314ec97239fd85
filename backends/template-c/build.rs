//! Compiles the engine in C. YOURS: your own files, or a static library:
//! `cargo:rustc-link-search=native=…` and `cargo:rustc-link-lib=static=…`.

fn main() {
    println!("cargo:rerun-if-changed=c");
    cc::Build::new()
        .file("c/example.c")
        .include("c")
        .warnings(true)
        .extra_warnings(true)
        .std("c11")
        .compile("sd_engine");
}
