//! The one object of a manifest that a command is about.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::input;
use crate::{
    keda::version::Version,
    lint::Source,
    manifest::{Kind, Manifest, Object},
};

/// Follows where a command takes ScaledJobs only, and there is a ScaledObject.
const ADVICE_FOR_SCALED_OBJECT: &str = ": this command takes ScaledJobs only; what KEDA would do with a ScaledObject now, \
                                        `clapometer get --manifest FILE` says";

/// An object, and the files that it was chosen from.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) object: Object,
    /// The file that it stands in.
    pub(super) file: String,
    /// All files that were read.
    pub(super) sources: Vec<Source>,
}

impl Chosen {
    /// Reads a file, a directory or standard input, and takes its only object of one of these kinds, or the one with
    /// this name, which may be written as `KIND/NAME`.
    ///
    /// # Errors
    /// Says why there is no such object, or which ones there are, or that Kubernetes would refuse it.
    pub(super) fn read(path: &Path, kinds: &[Kind], wanted: Option<&str>, keda: Version) -> Result<Self, String> {
        let paths = [path.to_owned()];
        let sources = input::read(&paths, &mut io::stdin().lock())?;
        Self::of(&paths, sources, kinds, wanted, keda)
    }

    fn of(
        paths: &[PathBuf],
        sources: Vec<Source>,
        kinds: &[Kind],
        wanted: Option<&str>,
        keda: Version,
    ) -> Result<Self, String> {
        let mut found = Vec::new();
        let mut others = Vec::new();
        let (mut unreadable, mut documents) = (None, 0);
        for source in &sources {
            let manifest = Manifest::read(&source.text);
            documents += manifest.documents;
            let broken = manifest.unreadable.first();
            unreadable =
                unreadable.or(broken.map(|broken| format!("{}:{}: {}", source.name, broken.line, broken.message)));
            for object in manifest.objects {
                let of_kind = if kinds.contains(&object.kind) { &mut found } else { &mut others };
                of_kind.push((source.name.clone(), object));
            }
        }
        if documents == 0 {
            return Err(input::without_documents(paths, &sources));
        }
        let all = names(&found);
        if let Some(wanted) = wanted {
            found.retain(|(_, object)| is(object, wanted));
        }
        match (found.pop(), found.is_empty(), wanted) {
            (Some((file, object)), true, _) => {
                let refused = object.refused_numbers().find(|number| number.is_refused_by(keda));
                match refused {
                    None => Ok(Self { object, file, sources }),
                    Some(number) => {
                        Err(format!("{file}:{}: {number}: with KEDA {keda}, Kubernetes refuses {object}", number.line))
                    }
                }
            }
            (Some(_), false, Some(wanted)) => {
                Err(format!("several objects are named {wanted}: write KIND/NAME, or give one file: {all}"))
            }
            (Some(_), false, None) => {
                Err(format!("there are several objects, so one must be named with --object: {all}"))
            }
            (None, _, Some(wanted)) if !all.is_empty() => Err(format!("no object is named {wanted}; there are {all}")),
            (None, ..) => {
                let kinds: Vec<String> = kinds.iter().map(ToString::to_string).collect();
                let broken = unreadable.map_or_else(String::new, |unreadable| format!(" ({unreadable})"));
                let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).take(3).collect();
                let names = names.join(", ");
                let only = if others.is_empty() { String::new() } else { format!(", only {}", self::names(&others)) };
                let is_refused = others.iter().any(|(_, object)| object.kind == Kind::ScaledObject);
                let advice = if is_refused { ADVICE_FOR_SCALED_OBJECT } else { "" };
                Err(format!("there is no {} in {names}{only}{broken}{advice}", kinds.join(" and no ")))
            }
        }
    }
}

fn is(object: &Object, wanted: &str) -> bool {
    let (kind, name) = wanted.rsplit_once('/').map_or((None, wanted), |(kind, name)| (Some(kind), name));
    object.name() == name && kind.is_none_or(|kind| object.kind.to_string().eq_ignore_ascii_case(kind))
}

