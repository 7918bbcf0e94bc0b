//! Connections that hold places and ask nothing: the kubelet gets in beside them.

use std::{net::SocketAddr, time::Duration};

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{Victim, frames};
use crate::support::{admin, cluster::Cluster, database::Database, wait};

/// Begins to ask, and stays.
async fn begin_to_ask(address: SocketAddr, source: [u8; 4]) -> TcpStream {
    let mut socket = frames::connect_from(source, address).await;
    let _ = socket.write_all(b"GET /livez HTTP/1.1\r\nhost: admin\r\n").await;
    socket
}

#[tokio::test]
async fn a_probe_finds_a_place_while_others_hold_the_port_of_probes() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut victim = Victim::new(&database).await;
    let admin = victim.fixture.serving.admin;
    // From another address than the prober's, and from its own.
    for source in [[127, 0, 0, 2], [127, 0, 0, 1]] {
        let mut sockets = Vec::new();
        for _ in 0..520 {
            sockets.push(begin_to_ask(admin, source).await);
        }
        for _ in 0..9 {
            let probed = wait::bounded("a probe", Duration::from_secs(1), admin::get(admin, "/livez")).await;
            assert_eq!(probed, "ok\n");
        }
    }
    victim.is_unharmed().await;
}
