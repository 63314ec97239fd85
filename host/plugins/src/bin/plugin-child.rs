//! The child of an isolated plugin as a program of its own, for tests and for hosts that are not `sd-worker`.

fn main() {
    std::process::exit(sd_plugins::child_main(std::env::args_os().skip(1)));
}
