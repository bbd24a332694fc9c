//! Imports in `src` run one way: each module imports only those of lower layers, by `use` lines and
//! by inline paths alike, in tests as well. Within some folders each file does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The modules of `src`, from the ground up. A module imports nothing of its own layer but itself.
/// `sentences` lies below `rollout`, since a state keeps its message as text; it renders what
/// `observe` and `gate` found, which is why `gate` lies below it.
const LAYERS: [&[&str]; 12] = [
    &["evidence"],
    &["gate", "api"],
    &["k8s"],
    &["router"],
    &["observe"],
    &["sentences"],
    &["rollout", "plan"],
    &["controller"],
    &["runtime"],
    &["report"],
    &["backtest"],
    &["cli"],
];

/// What a module must not import though it lies below: a decision knows no router.
const FORBIDDEN: [(&str, &str); 1] = [("rollout", "router")];

/// Modules without a client, a clock or a runtime, so that they give the same answer on any
/// machine.
const PURE: [&str; 5] = ["evidence", "gate", "sentences", "rollout", "plan"];
/// Words that only an impure module has.
const IMPURE: [&str; 6] = [
    "async",
    "await",
    "tokio",
    "reqwest",
    "SystemTime",
    "Instant",
];

#[test]
fn imports_run_one_way() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = BTreeSet::new();
    for file in files(&source) {
        let relative = file.strip_prefix(&source).expect("a file of src");
        let module = module_of(relative);
        let Some(from) = module.first() else {
            continue; // lib.rs and the binaries stand above all
        };
        let text = fs::read_to_string(&file).expect("a readable file");
        for to in imports(&text, &module) {
            if let Some(why) = objection(from, &to) {
                wrong.insert(format!("{}: {why}", relative.display()));
            }
        }
    }
    let wrong: Vec<_> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Folders of `src` whose files import each other one way.
const ACYCLIC: [&str; 3] = ["gate", "sentences", "rollout"];

#[test]
fn files_of_a_folder_import_each_other_one_way() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for folder in ACYCLIC {
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let files = files(&source.join(folder));
        let modules = files.iter().map(|file| {
            let module = module_of(file.strip_prefix(&source).expect("a file of src"));
            (module.join("::"), (file, module))
        });
        let modules: BTreeMap<_, _> = modules.collect();
        for (name, (file, module)) in &modules {
            let text = fs::read_to_string(file).expect("a readable file");
            let known = |path: &[String]| {
                let longest_first = (1..=path.len()).rev().map(|end| path[..end].join("::"));
                longest_first
                    .into_iter()
                    .find(|path| modules.contains_key(path))
            };
            let imported = paths(&text, module);
            let imported = imported.iter().filter_map(|path| known(path));
            graph.insert(name.clone(), imported.filter(|to| to != name).collect());
        }
        assert!(graph.len() > 1, "{folder}: nothing to check");
        assert_eq!(
            circle(graph),
            BTreeSet::new(),
            "these files import each other"
        );
    }
}

/// What is left of a graph once all that leads nowhere is taken away, over and over: the circles,
/// and what leads to them.
fn circle(mut graph: BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    loop {
        let mut leaves = graph.iter().filter(|(_, to)| to.is_empty());
        let Some(leaf) = leaves.next().map(|(name, _)| name.clone()) else {
            return graph.into_keys().collect();
        };
        graph.remove(&leaf);
        for imported in graph.values_mut() {
            imported.remove(&leaf);
        }
    }
}

#[test]
fn a_circle_of_files_is_seen() {
    let module = |name: &str| vec!["rollout".to_owned(), name.to_owned()];
    let text = "use super::{b::f, c}; use crate::rollout::d::{self, E};
        pub use child::X; pub(super) fn g() {} pub(in crate::rollout) fn h() {}
        mod tests { use super::*; use std::fmt; }";
    let seen = paths(text, &module("a"));
    let seen: Vec<_> = seen.iter().map(|path| path.join("::")).collect();
    let expected = [
        "rollout::a::*",
        "rollout::a::child::X",
        "rollout::a::tests::std::fmt",
        "rollout::b::f",
        "rollout::c",
        "rollout::d",
        "rollout::d::E",
    ];
    assert_eq!(seen, expected);
    let graph = [
        ("a", vec!["b"]),
        ("b", vec!["c", "d"]),
        ("c", vec!["b"]),
        ("d", vec![]),
    ];
    let graph = graph.map(|(from, to)| {
        let to = to.into_iter().map(str::to_owned).collect();
        (from.to_owned(), to)
    });
    let left: Vec<_> = circle(graph.into()).into_iter().collect();
    assert_eq!(left, ["a", "b", "c"]);
}

