//! The part of the triggers that a page shows, as its address says.

use std::cmp::Ordering;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{Trigger, TriggerState};

/// The characters that are escaped in an address: all but letters, digits and the marks of RFC 3986, 2.3.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The most characters of a text that is searched for.
const LONGEST_FIND: usize = 100;

/// The order of triggers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Sort {
    /// Triggers that need a person come first.
    #[default]
    State,
    Name,
    Query,
    /// The greatest first.
    Value,
    /// The longest unasked first.
    Asked,
}

/// The part of the triggers that a page shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::admin) struct View {
    /// The text that is searched for, in lower case; empty for all triggers.
    pub(super) find: String,
    pub(super) state: Option<TriggerState>,
    pub(super) sort: Sort,
    /// Counted from 0.
    pub(super) page: usize,
}

impl Sort {
    pub(super) const ALL: [Self; 5] = [Self::State, Self::Name, Self::Query, Self::Value, Self::Asked];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Name => "name",
            Self::Query => "query",
            Self::Value => "value",
            Self::Asked => "asked",
        }
    }

    /// Compares two triggers. Those that are equal stay in the order of their states.
    pub(super) fn compare(self, a: &Trigger, b: &Trigger) -> Ordering {
        let value = |trigger: &Trigger| trigger.value.unwrap_or(f64::NEG_INFINITY);
        match self {
            Self::State => Ordering::Equal,
            Self::Name => (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)),
            Self::Query => a.query.cmp(&b.query),
            Self::Value => value(b).total_cmp(&value(a)),
            Self::Asked => b.asked_at.age.cmp(&a.asked_at.age),
        }
    }
}

impl View {
    /// Reads the query of an address, and ignores what it does not know.
    pub(in crate::admin) fn parse(query: &str) -> Self {
        let mut view = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = decoded(value);
            match name {
                "find" => view.find = value.trim().chars().take(LONGEST_FIND).collect::<String>().to_lowercase(),
                "state" => view.state = TriggerState::ALL.into_iter().find(|state| state.word() == value),
                "sort" => view.sort = Sort::ALL.into_iter().find(|sort| sort.word() == value).unwrap_or_default(),
                "page" => view.page = value.parse::<usize>().unwrap_or(1).saturating_sub(1),
                _ => {}
            }
        }
        view
    }

    /// Returns the address of this view.
    pub(super) fn address(&self) -> String {
        let Self { find, state, sort, page } = self;
        let mut pairs = Vec::new();
        if !find.is_empty() {
            pairs.push(format!("find={}", utf8_percent_encode(find, ESCAPED)));
        }
        pairs.extend(state.map(|state| format!("state={}", state.word())));
        if *sort != Sort::default() {
            pairs.push(format!("sort={}", sort.word()));
        }
        if *page > 0 {
            pairs.push(format!("page={}", page + 1));
        }
        format!("/?{}", pairs.join("&"))
    }
}

/// Decodes a value of an HTML form.
fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_a_view_and_nonsense_says_none() {
        let view = View { find: "a&b/ü \"%".into(), state: Some(TriggerState::Refused), sort: Sort::Asked, page: 3 };
        let address = view.address();
        assert_eq!(address, "/?find=a%26b%2F%C3%BC%20%22%25&state=refused&sort=asked&page=4");
        assert_eq!(View::parse(address.strip_prefix("/?").expect("a query")), view);
        for nonsense in ["", "&&=&", "state=nonsense&sort=%%&page=-1&find=", "page=0", "find=+", "x"] {
            assert_eq!(View::parse(nonsense), View::default(), "{nonsense}");
        }
        assert_eq!(View::parse("find=%zz%2").find, "%zz%2");
        assert_eq!(View::parse(&format!("find={}", "X".repeat(5_000))).find, "x".repeat(LONGEST_FIND));
    }
}
