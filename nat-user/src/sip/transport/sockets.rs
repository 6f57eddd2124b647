//! Listeners with their sockets.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{net::TcpListener, sync::mpsc, task::AbortHandle};

use super::{Local, Place, event::Event, listen::Bound, udp::Udp};
use crate::sip::flow::ListenerId;

/// A listener with its socket, if it has one.
pub struct Listening {
    pub place: Place,
    socket: Option<Socket>,
    /// Watches the socket's errors, or accepts its connections.
    _task: Option<Task>,
}

enum Socket {
    Datagrams(Udp),
    /// The task has it; this is where it is.
    Connections(SocketAddr),
}

/// A task that ends when this is dropped.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Listening {
    /// Binds it, if there is an address to bind to. Must be called on the runtime.
    ///
    /// # Errors
    /// See [`Place::bind`].
    pub fn open(place: Place, events: &mpsc::Sender<Event>) -> Result<Listening> {
        let Some(address) = place.address() else {
            return Ok(Listening::nowhere(place));
        };
        let (socket, task) = match place.bind(address)? {
            Bound::Datagrams(socket) => {
                let udp = Udp::new(place.id, socket).context("cannot watch a UDP socket")?;
                let watch = tokio::spawn(udp.watch(events.clone()));
                (Socket::Datagrams(udp), watch.abort_handle())
            }
            Bound::Connections(socket) => {
                let socket = TcpListener::from_std(socket).context("cannot watch a TCP socket")?;
                let local = socket.local_addr().context("a TCP socket without address")?;
                let accepting = tokio::spawn(accept(socket, place.id, events.clone()));
                (Socket::Connections(local), accepting.abort_handle())
            }
        };
        Ok(Listening {
            place,
            socket: Some(socket),
            _task: Some(Task(task)),
        })
    }

    /// Without a socket.
    pub fn nowhere(place: Place) -> Listening {
        Listening {
            place,
            socket: None,
            _task: None,
        }
    }

    /// Whether it can go on as `place`: the socket would be the same, and it is there unless there is no address for it.
    pub fn serves(&self, place: &Place) -> bool {
        self.place.same_socket(place) && (self.socket.is_some() || place.address().is_none())
    }

    /// Where it is, by its socket.
    pub fn local(&self) -> Local {
        let address = self.socket.as_ref().map(|socket| match socket {
            Socket::Datagrams(udp) => udp.local,
            Socket::Connections(local) => *local,
        });
        Local {
            listener: self.place.id,
            address,
        }
    }

    /// Its address, if it has a socket.
    pub fn ip(&self) -> Option<IpAddr> {
        self.local().address.map(|address| address.ip())
    }

    /// Its UDP socket, if it has one.
    pub fn udp(&mut self) -> Option<&mut Udp> {
        match &mut self.socket {
            Some(Socket::Datagrams(udp)) => Some(udp),
            _ => None,
        }
    }
}

/// Accepts connections until nobody listens.
async fn accept(socket: TcpListener, id: ListenerId, events: mpsc::Sender<Event>) {
    /// For descriptors to come back when there are none left.
    const BREATH: Duration = Duration::from_millis(100);
    loop {
        match socket.accept().await {
            Ok((stream, remote)) => {
                if events.send(Event::Accepted(id, stream, remote)).await.is_err() {
                    return;
                }
            }
            Err(_) => tokio::time::sleep(BREATH).await,
        }
    }
}
