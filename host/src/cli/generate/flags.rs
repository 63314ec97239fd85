//! The fields of a job as flags: one for each row of the table that checks requests, so that neither lacks what the
//! other has.

use crate::{
    api::fields::{Field, JOB_FIELDS, Kind},
    fault::{Fault, FaultCode},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};
use serde_json::{Map, Value, json};
use std::{
    io::Read,
    path::{Path, PathBuf},
};

/// Largest picture that is read from disk.
const MAX_INPUT: u64 = 256 * 1024 * 1024;
/// Rows that are no flags here: the model has its own, the others are for orchestrators.
const LEFT_OUT: &[&str] = &["model", "hive_id", "worker_id"];

/// The flags that were given.
#[derive(Debug, Clone, Default)]
pub(crate) struct JobFlags {
    values: Map<String, Value>,
    pictures: Vec<(&'static str, PathBuf)>,
}

impl JobFlags {
    /// The request's fields, pictures read from their files. Errors: a file that cannot be read.
    pub(super) fn fields(&self) -> Result<Map<String, Value>, Fault> {
        let mut fields = self.values.clone();
        for (name, path) in &self.pictures {
            fields.insert((*name).to_owned(), read(path).map_err(|f| f.about(name))?);
        }
        Ok(fields)
    }
}

fn read(path: &Path) -> Result<Value, Fault> {
    let unreadable = |e: std::io::Error| Fault::new(FaultCode::InvalidImage, format!("{}: {e}", path.display()));
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(unreadable)?.take(MAX_INPUT).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(json!(STANDARD.encode(bytes)))
}

/// A row and the object that it is part of: `left` in `extend`.
struct Row {
    group: Option<&'static str>,
    field: &'static Field,
}

impl Row {
    fn id(&self) -> String {
        self.group.map_or_else(|| self.field.name.to_owned(), |group| format!("{group}.{}", self.field.name))
    }

    /// `init_image` is `--init`, `mask_image` is `--mask`, `left` in `extend` is `--extend-left`.
    fn long(&self) -> String {
        let name = self.field.name.strip_suffix("_image").unwrap_or(self.field.name);
        self.group.map_or_else(|| name.to_owned(), |group| format!("{group}-{name}")).replace('_', "-")
    }

    /// Other spellings, which work but are not listed.
    fn aliases(&self) -> Vec<String> {
        if self.group.is_some() {
            return Vec::new();
        }
        let names = self.field.aliases.iter().chain([&self.field.name]).map(|a| a.replace('_', "-"));
        names.filter(|a| *a != self.long()).collect()
    }

    fn is_picture(&self) -> bool {
        matches!(self.field.kind, Kind::Image)
    }

    fn argument(&self) -> Arg {
        let field = self.field;
        let required = field.default == "required";
        let default = if required { String::new() } else { format!(" [default: {}]", field.default) };
        let arg = Arg::new(self.id()).help(format!("{}{default}", field.doc)).aliases(self.aliases()).long(self.long());
        // What is only enlarged needs no prompt; the request's own check knows which operation needs what.
        let arg = if required { arg.required_unless_present("operation") } else { arg };
        let arg = match (self.group, field.name) {
            (None, "prompt") => arg.short('p'),
            (None, "n") => arg.short('n'),
            _ => arg,
        };
        if self.is_picture() {
            return arg.value_name("FILE").value_parser(value_parser!(PathBuf));
        }
        let kind = field.kind;
        let arg = arg.allow_hyphen_values(true).value_parser(move |text: &str| value(kind, text));
        match field.kind {
            Kind::Bool => arg.value_name("BOOL").num_args(0..=1).require_equals(true).default_missing_value("true"),
            Kind::Text { .. } | Kind::Word(_) => arg.value_name("TEXT"),
            Kind::Numbers { .. } => arg.value_name("A,B,…"),
            _ => arg.value_name("NUMBER"),
        }
    }
}

/// The value that a flag's text stands for, checked as the request will be.
fn value(kind: Kind, text: &str) -> Result<Value, String> {
    let json = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| json!(text));
    let value = match kind {
        Kind::Text { .. } | Kind::Word(_) => json!(text),
        Kind::Numbers { .. } if !text.starts_with('[') => json(&format!("[{text}]")),
        _ => json(text),
    };
    kind.check(&value).map(|_| value)
}

