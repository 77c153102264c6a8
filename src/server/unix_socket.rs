//! The files of Unix sockets: made for this user alone, taken over from a dead daemon, removed at the end.

use anyhow::{Context, bail};
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// Who may connect: the user that runs the daemon.
const MODE: u32 = 0o600;
/// Connections that may wait to be accepted, as tokio has it for TCP.
const BACKLOG: u32 = 1024;
/// How long another daemon may take to accept before it counts as alive, but busy.
const ALIVE_WITHIN: Duration = Duration::from_secs(1);

/// A socket's file; removed when dropped, unless another daemon put its own there meanwhile.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

/// Which file it is. The number of a file that was removed is soon given to another one, so the time counts too.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    number: u64,
    /// Seconds and nanoseconds.
    made: (i64, i64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // Nothing is lost when it stays: the next daemon takes it over.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens on `path`; `key` is the setting that named it.
///
/// # Errors
/// A path where somebody listens, or something that is no socket lies; a folder that is not there.
pub(super) async fn bind(path: &Path, key: &str) -> anyhow::Result<(UnixListener, SocketFile)> {
    let listening = async {
        make_room(path).await?;
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        let file = SocketFile { path: path.to_owned(), identity: identity(path)? };
        // Before it listens nobody can connect, so nobody comes in by the wider mode it was made with.
        fs::set_permissions(path, Permissions::from_mode(MODE))?;
        Ok::<_, anyhow::Error>((socket.listen(BACKLOG)?, file))
    };
    listening.await.with_context(|| format!("cannot listen on the Unix socket `{}`\nhint: it is set by `{key}`", path.display()))
}

/// Removes the socket of a daemon that is no more.
async fn make_room(path: &Path) -> anyhow::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !found.file_type().is_socket() {
        bail!("something else than a socket lies there");
    }
    match tokio::time::timeout(ALIVE_WITHIN, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Ok(fs::remove_file(path)?),
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(_)) | Err(_) => bail!("another process listens there"),
    }
}

fn identity(path: &Path) -> std::io::Result<Identity> {
    let found = fs::symlink_metadata(path)?;
    Ok(Identity { device: found.dev(), number: found.ino(), made: (found.mtime(), found.mtime_nsec()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_file_is_the_users_alone_and_goes_with_the_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let (listener, file) = bind(&path, "http.unix_socket").await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(UnixStream::connect(&path).await.is_ok());
        drop((listener, file));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_dead_daemons_socket_is_taken_over_and_a_live_ones_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind");
        let (_listener, _file) = bind(&path, "http.unix_socket").await.unwrap();
        let refused = format!("{:#}", bind(&path, "http.unix_socket").await.unwrap_err());
        assert!(refused.contains("another process listens there") && refused.contains("http.unix_socket"), "{refused}");
        assert!(UnixStream::connect(&path).await.is_ok(), "the live one goes on");
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        fs::write(&path, "mine").unwrap();
        assert!(bind(&path, "http.unix_socket").await.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[tokio::test]
    async fn another_daemons_file_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let (listener, file) = bind(&path, "http.unix_socket").await.unwrap();
        drop(listener);
        let (_theirs, _other) = bind(&path, "http.unix_socket").await.unwrap();
        drop(file);
        assert!(path.exists());
    }
}
