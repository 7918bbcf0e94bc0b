//! A TCP proxy in the test process that can be broken in the ways networks break.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// The behaviour of the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Passes everything on.
    Pass,
    /// Accepts and passes nothing on, in either direction.
    Blackhole,
    /// Ends connections, new ones too, with a reset.
    Reset,
    /// Ends connections, new ones too, politely.
    Close,
    /// Passes this many more bytes of what a connection's server says, then closes it.
    Truncate(usize),
    /// Passes everything on, each chunk this much later.
    Slow(Duration),
    /// Cuts the next connection, and passes on what the others say.
    Cut(Cut),
    /// Passes everything on, and what [`CutBy::Silence`] has kept back.
    Deliver,
}

/// A cut of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The side whose bytes are counted.
    pub(crate) side: Side,
    /// The number of bytes of that side that still pass.
    pub(crate) after: usize,
    /// The way in which it is cut then.
    pub(crate) by: CutBy,
}

/// A side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// The ways to cut a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CutBy {
    /// Both sides see its end.
    Close,
    /// Both sides see a reset.
    Reset,
    /// Neither side sees anything: bytes are kept back until [`Mode::Deliver`].
    Silence,
}

/// The proxy; it ends, with its connections, when it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    accepted: Arc<AtomicUsize>,
    scissors: Arc<Scissors>,
    acceptor: JoinHandle<()>,
}

/// The cut of the next connection, if it is to be cut, and the number of those that were.
#[derive(Debug, Default)]
struct Scissors {
    armed: AtomicBool,
    cuts: AtomicUsize,
}

impl Proxy {
    /// Starts one to `target`, passing.
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::bound_to(anywhere, target).await.expect("a port is free")
    }

    /// Starts one at this address to `target`, passing.
    pub(crate) async fn bound_to(address: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (mode, modes) = watch::channel(Mode::Pass);
        let accepted = Arc::new(AtomicUsize::new(0));
        let scissors = Arc::<Scissors>::default();
        let acceptor = tokio::spawn(accept(listener, target, modes, Arc::clone(&accepted), Arc::clone(&scissors)));
        Ok(Self { address, mode, accepted, scissors, acceptor })
    }

    /// Starts one to a cluster.
    pub(crate) async fn to_cluster(cluster: &super::cluster::Cluster) -> Self {
        Self::to(SocketAddr::from(([127, 0, 0, 1], cluster.port()))).await
    }

    /// Returns its address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what happens to connections, those that are open included.
    pub(crate) fn set(&self, mode: Mode) {
        self.scissors.armed.store(matches!(mode, Mode::Cut(_)), Ordering::SeqCst);
        self.mode.send_replace(mode);
    }

    /// Counts the connections that were accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Returns the number of connections that [`Mode::Cut`] has cut.
    pub(crate) fn cuts(&self) -> usize {
        self.scissors.cuts.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// Ends with its listener; its connections end with the sender of `modes`.
async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    modes: watch::Receiver<Mode>,
    accepted: Arc<AtomicUsize>,
    scissors: Arc<Scissors>,
) {
    while let Ok((client, _)) = listener.accept().await {
        accepted.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(carry(client, target, modes.clone(), Arc::clone(&scissors)));
    }
}

