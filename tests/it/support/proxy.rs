//! A TCP proxy in the test process that can be broken in the ways networks break.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
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
}

/// The proxy; it ends, with its connections, when it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    accepted: Arc<AtomicUsize>,
    acceptor: JoinHandle<()>,
}

impl Proxy {
    /// Starts one to `target`, passing.
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (mode, modes) = watch::channel(Mode::Pass);
        let accepted = Arc::new(AtomicUsize::new(0));
        let acceptor = tokio::spawn(accept(listener, target, modes, Arc::clone(&accepted)));
        Self { address, mode, accepted, acceptor }
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
        self.mode.send_replace(mode);
    }

    /// Counts the connections that were accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// Ends with its listener; its connections end with the sender of `modes`.
async fn accept(listener: TcpListener, target: SocketAddr, modes: watch::Receiver<Mode>, accepted: Arc<AtomicUsize>) {
    while let Ok((client, _)) = listener.accept().await {
        accepted.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(carry(client, target, modes.clone()));
    }
}

/// Carries one connection until a side or the mode ends it. Errors end it as a reset would.
async fn carry(mut client: TcpStream, target: SocketAddr, mut modes: watch::Receiver<Mode>) -> io::Result<()> {
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
                    server.write_all(&from_client[..length]).await?;
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
                client.write_all(&from_server[..length]).await?;
                if length == 0 || matches!(mode, Mode::Truncate(limit) if said >= limit) {
                    return Ok(());
                }
            }
        }
    }
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
            Mode::Pass | Mode::Truncate(_) | Mode::Slow(_) => return Passage::Open,
            Mode::Reset => return Passage::Reset,
            Mode::Close => return Passage::Closed,
            Mode::Blackhole => {}
        }
        if modes.changed().await.is_err() {
            return Passage::Closed;
        }
    }
}

async fn delay(modes: &watch::Receiver<Mode>) {
    let mode = *modes.borrow();
    if let Mode::Slow(by) = mode {
        tokio::time::sleep(by).await;
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

    use super::{super::wait::bounded, Mode, Proxy};

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
    async fn a_slow_wire_is_slow() {
        let proxy = echo().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        proxy.set(Mode::Slow(Duration::from_millis(60)));
        let start = std::time::Instant::now();
        assert_eq!(say(&mut stream, "slow").await.unwrap(), "slow");
        assert!(start.elapsed() >= Duration::from_millis(100), "there and back in {:?}", start.elapsed());
    }
}
