//! Words that KEDA takes for true or false.

/// `strconv.ParseBool`: returns what a text of metadata or of an annotation means, if it means one of the two.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}
