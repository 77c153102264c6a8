//! `https://….git`: a shallow clone by the program `git`, without its history.
//!
//! The program runs with nothing of the user's own settings: no hooks, no helpers, no prompts. A password reaches it
//! through its environment alone, so it stands in no list of processes and in no file.

use super::Refusal;
use super::net::{Net, without_secrets};
use crate::api::core::Hidden;
use crate::resolve::storage_env::StorageEnv;
use crate::storage::StorageError;
use percent_encoding::percent_decode_str;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use tokio::process::Command;
use url::Url;

/// Letters of what the program says that are told.
const TOLD_MAX: usize = 600;
/// Bytes of a file that may be a pointer to a large one.
const POINTER_BYTES_MAX: u64 = 1024;
/// Files that are looked at for pointers.
const FILES_MAX: usize = 100_000;
/// Seconds below a byte rate of 1 kB/s after which the program gives up.
const STALL_S: &str = "60";

/// A repository.
#[derive(Debug)]
pub(in super::super) struct Source {
    net: Arc<Net>,
    /// Without user and password.
    url: Url,
    username: Option<String>,
    password: Option<Hidden>,
    /// Variables that the program needs to be found and to reach others.
    passed_on: Vec<(String, String)>,
}

impl Source {
    /// The repository of an address. Its user comes from there or from `GIT_USERNAME`, the password from `GIT_PASSWORD` alone.
    ///
    /// # Errors
    /// `Wrong`: no URL, or a password in it.
    pub(super) fn new(net: &Arc<Net>, uri: &str, env: &StorageEnv) -> Result<Self, StorageError> {
        let wrong = |message: String| StorageError::Wrong(format!("{message}: `{}`", without_secrets(uri)));
        let mut url = Url::parse(uri).map_err(|error| wrong(format!("not a URL, {error}")))?;
        if url.password().is_some() {
            return Err(wrong(
                "a password in an address is seen by everyone who reads the file; a Secret with `GIT_PASSWORD` hides it".to_owned(),
            ));
        }
        let written = percent_decode_str(url.username()).decode_utf8_lossy().into_owned();
        let username = Some(written).filter(|name| !name.is_empty()).or_else(|| env.get("GIT_USERNAME").map(str::to_owned));
        // Addresses without a host have no user to take away.
        let _ = url.set_username("");
        let names = ["PATH", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO"];
        let passed_on = names.iter().filter_map(|name| Some(((*name).to_owned(), env.get(name)?.to_owned()))).collect();
        let password = env.get("GIT_PASSWORD").map(|word| Hidden::from(word.to_owned()));
        Ok(Self { net: Arc::clone(net), url, username, password, passed_on })
    }

    pub(super) fn shown(&self) -> String {
        without_secrets(self.url.as_str())
    }

    pub(super) fn identity(&self) -> String {
        self.url.to_string()
    }

    /// Asks for the names of the repository's branches.
    pub(super) async fn check(&self) -> Result<(), Refusal> {
        let addresses = self.net.addresses(&self.url).await?;
        let pinned = self.pinned(&addresses);
        let mut arguments: Vec<&OsStr> = pinned.iter().flat_map(|setting| [OsStr::new("-c"), OsStr::new(setting)]).collect();
        arguments.extend(["ls-remote", "--quiet", "--", self.url.as_str()].map(OsStr::new));
        self.run(&arguments).await.map(drop)
    }

    /// Clones into an empty folder and leaves the files alone there; the commit they are of.
    pub(super) async fn fill(&self, folder: &Path) -> Result<String, Refusal> {
        let addresses = self.net.addresses(&self.url).await?;
        let pinned = self.pinned(&addresses);
        let url = OsStr::new(self.url.as_str());
        let clone = ["clone", "--quiet", "--depth=1", "--single-branch", "--no-tags", "--no-recurse-submodules", "--template="];
        let mut arguments: Vec<&OsStr> = pinned.iter().flat_map(|setting| [OsStr::new("-c"), OsStr::new(setting)]).collect();
        arguments.extend(clone.iter().map(OsStr::new));
        arguments.extend([OsStr::new("--"), url, folder.as_os_str()]);
        self.run(&arguments).await?;
        let head: Vec<&OsStr> = vec![OsStr::new("-C"), folder.as_os_str(), OsStr::new("rev-parse"), OsStr::new("HEAD")];
        let commit = self.run(&head).await?.trim().to_owned();
        let (folder, shown) = (folder.to_owned(), self.shown());
        let tidied = tokio::task::spawn_blocking(move || tidy(&folder, &shown)).await;
        tidied.unwrap_or_else(|error| Err(Refusal::MayPass(format!("work on files ended: {error}"), None)))?;
        Ok(commit)
    }

    /// The setting that has the program ask at an address that was checked, whatever the name means by then.
    fn pinned(&self, addresses: &[IpAddr]) -> Option<String> {
        let port = self.url.port_or_known_default()?;
        let all: Vec<String> = addresses.iter().map(|ip| if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }).collect();
        (!all.is_empty()).then(|| format!("http.curloptResolve={}:{port}:{}", self.url.host_str().unwrap_or_default(), all.join(",")))
    }