fn names(objects: &[(String, Object)]) -> String {
    const SHOWN: usize = 8;
    let mut names: Vec<String> =
        objects.iter().take(SHOWN).map(|(_, object)| format!("{}/{}", object.kind, object.name())).collect();
    if objects.len() > SHOWN {
        names.push(format!("{} more", objects.len() - SHOWN));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Kind; 2] = [Kind::ScaledJob, Kind::ScaledObject];

    fn chosen(text: &str, wanted: Option<&str>) -> Result<String, String> {
        let source = Source { name: "a.yaml".to_owned(), text: text.to_owned() };
        Chosen::of(&[], vec![source], &BOTH, wanted, Version::NEWEST).map(|chosen| chosen.object.to_string())
    }

    fn object(kind: &str, name: &str) -> String {
        format!("---\napiVersion: keda.sh/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\n")
    }

    #[test]
    fn the_only_object_needs_no_name_and_several_do() {
        let job = object("ScaledJob", "a");
        let other = object("TriggerAuthentication", "a");
        assert_eq!(chosen(&format!("{job}{other}"), None), Ok("ScaledJob a".to_owned()));
        let both = format!("{job}{}", object("ScaledObject", "a"));
        assert_eq!(chosen(&both, Some("scaledobject/a")), Ok("ScaledObject a".to_owned()));
        for wanted in [None, Some("a"), Some("b")] {
            let problem = chosen(&both, wanted).expect_err("it is not clear which");
            assert!(problem.ends_with("ScaledJob/a, ScaledObject/a"), "{problem}");
        }
    }

    #[test]
    fn an_object_whose_numbers_are_none_is_not_taken_for_one_without_them() {
        for (spec, field) in [
            ("maxReplicaCount: ten", "maxReplicaCount"),
            ("maxReplicaCount: \"10\"", "maxReplicaCount"),
            ("minReplicaCount: 1.5", "minReplicaCount"),
            ("maxReplicaCount: 3e9", "maxReplicaCount"),
            ("maxReplicaCount: .inf", "maxReplicaCount"),
            ("maxReplicaCount: -5", "maxReplicaCount"),
            ("maxReplicaCount: 0", "maxReplicaCount"),
            ("minReplicaCount: -1", "minReplicaCount"),
            ("pollingInterval: 0", "pollingInterval"),
            ("pollingInterval: -30", "pollingInterval"),
            ("pollingInterval: 99999999999", "pollingInterval"),
            ("fallback: {replicas: -1}", "fallback.replicas"),
            (
                "scalingStrategy: {customScalingQueueLengthDeduction: x}",
                "scalingStrategy.customScalingQueueLengthDeduction",
            ),
        ] {
            let problem = chosen(&format!("{}spec:\n  {spec}\n", object("ScaledJob", "a")), None);
            let problem = problem.expect_err(spec);
            assert!(problem.starts_with(&format!("a.yaml:6: {field} must be a whole number from ")), "{problem}");
            assert!(problem.ends_with(": with KEDA 2.21.0, Kubernetes refuses ScaledJob a"), "{problem}");
        }
        assert!(chosen(&format!("{}spec: {{maxReplicaCount: }}\n", object("ScaledJob", "a")), None).is_ok());
    }

    #[test]
    fn an_older_keda_takes_a_number_out_of_range_but_no_other_text() {
        let of = |number: &str| {
            let text = format!("{}spec: {{maxReplicaCount: {number}}}\n", object("ScaledJob", "a"));
            let source = Source { name: "a.yaml".to_owned(), text };
            Chosen::of(&[], vec![source], &BOTH, None, Version::new(2, 19, 0)).map(|chosen| chosen.object.to_string())
        };
        assert_eq!(of("0"), Ok("ScaledJob a".to_owned()));
        assert!(of("ten").is_err() && of("3e9").is_err());
    }

    /// `kubectl` sends such a number as 10.
    #[test]
    fn a_number_whose_fraction_is_zero_is_whole() {
        for number in ["10.0", "10.", "1e1", "+10.00"] {
            let text = format!("{}spec: {{maxReplicaCount: {number}}}\n", object("ScaledJob", "a"));
            let source = Source { name: "a.yaml".to_owned(), text };
            let keda = Version::NEWEST;
            let chosen = Chosen::of(&[], vec![source], &BOTH, None, keda)
                .unwrap_or_else(|problem| panic!("{number}: {problem}"));
            assert_eq!(chosen.object.scaled_job(keda).max_replica_count, Some(10), "{number}");
        }
    }

    #[test]
    fn a_file_without_an_object_says_what_is_wrong_with_it() {
        assert_eq!(chosen("kind: Pod\n", None), Err("there is no ScaledJob and no ScaledObject in a.yaml".to_owned()));
        let source = Source { name: "a.yaml".to_owned(), text: object("ScaledObject", "a") };
        let problem = Chosen::of(&[], vec![source], &[Kind::ScaledJob], None, Version::NEWEST)
            .expect_err("it is of another kind");
        assert_eq!(
            problem,
            "there is no ScaledJob in a.yaml, only ScaledObject/a: this command takes ScaledJobs only; what KEDA would do \
             with a ScaledObject now, `clapometer get --manifest FILE` says"
        );
        assert_eq!(
            chosen("# kind: ScaledJob\n", None),
            Err("a.yaml has nothing but comments: are its questions answered?".to_owned())
        );
        let problem = chosen("kind: {{ .Values.kind }}\n", Some("a")).expect_err("a template is no object");
        assert!(problem.contains("a.yaml:1: ") && problem.contains("helm template"), "{problem}");
    }
}
