"""Puts files into stores with the stores' own clients, and asks our doubles with real ones.

Run by `servers.py` in an environment of its own: fill.py STORE ADDRESS FOLDER
"""

import json
import os
import pathlib
import sys


def files_of(folder):
    """Every file below a folder, by its path with `/`."""
    root = pathlib.Path(folder)
    return {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}


def s3(address, folder):
    """A user with a key, which alone may read; prints the key."""
    import boto3

    settings = {"region_name": "us-east-1", "endpoint_url": address, "aws_access_key_id": "first", "aws_secret_access_key": "first"}
    iam = boto3.client("iam", **settings)
    iam.create_user(UserName="kserved")
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.put_user_policy(UserName="kserved", PolicyName="all", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName="kserved")["AccessKey"]
    settings |= {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
    store = boto3.client("s3", **settings)
    store.create_bucket(Bucket="models")
    for name, path in files_of(folder).items():
        store.upload_file(str(path), "models", f"team/{name}")
    store.put_object(Bucket="models", Key="team/iris/", Body=b"")
    store.put_object(Bucket="models", Key="team/iris/empty", Body=b"")
    print(json.dumps({"id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}))


def s3_put(address, folder):
    """Objects by the keys of the environment, as boto3 stores them: with a checksum."""
    import boto3

    store = boto3.client("s3", region_name="us-east-1", endpoint_url=address)
    for name, path in files_of(folder).items():
        store.put_object(Bucket="models", Key=f"team/{name}", Body=path.read_bytes(), ChecksumAlgorithm=os.environ.get("CHECKSUM", "CRC32"))
    told = store.head_object(Bucket="models", Key="team/iris/model.onnx", ChecksumMode="ENABLED")
    print(json.dumps({name: value for name, value in told.items() if name.startswith("Checksum")}))


def gcs(address, folder):
    os.environ["STORAGE_EMULATOR_HOST"] = address
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    client = storage.Client(project="test", credentials=AnonymousCredentials())
    bucket = client.create_bucket("models")
    for name, path in files_of(folder).items():
        bucket.blob(f"team/{name}").upload_from_filename(str(path))
    bucket.blob("team/iris/").upload_from_string(b"")
    print("{}")


def azure(address, folder):
    from azure.storage.blob import BlobServiceClient

    account, key = os.environ["AZURE_ACCOUNT"], os.environ["AZURE_KEY"]
    service = BlobServiceClient(f"{address}/{account}", credential=key, api_version="2024-11-04")
    container = service.create_container("models")
    for name, path in files_of(folder).items():
        container.upload_blob(f"team/{name}", path.read_bytes())
    print("{}")


def registry(address, folder):
    """An image with the model below /models in two layers, the same packed with zstd, and the same as an artifact of files."""
    import io
    import tarfile

    import oras.client

    host = address.removeprefix("http://")
    client = oras.client.OrasClient(hostname=host, insecure=True, tls_verify=False, auth_backend="basic")
    client.auth.set_basic_auth(os.environ["REGISTRY_USER"], os.environ["REGISTRY_PASSWORD"])
    files = files_of(folder)
    os.chdir(folder)
    client.push(target=f"{host}/team/files:v1", files=list(files), disable_path_validation=True)
    layers = []
    for number, (names, compressed) in enumerate([(["etc/passwd"], True), ([f"models/{name}" for name in files], False)]):
        target = pathlib.Path(os.environ["SCRATCH"]) / f"layer-{number}.tar"
        with tarfile.open(target, "w:gz" if compressed else "w") as tar:
            for name in names:
                content = files[name.removeprefix("models/")].read_bytes() if name.startswith("models/") else b"root"
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        kind = "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if compressed else "")
        layers.append((target, kind))
    push_image(client, f"{host}/team/image:v1", layers)
    packed = pathlib.Path(os.environ["SCRATCH"]) / "layer.tar.zst"
    packed.write_bytes(zstd_of(layers[1][0].read_bytes()))
    push_image(client, f"{host}/team/zstd:v1", [(packed, "application/vnd.oci.image.layer.v1.tar+zstd")])
    print("{}")


def zstd_of(content):
    """A frame of zstd whose blocks are stored as they are (RFC 8878, 3.1.1)."""
    blocks = [content[at : at + (1 << 17)] for at in range(0, len(content), 1 << 17)]
    frame = b"\x28\xb5\x2f\xfd" + b"\x00" + b"\x58"
    for number, block in enumerate(blocks):
        last = number == len(blocks) - 1
        frame += (len(block) << 3 | last).to_bytes(3, "little") + block
    return frame


def push_image(client, target, layers):
    import oras.oci

    container = client.get_container(target)
    manifest = oras.oci.NewManifest()
    for path, kind in layers:
        layer = oras.oci.NewLayer(str(path), media_type=kind, is_dir=False)
        client.upload_blob(str(path), container, layer)
        manifest["layers"].append(layer)
    scratch = pathlib.Path(os.environ["SCRATCH"]) / "config.json"
    scratch.write_text('{"architecture": "amd64", "os": "linux"}')
    config, config_file = oras.oci.ManifestConfig(str(scratch), "application/vnd.oci.image.config.v1+json")
    client.upload_blob(str(config_file), container, config)
    manifest["config"] = config
    client._check_200_response(client.upload_manifest(manifest, container))


def hub(address, folder):
    """What the hub's own client downloads from the double, as its digests."""
    import hashlib

    os.environ["HF_ENDPOINT"] = address
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from huggingface_hub import snapshot_download

    found = snapshot_download("team/iris", revision=os.environ.get("REVISION", "main"), token=os.environ["HF_TOKEN"], cache_dir=folder)
    print(json.dumps({name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files_of(found).items()}))


def webhdfs(address, folder):
    """What a real client reads through the double, as its digests."""
    import hashlib

    from hdfs import InsecureClient

    client = InsecureClient(address, user="tester")
    client.download("/data/iris", folder, n_threads=1)
    print(json.dumps({name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files_of(folder).items()}))


def azure_sign(request, _):
    """The signature that Azure's own client gives a request."""
    import types

    from azure.storage.blob._shared.authentication import SharedKeyCredentialPolicy

    told = json.loads(request)
    http = types.SimpleNamespace(method=told["method"], url=told["url"], headers=told["headers"], query=told["query"])
    policy = SharedKeyCredentialPolicy(os.environ["AZURE_ACCOUNT"], os.environ["AZURE_KEY"])
    policy.on_request(types.SimpleNamespace(http_request=http, context=types.SimpleNamespace(transport=None)))
    print(json.dumps(http.headers["Authorization"]))


def read_s3(address, folder):
    """Downloads what lies below `logs/`."""
    import boto3

    store = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
    for found in store.list_objects_v2(Bucket="models", Prefix="logs/").get("Contents", []):
        store.download_file("models", found["Key"], str(place(folder, found["Key"])))
    print("{}")


def read_gcs(address, folder):
    os.environ["STORAGE_EMULATOR_HOST"] = address
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    client = storage.Client(project="test", credentials=AnonymousCredentials())
    for blob in client.list_blobs("models", prefix="logs/"):
        blob.download_to_filename(str(place(folder, blob.name)))
    print("{}")


def read_azure(address, folder):
    from azure.storage.blob import BlobServiceClient

    account, key = os.environ["AZURE_ACCOUNT"], os.environ["AZURE_KEY"]
    container = BlobServiceClient(f"{address}/{account}", credential=key, api_version="2024-11-04").get_container_client("models")
    for blob in container.list_blobs(name_starts_with="logs/"):
        place(folder, blob.name).write_bytes(container.download_blob(blob.name).readall())
    print("{}")


def place(folder, key):
    target = pathlib.Path(folder) / key
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def parquet(_, file):
    """The rows of a file, by pyarrow."""
    import pyarrow.parquet

    print(json.dumps(pyarrow.parquet.read_table(file).to_pylist()))


READERS = {"read-s3": read_s3, "read-gcs": read_gcs, "read-azure": read_azure, "parquet": parquet}

if __name__ == "__main__":
    fillers = {"s3": s3, "gcs": gcs, "azure": azure, "registry": registry, "hub": hub, "webhdfs": webhdfs, "s3_put": s3_put, "azure_sign": azure_sign}
    (fillers | READERS)[sys.argv[1]](sys.argv[2], sys.argv[3])
