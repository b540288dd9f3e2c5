"""Goes through tests/regression.tsv on a mount of another store, with boto3 as the judge. One line for each row; the exit code tells
whether all held.

usage: regression.py BUCKET MOUNT (endpoint and credentials from the environment)
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

bucket, mount = sys.argv[1], pathlib.Path(sys.argv[2])
# moto gives the checksum of an object's parts for that of the object; the bytes themselves are compared here.
s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}, response_checksum_validation="when_required"))
table = pathlib.Path(__file__).parents[2] / "tests" / "regression.tsv"

# Twice the mount's --metadata-ttl and a little: for so long it may not see what others have made.
BELIEVED = 2.2
SMALL, LARGE, PART = 1024, 40 << 20, 8 << 20
DESCRIPTION = {
    "ServerSideEncryption": "aws:kms:dsse",
    "Metadata": {"owner-tag": "team x", "colour": "red"},
    "Tagging": "team=x&cost%20centre=42",
    "StorageClass": "STANDARD_IA",
    "ContentType": "text/csv; charset=utf-8",
    "CacheControl": "no-store, max-age=0",
    "ContentDisposition": 'attachment; filename="a.csv"',
    "ContentLanguage": "en",
}
HEADERS = ("StorageClass", "ContentType", "CacheControl", "ContentDisposition", "ContentLanguage")


def put(key, content):
    """An object with everything that must be carried along; a large one in parts."""
    where = {"Bucket": bucket, "Key": key}
    if len(content) <= PART:
        s3.put_object(**where, **DESCRIPTION, Body=content)
        return
    upload = {**where, "UploadId": s3.create_multipart_upload(**where, **DESCRIPTION)["UploadId"]}
    parts = []
    for number, start in enumerate(range(0, len(content), PART), 1):
        sent = s3.upload_part(**upload, PartNumber=number, Body=content[start : start + PART])
        parts.append({"PartNumber": number, "ETag": sent["ETag"]})
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})


def run(command, path, size):
    subprocess.run(["sh", "-euc", command, "sh", path, str(size // 2)], check=True, capture_output=True, text=True)


def expected(command, result, content):
    """What the same command makes of the same bytes on a local disk."""
    with tempfile.TemporaryDirectory() as local:
        path = os.path.join(local, "file")
        pathlib.Path(path).write_bytes(content)
        run(command, path, len(content))
        return pathlib.Path(path + result).read_bytes()


def differences(key, keeps, content):
    try:
        head = s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        return [f"it is not there: {error}"]
    facts = [("ServerSideEncryption", head.get("ServerSideEncryption"), "aws:kms:dsse")]
    if keeps == "all":
        facts += [(name, head.get(name), DESCRIPTION[name]) for name in HEADERS]
        facts += [(name, head["Metadata"].get(name), value) for name, value in DESCRIPTION["Metadata"].items()]
        tags = s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
        facts.append(("tags", sorted((tag["Key"], tag["Value"]) for tag in tags), [("cost centre", "42"), ("team", "x")]))
    facts.append(("content", s3.get_object(Bucket=bucket, Key=key)["Body"].read() == content, True))
    return [f"{what} is {seen!r} instead of {wanted!r}" for what, seen, wanted in facts if seen != wanted]


def outcome(name, result, keeps, command, kind, content):
    key = f"regression/{kind}/{name.replace(' ', '-').replace(',', '-')}"
    try:
        run(command, str(mount / key), len(content))
    except subprocess.CalledProcessError as error:
        return [f"{command}: {error.stderr.strip()}"]
    return differences(key + result, keeps, expected(command, result, content))


rows = [line.split("\t") for line in table.read_text().splitlines() if not line.startswith("#")]
assert len(rows) >= 20, "the table has lost its rows"
failed = 0
for kind, size in (("small", SMALL), ("large", LARGE)):
    content = os.urandom(size)
    for row in rows:
        put(f"regression/{kind}/{row[0].replace(' ', '-').replace(',', '-')}", content)
    time.sleep(BELIEVED)
    for row in rows:
        wrong = outcome(*row, kind, content)
        failed += bool(wrong)
        print(f"{'FAILED' if wrong else 'ok'}: regression: {kind}: {row[0]}", *wrong, sep="\n    ", flush=True)
sys.exit(failed > 0)
