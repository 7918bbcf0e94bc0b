//! Data flows one way, and so do the imports: no module names one that stands to its right.
//!
//! The map is the one in the documentation of `src/lib.rs`, read from there; the sources are read
//! as text. A module that stands neither on the map nor among its leaves is a fault too.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

type Names = BTreeSet<String>;

/// What `src/lib.rs` says about its modules.
#[derive(Debug, Default)]
struct Map {
    /// Each module on the map with everything to its left.
    upstream: BTreeMap<String, Names>,
    /// Modules that anybody may name, and that name only each other.
    leaves: Names,
    /// Modules that exist.
    declared: Names,
}

impl Map {
    fn read(library: &str) -> Self {
        let mut map = Self::default();
        let documentation: Vec<&str> = library.lines().filter_map(|line| line.strip_prefix("//!")).collect();
        for line in documentation.iter().filter(|line| line.contains("─>")) {
            let chain: Vec<String> = line.split("─>").map(|name| name.trim_matches([' ', '─']).to_owned()).collect();
            for pair in chain.windows(2) {
                map.upstream.entry(pair[0].clone()).or_default();
                map.upstream.entry(pair[1].clone()).or_default().insert(pair[0].clone());
            }
        }
        map.close();
        let text = documentation.concat();
        let sentences = text.split(". ").flat_map(|part| part.split("; "));
        for sentence in sentences.filter(|sentence| sentence.contains("leaves that anybody may name")) {
            map.leaves.extend(sentence.split('`').skip(1).step_by(2).map(str::to_owned));
        }
        let modules = library.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod "));
        map.declared.extend(modules.map(|line| line.trim_end_matches(|c: char| !c.is_alphanumeric()).to_owned()));
        map
    }

    /// What is to the left of what is to the left is to the left.
    fn close(&mut self) {
        for _ in 0..self.upstream.len() {
            let known = self.upstream.clone();
            for left in self.upstream.values_mut() {
                left.extend(left.clone().iter().flat_map(|name| known[name].clone()));
            }
        }
    }

    /// Why `module` must not name `named`, if it must not.
    fn refusal(&self, module: &str, named: &str) -> Option<String> {
        if named == module || self.leaves.contains(named) || !self.declared.contains(named) {
            return None;
        }
        match self.upstream.get(module) {
            Some(left) if left.contains(named) => None,
            Some(_) => Some(format!("names {named}, which is not to its left")),
            None => Some(format!("is a leaf and names {named}, which is none")),
        }
    }
}

/// Every fault of the sources under `directory`, a sentence each.
fn faults(directory: &Path) -> Vec<String> {
    let map = Map::read(&fs::read_to_string(directory.join("lib.rs")).unwrap());
    let mut faults = Vec::new();
    for module in &map.declared {
        if !map.upstream.contains_key(module) && !map.leaves.contains(module) {
            faults.push(format!("{module} stands neither on the map in src/lib.rs nor among its leaves"));
            continue;
        }
        if map.upstream.get(module).is_some_and(|left| left.contains(module)) {
            faults.push(format!("{module} stands to the left of itself"));
        }
        for (file, source) in sources(directory, module) {
            let named = named_modules(&source);
            let refusals = named.iter().filter_map(|named| map.refusal(module, named));
            faults.extend(refusals.map(|refusal| format!("{file} {refusal}")));
        }
    }
    faults
}

/// The files of a module, by their path under `directory`.
fn sources(directory: &Path, module: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut pending = vec![directory.join(format!("{module}.rs")), directory.join(module)];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") && path.exists() {
            let name = path.strip_prefix(directory).unwrap().display().to_string();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    found.sort();
    found
}

/// The modules of this crate that a source names, by `crate::module` or in the braces of `crate::{..}`.
fn named_modules(source: &str) -> Names {
    let code: String =
        source.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect();
    let mut named = Names::new();
    for (position, path) in code.match_indices("crate::") {
        let before = code[..position].chars().next_back();
        if before.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == '$') {
            continue;
        }
        let rest = &code[position + path.len()..];
        match rest.strip_prefix('{') {
            Some(group) => named.extend(heads(group)),
            None => named.extend(identifier(rest)),
        }
    }
    named
}

/// The first identifier of each member of a braced group, whose opening brace is behind us.
fn heads(group: &str) -> Vec<String> {
    let mut depth = 0_u32;
    let mut members = vec![String::new()];
    for character in group.chars() {
        match character {
            '}' if depth == 0 => break,
            ',' if depth == 0 => members.push(String::new()),
            _ => {
                depth += u32::from(character == '{');
                depth -= u32::from(character == '}');
                members.last_mut().unwrap().push(character);
            }
        }
    }
    members.iter().filter_map(|member| identifier(member.trim())).collect()
}

fn identifier(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

#[test]
fn no_arrow_of_the_map_points_back() {
    let faults = faults(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_way_to_break_the_map_is_seen() {
    let tree = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(tree.path().join(name), text).unwrap();
    fs::create_dir(tree.path().join("cache")).unwrap();
    write(
        "lib.rs",
        "//! ```text\n//! config ─> query ─> cache\n//! config ─────────> cache ─> server\n//! ```\n//!\n\
         //! Modules name only what is to their left. [`scaling`] and\n//! [`fault`] are leaves that anybody may name.\n\
         pub mod config;\npub mod fault;\npub mod cache;\npub mod query;\npub mod scaling;\npub mod server;\nmod stray;\n",
    );
    write("config.rs", "use std::fmt;\nuse crate::scaling::Divisor; // not crate::cache\n");
    write("query.rs", "use crate::{config::{Config, server}, fault::Fault};\n");
    write("cache.rs", "use crate::query::Query;\nmod refresh;\nconst NOT: &str = mycrate::server::X;\n");
    write("cache/refresh.rs", "fn f() -> crate::server::Server {}\n");
    write("scaling.rs", "use crate::{fault, query};\n");
    write("fault.rs", "");
    write("server.rs", "use crate::{config, cache, query, scaling};\n");
    write("stray.rs", "");

    assert_eq!(
        faults(tree.path()),
        [
            "cache/refresh.rs names server, which is not to its left",
            "scaling.rs is a leaf and names query, which is none",
            "stray stands neither on the map in src/lib.rs nor among its leaves",
        ]
    );
}

#[test]
fn a_circle_on_the_map_is_seen() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("lib.rs"), "//! a ─> b ─> a\npub mod a;\npub mod b;\n").unwrap();
    assert_eq!(faults(tree.path()), ["a stands to the left of itself", "b stands to the left of itself"]);
}
