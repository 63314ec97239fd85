//! The worker with the backend preset to candle-cpu.

fn main() -> std::process::ExitCode {
    sd_worker::cli::main(Some("candle-cpu"))
}
