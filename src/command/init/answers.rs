//! Questions that a database cannot answer. They are asked at a terminal, and answered by defaults elsewhere.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::presets::Workers;

/// The mark on a line whose value was assumed.
pub(super) const MARK: &str = "# assumed";

/// The source of answers: a person at a terminal, or the defaults.
pub(super) struct Answers {
    is_terminal: bool,
}

/// A value, and whether somebody gave it.
pub(super) struct Answer<T> {
    pub(super) value: T,
    is_assumed: bool,
}

impl<T> Answer<T> {
    /// A value that somebody gave.
    pub(super) fn given(value: T) -> Self {
        Self { value, is_assumed: false }
    }

    /// A value that was assumed.
    pub(super) fn assumed(value: T) -> Self {
        Self { value, is_assumed: true }
    }

    /// Returns the mark for the end of the value's line, with the reason for what was assumed where there is one.
    pub(super) fn mark(&self, remark: &str) -> String {
        match (self.is_assumed, remark) {
            (true, "") => format!("  {MARK}"),
            (true, remark) => format!("  {MARK}: {remark}"),
            (false, _) => String::new(),
        }
    }
}

impl Answer<String> {
    /// Returns the value with its mark, as the end of a line.
    pub(super) fn line(&self) -> String {
        format!("{}{}", self.value, self.mark(""))
    }
}

impl Answers {
    /// Asks at the terminal where standard input and standard error are one.
    pub(super) fn of_process() -> Self {
        Self { is_terminal: io::stdin().is_terminal() && io::stderr().is_terminal() }
    }

    /// Asks for a text, until it is right.
    pub(super) fn text(
        &self,
        question: &str,
        default: &str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Answer<String> {
        if !self.is_terminal {
            return Answer::assumed(default.to_owned());
        }
        answered(&mut io::stdin().lock(), &mut io::stderr().lock(), question, default, check)
    }

    /// Asks how workers run.
    pub(super) fn workers(&self, question: &str, default: Workers) -> Answer<Workers> {
        let parse = |word: &str| [Workers::LongLived, Workers::OneRow].into_iter().find(|kind| kind.word() == word);
        let check = |word: &str| match parse(word) {
            Some(_) => Ok(()),
            None => Err(format!("must be {} or {}", Workers::LongLived.word(), Workers::OneRow.word())),
        };
        let Answer { value, is_assumed } = self.text(question, default.word(), check);
        Answer { value: parse(&value).unwrap_or(default), is_assumed }
    }
}

/// Asks until the answer is right; an empty one is the default, and so is the end of the input.
fn answered(
    input: &mut impl BufRead,
    output: &mut impl Write,
    question: &str,
    default: &str,
    check: impl Fn(&str) -> Result<(), String>,
) -> Answer<String> {
    loop {
        // If standard error is closed, there is no other place to ask.
        let _ = write!(output, "{question} [{default}]: ").and_then(|()| output.flush());
        let mut line = String::new();
        if !input.read_line(&mut line).is_ok_and(|length| length > 0) {
            // Ctrl-D leaves the cursor behind the question.
            let _ = writeln!(output);
            return Answer::assumed(default.to_owned());
        }
        let text = match line.trim() {
            "" => default,
            text => text,
        };
        match check(text) {
            Ok(()) => return Answer::given(text.to_owned()),
            Err(problem) => {
                let _ = writeln!(output, "  {problem}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(input: &str) -> (String, bool, String) {
        let mut output = Vec::new();
        let check = |text: &str| if text.contains(' ') { Err("must be one word".to_owned()) } else { Ok(()) };
        let answer = answered(&mut input.as_bytes(), &mut output, "Name", "mail", check);
        (answer.value, answer.is_assumed, String::from_utf8(output).expect("text"))
    }

    #[test]
    fn a_question_is_asked_until_its_answer_is_right() {
        let (value, is_assumed, output) = asked("two words\n  images \n");
        assert_eq!((value.as_str(), is_assumed), ("images", false));
        assert_eq!(output, "Name [mail]:   must be one word\nName [mail]: ");
    }

    #[test]
    fn return_takes_the_default_and_the_end_of_the_input_leaves_it_assumed() {
        let (value, is_assumed, _) = asked("\n");
        assert_eq!((value.as_str(), is_assumed), ("mail", false));
        let (value, is_assumed, output) = asked("");
        assert_eq!((value.as_str(), is_assumed), ("mail", true));
        assert_eq!(output, "Name [mail]: \n");
    }
}