/// Carries one connection until a side or the mode ends it. Errors end it as a reset would.
async fn carry(
    mut client: TcpStream,
    target: SocketAddr,
    mut modes: watch::Receiver<Mode>,
    scissors: Arc<Scissors>,
) -> io::Result<()> {
    let mut cut = match *modes.borrow() {
        Mode::Cut(cut) if scissors.armed.swap(false, Ordering::SeqCst) => Some(cut),
        _ => None,
    };
    // While nothing may pass, no connection to the server is opened.
    let mut server = match passage(&mut modes).await {
        Passage::Open => TcpStream::connect(target).await?,
        ended => return end(ended, &[&client]),
    };
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut from_server) = ([0; 8192], [0; 8192]);
    let mut said = 0;
    loop {
        match passage(&mut modes).await {
            Passage::Open => {}
            ended => return end(ended, &[&client, &server]),
        }
        tokio::select! {
            // Only wakes the loop, which looks at the mode first.
            _ = modes.changed() => {}
            read = client.read(&mut from_client) => match read? {
                0 => return Ok(()),
                length => {
                    delay(&modes).await;
                    let passed = pass(&mut cut, Side::Client, length);
                    server.write_all(&from_client[..passed]).await?;
                    if let Some(by) = fallen(&cut) {
                        scissors.cuts.fetch_add(1, Ordering::SeqCst);
                        if sever(by, &mut modes, &[&client, &server]).await? {
                            return Ok(());
                        }
                        cut = None;
                        server.write_all(&from_client[passed..length]).await?;
                    }
                }
            },
            read = server.read(&mut from_server) => {
                let mut length = read?;
                let mode = *modes.borrow();
                if let Mode::Truncate(limit) = mode {
                    length = length.min(limit.saturating_sub(said));
                    said += length;
                }
                delay(&modes).await;
                let passed = pass(&mut cut, Side::Server, length);
                client.write_all(&from_server[..passed]).await?;
                if let Some(by) = fallen(&cut) {
                    scissors.cuts.fetch_add(1, Ordering::SeqCst);
                    if sever(by, &mut modes, &[&client, &server]).await? {
                        return Ok(());
                    }
                    cut = None;
                    client.write_all(&from_server[passed..length]).await?;
                }
                if length == 0 || matches!(mode, Mode::Truncate(limit) if said >= limit) {
                    return Ok(());
                }
            }
        }
    }
}

/// Counts bytes of a side, and returns how many of them pass.
fn pass(cut: &mut Option<Cut>, side: Side, length: usize) -> usize {
    match cut {
        Some(cut) if cut.side == side => {
            let passed = length.min(cut.after);
            cut.after -= passed;
            passed
        }
        _ => length,
    }
}

/// Returns the way in which a connection is cut whose bytes have all passed.
fn fallen(cut: &Option<Cut>) -> Option<CutBy> {
    cut.filter(|cut| cut.after == 0).map(|cut| cut.by)
}

/// Cuts a connection, and returns whether that is its end.
async fn sever(by: CutBy, modes: &mut watch::Receiver<Mode>, streams: &[&TcpStream]) -> io::Result<bool> {
    match by {
        CutBy::Close => {}
        CutBy::Reset => end(Passage::Reset, streams)?,
        CutBy::Silence => return Ok(modes.wait_for(|mode| *mode == Mode::Deliver).await.is_err()),
    }
    Ok(true)
}

/// The answer to whether bytes may pass.
enum Passage {
    Open,
    Reset,
    Closed,
}

/// Waits while the mode is [`Mode::Blackhole`]; the end of the proxy closes.
async fn passage(modes: &mut watch::Receiver<Mode>) -> Passage {
    loop {
        match *modes.borrow_and_update() {
            Mode::Pass | Mode::Truncate(_) | Mode::Slow(_) | Mode::Cut(_) | Mode::Deliver => return Passage::Open,
            Mode::Reset => return Passage::Reset,
            Mode::Close => return Passage::Closed,
            Mode::Blackhole => {}
        }
        if modes.changed().await.is_err() {
            return Passage::Closed;
        }
    }
}

/// Delays a chunk while the mode is [`Mode::Slow`]; when the mode ends, so does the delay.
async fn delay(modes: &watch::Receiver<Mode>) {
    let mode = *modes.borrow();
    if let Mode::Slow(by) = mode {
        // The end of the proxy ends it as well.
        let _ = tokio::time::timeout(by, modes.clone().wait_for(|now| *now != mode)).await;
    }
}