fn offered() -> impl Iterator<Item = Row> {
    let offered = JOB_FIELDS.iter().filter(|f| !LEFT_OUT.contains(&f.name));
    offered.flat_map(|field| match field.kind {
        Kind::Group(fields) => fields.iter().map(|inner| Row { group: Some(field.name), field: inner }).collect(),
        _ => vec![Row { group: None, field }],
    })
}

impl Args for JobFlags {
    fn augment_args(command: Command) -> Command {
        command.next_help_heading("The picture").args(offered().map(|row| row.argument())).next_help_heading(None)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for JobFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = JobFlags::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for row in offered() {
            let (id, name) = (row.id(), row.field.name);
            if row.is_picture() {
                let path = matches.get_one::<PathBuf>(&id);
                self.pictures.extend(path.map(|p| (name, p.clone())));
            } else if let Some(value) = matches.get_one::<Value>(&id) {
                let target = match row.group {
                    None => &mut self.values,
                    Some(group) => match self.values.entry(group).or_insert_with(|| json!({})) {
                        Value::Object(fields) => fields,
                        _ => continue,
                    },
                };
                target.insert(name.to_owned(), value.clone());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Map<String, Value>, String> {
        let command = JobFlags::augment_args(Command::new("generate"));
        let matches = command.try_get_matches_from([&["generate"], line].concat()).map_err(|e| e.to_string())?;
        JobFlags::from_arg_matches(&matches).unwrap().fields().map_err(|f| f.to_string())
    }

    #[test]
    fn every_row_is_a_flag_and_none_stands_twice() {
        // clap's own check of names, aliases and shorts.
        JobFlags::augment_args(Command::new("generate")).debug_assert();
        for field in JOB_FIELDS.iter().filter(|f| !LEFT_OUT.contains(&f.name)) {
            assert!(offered().any(|row| row.group.unwrap_or(row.field.name) == field.name), "{}", field.name);
        }
    }

    #[test]
    fn flags_become_fields() {
        let line = [
            "-p",
            "a cat, 5",
            "--negative-prompt",
            "-x",
            "-n",
            "4",
            "--cfg-scale",
            "7.5",
            "--seed",
            "-1",
            "--sampler",
            "euler",
            "--only-masked",
            "--metadata=false",
            "--extend-left",
            "16",
            "--extend-top",
            "8",
            "--sigmas",
            "9,1.5,0",
        ];
        let expected = json!({
            "prompt": "a cat, 5", "negative_prompt": "-x", "n": 4, "guidance_scale": 7.5, "seed": -1, "sampler": "euler",
            "only_masked": true, "metadata": false, "extend": { "left": 16, "top": 8 }, "sigmas": [9, 1.5, 0],
        });
        assert_eq!(Value::Object(parse(&line).unwrap()), expected);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.png");
        std::fs::write(&file, b"abc").unwrap();
        for flag in ["--init", "--init-image"] {
            assert_eq!(parse(&["-p", "x", flag, file.to_str().unwrap()]).unwrap()["init_image"], "YWJj");
        }
    }

    #[test]
    fn wrong_values_are_said_before_anything_runs() {
        for (line, part) in [
            (&["--steps", "5"][..], "--prompt"),
            (&["-p", "x", "--steps", "0"], "a whole number from 1 to 150"),
            (&["-p", "x", "--width", "65"], "a multiple of 8"),
            (&["-p", "x", "--resize-mode", "bend"], "stretch"),
            (&["-p", "x", "--init", "/nothing/here.png"], "here.png"),
            (&["-p", "x", "--nonsense", "1"], "nonsense"),
        ] {
            let text = parse(line).unwrap_err();
            assert!(text.contains(part), "{line:?}: {text}");
        }
    }
}
