//! The worker with the backend preset to candle-cuda.

fn main() -> std::process::ExitCode {
    sd_worker::cli::main(Some("candle-cuda"))
}
