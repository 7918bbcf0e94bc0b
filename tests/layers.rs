//! Holds the imports of `src` to the map: data flows one way, and so do the imports.
//!
//! Sources are read as text. Three rules: a module names only what its row in [`MODULES`] allows, a leaf names only
//! leaves, and the files of one module do not import each other in a circle.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Each module with the modules that it may name beside the leaves.
const MODULES: &[(&str, &[&str])] = &[
    ("query", &[]),
    ("presets", &["query"]),
    ("config", &["query", "presets"]),
    ("postgres", &["config", "query"]),
    ("cache", &["query"]),
    ("scaler", &["config", "query", "postgres", "cache"]),
    ("admin", &["config", "query", "postgres", "cache", "scaler"]),
    ("server", &["config", "query", "postgres", "cache", "scaler", "admin"]),
    ("lint", &["query", "presets", "config", "scaler"]),
    ("migrate", &["config", "query", "lint"]),
    ("command", &["presets", "config", "query", "postgres", "cache", "scaler", "admin", "server", "lint", "migrate"]),
    ("batch", &["config", "query", "postgres"]),
];

/// Modules that every module may name, and that name only each other.
const LEAVES: &[&str] = &[
    "blocking",
    "budget",
    "conninfo",
    "diagnostics",
    "fault",
    "json",
    "file",
    "keda",
    "manifest",
    "metrics",
    "notify_sql",
    "pem",
    "places",
    "plot",
    "proto",
    "reading",
    "recorder",
    "remedy",
    "scaling",
    "shutdown",
    "telemetry",
    "terminal",
    "turns",
    "version",
    "yaml",
];

type Names = BTreeSet<String>;

/// A path of modules and items from the crate's root.
type Segments = Vec<String>;

/// The tables that the imports are held to.
struct Map<'a> {
    modules: &'a [(&'a str, &'a [&'a str])],
    leaves: &'a [&'a str],
}

/// One file below `src`, without comments.
struct Source {
    file: String,
    /// The path of the module that it is.
    module: Segments,
    code: String,
}

impl Map<'_> {
    /// Returns the reason why `module` must not name `named`, if it must not.
    fn refusal(&self, module: &str, named: &str) -> Option<String> {
        if named == module || self.leaves.contains(&named) {
            return None;
        }
        match self.modules.iter().find(|(name, _)| *name == module) {
            Some((_, allowed)) if allowed.contains(&named) => None,
            Some(_) => Some(format!("names {named}, which its row does not allow")),
            None => Some(format!("is a leaf and names {named}, which is none")),
        }
    }

    fn has(&self, module: &str) -> bool {
        self.leaves.contains(&module) || self.modules.iter().any(|(name, _)| *name == module)
    }

    /// Every fault of the sources under `directory`, a sentence each.
    fn faults(&self, directory: &Path) -> Vec<String> {
        let sources = sources(directory);
        let modules: BTreeSet<Segments> = sources.iter().map(|source| source.module.clone()).collect();
        let mut faults = Vec::new();
        for module in modules.iter().filter(|module| module.len() == 1 && !self.has(&module[0])) {
            faults.push(format!("{} is missing from the tables of tests/layers.rs", module[0]));
        }
        for (position, (module, allowed)) in self.modules.iter().enumerate() {
            let above: Names = self.modules[..position].iter().map(|(name, _)| (*name).to_owned()).collect();
            for name in allowed.iter().filter(|name| !above.contains(**name)) {
                faults.push(format!("the row of {module} allows {name}, which has no row above it"));
            }
        }
        for source in sources.iter().filter(|source| self.has(&source.module[0])) {
            let top_level = |path: Segments| (modules.contains(&path[..1])).then(|| path[0].clone());
            let named: Names = source.paths().into_iter().filter_map(top_level).collect();
            let refusals = named.iter().filter_map(|named| self.refusal(&source.module[0], named));
            faults.extend(refusals.map(|refusal| format!("{} {refusal}", source.file)));
        }
        for (parent, imports) in sibling_imports(&sources, &modules) {
            let parent = parent.join("::");
            faults.extend(circles(&imports).into_iter().map(|circle| {
                let files: Vec<String> = circle.into_iter().collect();
                format!("in {parent}, {} import each other", files.join(" and "))
            }));
        }
        faults
    }
}