    async fn run(&self, arguments: &[&OsStr]) -> Result<String, Refusal> {
        let mut command = self.command();
        let output = command.args(arguments).output().await.map_err(|error| self.cannot_start(&error))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(self.failed(&String::from_utf8_lossy(&output.stderr)))
    }

    fn command(&self) -> Command {
        let mut command = Command::new("git");
        command.env_clear().envs(self.passed_on.iter().map(|(name, value)| (name, value)));
        for (name, value) in [
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ALLOW_PROTOCOL", "https"),
            ("GIT_HTTP_LOW_SPEED_LIMIT", "1000"),
            ("GIT_HTTP_LOW_SPEED_TIME", STALL_S),
            ("GIT_LFS_SKIP_SMUDGE", "1"),
            ("LC_ALL", "C"),
            ("HOME", "/nonexistent"),
        ] {
            command.env(name, value);
        }
        // A helper that reads its answer from its own environment: the program itself keeps nothing.
        let helper =
            r#"!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$KSERVED_GIT_USERNAME" "$KSERVED_GIT_PASSWORD"; }; f"#;
        for setting in [
            "core.hooksPath=/dev/null",
            "core.symlinks=false",
            "http.followRedirects=false",
            "protocol.file.allow=never",
            "credential.helper=",
        ] {
            command.args(["-c", setting]);
        }
        if let Some(password) = self.password.as_ref().map(Hidden::reveal) {
            let username = self.username.as_deref().unwrap_or("git");
            command.env("KSERVED_GIT_USERNAME", username).env("KSERVED_GIT_PASSWORD", password);
            command.args(["-c", &format!("credential.helper={helper}")]);
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    fn cannot_start(&self, error: &std::io::Error) -> Refusal {
        let hint = "install it (Debian: `apt install git`), or fetch the files another way";
        Refusal::Wrong(format!("{}: the program `git` cannot be started: {error}\nhint: {hint}", self.shown()))
    }

    fn failed(&self, said: &str) -> Refusal {
        let mut told = said.trim().replace('\n', "; ");
        if let Some(password) = self.password.as_ref().map(Hidden::reveal) {
            told = told.replace(password, "***");
        }
        let told: String = told.chars().take(TOLD_MAX).collect();
        let mut message = format!("{}: git: {told}", self.shown());
        let lower = told.to_lowercase();
        if lower.contains("could not read username") || lower.contains("could not read password") || lower.contains("authentication failed")
        {
            // The answer says how it goes on.
            let _ = write!(message, "\nhint: a Secret with `GIT_USERNAME` and `GIT_PASSWORD` opens a repository (docs/storage.md#git)");
            return Refusal::Wrong(message);
        }
        let network = ["could not resolve host", "timed out", "connection", "early eof", "rpc failed", "returned error: 5"];
        if network.iter().any(|word| lower.contains(word)) { Refusal::MayPass(message, None) } else { Refusal::Wrong(message) }
    }
}

/// Takes the history away, and refuses pointers to files that are elsewhere.
fn tidy(folder: &Path, shown: &str) -> Result<(), Refusal> {
    let disk = |error: std::io::Error| Refusal::MayPass(format!("{shown}: {error}"), None);
    std::fs::remove_dir_all(folder.join(".git")).map_err(disk)?;
    let (mut folders, mut files) = (vec![folder.to_owned()], 0);
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).map_err(disk)? {
            let entry = entry.map_err(disk)?;
            let kind = entry.file_type().map_err(disk)?;
            files += 1;
            if files > FILES_MAX {
                return Err(Refusal::Wrong(format!("{shown}: more than {FILES_MAX} files: is it a model?")));
            }
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && is_pointer(&entry.path(), entry.metadata().map_err(disk)?.len()) {
                let name = entry.path().strip_prefix(folder).unwrap_or(&next).display().to_string();
                return Err(Refusal::Wrong(format!(
                    "{shown}: `{name}` is a pointer of Git LFS, not the file itself\nhint: `hf://` and web servers give large files; LFS is not fetched"
                )));
            }
        }
    }
    if files == 0 { Err(Refusal::Wrong(format!("Failed to fetch model. No model found in {shown}."))) } else { Ok(()) }
}

