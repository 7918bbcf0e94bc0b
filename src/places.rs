//! Limits the number of connections: a bounded number of places, and a share of them for each peer.
//!
//! A peer that holds every place with connections that ask nothing would keep everybody else out. So a newcomer takes
//! the place of the oldest connection of the peer that has most.
//!
//! Connections that are of use are better kept: [`Place::try_take_in`] takes none of them from their own peer.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// The peer that connections are counted for: an IPv4 address, or the /64 network of an IPv6 address, since one host
/// usually has the whole network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer(IpAddr);

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = Ipv6Addr::from_bits(address.to_bits() >> 64 << 64);
                Self(IpAddr::V6(network))
            }
            address @ IpAddr::V4(_) => Self(address),
        }
    }
}

/// A bounded number of places for connections.
#[derive(Debug)]
pub struct Places {
    limit: usize,
    of_a_peer: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next_number: u64,
    /// By number: the oldest comes first.
    places: BTreeMap<u64, Holder>,
    /// The number of places of each peer.
    by_peer: HashMap<Peer, usize>,
}

#[derive(Debug)]
struct Holder {
    peer: Peer,
    gives_way: CancellationToken,
}

/// The place of one connection; dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    peer: Peer,
    number: u64,
    gives_way: CancellationToken,
}

impl Places {
    /// Makes `limit` places, of which one peer gets at most `of_a_peer`.
    pub fn new(limit: usize, of_a_peer: usize) -> Arc<Self> {
        Arc::new(Self { limit, of_a_peer, taken: Mutex::default() })
    }

    /// Takes a place for a connection of the peer. Where there is none left, the oldest connection gives way: one of
    /// this peer if it has its share, and else one of the peer that has most.
    pub fn take(self: &Arc<Self>, peer: Peer) -> Place {
        let mut taken = self.taken();
        if taken.by_peer.get(&peer).is_some_and(|places| *places >= self.of_a_peer) {
            taken.make_room(peer);
        } else if taken.places.len() >= self.limit {
            let greediest = taken.greediest().map_or(peer, |(greediest, _)| greediest);
            taken.make_room(greediest);
        }
        self.place(&mut taken, peer, CancellationToken::new())
    }

    fn place(self: &Arc<Self>, taken: &mut Taken, peer: Peer, gives_way: CancellationToken) -> Place {
        let number = taken.next_number;
        taken.next_number += 1;
        taken.places.insert(number, Holder { peer, gives_way: gives_way.clone() });
        *taken.by_peer.entry(peer).or_default() += 1;
        Place { places: Arc::clone(self), peer, number, gives_way }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Returns the peer that has most places, and their number.
    fn greediest(&self) -> Option<(Peer, usize)> {
        self.by_peer.iter().max_by_key(|(_, places)| **places).map(|(peer, places)| (*peer, *places))
    }

    /// Lets the oldest connection of a peer give way.
    fn make_room(&mut self, peer: Peer) {
        let oldest = self.places.iter().find(|(_, holder)| holder.peer == peer).map(|(number, _)| *number);
        if let Some(holder) = oldest.and_then(|number| self.remove(number)) {
            holder.gives_way.cancel();
        }
    }

    fn remove(&mut self, number: u64) -> Option<Holder> {
        let holder = self.places.remove(&number)?;
        if let Some(places) = self.by_peer.get_mut(&holder.peer) {
            *places -= 1;
            if *places == 0 {
                self.by_peer.remove(&holder.peer);
            }
        }
        Some(holder)
    }
}

impl Place {
    /// Waits until the connection has to give way. Never returns if it may stay.
    pub fn gives_way(&self) -> impl Future<Output = ()> + use<> {
        self.gives_way.clone().cancelled_owned()
    }

    /// Takes a place of another kind for the same connection.
    ///
    /// Connections of the same peer never give way to it, so that whoever shares an address with a flood keeps what it
    /// has. Where there is no place left, the oldest one of the peer that has most gives way, if that peer would still
    /// have as many as this one. Returns none otherwise.
    pub fn try_take_in(&self, places: &Arc<Places>) -> Option<Place> {
        let mut taken = places.taken();
        let own = taken.by_peer.get(&self.peer).copied().unwrap_or_default();
        if own >= places.of_a_peer {
            return None;
        }
        if taken.places.len() >= places.limit {
            let (greediest, _) = taken.greediest().filter(|(_, most)| *most > own + 1)?;
            taken.make_room(greediest);
        }
        Some(places.place(&mut taken, self.peer, self.gives_way.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A connection that has given way has no place any more.
        self.places.taken().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Peer {
        Peer::from(text.parse::<IpAddr>().unwrap())
    }

    fn gave_way(place: &Place) -> bool {
        place.gives_way.is_cancelled()
    }

    #[test]
    fn the_oldest_connection_gives_way() {
        let places = Places::new(3, 3);
        let one = peer("10.0.0.1");
        let held: Vec<Place> = (0..3).map(|_| places.take(one)).collect();
        let newcomer = places.take(one);
        assert_eq!(held.iter().map(gave_way).collect::<Vec<_>>(), [true, false, false]);
        drop(held);
        assert_eq!(places.taken().places.len(), 1, "a place that was given away is not given back twice");
        drop(newcomer);
        assert!(places.taken().by_peer.is_empty());
    }

    #[test]
    fn a_peer_has_no_more_than_its_share_and_the_greediest_gives_way_to_others() {
        let places = Places::new(4, 3);
        let (greedy, modest) = (peer("10.0.0.1"), peer("10.0.0.2"));
        let modest_one = places.take(modest);
        let of_greedy: Vec<Place> = (0..4).map(|_| places.take(greedy)).collect();
        assert_eq!(of_greedy.iter().map(gave_way).collect::<Vec<_>>(), [true, false, false, false]);
        let _another = places.take(modest);
        assert!(gave_way(&of_greedy[1]) && !gave_way(&modest_one), "the older one is of the peer that has fewer");
    }

    #[test]
    fn a_connection_of_use_gives_way_to_a_modest_peer_only() {
        let (newcomers, served) = (Places::new(9, 9), Places::new(4, 3));
        let (greedy, modest) = (peer("10.0.0.1"), peer("10.0.0.2"));
        let called = |peer: Peer| newcomers.take(peer).try_take_in(&served);
        let of_greedy: Vec<Place> = (0..3).map(|_| called(greedy).unwrap()).collect();
        assert!(called(greedy).is_none(), "it has its share");
        let of_modest = [called(modest).unwrap(), called(modest).unwrap()];
        assert_eq!(of_greedy.iter().map(gave_way).collect::<Vec<_>>(), [true, false, false]);
        assert!(called(modest).is_none(), "it would have more than the other one");
        assert!(!of_modest.iter().any(gave_way));
        assert!(newcomers.taken().by_peer.is_empty() && served.taken().places.len() == 4);
    }

    #[test]
    fn an_ipv6_network_is_one_peer_and_a_mapped_address_is_itself() {
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:1"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_eq!(peer("::ffff:10.0.0.1"), peer("10.0.0.1"));
    }
}