/// For each parent, which of its children imports which other one. Tests are left out: they may look at everything.
fn sibling_imports(sources: &[Source], modules: &BTreeSet<Segments>) -> BTreeMap<Segments, BTreeMap<String, Names>> {
    let reexports = reexports(sources, modules);
    let mut imports: BTreeMap<Segments, BTreeMap<String, Names>> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.module.last().is_none_or(|name| name != "tests")) {
        for path in source.without_tests().paths() {
            // A name that the parent takes from one of its children is that child's.
            let path = (1..=path.len()).rev().find_map(|length| reexports.get(&path[..length])).unwrap_or(&path);
            let common = source.module.iter().zip(path).take_while(|(a, b)| a == b).count();
            let (Some(from), Some(to)) = (source.module.get(common), path.get(common)) else { continue };
            if common > 0 && modules.contains(&path[..=common]) {
                let parent = source.module[..common].to_vec();
                imports.entry(parent).or_default().entry(from.clone()).or_default().insert(to.clone());
            }
        }
    }
    imports
}

/// Names that a module takes from its children, with the paths that they stand for.
fn reexports(sources: &[Source], modules: &BTreeSet<Segments>) -> BTreeMap<Segments, Segments> {
    let mut reexports = BTreeMap::new();
    for source in sources {
        for path in source.without_tests().paths() {
            let depth = source.module.len();
            if path.len() > depth + 1 && path.starts_with(&source.module) && modules.contains(&path[..=depth]) {
                let mut name = source.module.clone();
                name.extend(path.last().cloned());
                if !modules.contains(&name) {
                    reexports.insert(name, path);
                }
            }
        }
    }
    reexports
}

/// The sets of names that reach each other, each once.
fn circles(imports: &BTreeMap<String, Names>) -> BTreeSet<Names> {
    let reach = |start: &String| {
        let mut reached = Names::new();
        let mut pending = vec![start];
        while let Some(name) = pending.pop() {
            for next in imports.get(name).into_iter().flatten() {
                if reached.insert(next.clone()) {
                    pending.push(next);
                }
            }
        }
        reached
    };
    let reached: BTreeMap<&String, Names> = imports.keys().map(|name| (name, reach(name))).collect();
    let in_a_circle = reached.iter().filter(|(name, reached)| reached.contains(**name));
    in_a_circle
        .map(|(name, from_here)| {
            let comes_back = |other: &&String| reached.get(other).is_some_and(|reached| reached.contains(*name));
            from_here.iter().filter(comes_back).cloned().collect()
        })
        .collect()
}

/// The files below the crate's root, binaries and the root itself left out.
fn sources(directory: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path.strip_prefix(directory).unwrap().display().to_string();
            let module: Segments = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
            if module[0] != "bin" && file != "lib.rs" {
                let text = fs::read_to_string(&path).unwrap();
                let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n");
                sources.push(Source { file, module, code: lines.collect() });
            }
        }
    }
    sources.sort_by(|a, b| a.file.cmp(&b.file));
    sources
}

impl Source {
    /// Every path that the code names by `crate::`, `super::` or `self::`, from the crate's root.
    fn paths(&self) -> BTreeSet<Segments> {
        let mut paths = BTreeSet::new();
        for root in ["crate", "super", "self"] {
            for (position, _) in self.code.match_indices(&format!("{root}::")) {
                let before = self.code[..position].chars().next_back();
                let starts_here = before.is_none_or(|before| !before.is_alphanumeric() && !"_$:".contains(before));
                if starts_here {
                    let mut written = Vec::new();
                    expand(&self.code[position..], &[], &mut written);
                    paths.extend(written.into_iter().filter_map(|path| self.resolve(&path)));
                }
            }
        }
        paths
    }

    /// Resolves the leading `crate`, `self` and `super`; none for what leaves the crate or is its root.
    fn resolve(&self, written: &[String]) -> Option<Segments> {
        let mut path = if written[0] == "crate" { Segments::new() } else { self.module.clone() };
        for segment in written {
            match segment.as_str() {
                "crate" | "self" => {}
                "super" => {
                    path.pop()?;
                }
                name => path.push(name.to_owned()),
            }
        }
        (!path.is_empty()).then_some(path)
    }