fn is_pointer(path: &Path, bytes: u64) -> bool {
    bytes <= POINTER_BYTES_MAX && std::fs::read(path).is_ok_and(|text| text.starts_with(b"version https://git-lfs.github.com/spec/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Config;
    use std::collections::HashSet;

    fn source(uri: &str, env: &[(&str, &str)]) -> Result<Source, StorageError> {
        let net = Arc::new(Net::new(&Config::default(), HashSet::new()));
        Source::new(&net, uri, &env.iter().copied().collect())
    }

    #[test]
    fn a_password_is_in_no_argument_and_in_no_message() {
        let source = source("https://me@h/x.git", &[("GIT_PASSWORD", "sesame")]).unwrap();
        let command = source.command();
        let arguments: Vec<_> = command.as_std().get_args().map(|one| one.to_string_lossy().into_owned()).collect();
        assert!(!arguments.iter().any(|one| one.contains("sesame")), "{arguments:?}");
        assert_eq!((source.shown().as_str(), source.username.as_deref()), ("https://h/x.git", Some("me")));
        assert!(!format!("{source:?}").contains("sesame"));
        let Refusal::Wrong(message) = source.failed("fatal: Authentication failed for https://me:sesame@h") else { panic!("wrong") };
        assert!(!message.contains("sesame") && message.contains("GIT_USERNAME"), "{message}");
    }

    #[test]
    fn a_password_in_the_address_is_refused_without_telling_it() {
        let message = source("https://me:sesame@h/x.git", &[]).unwrap_err().to_string();
        assert!(message.contains("GIT_PASSWORD") && !message.contains("sesame"), "{message}");
    }

    #[tokio::test]
    async fn a_machine_without_git_says_what_to_install() {
        let source = source("https://127.0.0.1/x.git", &[("PATH", "/nonexistent")]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let Err(Refusal::Wrong(message)) = source.fill(folder.path()).await else { panic!("refused") };
        assert!(message.contains("`git` cannot be started") && message.contains("apt install git"), "{message}");
    }

    #[test]
    fn pointers_to_large_files_are_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join(".git")).unwrap();
        std::fs::write(folder.path().join("m.onnx"), "version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 1\n").unwrap();
        let Err(Refusal::Wrong(message)) = tidy(folder.path(), "r") else { panic!("refused") };
        assert!(message.contains("`m.onnx` is a pointer of Git LFS"), "{message}");
    }
}
