//! The page in a real browser, which `make browser` installs: what a person sees and does, as it changes.

use std::{
    env,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::Command,
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{QUERIES, VALUE};
use crate::support::{
    cluster::Cluster,
    executable::{Executable, Running},
    fixture::{Fixture, SOON, jobs, named},
    grpc::trigger,
    wait,
};

/// Time for the browser to start, for two refreshes of the page, and for a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A headless Chromium with one page, driven over the DevTools protocol: messages that end with a zero byte, on the
/// file descriptors 3 and 4.
struct Browser {
    commands: File,
    messages: Receiver<Value>,
    events: Vec<Value>,
    last: u64,
    session: Option<String>,
    _process: Running,
}

impl Browser {
    async fn start(program: &str) -> Self {
        let script = format!(
            "exec {program} --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
             --user-data-dir=profile --remote-debugging-pipe about:blank 3<commands 4>messages"
        );
        let shell = Executable::new(Path::new("/bin/sh"), ["-c", &script]);
        let directory = shell.directory().to_owned();
        let pipe = |name: &str| {
            let path = directory.join(name);
            assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
            // Opened for both, so that opening waits for nobody.
            OpenOptions::new().read(true).write(true).open(path).unwrap()
        };
        let (commands, answers) = (pipe("commands"), pipe("messages"));
        let process = shell.variable("HOME", directory.to_str().unwrap()).start();
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(answers).split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("DevTools speak JSON");
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self { commands, messages, events: Vec::new(), last: 0, session: None, _process: process };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target, "flatten": true})).await;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Calls a method, and waits for its result.
    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).unwrap();
        let (messages, events, id) = (&self.messages, &mut self.events, self.last);
        let answer = wait::first(&format!("{method} is answered"), PATIENCE, async || {
            while let Ok(message) = messages.try_recv() {
                if message["id"] == id {
                    return Some(message);
                }
                events.push(message);
            }
            None
        })
        .await;
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// Returns what an expression is.
    async fn evaluate(&mut self, expression: &str) -> Value {
        let answer = self.call("Runtime.evaluate", json!({"expression": expression, "returnByValue": true})).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression has a value.
    async fn sees(&mut self, expression: &str, value: Value) {
        let start = std::time::Instant::now();
        loop {
            let seen = self.evaluate(expression).await;
            if seen == value {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{expression} is {seen}, not {value}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Opens an address, and waits until the page is there.
    async fn open(&mut self, address: &str) {
        self.call("Page.navigate", json!({"url": address})).await;
        self.sees("document.readyState === 'complete' && location.href.startsWith('http')", true.into()).await;
    }

    /// Returns what the browser complained of: errors, violations of the policy, dialogs.
    async fn complaints(&mut self) -> Vec<Value> {
        self.evaluate("0").await;
        let bad =
            ["Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening", "Runtime.consoleAPICalled"];
        self.events.iter().filter(|event| bad.iter().any(|method| event["method"] == *method)).cloned().collect()
    }
}

const HEADLINE: &str = "document.querySelector('#now h2').textContent";
const ROWS: &str = "document.querySelectorAll('#list tbody tr').length";

#[tokio::test]
async fn a_browser_shows_it_as_it_changes_and_does_what_a_person_asks() {
    let Ok(program) = env::var("CLAPOMETER_BROWSER") else {
        println!("`make browser` runs this test");
        return;
    };
    let database = jobs(Cluster::shared().await).await;
    let fixture = Fixture::with(&database.scaler(), QUERIES).await;
    let hostile = ["</script><script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "a\u{202e}b<b>&amp;", "n"];
    for some in (0..1_999).collect::<Vec<usize>>().chunks(100) {
        let triggers = some.iter().map(|n| named(&trigger("jobs", &[]), format!("{}{n}", hostile[n % 4])));
        let triggers: Vec<_> = triggers.collect();
        assert!(join_all(triggers.iter().map(|one| fixture.scaler.active(one))).await.iter().all(Result::is_ok));
    }
    let address = format!("http://{}/", fixture.serving.admin);
    let mut browser = Browser::start(&program).await;

    // Two thousand triggers with hostile names are names, and nothing runs or is fetched but the page's own.
    browser.open(&address).await;
    browser.sees(HEADLINE, "Nothing fails now. Changed lately: this process started".into()).await;
    browser.sees(ROWS, 50.into()).await;
    browser.sees("document.querySelectorAll('img, iframe, b b, script').length", 1.into()).await;
    browser.sees("document.querySelector('#list nav a').textContent", "all 1999".into()).await;

    // A change comes by itself, and is announced; what is typed stays, and keeps the focus.
    let wrong = named(&trigger("jobs", &[("divedBy", VALUE)]), "zzz-wrong");
    fixture.scaler.refusal(&wrong).await;
    browser.sees(HEADLINE, "1 trigger is refused".into()).await;
    browser.sees("document.title", "\u{26a0} 1 trigger is refused - clapometer".into()).await;
    browser.sees("document.getElementById('live').textContent", "1 trigger is refused".into()).await;
    browser.evaluate("document.getElementById('find').focus()").await;
    browser.call("Input.insertText", json!({"text": "ZZZ-"})).await;
    browser.sees(ROWS, 1.into()).await;
    browser.sees("document.querySelector('#list tbody bdi + bdi').textContent", "zzz-wrong".into()).await;
    fixture.scaler.reaches(&named(&trigger("jobs", &[]), "zzz-wrong"), 0.0, SOON).await;
    browser.sees(&format!("{HEADLINE}.startsWith('Nothing fails now. ')"), true.into()).await;
    browser.sees("[document.activeElement.id, document.activeElement.value]", json!(["find", "ZZZ-"])).await;
    browser.sees(ROWS, 1.into()).await;

    // The head of a column is a link, which keeps the focus of the keyboard.
    browser.open(&address).await;
    browser.evaluate("document.querySelector('th a[href*=\"sort=asked\"]').focus()").await;
    for kind in ["rawKeyDown", "char", "keyUp"] {
        let key = json!({"type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"});
        browser.call("Input.dispatchKeyEvent", key).await;
    }
    browser.sees("document.querySelector('th[aria-sort]').textContent.includes('Asked')", true.into()).await;
    browser.sees("document.activeElement.textContent", "Asked".into()).await;
    browser.sees("location.search", "?sort=asked".into()).await;

    // On a telephone nothing is wider than the screen, and a dark screen gets a dark page.
    let paper = "getComputedStyle(document.body).backgroundColor";
    let light = browser.evaluate(paper).await;
    let phone = json!({"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": true});
    browser.call("Emulation.setDeviceMetricsOverride", phone).await;
    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    browser.call("Emulation.setEmulatedMedia", dark).await;
    browser.sees("document.documentElement.scrollWidth <= 390", true.into()).await;
    assert_ne!(browser.evaluate(paper).await, light);
    // A long name beside it breaks no word of ours.
    let lines_of_role = "(() => {
        document.querySelector('#databases td bdi').textContent = 'a_database_of_a_team_that_likes_very_long_names';
        const role = document.createRange();
        role.selectNodeContents(document.querySelector('#databases td:nth-child(3)').firstChild);
        return role.getClientRects().length;
    })()";
    browser.sees(lines_of_role, 1.into()).await;

    // Without scripts the same is there, and a link leads on.
    browser.call("Emulation.setScriptExecutionDisabled", json!({"value": true})).await;
    browser.open(&format!("{address}?page=2")).await;
    browser.sees("document.getElementById('pause').hidden", true.into()).await;
    browser.sees(ROWS, 50.into()).await;
    browser.sees("document.querySelectorAll('#list nav:last-of-type a').length", 3.into()).await;
    browser.call("Emulation.setScriptExecutionDisabled", json!({"value": false})).await;

    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:#?}");

    // A process that is gone is not taken for one that is well.
    browser.open(&address).await;
    drop(fixture);
    browser.sees("document.getElementById('note').hidden", false.into()).await;
    browser
        .sees("document.getElementById('note').textContent.startsWith('No answer from this process')", true.into())
        .await;
}
