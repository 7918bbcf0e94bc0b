//! Prometheus' text format 0.0.4, for whoever does not ask for OpenMetrics.
//!
//! The registry writes OpenMetrics only. The two differ in what stands before the samples: here a counter's name ends
//! in `_total` there, too, an info is a gauge, and there are no units and no end mark.

use std::fmt::Write;

/// Returns the text format 0.0.4 of an OpenMetrics page.
pub(super) fn from_open_metrics(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    let mut help = None;
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            if let Some((_, help)) = help.take() {
                // OpenMetrics escapes quotes, too.
                let help = help.replace("\\\"", "\"");
                let _ = writeln!(text, "# HELP {name}{suffix} {help}");
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with("# ") {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_infos_have_the_names_of_their_samples() {
        let page = "# HELP a Calls.\n# TYPE a counter\na_total{x=\"# y\"} 1\n# HELP b What runs.\n# TYPE b info\n\
                    b_info{v=\"1\"} 1\n# HELP c_seconds Time.\n# TYPE c_seconds gauge\n# UNIT c_seconds seconds\nc_seconds 0.5\n\
                    # EOF\n";
        let text = "# HELP a_total Calls.\n# TYPE a_total counter\na_total{x=\"# y\"} 1\n# HELP b_info What runs.\n\
                    # TYPE b_info gauge\nb_info{v=\"1\"} 1\n# HELP c_seconds Time.\n# TYPE c_seconds gauge\nc_seconds 0.5\n";
        assert_eq!(from_open_metrics(page), text);
    }
}
