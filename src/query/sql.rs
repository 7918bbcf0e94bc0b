//! The part of PostgreSQL's lexical rules that is needed to look at a statement without running it.
//!
//! This is neither a parser nor a boundary: the role that runs a statement decides what it may do.
//! *Source:* PostgreSQL's documentation, "Lexical Structure", with `standard_conforming_strings`
//! on, as it is since 9.1.

/// A token of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// White space.
    Space,
    /// `-- ...` to the end of the line, without its newline.
    LineComment(&'a str),
    /// `/* ... */`, which may nest.
    BlockComment(&'a str),
    /// A string, a dollar-quoted string or a quoted identifier.
    Quoted(&'a str),
    /// A key word, an identifier or a number.
    Word(&'a str),
    /// `$n`.
    Placeholder(&'a str),
    /// Any other character.
    Symbol(&'a str),
}

/// The reason why a text cannot be one statement, whatever PostgreSQL would say about the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// A string, a quoted identifier or a comment does not end.
    Unterminated,
    /// The parentheses do not match.
    Unbalanced,
    /// Another statement follows a `;`.
    SeveralStatements,
}

/// The tokens of a statement. Together they are its whole text.
pub(crate) struct Tokens<'a> {
    rest: &'a str,
    is_terminated: bool,
}

/// Splits a statement into its tokens.
pub(crate) fn tokens(sql: &str) -> Tokens<'_> {
    Tokens { rest: sql, is_terminated: true }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let rest = self.rest;
        let first = rest.chars().next()?;
        let (length, token): (usize, fn(&'a str) -> Token<'a>) = match first {
            c if is_space(c) => (rest.find(|c| !is_space(c)).unwrap_or(rest.len()), |_| Token::Space),
            '-' if rest.starts_with("--") => (rest.find(['\n', '\r']).unwrap_or(rest.len()), Token::LineComment),
            '/' if rest.starts_with("/*") => (self.ended(block_comment(rest)), Token::BlockComment),
            '\'' | '"' => (self.ended(quoted(rest, first, Backslash::Ordinary)), Token::Quoted),
            'e' | 'E' if rest[1..].starts_with('\'') => {
                (self.ended(quoted(&rest[1..], '\'', Backslash::Escapes).map(|length| length + 1)), Token::Quoted)
            }
            '$' => match (digits(&rest[1..]), dollar_tag(rest)) {
                (0, None) => (1, Token::Symbol),
                (0, Some(tag)) => (self.ended(dollar_quoted(rest, tag)), Token::Quoted),
                (digits, _) => (digits + 1, Token::Placeholder),
            },
            c if c.is_ascii_digit() => (digits(rest), Token::Word),
            c if is_word_start(c) => (rest.find(|c| !is_word(c)).unwrap_or(rest.len()), Token::Word),
            c => (c.len_utf8(), Token::Symbol),
        };
        let (text, rest) = rest.split_at(length);
        self.rest = rest;
        Some(token(text))
    }
}

impl Tokens<'_> {
    /// Returns the number of bytes that are not read yet.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Returns the length of a token, or that of the remaining text if the token is not terminated.
    fn ended(&mut self, length: Option<usize>) -> usize {
        self.is_terminated &= length.is_some();
        length.unwrap_or(self.rest.len())
    }
}

/// Returns whether PostgreSQL treats a character as white space. Unicode has more of them.
pub(crate) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

fn is_word_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn is_word(c: char) -> bool {
    is_word_start(c) || c.is_ascii_digit() || c == '$'
}

fn digits(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Backslash {
    Ordinary,
    Escapes,
}

/// Returns the length of a quoted token that starts with `quote`. A doubled quote does not end it.
fn quoted(text: &str, quote: char, backslash: Backslash) -> Option<usize> {
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = characters.next() {
        if c == '\\' && backslash == Backslash::Escapes {
            characters.next();
        } else if c == quote && characters.next_if(|(_, next)| *next == quote).is_none() {
            return Some(at + c.len_utf8());
        }
    }
    None
}

fn block_comment(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = 0;
    loop {
        let rest = text.get(at..)?;
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += rest.chars().next()?.len_utf8();
        }
    }
}

/// `$$` or `$tag$`.
fn dollar_tag(text: &str) -> Option<&str> {
    let end = 1 + text[1..].find('$')?;
    let tag = &text[1..end];
    let is_tag = tag.chars().next().is_none_or(is_word_start) && tag.chars().all(is_word);
    is_tag.then(|| &text[..=end])
}

fn dollar_quoted(text: &str, tag: &str) -> Option<usize> {
    text[tag.len()..].find(tag).map(|at| at + 2 * tag.len())
}

/// Returns the highest `n` of the placeholders `$n`, or 0 if there is none. A number too large for `u32` counts as
/// `u32::MAX`.
pub fn highest_placeholder(sql: &str) -> u32 {
    tokens(sql)
        .filter_map(|token| match token {
            Token::Placeholder(text) => Some(text[1..].parse().unwrap_or(u32::MAX)),
            _ => None,
        })
        .max()
        .unwrap_or(0)
}

/// Returns the comments that go to the end of their line.
pub fn line_comments(sql: &str) -> impl Iterator<Item = &str> {
    tokens(sql).filter_map(|token| match token {
        Token::LineComment(text) => Some(text),
        _ => None,
    })
}

/// Returns the first character, outside of quotes and comments, that a word processor or a web page has put in place of
/// a plain space, quote or dash. PostgreSQL treats each of them as a letter.
pub fn look_alike(sql: &str) -> Option<(char, &'static str)> {
    let found = |c: char| {
        Some(match c {
            '\u{a0}' | '\u{2007}' | '\u{202f}' => (c, "a no-break space"),
            '\u{200b}' | '\u{200c}' | '\u{200d}' | '\u{feff}' => (c, "an invisible character"),
            '\u{2018}' | '\u{2019}' | '\u{201c}' | '\u{201d}' => (c, "a typographic quote"),
            '\u{2013}' | '\u{2014}' | '\u{2212}' => (c, "a typographic dash or minus"),
            _ => return None,
        })
    };
    tokens(sql).find_map(|token| match token {
        Token::Word(text) | Token::Symbol(text) => text.chars().find_map(found),
        _ => None,
    })
}

/// Returns the questions that stand where an answer belongs, as the template of `clapometer init --table` has them.
/// A comment beside an answer is the reader's own.
pub fn open_questions(sql: &str) -> Vec<&str> {
    let is_read = |token: &Token<'_>| !matches!(token, Token::Space | Token::LineComment(_));
    let tokens: Vec<Token<'_>> = tokens(sql).filter(is_read).collect();
    let word = |at: usize| match tokens.get(at) {
        Some(Token::Word(word)) => word.to_ascii_uppercase(),
        _ => String::new(),
    };
    // After AS or a dot any word is the name of a column.
    let is_name = |at: usize| at > 0 && (tokens[at - 1] == Token::Symbol(".") || word(at - 1) == "AS");
    let is_start = |at: usize| ["WHERE", "FROM"].contains(&&*word(at)) && !is_name(at);
    let is_end = |at: usize| {
        matches!(tokens.get(at), None | Some(Token::Symbol(")"))) || ["WHERE", "LIMIT"].contains(&&*word(at))
    };
    let is_open = |at: usize| at > 0 && is_start(at - 1) && is_end(at + 1);
    let questions = tokens.iter().enumerate().filter_map(|(at, token)| question(*token).filter(|_| is_open(at)));
    questions.collect()
}

/// Returns the first question in the place of a column's name.
pub fn question_for_column(text: &str) -> Option<&str> {
    tokens(text).find_map(question)
}

fn question(token: Token<'_>) -> Option<&str> {
    let Token::BlockComment(comment) = token else { return None };
    let text = comment.trim_start_matches("/*").trim_end_matches("*/").trim();
    text.contains('?').then_some(text)
}

/// Returns whether a text is meant as SQL. Such a text starts, after white space and comments, with SELECT, WITH,
/// VALUES, TABLE or a parenthesis.
pub fn looks_like_sql(text: &str) -> bool {
    let first =
        tokens(text).find(|token| !matches!(token, Token::Space | Token::LineComment(_) | Token::BlockComment(_)));
    match first {
        Some(Token::Symbol("(")) => true,
        Some(Token::Word(word)) => {
            ["select", "with", "values", "table"].iter().any(|start| word.eq_ignore_ascii_case(start))
        }
        _ => false,
    }
}

/// Checks that the text can be one statement.
///
/// # Errors
/// Returns the first reason why it cannot.
pub fn is_one_statement(sql: &str) -> Result<(), Malformed> {
    let mut tokens = tokens(sql);
    let (mut depth, mut is_over) = (0usize, false);
    for token in &mut tokens {
        if matches!(token, Token::Space | Token::LineComment(_) | Token::BlockComment(_)) {
            continue;
        }
        if is_over {
            return Err(Malformed::SeveralStatements);
        }
        match token {
            Token::Symbol("(") => depth += 1,
            Token::Symbol(")") => depth = depth.checked_sub(1).ok_or(Malformed::Unbalanced)?,
            Token::Symbol(";") => is_over = true,
            _ => {}
        }
    }
    match (tokens.is_terminated, depth) {
        (false, _) => Err(Malformed::Unterminated),
        (true, 0) => Ok(()),
        (true, _) => Err(Malformed::Unbalanced),
    }
}

/// Returns the statement without the `;` at its end, so that it can be put in parentheses. A comment after the `;`
/// stays.
pub fn without_terminator(sql: &str) -> String {
    let mut last = None;
    let mut at = 0;
    let mut tokens = tokens(sql);
    while let Some(token) = tokens.next() {
        if !matches!(token, Token::Space | Token::LineComment(_) | Token::BlockComment(_)) {
            last = (token == Token::Symbol(";")).then_some(at);
        }
        at = sql.len() - tokens.rest.len();
    }
    match last {
        Some(at) => format!("{}{}", &sql[..at], &sql[at + 1..]),
        None => sql.to_owned(),
    }
}

/// Returns the form in which a trigger's SQL is compared with a configured one. Outside of quotes and comments each run
/// of white space becomes one space, or one newline if it ends a line comment. White space at both ends and one `;` at
/// the end are dropped.
pub fn normalised(sql: &str) -> String {
    let statement = without_terminator(sql);
    let mut text = String::with_capacity(statement.len());
    let mut space = None;
    let mut after_line_comment = false;
    for token in tokens(&statement) {
        let piece = match token {
            Token::Space => {
                space = Some(if after_line_comment { '\n' } else { ' ' });
                continue;
            }
            Token::LineComment(piece)
            | Token::BlockComment(piece)
            | Token::Quoted(piece)
            | Token::Word(piece)
            | Token::Placeholder(piece)
            | Token::Symbol(piece) => piece,
        };
        if !text.is_empty() {
            text.extend(space);
        }
        space = None;
        text.push_str(piece);
        after_line_comment = matches!(token, Token::LineComment(_));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn placeholders_count_only_where_postgresql_sees_them() {
        for (sql, highest) in [
            ("SELECT 1", 0),
            ("SELECT $1 + $2 + $1", 2),
            ("SELECT '$9', $1", 1),
            ("SELECT 'it''s $9', $1", 1),
            (r"SELECT 'a\', $1", 1),
            (r"SELECT E'a\'$9', $1", 1),
            (r"SELECT e'\\', $1", 1),
            ("SELECT \"$9\", \"a\"\"$9\", $1", 1),
            ("SELECT $$ $9 $$, $1", 1),
            ("SELECT $tag$ $$ $9 $tag$, $1", 1),
            ("SELECT $é$ $9 $é$, $1", 1),
            ("SELECT a$9, b$$9 FROM t WHERE x = $1", 1),
            ("SELECT $1 -- $9\n, $2", 2),
            ("SELECT /* $9 /* $9 */ $9 */ $1", 1),
            ("SELECT $1::text LIMIT$2", 1),
            ("SELECT $1::text LIMIT $2", 2),
            ("SELECT $12", 12),
            ("SELECT $99999999999", u32::MAX),
            ("SELECT U&'$9', $1", 1),
        ] {
            assert_eq!(highest_placeholder(sql), highest, "{sql}");
        }
    }

    #[test]
    fn a_question_is_open_only_where_an_answer_is_missing() {
        let template = "SELECT count(*) FILTER (WHERE /* Which rows? */) AS claimable\nFROM /* Which table? */\nWHERE /* Which \
                        wait? Not those that are done */";
        let questions = ["Which rows?", "Which table?", "Which wait? Not those that are done"];
        assert_eq!(open_questions(template), questions);
        assert_eq!(open_questions(&format!("{template}\nLIMIT 10) AS open")), questions);
        for none in [
            "SELECT count(*) FROM /* the old one? */ job WHERE state = 'ready'",
            "SELECT count(*) FROM job WHERE /* why not 'held'? */ state = 'ready'",
            "SELECT count(*) FROM job /* all of them? */",
            "SELECT count(*) FROM job WHERE path <> 'WHERE /* really? */'",
            "SELECT count(*) FROM job WHERE path = $$ FROM /* which? */ WHERE $$",
            "SELECT count(*) FROM job -- WHERE /* which? */",
            "SELECT count(mail.from /* the sender? */) FROM mail",
            "SELECT n FROM (SELECT 1 AS where /* or when? */) AS one",
        ] {
            assert_eq!(open_questions(none), [""; 0], "{none}");
        }
        assert_eq!(question_for_column("/* outstanding or claimable? */"), Some("outstanding or claimable?"));
        assert_eq!(question_for_column("claimable"), None);
    }

    #[test]
    fn a_query_is_told_from_a_name() {
        for sql in
            ["select 1", " \n(SELECT 1)", "WITH a AS (VALUES (1)) TABLE a", "table clap", "VALUES(1)", "-- c\nSELECT 1"]
        {
            assert!(looks_like_sql(sql), "{sql}");
        }
        for name in ["", "selected", "pending-claps", "table-1x", "with_2", "DELETE FROM clap"] {
            assert!(looks_like_sql(name) == (name == "table-1x"), "{name}");
        }
    }

    #[test]
    fn one_statement_is_told_from_fragments_and_several() {
        for good in ["SELECT 1", "SELECT 1;", "SELECT ';)' ; -- end", "SELECT (1)"] {
            assert_eq!(is_one_statement(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("SELECT 1; SELECT 2", Malformed::SeveralStatements),
            ("SELECT 1;;", Malformed::SeveralStatements),
            ("SELECT 1) AS q UNION SELECT (2", Malformed::Unbalanced),
            ("SELECT (1", Malformed::Unbalanced),
            ("SELECT 'a", Malformed::Unterminated),
            ("SELECT \"a", Malformed::Unterminated),
            ("SELECT $a$ x", Malformed::Unterminated),
            ("SELECT /* /* */", Malformed::Unterminated),
        ] {
            assert_eq!(is_one_statement(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn white_space_and_a_last_semicolon_do_not_matter() {
        let configured = normalised("SELECT count(*)\n  FROM jobs\n WHERE name = 'two  words';\n");
        assert_eq!(configured, "SELECT count(*) FROM jobs WHERE name = 'two  words'");
        assert_eq!(normalised("  SELECT count(*) FROM\tjobs WHERE name = 'two  words' ; "), configured);
        assert_ne!(normalised("SELECT count(*) FROM jobs WHERE name = 'two words'"), configured);
        assert_ne!(normalised("select count(*) FROM jobs WHERE name = 'two  words'"), configured);
        assert_ne!(normalised("SELECT 1 -- a\n+ 1"), normalised("SELECT 1 -- a + 1"));
        assert_eq!(normalised("SELECT 1; -- end"), "SELECT 1 -- end");
        assert_eq!(normalised("SELECT 1;;"), "SELECT 1;");
    }

    #[test]
    fn a_semicolon_in_a_string_is_no_terminator() {
        assert_eq!(without_terminator("SELECT ';'"), "SELECT ';'");
        assert_eq!(without_terminator("SELECT 1 ;\n"), "SELECT 1 \n");
    }

    proptest! {
        #[test]
        fn every_text_is_read_to_its_end(text in ".*") {
            let once = normalised(&text);
            let _ = (highest_placeholder(&text), looks_like_sql(&text));
            if is_one_statement(&text).is_ok() {
                prop_assert_eq!(normalised(&once), once);
            }
        }
    }
}
