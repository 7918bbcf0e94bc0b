//! The paths of the manifests that are written.

use std::collections::BTreeSet;

/// Returns a path for each file: what is left of its own behind the directories that all have in common. No two are the
/// same, and none leads out of its directory.
pub(super) fn below(names: &[&str]) -> Vec<String> {
    let parts: Vec<Vec<&str>> = names
        .iter()
        .map(|name| match *name {
            "<stdin>" => vec!["stdin.yaml"],
            name => name.split(['/', '\\']).filter(|part| !part.is_empty() && !matches!(*part, "." | "..")).collect(),
        })
        .collect();
    let directories = |parts: &Vec<&str>| parts.len().saturating_sub(1);
    let shortest = parts.iter().map(directories).min().unwrap_or_default();
    let common = (0..shortest).take_while(|at| parts.iter().all(|other| other[*at] == parts[0][*at])).count();
    let mut taken = BTreeSet::new();
    parts.iter().map(|parts| free(&parts[common.min(parts.len())..].join("/"), &mut taken)).collect()
}

/// Returns the path, or with a number if it is taken: `jobs-2.yaml`.
fn free(path: &str, taken: &mut BTreeSet<String>) -> String {
    let path = if path.is_empty() { "manifest.yaml" } else { path };
    let (stem, extension) = path.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).unwrap_or((path, "yaml"));
    let numbered = (2u32..).map(|number| format!("{stem}-{number}.{extension}"));
    let found = std::iter::once(path.to_owned()).chain(numbered).find(|path| !taken.contains(path));
    let found = found.unwrap_or_default();
    taken.insert(found.clone());
    found
}

#[cfg(test)]
mod tests {
    use super::below;

    #[test]
    fn paths_are_as_short_as_they_can_be_and_never_lead_out() {
        assert_eq!(below(&["/home/me/deploy/jobs.yaml"]), ["jobs.yaml"]);
        assert_eq!(below(&["deploy/a/jobs.yaml", "deploy/b/jobs.yaml"]), ["a/jobs.yaml", "b/jobs.yaml"]);
        assert_eq!(below(&["./jobs.yaml", "../jobs.yaml", "<stdin>"]), ["jobs.yaml", "jobs-2.yaml", "stdin.yaml"]);
        assert_eq!(below(&["a", "a"]), ["a", "a-2.yaml"]);
        assert_eq!(below(&["..", "/"]), ["manifest.yaml", "manifest-2.yaml"]);
    }
}
