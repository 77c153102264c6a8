//! Models that a ClusterStorageContainer's command fetches: a process of this machine, called with the URI and a folder.
//!
//! On a cluster the command runs in a container of its own. Here it has this user's rights, so it runs only where the
//! configuration allows it. It belongs to its fetch: whoever gives the fetch up ends the process and all that it started.
//!
//! Source: reference 6.3 and 7; exit code 0 is success, the end of stderr is the reason of a failure.

use super::StorageError;
use crate::resolve::storage_container::Fetcher;
use crate::resolve::storage_env::StorageEnv;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// Bytes of stderr that are told.
const TAIL_BYTES_MAX: usize = 2048;
/// What a command has where the daemon was started without a `PATH`.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Commands of ClusterStorageContainers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContainersConfig {
    /// Whether they run at all. They have the rights of this process, and whoever may write into a watched folder says what
    /// they are.
    pub run_commands: bool,
    /// Seconds without a word on stdout or stderr after which a command is ended.
    pub silence_timeout_s: u64,
}

impl Default for ContainersConfig {
    fn default() -> Self {
        Self { run_commands: false, silence_timeout_s: 600 }
    }
}

/// Fetches a URI into an empty folder. Cancel safe: a dropped future ends the process and those it started.
///
/// # Errors
/// Commands are not allowed, or the program is not there: `Wrong`. The command fails, or says nothing for too long: `MayPass`.
pub(super) async fn fetch(
    fetcher: &Fetcher,
    uri: &str,
    (folder, env): (&Path, &StorageEnv),
    config: &ContainersConfig,
) -> Result<(), StorageError> {
    let name = &fetcher.container;
    if !config.run_commands {
        return Err(StorageError::Wrong(format!(
            "ClusterStorageContainer `{name}` fetches by a command, and commands are not allowed to run: `{uri}`\n\
             hint: `storage.containers.run_commands: true` in `config.yaml` allows them, with the rights of this process"
        )));
    }
    let mut process = Process::start(fetcher, uri, (folder, env))?;
    let ended = process.watch(Duration::from_secs(config.silence_timeout_s.max(1))).await;
    let failed = |why: String| {
        let tail = process.tail();
        let told = if tail.is_empty() { String::new() } else { format!(": {tail}") };
        StorageError::MayPass(format!("the command of ClusterStorageContainer `{name}` {why}{told}"))
    };
    match ended {
        Ended::Success if is_empty(folder) => Err(StorageError::Wrong(format!("Failed to fetch model. No model found in {uri}."))),
        Ended::Success => Ok(()),
        Ended::Failure(how) => Err(failed(format!("failed, {how}"))),
        Ended::Silent => Err(failed(format!("said nothing for {} s and was ended", config.silence_timeout_s))),
    }
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// A running command with what it said last.
struct Process {
    /// Before the child: its number is free once the child was waited for.
    group: Group,
    child: Child,
    said: Vec<u8>,
}

enum Ended {
    Success,
    Failure(String),
    Silent,
}

impl Process {
    fn start(fetcher: &Fetcher, uri: &str, (folder, env): (&Path, &StorageEnv)) -> Result<Self, StorageError> {
        let [program, arguments @ ..] = fetcher.command.as_slice() else {
            return Err(StorageError::Wrong(format!("ClusterStorageContainer `{}` has no command", fetcher.container)));
        };
        let mut command = Command::new(program);
        command.args(arguments).arg(uri).arg(folder).env_clear().env("PATH", env.get("PATH").unwrap_or(PATH));
        command.envs(fetcher.env.over(env).iter()).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(start) = &fetcher.working_dir {
            command.current_dir(start);
        }
        let child = command.spawn().map_err(|error| {
            StorageError::Wrong(format!(
                "the command of ClusterStorageContainer `{}` does not start: `{program}`: {error}",
                fetcher.container
            ))
        })?;
        let group = Group { leader: child.id() };
        Ok(Self { group, child, said: Vec::new() })
    }

    /// Listens until the command ends, or says nothing for too long.
    async fn watch(&mut self, silence: Duration) -> Ended {
        let (mut out, mut err) = (self.child.stdout.take(), self.child.stderr.take());
        let (mut from_out, mut from_err) = (vec![0; 4096], vec![0; 4096]);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                ended = self.child.wait() => {
                    self.group.leader = None;
                    // What it said last may still be in the pipe.
                    while let Ok(Some(read)) = tokio::time::timeout(Duration::from_millis(100), listen(&mut err, &mut from_err)).await {
                        keep_tail(&mut self.said, &from_err[..read]);
                    }
                    return match ended {
                        Ok(status) if status.success() => Ended::Success,
                        Ok(status) => Ended::Failure(status.to_string()),
                        Err(error) => Ended::Failure(error.to_string()),
                    };
                }
                Some(_) = listen(&mut out, &mut from_out) => heard = Instant::now(),
                Some(read) = listen(&mut err, &mut from_err) => {
                    heard = Instant::now();
                    keep_tail(&mut self.said, &from_err[..read]);
                }
                () = tokio::time::sleep_until(heard + silence) => return Ended::Silent,
            }
        }
    }

    /// The end of what it said on stderr.
    fn tail(&self) -> String {
        String::from_utf8_lossy(&self.said).trim().to_owned()
    }
}

