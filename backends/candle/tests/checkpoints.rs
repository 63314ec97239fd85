//! Single-file checkpoints: every tensor of the folder is found in the file, value for value.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod common;

use backend_api::{ModelSource, Param, author::Backend};
use common::{Hand, backend, model_folder, root, source};
use safetensors::SafeTensors;
use sd_candle::weights::{Part, Progress, Vars};

fn single(family: &str) -> ModelSource {
    let path = root().join("tests/fixtures/singlefile").join(format!("{family}.safetensors"));
    let folder = source(&model_folder(family));
    ModelSource { files: vec![Param::new("checkpoint", path.display())].into(), ..folder }
}

fn check(family: &str) {
    let (folder, single) = (source(&model_folder(family)), single(family));
    let ctl = Hand::default().ctl();
    let progress = Progress::new(&ctl, 0);
    for file in &folder.files {
        let part = Part::open(&single, &file.key).unwrap().unwrap();
        let vars = Vars::new(&part, &progress);
        let own = Part::open(&folder, &file.key).unwrap().unwrap();
        let own = Vars::new(&own, &progress);
        let bytes = std::fs::read(file.value.as_str()).unwrap();
        let mut compared = 0;
        for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            if name.ends_with("position_ids") {
                continue;
            }
            let expected = own.get(tensor.shape(), &name).unwrap();
            let found = vars.get(tensor.shape(), &name).unwrap_or_else(|e| panic!("{family} {name}: {e}"));
            assert_eq!(found, expected, "{family} {name}");
            compared += 1;
        }
        assert!(compared > 20, "{family} {}", file.key);
        assert!(!vars.has("nothing.weight"));
    }
    let backend = backend("portable");
    assert!(backend.load(&single, &ctl).is_ok(), "{family}");
    assert!(backend.inspect(&single).unwrap().weight_bytes > 0);
}

#[test]
fn original_names_are_found() {
    for family in ["sd15", "sd21-v", "sdxl"] {
        check(family);
    }
}