#[test]
fn pure_modules_have_no_client_and_no_clock() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for file in PURE
        .into_iter()
        .flat_map(|module| files(&source.join(module)))
    {
        let text = fs::read_to_string(&file).expect("a readable file");
        let tokens = tokens(&text);
        let found = IMPURE
            .iter()
            .find(|word| tokens.iter().any(|token| token == *word));
        if let Some(word) = found {
            wrong.push(format!("{}: {word}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[allow(clippy::needless_raw_string_hashes)] // the text holds a raw string of its own
fn every_form_of_import_is_seen() {
    let text = r##"
        //! use crate::comment::X;
        use std::fmt;
        pub(crate) use crate::{api::{self, spec::Model as Spec}, observe::*};
        use super::sibling::Y; // stays within the module
        use super::super::plan::{Plan, draft};
        fn f<'a>(_: &'a str) -> char {
            crate::controller::run();
            let _ = "use crate::text::X;";
            let _ = r#"crate::raw::"X""#;
            '"'
        }
        mod tests {
            use super::super::super::runtime::http;
            use super::super::other::Z; // of the file's parent
        }
    "##;
    let module = ["router".to_owned(), "envoy".to_owned()];
    let seen: Vec<_> = imports(text, &module).into_iter().collect();
    assert_eq!(
        seen,
        ["api", "controller", "observe", "plan", "router", "runtime"]
    );
}

/// Why one module must not import another, if it must not.
fn objection(from: &str, to: &str) -> Option<String> {
    let layers: BTreeMap<&str, usize> = LAYERS
        .iter()
        .enumerate()
        .flat_map(|(layer, modules)| modules.iter().map(move |module| (*module, layer)))
        .collect();
    let Some(own) = layers.get(from) else {
        return Some(format!("`{from}` has no place in LAYERS"));
    };
    if from == to {
        return None;
    }
    match layers.get(to) {
        Some(below) if below < own && !FORBIDDEN.contains(&(from, to)) => None,
        Some(_) => Some(format!("`{from}` must not import `{to}`")),
        None => Some(format!("`{to}` is no module of LAYERS")),
    }
}

/// All Rust files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a readable folder");
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The module that a file holds: `["rollout", "gate"]` of `rollout/gate/mod.rs`; none of `lib.rs`
/// and the binaries.
fn module_of(file: &Path) -> Vec<String> {
    let stem = file.with_extension("");
    let mut names: Vec<_> = stem
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    if names.first().is_some_and(|first| first == "bin") {
        return Vec::new();
    }
    if names
        .last()
        .is_some_and(|last| last == "mod" || last == "lib")
    {
        names.pop();
    }
    names
}

/// The modules at the top of the crate that a file of `module` names.
fn imports(text: &str, module: &[String]) -> BTreeSet<String> {
    let paths = paths(text, module);
    paths
        .into_iter()
        .filter_map(|path| path.into_iter().next())
        .collect()
}

/// The paths within the crate that a file of `module` names.
fn paths(text: &str, module: &[String]) -> BTreeSet<Vec<String>> {
    let tokens = tokens(text);
    let mut found = BTreeSet::new();
    // The inline modules that are open, each with the depth of braces outside of it.
    let mut inline: Vec<(usize, String)> = Vec::new();
    let mut depth = 0_usize;
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].as_str() {
            "mod" if tokens.get(at + 2).is_some_and(|next| next == "{") => {
                inline.push((depth, tokens[at + 1].clone()));
                at += 1;
            }
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inline.pop_if(|(outside, _)| *outside == depth);
            }
            "use" if is_relative(tokens.get(at + 1)) => {
                let here = inline.iter().map(|(_, name)| name.clone());
                let here: Vec<_> = module.iter().cloned().chain(here).collect();
                let (paths, end) = tree(&tokens, at + 1);
                found.extend(paths.iter().filter_map(|path| resolved(path, &here)));
                at = end;
                continue;
            }
            "crate" | "super" | "self" if is_path(&tokens[..at]) => {
                let here = inline.iter().map(|(_, name)| name.clone());
                let here: Vec<_> = module.iter().cloned().chain(here).collect();
                let (paths, end) = tree(&tokens, at);
                found.extend(paths.iter().filter_map(|path| resolved(path, &here)));
                // The braces of a tree are not those of a block.
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// The paths of the tree that begins at a token, and the token after it.
fn tree(tokens: &[String], mut at: usize) -> (Vec<Vec<String>>, usize) {
    let mut path = Vec::new();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") => {
                let mut paths = Vec::new();
                at += 1;
                while at < tokens.len() && tokens[at] != "}" {
                    if tokens[at] == "," {
                        at += 1;
                        continue;
                    }
                    let (rest, end) = tree(tokens, at);
                    let whole = |rest: Vec<String>| path.iter().cloned().chain(rest).collect();
                    paths.extend(rest.into_iter().map(whole));
                    at = end.max(at + 1);
                    if tokens.get(at).is_some_and(|token| token == "as") {
                        at += 2;
                    }
                }
                return (paths, at + 1);
            }
            Some(name) => path.push(name.to_owned()),
            None => return (vec![path], at),
        }
        at += 1;
        if tokens.get(at).is_none_or(|token| token != "::") {
            return (vec![path], at);
        }
        at += 1;
    }
}

/// Whether a path that follows `use` begins at the module itself, such as in `pub use child::X`, or
/// at another crate.
fn is_relative(first: Option<&String>) -> bool {
    first.is_some_and(|first| !["crate", "super", "self", "::"].contains(&first.as_str()))
}

/// Whether a path may begin after these tokens: not in the middle of one, nor in a visibility.
fn is_path(before: &[String]) -> bool {
    let last = before.iter().rev().take(3).map(String::as_str);
    let last: Vec<_> = last.collect();
    !matches!(last[..], ["::", ..] | ["(", "pub", ..] | ["in", "(", "pub"])
}

/// A path from the top of the crate, as named within a module.
fn resolved(path: &[String], here: &[String]) -> Option<Vec<String>> {
    let mut base = match path.first()?.as_str() {
        "crate" => Vec::new(),
        _ => here.to_vec(),
    };
    for name in path {
        match name.as_str() {
            "crate" | "self" => {}
            "super" => {
                base.pop();
            }
            name => base.push(name.to_owned()),
        }
    }
    Some(base)
}

/// Identifiers and signs of a text, without comments, and without what stands in quotes.
fn tokens(text: &str) -> Vec<String> {
    let text: Vec<char> = text.chars().collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let starts = |at: usize, with: &str| {
        with.chars()
            .enumerate()
            .all(|(i, c)| text.get(at + i) == Some(&c))
    };
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(&c) = text.get(at) {
        if starts(at, "//") {
            while text.get(at).is_some_and(|c| *c != '\n') {
                at += 1;
            }
        } else if starts(at, "/*") {
            while at < text.len() && !starts(at, "*/") {
                at += 1;
            }
            at += 2;
        } else if let Some(hashes) = raw_string(&text, at) {
            let end = format!("\"{}", "#".repeat(hashes));
            at += hashes + 2;
            while at < text.len() && !starts(at, &end) {
                at += 1;
            }
            at += end.len();
        } else if c == '"' {
            at += 1;
            while text.get(at).is_some_and(|c| *c != '"') {
                at += if text[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if c == '\'' {
            // A character ends in another quote; a lifetime has none.
            let escaped = text.get(at + 1) == Some(&'\\');
            if escaped {
                at += 3;
                while text.get(at).is_some_and(|c| *c != '\'') {
                    at += 1;
                }
                at += 1;
            } else if text.get(at + 2) == Some(&'\'') {
                at += 3;
            } else {
                at += 1;
            }
        } else if is_word(c) {
            let start = at;
            while text.get(at).is_some_and(|c| is_word(*c)) {
                at += 1;
            }
            found.push(text[start..at].iter().collect());
        } else if starts(at, "::") {
            found.push("::".to_owned());
            at += 2;
        } else {
            if !c.is_whitespace() {
                found.push(c.to_string());
            }
            at += 1;
        }
    }
    found
}

/// How many `#` a raw string that begins here has; `None` where none begins.
fn raw_string(text: &[char], at: usize) -> Option<usize> {
    let before = at.checked_sub(1).map(|before| text[before]);
    let begins = text[at] == 'r' && before.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    let hashes = text[at + 1..].iter().take_while(|c| **c == '#').count();
    (begins && text.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}
