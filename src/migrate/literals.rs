//! Statements that differ only in a literal, and literals that a parameter can stand for.
//!
//! A parameter has a type of its own, where PostgreSQL gives a string literal the type of what it is compared with: a
//! `citext` column finds `'Mail'` as a literal, and not as a parameter of type text. Without the table nobody knows, so
//! that a literal counts only where its type shows:
//!
//! - a whole number that is compared: it is an `int4`, and `$1::int4` is one, too;
//! - a string that is cast: `'mail'::queue_name`;
//! - a string that is compared with text: `payload ->> 'queue' = 'mail'`, `name::text = 'mail'`.

use std::ops::Range;

use crate::query::{
    ParameterKind,
    sql::{self, Token},
};

/// A literal that a parameter can stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Literal {
    /// Its bytes in the statement.
    pub(super) span: Range<usize>,
    /// Its value, as a trigger gives it.
    pub(super) value: String,
    /// The type of the parameter.
    pub(super) kind: ParameterKind,
    /// The name of the parameter, as far as the statement has one for it.
    pub(super) name: Option<String>,
}

/// A statement, and its literals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    /// The statement with a mark in place of each literal; white space aside, as [`sql::normalised`] has it.
    pub(super) pattern: String,
    /// The literals that a parameter can stand for, in their order.
    pub(super) literals: Vec<Literal>,
    /// The statement with a mark in place of every string and number: what is alike here differs in literals, if not in
    /// safe ones.
    pub(super) loose: String,
}

/// Words behind which a comparison is over.
const BOUNDARIES: [&str; 14] = [
    "and", "or", "group", "order", "limit", "having", "union", "then", "else", "end", "when", "offset", "window",
    "fetch",
];

/// Types whose comparison with a string is one of texts.
const TEXT_TYPES: [&str; 2] = ["text", "varchar"];

/// The mark of a literal. No statement has it: PostgreSQL takes no zero byte.
const MARK: char = '\0';

#[derive(Debug, Clone, Copy)]
struct Piece<'a> {
    token: Token<'a>,
    text: &'a str,
    at: usize,
}

/// Looks for the literals of a statement.
pub(super) fn shape(text: &str) -> Shape {
    let pieces = pieces(text);
    let mut literals = Vec::new();
    let (mut pattern, mut loose) = (String::new(), String::new());
    let mut copied = 0;
    for at in 0..pieces.len() {
        let piece = pieces[at];
        let span = piece.at..piece.at + piece.text.len();
        let is_string = matches!(piece.token, Token::Quoted(text) if !text.starts_with('"'));
        let is_number = piece.text.bytes().all(|byte| byte.is_ascii_digit());
        let found = if is_number {
            integer(&pieces, at)
        } else if is_string {
            string(&pieces, at)
        } else {
            None
        };
        if is_string || is_number {
            let between = &text[copied..piece.at];
            loose.push_str(between);
            loose.push(MARK);
            pattern.push_str(between);
            pattern.push_str(if found.is_some() { "\0" } else { piece.text });
            copied = span.end;
        }
        literals.extend(found.map(|(value, kind, name)| Literal { span, value, kind, name }));
    }
    pattern.push_str(&text[copied..]);
    loose.push_str(&text[copied..]);
    Shape { pattern: sql::normalised(&pattern), literals, loose: sql::normalised(&loose) }
}

/// The significant tokens with their places.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut at = 0;
    let mut pieces = Vec::new();
    let mut tokens = sql::tokens(text);
    while let Some(token) = tokens.next() {
        let end = text.len() - tokens.remaining();
        if !matches!(token, Token::Space | Token::LineComment(_) | Token::BlockComment(_)) {
            pieces.push(Piece { token, text: &text[at..end], at });
        }
        at = end;
    }
    pieces
}

type Found = (String, ParameterKind, Option<String>);

