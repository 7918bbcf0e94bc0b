//! A terminal: a pseudo-terminal at which a process runs, with somebody who reads its screen and types.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

use super::{processes, wait};

/// A process at a terminal; dropped, it is killed.
pub(crate) struct Terminal {
    child: Child,
    keyboard: File,
    screen: Screen,
    /// The length of the screen's text up to which somebody has read it.
    read: usize,
}

impl Terminal {
    /// Starts what a command says at a terminal of its own, which is standard input, output and error, and whose Ctrl-C
    /// is a signal to it.
    pub(crate) fn start(said: &Command) -> Self {
        // Only the first process of a session can have a terminal that controls it. This one becomes the program.
        let mut command = Command::new("setsid");
        // A shell lets what it starts in the background ignore SIGINT, and who runs there hands that on.
        command.args(["--ctty", "env", "--default-signal=INT"]).arg(said.get_program()).args(said.get_args());
        command.env_clear().envs(said.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(said.get_current_dir().expect("each executable has a directory of its own"));
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let controller = openpt(flags).expect("/dev/ptmx is there");
        grantpt(&controller).and_then(|()| unlockpt(&controller)).expect("the terminal is ours");
        let terminal = ioctl_tiocgptpeer(&controller, flags).expect("it has another end");
        let stdio = || Stdio::from(terminal.try_clone().expect("there are descriptors left"));
        command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {:?}: {error}", command.get_program()));
        // The screen ends when nobody has the terminal any more; the command holds copies of it.
        drop((command, terminal));
        let screen = Screen::of(controller.try_clone().expect("there are descriptors left"));
        Self { child, keyboard: File::from(controller), screen, read: 0 }
    }

    /// Waits until this text is on the screen, behind what was waited for before.
    ///
    /// # Panics
    /// When it is not there `within` that time, with the screen.
    pub(crate) async fn shows(&mut self, text: &str, within: Duration) {
        let (screen, read) = (&self.screen, self.read);
        let end = wait::until(&format!("the terminal shows {text:?}"), within, async || {
            let shown = screen.text();
            shown[read..].find(text).map(|start| read + start + text.len()).ok_or(shown)
        })
        .await;
        self.read = end;
    }

    /// Types these keys; `\r` is Return.
    pub(crate) fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("somebody reads the keyboard");
    }

    /// Waits for the end of the process, and returns its status with all that was on the screen.
    ///
    /// # Panics
    /// When it is still there after `within`, with the screen.
    pub(crate) async fn finish(mut self, within: Duration) -> (ExitStatus, String) {
        let status = wait::until("it has ended", within, async || {
            self.child.try_wait().expect("it is our child").ok_or_else(|| self.screen.text())
        })
        .await;
        self.screen.complete();
        (status, self.screen.text())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            processes::signal(processes::pid(&self.child), rustix::process::Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Everything that was written to a terminal.
struct Screen {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Screen {
    fn of(controller: OwnedFd) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut terminal = File::from(controller);
            let mut buffer = [0; 4096];
            loop {
                match terminal.read(&mut buffer) {
                    Ok(length) if length > 0 => {
                        writer.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..length]);
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // EIO: the last process has closed it.
                    Ok(_) | Err(_) => break,
                }
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    /// Returns the text, with line ends as they were written before the terminal made `\r\n` of them.
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).replace("\r\n", "\n")
    }

    fn complete(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("reading a terminal does not panic");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, path::Path, time::Duration};

    use super::Terminal;
    use crate::support::executable::Executable;

    const SOON: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Terminal {
        Executable::new(Path::new("/bin/sh"), ["-c", script]).at_terminal()
    }

    #[tokio::test]
    async fn a_process_sees_a_terminal_and_gets_what_is_typed() {
        let mut terminal =
            shell("test -t 0 && test -t 1 && test -t 2 && printf 'Name: ' && read -r name && echo \"is $name\"");
        terminal.shows("Name: ", SOON).await;
        terminal.types("mail\r");
        let (status, screen) = terminal.finish(SOON).await;
        assert_eq!((status.code(), &*screen), (Some(0), "Name: mail\nis mail\n"));
    }

    #[tokio::test]
    async fn ctrl_c_is_a_signal() {
        let mut terminal = shell("echo ready; exec sleep 600");
        terminal.shows("ready", SOON).await;
        terminal.types("\u{3}");
        let (status, _) = terminal.finish(SOON).await;
        assert_eq!(status.signal(), Some(2));
    }

    #[tokio::test]
    #[should_panic(expected = "in vain until the terminal shows \"ready\"; at last: ready")]
    async fn a_text_is_read_once() {
        let mut terminal = shell("printf ready; exec sleep 600");
        terminal.shows("ready", SOON).await;
        terminal.shows("ready", Duration::from_millis(50)).await;
    }
}
