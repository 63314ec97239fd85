//! Single files that lie in a folder of their own beside the models: `embeddings/`, `upscalers/`.

use crate::{files::Folder, header::is_pickle_name};
use std::path::PathBuf;

/// What `check` says of each weights file or pickle in the folder `sub` of these directories, with the file's name
/// without its ending, sorted by name. Of names that differ in case at most the first directory's wins. At most `limit`
/// names of one folder are looked at.
pub(crate) fn list<'a, T>(
    dirs: impl Iterator<Item = &'a PathBuf>,
    sub: &str,
    limit: usize,
    check: impl Fn(&Folder, &str) -> T,
) -> Vec<(String, T)> {
    let mut found: Vec<(String, T)> = Vec::new();
    for dir in dirs {
        let path = dir.join(sub);
        if !path.is_dir() {
            continue;
        }
        let Ok(folder) = Folder::within(&path, dir) else { continue };
        let mut names = folder.names("");
        names.truncate(limit);
        let wanted = |name: &String| !name.starts_with('.') && (name.ends_with(".safetensors") || is_pickle_name(name));
        for file in names.into_iter().filter(wanted) {
            let name = file.rsplit_once('.').map_or(file.as_str(), |(stem, _)| stem);
            if !found.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
                found.push((name.to_owned(), check(&folder, &file)));
            }
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}