/// A whole number behind a comparison.
fn integer(pieces: &[Piece<'_>], at: usize) -> Option<Found> {
    // With more digits it is a bigint or a numeric.
    let number: i32 = pieces[at].text.parse().ok()?;
    let left = compared(pieces, at)?;
    is_boundary(pieces, at + 1).then(|| (number.to_string(), ParameterKind::Bigint, name_of(pieces, left)))
}

/// A string whose type shows.
fn string(pieces: &[Piece<'_>], at: usize) -> Option<Found> {
    let content = pieces[at].text.strip_prefix('\'')?.strip_suffix('\'')?;
    let value = content.replace("''", "'");
    let left = compared(pieces, at)?;
    let is_cast = is_cast(pieces, at + 1) && is_boundary(pieces, at + 4);
    let is_text = is_boundary(pieces, at + 1) && is_text(pieces, left);
    (is_cast || is_text).then(|| (value, ParameterKind::Text, name_of(pieces, left)))
}

/// Returns where the left side of a comparison ends, whose right side begins here.
fn compared(pieces: &[Piece<'_>], at: usize) -> Option<usize> {
    let is_operator =
        |piece: &Piece<'_>| matches!(piece.token, Token::Symbol(symbol) if "+-*/<>=~!@#%^&|`?".contains(symbol));
    let first = (0..at).rev().take_while(|index| is_operator(&pieces[*index])).last()?;
    let run: String = pieces[first..at].iter().map(|piece| piece.text).collect();
    let is_one = pieces[first..at].windows(2).all(|pair| pair[0].at + pair[0].text.len() == pair[1].at);
    let is_comparison = ["=", "<", ">", "<=", ">=", "<>", "!="].contains(&run.as_str());
    (is_one && is_comparison).then_some(first.checked_sub(1)?)
}

/// Returns whether an expression is over here.
fn is_boundary(pieces: &[Piece<'_>], at: usize) -> bool {
    let Some(piece) = pieces.get(at) else { return true };
    matches!(piece.text, ")" | ";") || BOUNDARIES.iter().any(|word| piece.text.eq_ignore_ascii_case(word))
}

/// `::` and the name of a type.
fn is_cast(pieces: &[Piece<'_>], at: usize) -> bool {
    let text = |offset: usize| pieces.get(at + offset).map(|piece| piece.text);
    let is_type = matches!(pieces.get(at + 2).map(|piece| piece.token), Some(Token::Word(_)));
    text(0) == Some(":") && text(1) == Some(":") && is_type
}

/// Returns whether what ends here is text.
fn is_text(pieces: &[Piece<'_>], end: usize) -> bool {
    let text = |back: usize| end.checked_sub(back).map(|at| pieces[at].text);
    let is_cast = TEXT_TYPES.iter().any(|name| text(0).is_some_and(|text| text.eq_ignore_ascii_case(name)))
        && text(1) == Some(":")
        && text(2) == Some(":");
    let is_field = matches!(pieces[end].token, Token::Quoted(text) if text.starts_with('\''))
        && text(1) == Some(">")
        && text(2) == Some(">")
        && text(3) == Some("-");
    is_cast || is_field
}

/// Returns the last name of what is compared.
fn name_of(pieces: &[Piece<'_>], end: usize) -> Option<String> {
    let mut end = end;
    // A cast stands behind the name.
    if end >= 3 && pieces[end - 1].text == ":" && pieces[end - 2].text == ":" {
        end -= 3;
    }
    let name = pieces[end].text.trim_matches(['\'', '"']);
    let is_name = (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    is_name.then(|| name.to_owned())
}

/// Returns a statement with parameters in place of some of its literals, which are given by their positions.
pub(super) fn with_parameters(text: &str, literals: &[Literal], positions: &[usize]) -> String {
    let mut statement = String::new();
    let mut copied = 0;
    for (number, position) in (1..).zip(positions) {
        let Literal { span, kind, .. } = &literals[*position];
        statement.push_str(&text[copied..span.start]);
        let cast = if *kind == ParameterKind::Bigint { "::int4" } else { "" };
        statement.push_str(&format!("${number}{cast}"));
        copied = span.end;
    }
    statement + &text[copied..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(sql: &str) -> Vec<String> {
        shape(sql).literals.into_iter().map(|literal| literal.value).collect()
    }

    #[test]
    fn a_literal_counts_where_its_type_shows() {
        for (sql, value) in [
            ("SELECT count(*) FROM job WHERE tenant = 42", "42"),
            ("SELECT count(*) FROM job WHERE tenant=42 AND ready", "42"),
            ("SELECT count(*) FROM job WHERE (age >= 7);", "7"),
            ("SELECT count(*) FROM job WHERE kind = 'it''s'::job_kind OR a", "it's"),
            ("SELECT count(*) FROM job WHERE payload ->> 'queue' = 'mail'", "mail"),
            ("SELECT count(*) FROM job WHERE payload->>'queue' <> 'mail' -- all", "mail"),
            ("SELECT count(*) FROM job WHERE name::text = 'mail'", "mail"),
        ] {
            assert_eq!(values(sql), [value], "{sql}");
        }
        for sql in [
            // The column may be anything.
            "SELECT count(*) FROM job WHERE queue = 'mail'",
            "SELECT count(*) FROM job WHERE tenant = -42",
            "SELECT count(*) FROM job WHERE tenant = 42.5",
            "SELECT count(*) FROM job WHERE tenant = 42 + 1",
            "SELECT count(*) FROM job WHERE tenant = 3000000000",
            "SELECT count(*) FROM job WHERE a @> 42",
            "SELECT count(*) FROM job WHERE payload -> 'queue' = '\"mail\"'",
            "SELECT count(*) FROM job WHERE name::citext = 'mail'",
            "SELECT count(*) FROM job WHERE kind = 'a'::varchar(3)",
            "SELECT count(*) FROM job WHERE kind = E'mail'::text",
            "SELECT count(*) FROM job GROUP BY 1 ORDER BY 1 LIMIT 1",
            "SELECT count(*) / 10 FROM job WHERE state IN (1, 2)",
            "SELECT left(name, 5) FROM job",
        ] {
            assert_eq!(values(sql), Vec::<String>::new(), "{sql}");
        }
    }

    #[test]
    fn statements_are_alike_but_for_literals_and_white_space() {
        let of = |sql| shape(sql);
        let mail = of("SELECT count(*)\n FROM job WHERE tenant = 1 AND queue = 'a'");
        let other = of("SELECT count(*) FROM job WHERE tenant = 22 AND queue = 'a';");
        let loose = of("SELECT count(*) FROM job WHERE tenant = 22 AND queue = 'b';");
        assert_eq!(mail.pattern, other.pattern);
        assert_ne!(mail.pattern, loose.pattern);
        assert_eq!(mail.loose, loose.loose);
    }

    #[test]
    fn a_parameter_stands_for_the_literal_with_its_type() {
        let sql = "SELECT count(*) FROM job WHERE tenant = 7 AND kind = 'x'::job_kind AND p ->> 'to' = 'y'";
        let shape = shape(sql);
        let names: Vec<_> = shape.literals.iter().filter_map(|literal| literal.name.as_deref()).collect();
        assert_eq!(names, ["tenant", "kind", "to"]);
        assert_eq!(
            with_parameters(sql, &shape.literals, &[0, 2]),
            "SELECT count(*) FROM job WHERE tenant = $1::int4 AND kind = 'x'::job_kind AND p ->> 'to' = $2"
        );
    }
}
