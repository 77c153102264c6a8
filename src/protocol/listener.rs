//! Where connections come from: a port of TCP, or a Unix socket for callers on this machine.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

/// A connection of either kind.
pub(crate) type Connection = Either<TcpStream, UnixStream>;

/// A socket that takes connections.
#[derive(Debug)]
pub enum Listener {
    /// A port.
    Tcp(TcpListener),
    /// A file; who may open it is up to its mode.
    Unix(UnixListener),
}

impl Listener {
    /// The address whose rules count: a Unix socket is as local as loopback.
    ///
    /// # Errors
    /// The listener has no address.
    pub(crate) fn local_ip(&self) -> io::Result<IpAddr> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.ip()),
            Self::Unix(_) => Ok(Ipv4Addr::LOCALHOST.into()),
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// The system's: no more open files, or a client that is gone already.
    pub(crate) async fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Small answers must not wait for the client's acknowledgement of the last one.
                let _ = stream.set_nodelay(true);
                Ok(Either::Left(stream))
            }
            Self::Unix(listener) => Ok(Either::Right(listener.accept().await?.0)),
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}
