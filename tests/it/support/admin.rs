//! A client of the scaler's plain HTTP port, like Prometheus and kubelet.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::wait;

const ANSWER: Duration = Duration::from_secs(10);

/// An answer of the port.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// The line with the status, and the headers.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// Returns the status.
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("an answer has a status")
    }

    /// Returns a header by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Returns the body of the answer to `GET path`, whatever its status.
pub(crate) async fn get(address: SocketAddr, path: &str) -> String {
    request(address, "GET", path).await.body
}

/// Returns the answer to a request without a body.
pub(crate) async fn request(address: SocketAddr, method: &str, path: &str) -> Answer {
    let asking = async {
        let mut socket = TcpStream::connect(address).await.expect("the admin port is open");
        let request = format!("{method} {path} HTTP/1.0\r\nHost: admin\r\n\r\n");
        socket.write_all(request.as_bytes()).await.expect("the request is taken");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("the answer is text");
        answer
    };
    let answer = wait::bounded(&format!("{method} {path}"), ANSWER, asking).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    Answer { head: head.to_owned(), body: body.to_owned() }
}

/// Returns a metric: of one series if labels are given in braces, else the sum of all series of that name; 0 without
/// any.
pub(crate) async fn metric(address: SocketAddr, name: &str) -> f64 {
    sum(&get(address, "/metrics").await, name)
}

fn sum(text: &str, name: &str) -> f64 {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once("} ")?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.parse::<f64>().ok()
    });
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::sum;

    const TEXT: &str = "# HELP a An a.\na_total{x=\"1\"} 2\na_total{x=\"2\"} 3\nb 7\nbb 9\n";

    #[test]
    fn series_are_found_by_name_and_by_labels_and_nothing_else_is() {
        for (name, value) in [("a_total", 5.0), ("a_total{x=\"2\"}", 3.0), ("b", 7.0), ("a", 0.0), ("c", 0.0)] {
            assert_eq!(sum(TEXT, name), value, "{name}");
        }
    }
}
