"""What boto3 makes of `dssefs serve`. One line for each check; the exit code tells whether all held.

usage: with_boto3.py BUCKET KEY_ARN (endpoint and credentials from the environment)
"""

import hashlib
import io
import os
import sys
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

bucket, key_arn = sys.argv[1:]
# http://127.0.0.1 leaves no room for a bucket in the host.
s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
kms = boto3.client("kms")
dsse = {"ServerSideEncryption": "aws:kms:dsse", "SSEKMSKeyId": key_arn}
failed = 0


def check(name, holds):
    global failed
    failed += not holds
    print(f"{'ok' if holds else 'FAILED'}: boto3: {name}")


def code_of(call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return None


put = s3.put_object(Bucket=bucket, Key="boto3/small", Body=b"content", **dsse)
check("put_object is told dsse and the key", (put["ServerSideEncryption"], put["SSEKMSKeyId"]) == ("aws:kms:dsse", key_arn))
check("the ETag is not the MD5", put["ETag"].strip('"') != hashlib.md5(b"content").hexdigest())
head = s3.head_object(Bucket=bucket, Key="boto3/small")
check("head_object is told the same", (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms:dsse", key_arn))
check("get_object gives the content", s3.get_object(Bucket=bucket, Key="boto3/small")["Body"].read() == b"content")
ranged = s3.get_object(Bucket=bucket, Key="boto3/small", Range="bytes=-4")
check("a suffix range", (ranged["Body"].read(), ranged["ContentRange"]) == (b"tent", "bytes 3-6/7"))

large = os.urandom(20 << 20)
s3.upload_fileobj(io.BytesIO(large), bucket, "boto3/large", ExtraArgs=dsse)
back = io.BytesIO()
s3.download_fileobj(bucket, "boto3/large", back)
check("a multipart upload comes back", back.getvalue() == large)
check("and is dsse", s3.head_object(Bucket=bucket, Key="boto3/large")["ServerSideEncryption"] == "aws:kms:dsse")

for algorithm in ["CRC32", "CRC32C", "SHA1", "SHA256", "CRC64NVME"]:
    try:
        s3.put_object(Bucket=bucket, Key="boto3/sum", Body=b"content", ChecksumAlgorithm=algorithm, **dsse)
        seen = s3.get_object(Bucket=bucket, Key="boto3/sum", ChecksumMode="ENABLED")
        check(f"checksum {algorithm}", seen[f"Checksum{algorithm}"] and seen["Body"].read() == b"content")
    except Exception as error:  # botocore raises a plain one when its crt is missing
        check(f"checksum {algorithm} ({error})", "crt" in str(error).lower())

check("If-None-Match refuses", code_of(s3.put_object, Bucket=bucket, Key="boto3/small", Body=b"", IfNoneMatch="*", **dsse) == "PreconditionFailed")
copied = s3.copy_object(Bucket=bucket, Key="boto3/copy", CopySource={"Bucket": bucket, "Key": "boto3/small"}, **dsse)
check("copy_object is told dsse", copied["ServerSideEncryption"] == "aws:kms:dsse")
s3.put_object_tagging(Bucket=bucket, Key="boto3/copy", Tagging={"TagSet": [{"Key": "a", "Value": "b c"}]})
check("tags", s3.get_object_tagging(Bucket=bucket, Key="boto3/copy")["TagSet"] == [{"Key": "a", "Value": "b c"}])

odd = ["boto3/odd/a b", "boto3/odd/a+b", "boto3/odd/ä", "boto3/odd//x", "boto3/odd/%41"]
for name in odd:
    s3.put_object(Bucket=bucket, Key=name, Body=b"x")
pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="boto3/odd/", PaginationConfig={"PageSize": 2})
check("paged listing of odd keys", sorted(item["Key"] for page in pages for item in page["Contents"]) == sorted(odd))
first = s3.list_objects(Bucket=bucket, Prefix="boto3/", Delimiter="/")
check("a V1 listing with a delimiter", [item["Prefix"] for item in first["CommonPrefixes"]] == ["boto3/odd/"])
url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "boto3/small"})
check("a presigned URL", urllib.request.urlopen(url).read() == b"content")

unknown = key_arn.rsplit("/", 1)[0] + "/00000000-0000-0000-0000-000000000000"
call = {"Bucket": bucket, "Key": "boto3/none", "Body": b"", "ServerSideEncryption": "aws:kms:dsse", "SSEKMSKeyId": unknown}
check("an unknown key", code_of(s3.put_object, **call) == "KMS.NotFoundException")
sealed = kms.encrypt(KeyId=key_arn, Plaintext=b"secret", EncryptionContext={"a": "b"})["CiphertextBlob"]
check("kms decrypt", kms.decrypt(CiphertextBlob=sealed, EncryptionContext={"a": "b"})["Plaintext"] == b"secret")
check("kms decrypt in another context", code_of(kms.decrypt, CiphertextBlob=sealed, EncryptionContext={"a": "c"}) == "InvalidCiphertextException")
deleted = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": name} for name in odd]})
check("delete_objects", len(deleted["Deleted"]) == len(odd))
sys.exit(1 if failed else 0)