/// Bytes that were read; nothing once there are no more.
async fn listen(pipe: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> Option<usize> {
    let read = pipe.as_mut()?.read(buffer).await.unwrap_or(0);
    if read == 0 {
        *pipe = None;
        return None;
    }
    Some(read)
}

fn keep_tail(said: &mut Vec<u8>, more: &[u8]) {
    said.extend_from_slice(more);
    let excess = said.len().saturating_sub(TAIL_BYTES_MAX);
    said.drain(..excess);
}

/// A process and all it started; ended when dropped, unless it ended by itself.
struct Group {
    leader: Option<u32>,
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(leader) = self.leader.and_then(|leader| i32::try_from(leader).ok()) else { return };
        #[expect(unsafe_code, reason = "a group of processes can only be ended by the system call")]
        // SAFETY: `kill` takes two numbers and touches no memory of ours. The group is the child's own, because it was started
        // with `process_group(0)`, and it has not been waited for, so its number belongs to nobody else.
        unsafe {
            libc::kill(-leader, libc::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt;

    fn shell(script: &str) -> Fetcher {
        let command = ["sh", "-c", script, "fetch"].map(str::to_owned).to_vec();
        let mut env = StorageEnv::default();
        env.set("GREETING", "hello");
        Fetcher { container: "hub".to_owned(), command, working_dir: None, env, takes_several: false }
    }

    fn allowed() -> ContainersConfig {
        ContainersConfig { run_commands: true, ..ContainersConfig::default() }
    }

    async fn run(script: &str, config: &ContainersConfig) -> (Result<(), String>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let mut env = StorageEnv::default();
        env.set("TOKEN", "secret");
        let fetched = fetch(&shell(script), "hub://iris", (folder.path(), &env), config).await;
        (fetched.map_err(|error| error.to_string()), folder)
    }

    #[tokio::test]
    async fn a_command_gets_the_uri_the_folder_and_its_variables_and_nothing_else() {
        let script = r#"echo "$1 $GREETING $TOKEN ${HOME:-homeless}" > "$2/said""#;
        let (fetched, folder) = run(script, &allowed()).await;
        assert_eq!(fetched, Ok(()));
        assert_eq!(std::fs::read_to_string(folder.path().join("said")).unwrap(), "hub://iris hello secret homeless\n");
    }

    #[tokio::test]
    async fn commands_do_not_run_unless_they_are_allowed() {
        let (fetched, folder) = run(r#"touch "$2/ran""#, &ContainersConfig::default()).await;
        assert!(fetched.unwrap_err().contains("storage.containers.run_commands"));
        assert!(!folder.path().join("ran").exists());
    }

    #[tokio::test]
    async fn a_command_that_fails_tells_the_end_of_what_it_said() {
        let (fetched, _folder) = run("echo first >&2; yes x | head -c 5000 >&2; echo no such model >&2; exit 3", &allowed()).await;
        let told = fetched.unwrap_err();
        assert!(told.starts_with("the command of ClusterStorageContainer `hub` failed, exit status: 3: "), "{told}");
        assert!(told.ends_with("no such model") && !told.contains("first") && told.len() < 2200, "{told}");
        let (nothing, _folder) = run("true", &allowed()).await;
        assert_eq!(nothing.unwrap_err(), "Failed to fetch model. No model found in hub://iris.");
    }

    #[tokio::test]
    async fn a_command_that_says_nothing_is_ended_with_all_it_started() {
        let config = ContainersConfig { silence_timeout_s: 1, ..allowed() };
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("alive");
        // Whoever holds the pipe open lives; its other end reads nothing more once all are gone.
        let script = format!("mkfifo {0}; (exec 3<>{0}; sleep 1000) & exec 3<>{0}; touch \"$2/started\"; sleep 1000", pipe.display());
        let (fetched, started) = run(&script, &config).await;
        assert!(fetched.unwrap_err().contains("said nothing for 1 s"));
        assert!(started.path().join("started").exists());
        let gone = async {
            // Opening a pipe for writing without waiting fails where nobody has it open for reading.
            loop {
                let opened = std::fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&pipe);
                if opened.is_err_and(|error| error.raw_os_error() == Some(libc::ENXIO)) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap();
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let fetcher = Fetcher { command: vec!["/no/such/program".to_owned()], ..shell("") };
        let folder = tempfile::tempdir().unwrap();
        let outcome = fetch(&fetcher, "hub://iris", (folder.path(), &StorageEnv::default()), &allowed()).await;
        let told = outcome.unwrap_err().to_string();
        assert!(told.contains("does not start: `/no/such/program`"), "{told}");
    }
}
