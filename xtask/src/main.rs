//! Project commands: `cargo xtask serve | test | clients | onnx | soak | fuzz | variants | bench | badges | golden`.

mod badges;
mod bench;
mod clients;
mod fuzz;
mod onnx;
mod packages;
mod serve;
mod sheet;
mod shell;
mod soak;
mod test;
mod variants;

use std::process::ExitCode;

const HELP: &str = "\
Project commands

  cargo xtask serve [OPTIONS]   build host and plugin, start on the bundled model, print the URL
                                (options go to sd-worker: --port 9000, --model NAME, …)
  cargo xtask variants [NAME …] build the CPU plugin for several instruction sets, as files of one folder (--out FOLDER,
                                --profile dist for packages; --check tries each, --bench compares their speed)
  cargo xtask test              format, lints, documentation, every test
  cargo xtask clients [NAME]    try the worker with stock clients (installs them from PyPI and npm below the target folder)
  cargo xtask onnx              try the ONNX plugin beside candle's (installs ONNX Runtime from PyPI below the target folder)
  cargo xtask soak [WHAT …]     the large trials, then mixed chaos for --minutes N (10) with every meter running
                                (WHAT: trials, chaos, meter or the name of a trial; --list names them)
  cargo xtask bench             measure; beside diffusers where Python has it
  cargo xtask badges            run the conformance kit on our backends, write docs/BACKENDS.md
  cargo xtask fuzz [TARGET …]   invent inputs for what reads from outside, --seconds N (60) each (needs a C++ compiler)
  cargo xtask sheet             draw docs/modes.png anew: every mode, by the bundled model (needs Python with Pillow)
  cargo xtask golden [OPTIONS]  make the golden files anew (needs Python with tests/golden/requirements.txt)
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if std::env::var_os(fuzz::WRAPPER).is_some() {
        return finish(fuzz::wrap(&args.collect::<Vec<_>>()));
    }
    let command = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let outcome = match command.as_str() {
        "serve" => serve::run(&rest),
        "variants" => variants::run(&rest),
        "test" => test::run(),
        "clients" => clients::run(&rest),
        "onnx" => onnx::run(),
        "soak" => soak::run(&rest),
        "bench" => bench::run(&rest),
        "badges" => badges::run(),
        "fuzz" => fuzz::run(&rest),
        "sheet" => sheet::run(),
        "golden" => shell::python("tests/golden/make.py", &rest),
        "" | "help" | "--help" | "-h" => {
            shell::say(HELP);
            Ok(())
        }
        other => Err(format!("there is no command `{other}`\n\n{HELP}")),
    };
    finish(outcome)
}

fn finish(outcome: shell::Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            shell::complain(&message);
            ExitCode::FAILURE
        }
    }
}
