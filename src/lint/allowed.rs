//! Comments that allow a rule: `# clapometer-lint: allow NAME`.

use std::ops::Range;

/// The beginning of such a comment.
const MARK: &str = "# clapometer-lint:";

/// The comments of one file.
pub(super) struct Allowed {
    comments: Vec<Comment>,
}

/// One name in a comment.
pub(super) struct Comment {
    /// Its line.
    pub(super) line: usize,
    /// The name of a rule, as it is written. Empty if the comment says something other than `allow`.
    pub(super) name: String,
}

impl Allowed {
    /// Finds the comments of a text.
    pub(super) fn read(text: &str) -> Self {
        let mut comments = Vec::new();
        for (line, content) in (1..).zip(text.lines()) {
            let Some((_, words)) = content.split_once(MARK) else { continue };
            match words.trim().strip_prefix("allow ") {
                Some(names) => {
                    let names = names.split([',', ' ', '\t']).filter(|name| !name.is_empty());
                    // Words after the names are the reason, behind a dash or a bracket.
                    let names = names.take_while(|name| name.starts_with(|c: char| c.is_ascii_lowercase()));
                    comments.extend(names.map(|name| Comment { line, name: name.to_owned() }));
                }
                None => comments.push(Comment { line, name: String::new() }),
            }
        }
        Self { comments }
    }

    /// Returns whether a rule is allowed in a document with these lines.
    pub(super) fn has(&self, name: &str, lines: &Range<usize>) -> bool {
        self.comments.iter().any(|comment| comment.name == name && (lines.start..=lines.end).contains(&comment.line))
    }

    /// The comments, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Comment> {
        self.comments.iter()
    }
}