    /// The same file up to its tests.
    fn without_tests(&self) -> Self {
        let code = self.code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
        Self { file: self.file.clone(), module: self.module.clone(), code }
    }
}

/// Writes out a path with its braced groups, and returns what comes after it.
fn expand<'a>(text: &'a str, prefix: &[String], paths: &mut Vec<Segments>) -> &'a str {
    let mut path = prefix.to_vec();
    let mut rest = text.trim_start();
    loop {
        if let Some(mut group) = rest.strip_prefix('{') {
            loop {
                group = group.trim_start_matches([',', ' ', '\n']);
                match group.strip_prefix('}') {
                    Some(after) => return after,
                    None if group.is_empty() => return group,
                    None => group = expand(group, &path, paths),
                }
            }
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end > 0 {
            path.push(rest[..end].to_owned());
        }
        match rest[end..].strip_prefix("::") {
            Some(after) => rest = after,
            None => {
                paths.push(path);
                // A star or an alias ends here, too.
                let next = rest[end..].find([',', '}', ';']).unwrap_or(rest.len() - end);
                return &rest[end + next..];
            }
        }
    }
}

#[test]
fn imports_hold_to_the_map() {
    let map = Map { modules: MODULES, leaves: LEAVES };
    let faults = map.faults(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Faults of a crate that consists of these files.
fn faults_of(map: &Map<'_>, files: &[(&str, &str)]) -> Vec<String> {
    let tree = tempfile::tempdir().unwrap();
    for (file, text) in files {
        let path = tree.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    map.faults(tree.path())
}

#[test]
fn every_way_to_break_the_map_is_seen() {
    let map = Map {
        modules: &[("config", &[]), ("cache", &["config", "admin"]), ("server", &["cache", "config"])],
        leaves: &["fault", "scaling"],
    };
    let files = [
        ("lib.rs", "pub mod config;\npub mod server;\n"),
        ("bin/program.rs", "fn main() { crate::server::main() }\n"),
        ("config.rs", "use std::fmt;\nuse crate::scaling::Divisor; // not crate::cache\n"),
        ("cache.rs", "use crate::{config::{Config, server}, fault::Fault};\nconst NOT: &str = mycrate::server::X;\n"),
        ("cache/refresh.rs", "fn f() -> crate::server::Server {}\n"),
        ("cache/refresh/deep.rs", "use super::super::super::server;\n"),
        ("scaling.rs", "use crate::{fault, config};\n"),
        ("fault.rs", ""),
        ("server.rs", "use crate::{cache, config, scaling};\n"),
        ("stray.rs", ""),
    ];
    assert_eq!(
        faults_of(&map, &files),
        [
            "stray is missing from the tables of tests/layers.rs",
            "the row of cache allows admin, which has no row above it",
            "cache/refresh.rs names server, which its row does not allow",
            "cache/refresh/deep.rs names server, which its row does not allow",
            "scaling.rs is a leaf and names config, which is none",
        ]
    );
}

#[test]
fn a_circle_between_the_files_of_a_module_is_seen() {
    let map = Map { modules: &[("config", &[])], leaves: &[] };
    let files = [
        ("config.rs", "mod a;\nmod b;\nuse self::{a::One, e::{Five, Other as Named}};\n"),
        // Through their paths, from the crate's root, and from a file further down.
        ("config/a.rs", "use super::{b::Two, c};\n"),
        ("config/b.rs", "pub use crate::config::c::Three;\n"),
        ("config/c/deep.rs", "use super::super::a::*;\n"),
        ("config/c.rs", "use self::deep::Deep;\n"),
        // Through a name that the parent takes from a child.
        ("config/d.rs", "use super::Five;\n"),
        ("config/e.rs", "fn four() -> super::d::Four {}\n"),
        // The imports of tests make none.
        ("config/l.rs", ""),
        ("config/m.rs", "use super::n;\n#[cfg(test)]\nmod tests {\n}\n"),
        ("config/n.rs", "use super::l;\n#[cfg(test)]\nmod tests {\n    use super::super::m;\n    use super::m;\n}\n"),
        ("config/n/tests.rs", "use super::super::m;\n"),
    ];
    assert_eq!(
        faults_of(&map, &files),
        ["in config, a and b and c import each other", "in config, d and e import each other"]
    );
}
