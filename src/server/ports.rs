//! The ports file: which ports the doors got, for scripts that asked for any free one.

use serde_json::json;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Writes `{"http": N, "grpc": N}`; a reader sees the whole file or none.
pub(super) fn write(path: &Path, http: SocketAddr, grpc: SocketAddr) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let mut file = std::fs::File::create(&part)?;
    writeln!(file, "{}", json!({"http": http.port(), "grpc": grpc.port()}))?;
    drop(file);
    std::fs::rename(part, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_file_holds_both_ports_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ports.json");
        write(&path, "127.0.0.1:8080".parse().unwrap(), "127.0.0.1:8081".parse().unwrap()).unwrap();
        let ports: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(ports, json!({"http": 8080, "grpc": 8081}));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
