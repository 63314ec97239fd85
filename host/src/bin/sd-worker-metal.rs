//! The worker with the backend preset to candle-metal.

fn main() -> std::process::ExitCode {
    sd_worker::cli::main(Some("candle-metal"))
}
