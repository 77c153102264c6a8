//! `hdfs://` and `webhdfs://`: Hadoop's file system over its HTTP interface. The namenode, and who asks, come from a
//! Secret or the environment; bytes come from the datanode that the namenode names.

use super::net::{Net, Request, Tls, without_secrets};
use super::patterns::Patterns;
use super::{Answer, Ask, Listing, Refusal, RemoteFile, below, file, web};
use crate::resolve::storage_env::StorageEnv;
use crate::storage::StorageError;
use crate::storage::archive::Packing;
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use std::sync::Arc;
use url::Url;

/// Folders that are looked into.
const FOLDERS_MAX: usize = 10_000;

/// A file or a folder.
#[derive(Debug)]
pub(in super::super) struct Source {
    net: Arc<Net>,
    /// Namenodes, of which one is active.
    namenodes: Vec<Url>,
    user: Option<String>,
    headers: HeaderMap,
    tls: Tls,
    /// The absolute path.
    path: String,
    patterns: Patterns,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StatusAnswer {
    file_status: Status,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListAnswer {
    file_statuses: Statuses,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Statuses {
    file_status: Vec<Status>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    path_suffix: String,
    #[serde(rename = "type")]
    kind: String,
    length: u64,
    #[serde(default)]
    modification_time: u64,
}

impl Source {
    /// The file or folder of a path, as it is written after the scheme.
    ///
    /// # Errors
    /// `Wrong`: no namenode, or credentials that cannot be used.
    pub(super) fn new(net: &Arc<Net>, path: &str, env: &StorageEnv) -> Result<Self, StorageError> {
        let wrong = |message: String| StorageError::Wrong(format!("hdfs://{path}: {message}"));
        if env.get("KERBEROS_PRINCIPAL").or_else(|| env.get("KERBEROS_KEYTAB")).is_some() {
            let hint = "ask the cluster's owner for a gateway that takes a token by `HEADERS`, or copy the model elsewhere";
            return Err(wrong(format!("Kerberos is not spoken here\nhint: {hint}")));
        }
        let named = env.get("HDFS_NAMENODE");
        let named =
            named.ok_or_else(|| wrong("no namenode\nhint: a Secret with `HDFS_NAMENODE` names it (docs/storage.md#hdfs)".to_owned()))?;
        let namenodes: Result<Vec<Url>, _> = named.split(';').map(|one| Url::parse(one.trim())).collect();
        let namenodes = namenodes.map_err(|error| wrong(format!("`HDFS_NAMENODE` is no URL: `{}`: {error}", without_secrets(named))))?;
        let headers = env.get("HEADERS").map_or_else(|| Ok(HeaderMap::new()), web::headers_of);
        Ok(Self {
            net: Arc::clone(net),
            namenodes,
            user: env.get("USER_PROXY").map(str::to_owned),
            headers: headers.map_err(|error| wrong(format!("`HEADERS`: {error}")))?,
            tls: tls(env)?,
            path: absolute(path, env.get("HDFS_ROOTPATH")),
            patterns: Patterns::of(env)?,
        })
    }

    pub(super) fn shown(&self) -> String {
        format!("hdfs:/{}", self.path)
    }

    pub(super) fn identity(&self) -> String {
        let namenodes: Vec<&str> = self.namenodes.iter().map(Url::as_str).collect();
        format!("{}\nat {}{}", self.shown(), namenodes.join(";"), self.patterns.identity())
    }

    /// The file, or all files below the folder.
    pub(super) async fn list(&self) -> Result<Listing, Refusal> {
        let StatusAnswer { file_status } = self.json(&self.path, "GETFILESTATUS").await?;
        let mut files = Vec::new();
        if file_status.kind == "FILE" {
            let name = self.path.rsplit('/').next().unwrap_or_default();
            files.extend(self.file(name, &self.path, &file_status)?);
        } else {
            self.walk(&mut files).await?;
        }
        Listing::of(files, || format!("Failed to fetch model. No model found in {}.", self.shown()))
    }

    async fn walk(&self, files: &mut Vec<RemoteFile>) -> Result<(), Refusal> {
        let (mut folders, mut seen) = (vec![String::new()], 0);
        while let Some(folder) = folders.pop() {
            seen += 1;
            if seen > FOLDERS_MAX {
                return Err(Refusal::Wrong(format!("{}: more than {FOLDERS_MAX} folders: is it a model?", self.shown())));
            }
            let ListAnswer { file_statuses } = self.json(&format!("{}{folder}", self.path), "LISTSTATUS").await?;
            for status in file_statuses.file_status {
                let inner = format!("{folder}/{}", status.path_suffix);
                match status.kind.as_str() {
                    "DIRECTORY" => folders.push(inner),
                    "FILE" => files.extend(self.file(&inner, &format!("{}{inner}", self.path), &status)?),
                    // A link may lead out of the model.
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn file(&self, path: &str, key: &str, status: &Status) -> Result<Option<RemoteFile>, Refusal> {
        let path = below(path).map_err(|wrong| Refusal::Wrong(format!("{}: {wrong}", self.shown())))?;
        let packing = Packing::of(&path);
        let taken = self.patterns.take(&path);
        // The time is a part of the key: a file that was written anew is another one.
        let key = format!("{}\n{key}", status.modification_time);
        Ok(taken.then(|| RemoteFile { packing, size_bytes: Some(status.length), ..RemoteFile::named(path, key) }))
    }

    /// Asks for a file, or for a part of it. The interface knows neither versions nor totals: the listing has the length.
    pub(super) async fn read(&self, remote: &RemoteFile, ask: &Ask) -> Result<Answer, Refusal> {
        let (time, path) = remote.key.split_once('\n').unwrap_or(("", &remote.key));
        let validator = (!time.is_empty()).then(|| time.to_owned());
        let stale = ask.validator.is_some() && ask.validator != validator;
        let from = if stale { 0 } else { ask.from };
        let mut query = vec![("offset", from.to_string())];
        if let Some(until) = ask.until {
            query.push(("length", until.saturating_sub(from).to_string()));
        }
        let request = self.request(0, path, "OPEN", &query)?;
        let response = self.net.send(request).await?;
        let whole = Ask { from: 0, until: None, validator: None };
        let answer = file::answer(response, &whole, None, |status| self.says(status, ""))?;
        Ok(Answer { offset: from, total: remote.size_bytes, validator, ..answer })
    }

    async fn json<T: for<'d> Deserialize<'d>>(&self, path: &str, operation: &str) -> Result<T, Refusal> {
        let mut last = None;
        for index in 0..self.namenodes.len() {
            let request = self.request(index, path, operation, &[])?;
            match self.net.text(request, |status, body| self.says(status, body)).await {
                Ok((_, body)) => {
                    let parsed = serde_json::from_slice(&body);
                    return parsed.map_err(|_| Refusal::Wrong(format!("{}: the namenode's answer is not what it should be", self.shown())));
                }
                Err(refusal) => last = Some(refusal),
            }
        }
        Err(last.unwrap_or_else(|| Refusal::Wrong(format!("{}: no namenode", self.shown()))))
    }

    fn request(&self, index: usize, path: &str, operation: &str, query: &[(&str, String)]) -> Result<Request, Refusal> {
        let wrong = || Refusal::Wrong(format!("{}: `HDFS_NAMENODE` is no URL of a server", self.shown()));
        let mut url = self.namenodes.get(index).cloned().ok_or_else(wrong)?;
        let parts = ["webhdfs", "v1"].into_iter().chain(path.split('/').filter(|part| !part.is_empty()));
        url.path_segments_mut().map_err(|()| wrong())?.pop_if_empty().extend(parts);
        url.query_pairs_mut().append_pair("op", operation);
        if let Some(user) = &self.user {
            url.query_pairs_mut().append_pair("user.name", user);
        }
        url.query_pairs_mut().extend_pairs(query);
        Ok(Request { secrets: self.headers.clone(), tls: self.tls.clone(), ..Request::get(url) })
    }

    fn says(&self, status: StatusCode, body: &str) -> String {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Remote {
            remote_exception: Exception,
        }
        #[derive(Deserialize)]
        struct Exception {
            message: String,
        }
        let told = serde_json::from_str::<Remote>(body).map(|remote| remote.remote_exception.message);
        let told = told.ok().and_then(|message| message.lines().next().map(|line| format!(": {line}"))).unwrap_or_default();
        let hint = match status {
            StatusCode::UNAUTHORIZED => "\nhint: the cluster wants to know who asks: `USER_PROXY` or `HEADERS` in the Secret",
            StatusCode::FORBIDDEN => "\nhint: `USER_PROXY` may not read it, or the namenode is on standby",
            _ => "",
        };
        format!("{}: the namenode answers {status}{told}{hint}", self.shown())
    }
}

/// KServe's rule: below `HDFS_ROOTPATH` where there is one, else from the root.
fn absolute(path: &str, root: Option<&str>) -> String {
    let parts = root.into_iter().flat_map(|root| root.split('/')).chain(path.split('/'));
    parts.filter(|part| !part.is_empty() && *part != ".").fold(String::new(), |whole, part| whole + "/" + part)
}

/// Certificates are texts, or paths of files.
fn tls(env: &StorageEnv) -> Result<Tls, StorageError> {
    let pem = |name: &str| match env.get(name) {
        Some(text) if text.contains("-----BEGIN") => Ok(Some(text.to_owned())),
        Some(path) => {
            std::fs::read_to_string(path).map(Some).map_err(|error| StorageError::Wrong(format!("`{name}` cannot be read: {error}")))
        }
        None => Ok(None),
    };
    let identity_pem = match (pem("TLS_CERT")?, pem("TLS_KEY")?) {
        (Some(certificate), Some(key)) => Some(format!("{certificate}\n{key}")),
        (None, None) => None,
        _ => return Err(StorageError::Wrong("`TLS_CERT` and `TLS_KEY` go together".to_owned())),
    };
    Ok(Tls { skip_verify: env.is_true("TLS_SKIP_VERIFY"), ca_pem: pem("TLS_CA")?, identity_pem })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Config;
    use std::collections::HashSet;

    fn source(env: &[(&str, &str)]) -> Result<Source, String> {
        let net = Arc::new(Net::new(&Config::default(), HashSet::new()));
        Source::new(&net, "models/a b", &env.iter().copied().collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn paths_are_absolute_and_may_have_a_root() {
        assert_eq!(absolute("models/iris/", None), "/models/iris");
        assert_eq!(absolute("/models/iris", Some("/data/")), "/data/models/iris");
    }

    #[test]
    fn requests_name_operation_and_user() {
        let source = source(&[("HDFS_NAMENODE", "http://n:9870"), ("USER_PROXY", "me")]).unwrap();
        let request = source.request(0, &source.path, "OPEN", &[("offset", "5".to_owned())]).unwrap();
        assert_eq!(request.url.as_str(), "http://n:9870/webhdfs/v1/models/a%20b?op=OPEN&user.name=me&offset=5");
    }

    #[test]
    fn what_is_missing_or_not_spoken_is_told() {
        assert!(source(&[]).unwrap_err().contains("`HDFS_NAMENODE`"));
        assert!(source(&[("HDFS_NAMENODE", "http://n"), ("KERBEROS_PRINCIPAL", "p")]).unwrap_err().contains("Kerberos is not spoken"));
        assert!(source(&[("HDFS_NAMENODE", "http://n"), ("TLS_CERT", "-----BEGIN")]).unwrap_err().contains("go together"));
    }
}
