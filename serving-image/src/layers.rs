//! A test: the modules of this crate import each other without a circle. Tests are not counted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The modules that each module imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

#[test]
fn modules_import_each_other_without_a_circle() {
    let mut imports = Imports::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(source).expect("the sources") {
        let path = entry.expect("a file").path();
        let module = path.file_stem().expect("a name").to_string_lossy();
        if module != "lib" && module != "main" {
            collect(&path, imports.entry(module.into_owned()).or_default(), 1);
        }
    }
    assert!(imports["cli"].contains("batch") && imports["explain"].contains("model"));
    let circle = circle(imports);
    assert!(circle.is_empty(), "a circle of modules: {circle:#?}");
}

#[test]
fn a_circle_is_found() {
    let imports = [("a", "b"), ("b", "c"), ("c", "b"), ("c", "d"), ("d", "d")]
        .map(|(from, to)| (from.to_owned(), BTreeSet::from([to.to_owned()])));
    let mut merged = Imports::new();
    for (from, to) in imports {
        merged.entry(from).or_default().extend(to);
    }
    let found: Vec<_> = circle(merged).into_keys().collect();
    assert_eq!(found, ["a", "b", "c"], "and what leads to it");
}

/// Removes modules that import no other one until there are none: what is left is in a circle, or
/// leads to one.
fn circle(mut imports: Imports) -> Imports {
    loop {
        let names: BTreeSet<String> = imports.keys().cloned().collect();
        let count = names.len();
        imports.retain(|module, to| to.iter().any(|to| to != module && names.contains(to)));
        if imports.len() == count {
            return imports;
        }
    }
}

/// Adds what the file, or the files of the folder, import by `crate::`. `depth` is the number of
/// modules from the crate's root to the file.
fn collect(path: &Path, imports: &mut BTreeSet<String>, depth: usize) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder") {
            let path = entry.expect("a file").path();
            let is_root = path.ends_with("mod.rs");
            collect(&path, imports, if is_root { depth } else { depth + 1 });
        }
        return;
    }
    let name = path.file_name().expect("a name").to_string_lossy();
    if !name.ends_with(".rs") || ["tests.rs", "fuzz_tests.rs", "layers.rs"].contains(&&*name) {
        return;
    }
    let text = fs::read_to_string(path).expect("a text");
    let text = text.split("#[cfg(test)]\nmod tests {").next();
    let lines = text.unwrap_or_default().lines().map(str::trim_start);
    for line in lines.filter(|line| !line.starts_with("//")) {
        let up = "super::".repeat(depth);
        assert!(
            !line.contains(&up),
            "write crate:: in {}: {line}",
            path.display()
        );
        for rest in line.split("crate::").skip(1) {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            let module = &rest[..end.unwrap_or(rest.len())];
            assert!(
                !module.is_empty(),
                "one module a line in {}: {line}",
                path.display()
            );
            imports.insert(module.to_owned());
        }
    }
}
