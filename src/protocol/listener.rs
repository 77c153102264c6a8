//! Where connections come from: a port of TCP, or a Unix socket for callers on this machine.

use super::low_water::LowWater;
use super::unix_authority::Rewrite;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

/// A socket that takes connections.
#[derive(Debug)]
pub enum Listener {
    /// A port.
    Tcp(TcpListener),
    /// A file; who may open it is up to its mode.
    Unix(UnixListener),
}

impl Listener {
    /// The address; nothing for a Unix socket, which no web page can reach.
    ///
    /// # Errors
    /// The listener has no address.
    pub(crate) fn local_ip(&self) -> io::Result<Option<IpAddr>> {
        match self {
            Self::Tcp(listener) => Ok(Some(listener.local_addr()?.ip())),
            Self::Unix(_) => Ok(None),
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
                Ok(Connection { low_water: LowWater::of(&stream), rewrite: None, stream: Either::Left(stream) })
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                // It has a mark too, but whoever polls is woken for each piece nevertheless.
                Ok(Connection { low_water: LowWater::none(), rewrite: Some(Rewrite::new()), stream: Either::Right(stream) })
            }
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

/// A connection of either kind.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Either<TcpStream, UnixStream>,
    /// What callers over a Unix socket say of their host is put right.
    rewrite: Option<Rewrite>,
    low_water: LowWater,
}

impl Connection {
    /// The mark at which its reader is woken.
    pub(crate) fn low_water(&self) -> LowWater {
        self.low_water.clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.low_water.close();
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(rewrite) = &mut self.rewrite {
            rewrite.pass(&mut buffer.filled_mut()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
