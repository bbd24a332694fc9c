//! Imports in `src` run one way: each module imports only those of lower layers, by `use` lines and
//! by inline paths alike, in tests as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The modules of `src`, from the ground up. A module imports nothing of its own layer but itself.
const LAYERS: [&[&str]; 11] = [
    &["evidence"],
    &["api"],
    &["k8s"],
    &["router"],
    &["observe"],
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
const PURE: [&str; 3] = ["evidence", "rollout", "plan"];
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
            "crate" | "super" | "self" if at == 0 || tokens[at - 1] != "::" => {
                let here = inline.iter().map(|(_, name)| name.clone());
                let here: Vec<_> = module.iter().cloned().chain(here).collect();
                let (paths, end) = tree(&tokens, at);
                let tops = paths.iter().filter_map(|path| top(path, &here));
                found.extend(tops);
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

/// The module at the top of the crate that a path leads to, as seen from a module.
fn top(path: &[String], here: &[String]) -> Option<String> {
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
    base.into_iter().next()
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