fn end(how: Passage, streams: &[&TcpStream]) -> io::Result<()> {
    if matches!(how, Passage::Reset) {
        for stream in streams {
            stream.set_zero_linger()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::{super::wait::bounded, Cut, CutBy, Mode, Proxy, Side};

    const SOON: Duration = Duration::from_secs(10);

    /// A server that says everything back.
    async fn echo() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reads, mut writes) = stream.split();
                    tokio::io::copy(&mut reads, &mut writes).await
                });
            }
        });
        Proxy::to(address).await
    }

    async fn say(stream: &mut TcpStream, text: &str) -> std::io::Result<String> {
        stream.write_all(text.as_bytes()).await?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await?;
        Ok(String::from_utf8(answer).unwrap())
    }

    #[tokio::test]
    async fn a_blackhole_swallows_and_gives_back() {
        let proxy = echo().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(say(&mut stream, "before").await.unwrap(), "before");

        proxy.set(Mode::Blackhole);
        let mut lost = Box::pin(say(&mut stream, "during"));
        assert!(tokio::time::timeout(Duration::from_millis(100), &mut lost).await.is_err());

        proxy.set(Mode::Pass);
        assert_eq!(bounded("the answer", SOON, lost).await.unwrap(), "during");
        assert_eq!(proxy.accepted(), 1);
    }

    #[tokio::test]
    async fn a_reset_reaches_open_and_new_connections() {
        let proxy = echo().await;
        let mut open = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(say(&mut open, "before").await.unwrap(), "before");

        proxy.set(Mode::Reset);
        let mut new = TcpStream::connect(proxy.address()).await.unwrap();
        for stream in [&mut open, &mut new] {
            let error = bounded("the end", SOON, stream.read_u8()).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }

    #[tokio::test]
    async fn a_close_is_the_end_of_the_stream() {
        let proxy = echo().await;
        let mut open = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(say(&mut open, "before").await.unwrap(), "before");

        proxy.set(Mode::Close);
        assert_eq!(bounded("the end", SOON, open.read(&mut [0; 1])).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn an_answer_is_cut_where_it_was_asked_to_be() {
        let proxy = echo().await;
        proxy.set(Mode::Truncate(4));
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(b"truncated").await.unwrap();
        let mut answer = String::new();
        bounded("the end", SOON, stream.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer, "trun");
    }

    #[tokio::test]
    async fn one_connection_is_cut_after_a_byte_of_either_side() {
        for (side, by) in [(Side::Client, CutBy::Close), (Side::Server, CutBy::Close), (Side::Server, CutBy::Reset)] {
            let proxy = echo().await;
            proxy.set(Mode::Cut(Cut { side, after: 4, by }));
            let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
            stream.write_all(b"truncated").await.unwrap();
            let mut answer = Vec::new();
            let ended = bounded("the end", SOON, stream.read_to_end(&mut answer)).await;
            assert!(b"trun".starts_with(&answer[..]), "{side:?}: {answer:?}");
            assert_eq!(ended.is_err(), by == CutBy::Reset, "{side:?} {by:?}: {ended:?}");
            assert_eq!(proxy.cuts(), 1);
            let mut next = TcpStream::connect(proxy.address()).await.unwrap();
            assert_eq!(say(&mut next, "whole again").await.unwrap(), "whole again");
        }
    }

    #[tokio::test]
    async fn a_silent_cut_keeps_bytes_back_until_they_are_delivered() {
        let proxy = echo().await;
        proxy.set(Mode::Cut(Cut { side: Side::Client, after: 4, by: CutBy::Silence }));
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let mut lost = Box::pin(say(&mut stream, "swallowed"));
        assert!(tokio::time::timeout(Duration::from_millis(100), &mut lost).await.is_err());
        proxy.set(Mode::Deliver);
        assert_eq!(bounded("the answer", SOON, lost).await.unwrap(), "swallowed");
    }

    #[tokio::test]
    async fn a_slow_wire_is_slow() {
        let proxy = echo().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        proxy.set(Mode::Slow(Duration::from_millis(60)));
        let start = std::time::Instant::now();
        assert_eq!(say(&mut stream, "slow").await.unwrap(), "slow");
        assert!(start.elapsed() >= Duration::from_millis(100), "there and back in {:?}", start.elapsed());
    }
}
