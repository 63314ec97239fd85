//! The settings file: TOML whose keys are the flags' names with underscores.
//!
//! Its values become the flags' defaults, so that flags and environment variables win over them and are checked by the
//! same rules.

use clap::Command;
use std::path::Path;

/// Largest settings file in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// Puts a file's values under a subcommand's flags. The message of an error names the key.
pub fn apply_file(mut command: Command, path: &Path) -> Result<Command, String> {
    let size = std::fs::metadata(path).map_err(|e| format!("the settings file cannot be read: {e}"))?.len();
    if size > MAX_BYTES {
        return Err(format!("the settings file is larger than {MAX_BYTES} bytes"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| format!("the settings file cannot be read: {e}"))?;
    let table: toml::Table =
        text.parse().map_err(|e: toml::de::Error| format!("the settings file is not TOML: {}", e.message()))?;
    for (key, value) in table {
        let Some(id) = command.get_arguments().find(|a| a.get_id() == key.as_str()).map(|a| a.get_id().clone()) else {
            return Err(format!("the settings file has an unknown key `{key}`; `sd-worker serve --help` lists them"));
        };
        if key == "config" {
            return Err("the settings file cannot name another one".to_owned());
        }
        let values = texts(&value).ok_or_else(|| {
            format!("the settings file's `{key}` must be a text, number, truth value or a list of texts")
        })?;
        let flag = matches!(value, toml::Value::Boolean(_));
        if flag && values == ["false"] {
            continue;
        }
        command = command.mut_arg(id, |arg| {
            if flag {
                arg.default_value("true")
            } else {
                arg.default_values(values.into_iter().map(clap::builder::OsStr::from))
            }
        });
    }
    Ok(command)
}

fn texts(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(s) => Some(vec![s.clone()]),
        toml::Value::Integer(i) => Some(vec![i.to_string()]),
        toml::Value::Float(f) => Some(vec![f.to_string()]),
        toml::Value::Boolean(b) => Some(vec![b.to_string()]),
        toml::Value::Array(items) => items.iter().map(|i| i.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}
